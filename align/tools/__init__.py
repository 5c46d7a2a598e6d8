"""Programs besides training: preference pairs and generated pages of the documentation."""
