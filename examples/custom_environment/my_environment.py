import re

from align.environments import Environment, RunningEnvironment, Turn


class SecondTry(Environment):
    """Answers an expression that misses the target with its value, so that the policy can try again. Each miss costs `price`."""

    price: float = 0.1

    def reset(self, prompt, seed):
        return RunningSecondTry(self.price, prompt.fields.get("target"))


class RunningSecondTry(RunningEnvironment):
    def __init__(self, price, target):
        self.price, self.target = price, target

    def step(self, text):
        if self.target is None or len(text) > 64 or not re.fullmatch(r"[0-9]+([+-][0-9]+)*", text):
            return Turn(done=True)
        value = sum(map(int, re.findall(r"[+-]?[0-9]+", text)))
        return Turn(done=True) if value == self.target else Turn(text=f"={value}:", reward=-self.price)
