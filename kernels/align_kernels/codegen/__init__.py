"""From one torch function to a fused kernel: `fused(divergence)` traces it, checks it and gives both of its forms, torch and Triton."""

from align_kernels.codegen.errors import DivergenceError
from align_kernels.codegen.fused import Elementwise, Fused, fused

__all__ = ["DivergenceError", "Elementwise", "Fused", "fused"]
