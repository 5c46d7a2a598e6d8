"""An environment that conforms, and what one mistake makes of it (see defective.py)."""

from __future__ import annotations

from helpers.plugins.changes import swap

GOOD = {
    "environment": '''
        from align.environments import RunningEnvironment, Turn
        class Running(RunningEnvironment):
            def __init__(self, part, prompt, seed):
                self.part, self.prompt, self.seed, self.turns = part, prompt, seed, 0
            def step(self, text):
                self.turns += 1
                return Turn(text=f"{self.turns} {self.seed % 10} {len(text)}", done=self.turns > self.part.most, reward=1.0)
        class Part:
            """Counts."""
            most: int = 3
            def reset(self, prompt, seed):
                return Running(self, prompt, seed)
        '''
}
DEFECTS = {
    ("environment", "turns"): swap("return Turn(", "return dict("),
    ("environment", "soon"): swap("self.turns += 1", "self.turns += 1\n        while text == 'nan': pass"),
    ("environment", "repeats"): swap("self.seed % 10", "__import__('time').perf_counter()"),
    ("environment", "its own episode"): swap(
        "class Running(", "COUNT = [0]\nclass Running(", "self.turns += 1", "COUNT[0] += 1; self.turns = COUNT[0]"
    ),
    ("environment", "runs no text"): swap(
        "self.turns += 1", "self.turns += 1\n        try: eval(text)\n        except BaseException: pass"
    ),
    ("environment", "leaves the prompt alone"): swap(
        "self.turns += 1", "self.turns += 1; self.prompt.fields['seen'] = self.prompt.fields.get('seen', 0) + 1"
    ),
}
