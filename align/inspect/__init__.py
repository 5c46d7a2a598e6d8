"""What a recipe resolves to and what there is to choose from, before anything is loaded."""
