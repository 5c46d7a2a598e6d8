from align.config.parts import Setting
from align.rewards import Reward
from align.types import Prompt


class OfEnvironment(Reward):
    """What the recipe's environment gives for the turns of an episode, and nothing else."""

    def refuse(self, setting: Setting) -> str | None:
        return None if setting.recipe.environment is not None else "there is no environment: name one, or another reward"

    def score(self, prompt: Prompt, response: str) -> float:
        return 0.0
