"""Recipes as frozen data: reading, building and checking them."""
