"""The data of a step: examples, chat templates, packing, and values computed on the whole batch before it is split."""
