"""Pure functions of tensors: torch only, no state, no I/O."""
