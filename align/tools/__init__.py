"""Programs beside training: preference pairs, the kernels' benchmark, the pages of the documentation."""
