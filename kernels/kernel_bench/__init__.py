"""What the passes cost and how exact they are, beside other ways to compute the same: `python -m kernel_bench`."""
