"""The first minutes with a GPU: `make gpu-check` measures the machine, the kernels and the trainer, and stops itself."""
