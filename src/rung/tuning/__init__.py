"""A study from its recipe to its answer: set-up, the loop of stages, generated texts, result."""
