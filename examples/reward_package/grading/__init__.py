"""A reward in several files: recipes name it `./grading:grade`."""

from .expressions import numbers, value


def grade(prompt, response, *, near: float = 0.1, worth: float = 0.5):
    """1 for the target from all the numbers, each once; else `worth` for a value at most a share `near` from the target."""
    target, found = prompt.fields.get("target"), value(response)
    if target is None or found is None:
        return {"total": 0.0, "right": 0.0, "near": 0.0}
    right = float(found == target and sorted(numbers(response)) == sorted(prompt.fields["numbers"]))
    close = float(abs(found - target) <= near * abs(target))
    return {"total": right or worth * close, "right": right, "near": close}
