"""Every type of a step's data has an example in its docstring, and the example prints what happens."""

import dataclasses
import doctest
import inspect
import io

import numpy as np
import pytest
import torch

from align import contexts, types
from align.experience.packing import pack

PUBLIC = [
    cls
    for module in (types, contexts)
    for name, cls in vars(module).items()
    if inspect.isclass(cls) and cls.__module__ == module.__name__ and not name.startswith("_")
]
NAMES = {cls.__name__: cls for cls in PUBLIC} | {"np": np, "torch": torch, "pack": pack}


@pytest.mark.parametrize("cls", PUBLIC, ids=lambda cls: cls.__name__)
def test_its_example_is_what_happens(cls: type):
    assert dataclasses.is_dataclass(cls)
    assert "\n    Example:" in (cls.__doc__ or ""), f"{cls.__name__} has no Example"
    (test,) = doctest.DocTestFinder(recurse=False).find(cls, cls.__name__, globs=dict(NAMES))
    assert any(example.want for example in test.examples)
    report = io.StringIO()
    assert not doctest.DocTestRunner().run(test, out=report.write).failed, report.getvalue()
