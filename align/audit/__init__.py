"""The certificate: what a regularizer's value and gradient really are, found by running its own code on enumerable problems.

`audit(regularizer)` gives one; `align audit` prints it. `rollouts.py` measures the estimators on the answers of a finished run instead.
"""

from align.audit.certificate import Certificate, audit
from align.audit.measure import Measurement, measure

__all__ = ["Certificate", "Measurement", "audit", "measure"]
