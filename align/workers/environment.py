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
"""Names that Python, torch, CUDA, transformers, vLLM and Ray read, whole."""
SECRET = re.compile(r"TOKEN(?!IZERS)|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|PRIVATE_?KEY|ACCESS_?KEY", re.IGNORECASE)
"""Parts of names that are not passed, though the whole name is of a library."""
OWN_SECRETS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""With these the processes of the cluster find each other."""
MORE = "ALIGN_PASS_ENV"
"""A variable with the names of others that are passed too, joined by commas: what a reward reads, such as the key of a service."""


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
    """The environment has only the passed variables in the block, so that the processes that it starts inherit no other."""
    before = dict(os.environ)
    hidden = before.keys() - passed(before).keys()
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update({name: before[name] for name in hidden})
