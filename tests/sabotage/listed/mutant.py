"""One mutant, and the names of test files that several mutants share."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """`old` stands in `file` exactly once, and becomes `new`."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    """Files or tests, relative to tests/, joined by spaces."""


GRPO = "golden/methods_table/test_grpo.py"
DIVERGENCES = "property/test_divergence_of_a_log_ratio.py"
ORACLES = "unit/regularizer_oracles/test_unbiased_cells.py"
STATES = "unit/regularizer_oracles/test_weighed_states.py"
LEARNER = "unit/learner"
EPISODES = "unit/data/test_episodes.py"
REWARDS = "unit/rewards/test_verifiable_rewards.py"
SCORER = "unit/rewards/test_scorer.py"
COEFFICIENTS = "unit/regularizers/test_coefficients.py"
LENGTHS = "unit/shapings/test_length_shapings.py"
MISMATCH = "unit/shapings/test_mismatch_shapings.py"
WEIGHTINGS = "unit/regularizers/test_weightings.py"
LINKS = "unit/links"
DPO = "unit/dpo/test_dpo_learner.py"
KEPT = "unit/regularizers/test_reference_states.py"
PRECOMPUTED = "unit/dpo/test_dpo_references.py"
RETURNS = "unit/objective/test_core_returns.py"
VALUES = "unit/objective/test_core_values.py"
PPO = "unit/objective/test_ppo_oracles.py"
PACKING = "unit/data/test_packing.py"
ENGINE = "unit/engines/test_transformers_engine.py"
ONE_FILE = "golden/test_one_file_grpo.py"
CASES = "kernels/interpreted/test_cases.py"
ONE_PASS = "kernels/interpreted/test_one_pass.py"
