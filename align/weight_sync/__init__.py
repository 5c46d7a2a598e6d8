"""How the learner's weights reach the engines."""
