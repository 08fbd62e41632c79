"""A study folder answers one question: the same recipe, the same rows, the same model."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tests.tiny import write_rows
from tests.tuning.observers import InterruptAt
from tests.tuning.studies import ONE_SETTING, recipe_of, run

from rung.data.prepare import Data, prepare
from rung.errors import StudyError
from rung.model.files import fingerprint
from rung.model.load import Base, load_base, load_tokenizer
from rung.recipe import Recipe, with_options
from rung.study.folder import StudyFolder
from rung.tuning.same_study import check_same_study


@dataclass(frozen=True)
class Started:
    """A study that was interrupted at its first step."""

    recipe: Recipe
    folder: StudyFolder
    data: Data
    base: Base

    def check(self, **options: Any) -> None:
        """Check a recipe with these options against the study."""
        recipe = with_options(self.recipe, **options)
        check_same_study(recipe, self.folder, self.data, self.base)


@pytest.fixture(scope="module")
def started(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Started:
    root = tmp_path_factory.mktemp("started")
    recipe = with_options(recipe_of(tiny_folder, write_rows(root / "rows.jsonl")), **ONE_SETTING)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, root / "s", InterruptAt(1))
    data = prepare(recipe, load_tokenizer(recipe.model), lambda _: None)
    base = load_base(recipe.model, recipe.quantization, recipe.precision)
    return Started(recipe, StudyFolder(root / "s"), data, base)


@pytest.fixture
def manifest(started: Started) -> Iterator[dict[str, Any]]:
    """What the manifest holds; it is put back after the test."""
    content = started.folder.manifest.read_text()
    yield json.loads(content)
    started.folder.manifest.write_text(content)


def test_the_same_study_goes_on(started: Started) -> None:
    started.check()


def test_a_new_study_is_not_checked(started: Started, tmp_path: Path) -> None:
    recipe = with_options(started.recipe, passes=2)
    check_same_study(recipe, StudyFolder(tmp_path), started.data, started.base)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"passes": 2}, "passes was 1.0 and is 2.0"),
        ({"budget": "9k"}, "budget was None and is 9000 tokens"),
        ({"ranks": (2, 4)}, "ranks was (2,) and is (2, 4)"),
        ({"judge": "metric"}, "judge was loss and is metric"),
        ({"passes": 2, "seed": 5}, "passes was 1.0 and is 2.0, seed was 0 and is 5"),
        (
            {"judge": "accuracy", "metrics": ("accuracy",)},
            "metrics was () and is ('accuracy',), judge was loss and is accuracy",
        ),
    ],
)
def test_another_recipe_is_another_question(
    started: Started, changes: dict[str, Any], says: str
) -> None:
    says = re.escape(f"asks another question ({says}); give this one another --study")
    with pytest.raises(StudyError, match=says):
        started.check(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"pack_width": 2},
        {"memory": "64GB"},
        {"skip_bad_rows": True},
        {"max_long_rows": 0.5},
        {"metrics": ("exact_match",)},
        {"numbers": "comma"},
    ],
)
def test_what_changes_no_result_may_change(started: Started, changes: dict[str, Any]) -> None:
    started.check(**changes)


def test_the_rows_must_not_change(started: Started) -> None:
    rows = Path(started.recipe.data)
    content = rows.read_text()
    rows.write_text(content.replace("aa", "zz"))
    try:
        says = r"The data of the study .* has changed since it started"
        with pytest.raises(StudyError, match=says):
            run(started.recipe, started.folder.path)
    finally:
        rows.write_text(content)


def test_a_study_with_another_order_of_rows_is_told(
    started: Started, manifest: dict[str, Any]
) -> None:
    for order in (manifest["order"] - 1, None):
        started.folder.manifest.write_text(json.dumps({**manifest, "order": order}))
        with pytest.raises(StudyError, match="trained on the rows in another order"):
            started.check()


@pytest.mark.parametrize("files", [[], "x", None])
def test_a_manifest_with_junk_in_it_is_one_sentence(
    started: Started, manifest: dict[str, Any], files: object
) -> None:
    started.folder.manifest.write_text(json.dumps({**manifest, "model_files": files}))
    says = r"manifest.json' of the study is damaged \(.*model_files are not names with hashes"
    with pytest.raises(StudyError, match=says):
        started.check()


def test_the_models_files_must_not_change(recipe: Recipe, tmp_path: Path) -> None:
    model, folder = tmp_path / "model", StudyFolder(tmp_path / "s")
    shutil.copytree(recipe.model, model)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, folder.path, InterruptAt(1), **ONE_SETTING, model=str(model))
    manifest = json.loads(folder.manifest.read_text())
    assert manifest["model_files"] == fingerprint(str(model))

    file = model / "model.safetensors"
    weights = load_file(file)
    changed = {
        name: weight * 1.001 if "lm_head" in name else weight for name, weight in weights.items()
    }
    save_file(changed, file, metadata={"format": "pt"})
    says = r"The model of the study .* has changed since it started \(model\.safetensors\)"
    with pytest.raises(StudyError, match=says):
        run(recipe, folder.path, **ONE_SETTING, model=str(model))

    save_file(weights, file, metadata={"format": "pt"})
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings["clean_up_tokenization_spaces"] = True
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(StudyError, match=r"has changed since it started \(tokenizer_config\.json"):
        run(recipe, folder.path, **ONE_SETTING, model=str(model))
