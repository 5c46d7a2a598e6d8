"""Certificates: a regularizer's value and gradient, measured by running its own code on enumerable problems.

`audit(regularizer)` returns a certificate; `align audit` prints it. `rollouts.py` measures the estimators on a finished run's answers.
"""

from align.audit.certificate import Certificate, audit
from align.oracle.measure import Measurement, measure

__all__ = ["Certificate", "Measurement", "audit", "measure"]
