"""What a user says about a study: the recipe, its values, and how it is read."""

from rung.recipe.read import read_kept, read_recipe, with_options
from rung.recipe.recipe import GROUPS, Recipe
from rung.recipe.values import FIELD_NAMES, as_path

__all__ = [
    "FIELD_NAMES",
    "GROUPS",
    "Recipe",
    "as_path",
    "read_kept",
    "read_recipe",
    "with_options",
]
