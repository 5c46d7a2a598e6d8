"""A recipe as frozen data, and who builds what from it."""
