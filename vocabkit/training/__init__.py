"""Stage 1 (the adapter alone, on captions) and stage 2 (instruction tuning), on accelerate."""

from vocabkit.training.recipe import Recipe, read_recipe

__all__ = ["Recipe", "read_recipe"]
