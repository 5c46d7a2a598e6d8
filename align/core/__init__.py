"""Pure functions of tensors: torch and jaxtyping only, no state, no I/O.

Axes in the annotations: T tokens of all sequences packed end to end, S sequences, P pairs, V vocabulary, H hidden size; `*shape` is
any shape, and the function elementwise. `Float` is any floating type. tests/helpers/shapes.py says which a test run checks.
"""
