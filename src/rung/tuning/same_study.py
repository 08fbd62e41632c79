"""A study folder answers one question: check that an interrupted study goes on with the same."""

from __future__ import annotations

from rung.data.batches import ORDER_VERSION
from rung.data.prepare import Data
from rung.errors import RecipeError, StudyError
from rung.model.files import fingerprint
from rung.model.load import Base
from rung.recipe import Recipe, read_kept
from rung.study.folder import StudyFolder

_FREE = {"pack_width", "memory", "skip_bad_rows", "max_long_rows", "allow_leakage"}
"""Fields that may change. The width of packs changes no result (the packing law), and what is let
pass changes nothing as long as the rows are the same."""
_FREE_WITHOUT_JUDGE = {"metrics", "numbers"}
"""Generated texts are kept, so that other metrics of them can be asked for."""


def check_same_study(recipe: Recipe, folder: StudyFolder, data: Data, base: Base) -> None:
    """Check a study that has started; nothing happens for a new one.

    Args:
        recipe: as it is filled in.

    Raises:
        StudyError: the folder belongs to another recipe, other data or another model, or it is
            damaged.
    """
    if not folder.manifest.exists():
        return
    _check_recipe(recipe, folder)
    manifest = folder.read_manifest()
    if manifest.get("order") != ORDER_VERSION:
        raise StudyError(
            f"The study '{folder.path}' was started by a version of Rung that trained on the rows "
            "in another order; give this one another --study."
        )
    if manifest.get("data_sha256") != data.stats.digest:
        raise StudyError(
            f"The data of the study '{folder.path}' has changed since it started; give it a new "
            "--study."
        )
    files, now = manifest.get("model_files"), fingerprint(base.source)
    if not isinstance(files, dict):
        raise folder.damaged(folder.manifest, "its model_files are not names with hashes")
    changed = sorted(n for n in files.keys() | now.keys() if files.get(n) != now.get(n))
    if changed:
        raise StudyError(
            f"The model of the study '{folder.path}' has changed since it started "
            f"({', '.join(changed)}); give it a new --study."
        )


def _check_recipe(recipe: Recipe, folder: StudyFolder) -> None:
    try:
        before = read_kept(folder.recipe)
    except RecipeError as error:
        raise folder.damaged(folder.recipe, error) from None
    free = _FREE | (_FREE_WITHOUT_JUDGE if recipe.judge == "loss" else set())
    changes = [
        f"{name} was {getattr(before, name)} and is {getattr(recipe, name)}"
        for name in Recipe.model_fields
        if name not in free and getattr(before, name) != getattr(recipe, name)
    ]
    if changes:
        raise StudyError(
            f"The study '{folder.path}' asks another question ({', '.join(changes)}); give this "
            "one another --study."
        )
