"""Configurations of models that are read without being written out: transformers formats each one for a log that is off, in 2 ms."""

from transformers import PreTrainedConfig


def install() -> None:
    """In this process."""
    PreTrainedConfig.__repr__ = object.__repr__
