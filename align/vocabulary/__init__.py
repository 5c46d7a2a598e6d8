"""What belongs to the model's folder beside its weights: tokens, the ends of a turn, the text of an answer, the generation config.

`model_folder.checked` reads all of it before any weights are loaded.
"""
