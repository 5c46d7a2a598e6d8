"""A process that compares mathematical answers: one JSON line in, {expected, found}, one line out. `_math_process` starts it by its path.

The libraries for it can loop or fill the memory on a short text (`9^{9^{9^9}}`), in code that no signal interrupts.
"""

import ctypes
import json
import os
import resource
import signal
import sys

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

MEMORY = 2 * 2**30
"""Bytes of address space."""
PR_SET_PDEATHSIG = 1
FORMS = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
"""An answer in a box comes before all others."""


def judge(expected: str, found: str) -> dict[str, bool]:
    """Whether the texts hold equal answers, and whether each holds one at all.

    math_verify's own limits are alarms, which would end in the middle of a computation; the other process has the limit.
    """
    gold, answer = (parse(text, FORMS, parsing_timeout=0) for text in (expected, found))
    right = bool(gold and answer) and verify(gold, answer, timeout_seconds=None)
    return {"readable": bool(gold), "answered": bool(answer), "right": bool(right)}


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)  # what a library prints is no reply
        print("{}", file=replies, flush=True)
        for line in sys.stdin:
            print(json.dumps(judge(**json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    main()
