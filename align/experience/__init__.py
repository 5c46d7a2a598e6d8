"""What a step learns from: examples, chat templates, packing, and what the whole batch decides before it is split."""
