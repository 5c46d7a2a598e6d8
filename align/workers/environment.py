"""Which variables of the driver's environment the processes of a private cluster get: what they need to run, and no secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

PASSED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|TZ|TERM|TMPDIR|TEMP|TMP|HOSTNAME|VIRTUAL_ENV|COLUMNS|CC|CXX|(LC|XDG|CONDA|PYTHON)_?\w*|LD_\w+|"
    r"(ALIGN|ALIGN_TEST|CUDA|NVIDIA|NCCL|GLOO|ROCM|HIP|OMP|MKL|OPENBLAS|KMP|GOMP|TORCH|TORCHINDUCTOR|PYTORCH|TRITON|VLLM|HF|HUGGINGFACE|"
    r"TRANSFORMERS|TOKENIZERS|DATASETS|SAFETENSORS|RAY|MALLOC|SLURM|COVERAGE|COV|PYTEST)_\w*"
)
"""Whole names of variables that Python, torch, CUDA, transformers, vLLM and Ray read."""
SECRET = re.compile(r"TOKEN(?!IZERS)|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|PRIVATE_?KEY|ACCESS_?KEY", re.IGNORECASE)
"""A name with one of these parts is not passed, even if it matches PASSED."""
OWN_SECRETS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""Passed although they match SECRET: the processes of the cluster authenticate to each other with them."""
MORE = "ALIGN_PASS_ENV"
"""The variable that lists further names to pass, joined by commas, such as the key of a service that a reward uses."""


def passed(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a private cluster gets."""
    more = {name.strip() for name in environment.get(MORE, "").split(",")}
    return {
        name: value
        for name, value in environment.items()
        if name in more or name in OWN_SECRETS or (PASSED.fullmatch(name) and not SECRET.search(name))
    }


@contextmanager
def without_secrets() -> Iterator[None]:
    """Within the block the environment has the passed variables alone, so that the processes it starts inherit no other."""
    before = dict(os.environ)
    hidden = before.keys() - passed(before).keys()
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update({name: before[name] for name in hidden})
