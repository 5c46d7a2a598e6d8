"""align: aligns language models, with the regularizer as a first-class object."""
