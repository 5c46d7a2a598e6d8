"""The mutants by topic, and the tests that must notice them."""
