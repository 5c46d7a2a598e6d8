"""A curriculum that conforms, and what one mistake makes of it (see defective.py)."""

from __future__ import annotations

from helpers.plugins.changes import add, swap

GOOD = {
    "curriculum": '''
        import numpy as np
        class Part:
            """The distance from always solved."""
            power: float = 2.0
            def formula(self):
                return "(1.01 − s)^p"
            def weights(self, passed, tried):
                return (1.01 - np.where(tried > 0, passed, 0.5)) ** self.power
        '''
}
DEFECTS = {
    ("curriculum", "weights"): swap("np.where(tried > 0, passed, 0.5)", "passed"),
    ("curriculum", "repeats"): swap("** self.power", "** self.power * np.random.default_rng().random()"),
    ("curriculum", "order"): swap("** self.power", "** self.power * np.arange(1.0, len(tried) + 1)"),
    ("curriculum", "explained"): add("def symbols(self): return {'': 'nothing'}"),
}
