"""`import rung`: its names, its errors, and what its functions are given."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import rung
from rung.study.folder import StudyFolder

ROOT = Path(__file__).parents[1]


def test_the_public_names_are_sorted_and_all_there() -> None:
    assert rung.__all__ == sorted(rung.__all__)
    for name in rung.__all__:
        assert getattr(rung, name).__doc__, name
    assert set(rung.__all__) <= set(dir(rung))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'tuna'"):
        rung.tuna  # noqa: B018


def test_tune_stays_a_function_whatever_is_imported() -> None:
    import rung.api
    import rung.cli
    import rung.tuning.loop

    assert callable(rung.tune)


HEAVY = ("torch", "transformers", "peft", "optuna", "scipy", "numpy", "pyarrow")


@pytest.mark.parametrize(
    ("program", "heavy"),
    [
        ("import rung", (*HEAVY, "pydantic")),
        # Its options are made from the recipe, which is a model of pydantic: a tenth of a second.
        ("from rung.cli import app, main", HEAVY),
    ],
)
def test_importing_is_light(program: str, heavy: tuple[str, ...]) -> None:
    check = f"{program}; import sys; print([name for name in {heavy!r} if name in sys.modules])"
    ended = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "[]"


def test_every_error_of_the_input_leads_to_exit_code_2() -> None:
    names = [
        "RecipeError",
        "ModelError",
        "TargetError",
        "DataError",
        "MetricError",
        "FolderError",
        "StudyError",
    ]
    for name in names:
        error = getattr(rung, name)
        assert issubclass(error, rung.InputError)
        assert error.exit_code == 2
    assert rung.TrainingError.exit_code == rung.RungError.exit_code == 1
    tree = sys.modules["rung.errors"].__doc__ or ""
    for name in (*names, "TrainingError", "InputError", "RungError"):
        assert name in tree, "the tree in the docstring is whole"


def test_the_version_has_one_place() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in pyproject["project"]
    assert pyproject["project"]["dynamic"] == ["version"]
    path = ROOT / pyproject["tool"]["hatch"]["version"]["path"]
    assert f'__version__ = "{rung.__version__}"' in path.read_text(encoding="utf-8")
    elsewhere = [
        file.name
        for file in (ROOT / "src").rglob("*.py")
        if file != path and f'"{rung.__version__}"' in file.read_text(encoding="utf-8")
    ]
    assert elsewhere == []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"study": 5}, "--study: give a name; a value of the type int is none"),
        ({"study": b"x"}, "type bytes is none"),
        ({"study": 10**5000}, "type int is none"),
        (
            {"study": Path("a/b")},
            "--study: 'a/b' cannot be the name of a folder (it contains '/')",
        ),
        (
            {"studies": None},
            "--studies: give the path of a folder; a value of the type NoneType is none",
        ),
        ({"studies": ""}, "--studies: write a name, without control characters"),
        ({"studies": "a\0b"}, "--studies: write a name, without control characters"),
        ({"ranks": 10**5000}, "--ranks: a number has thousands of digits"),
        ({"budget": 10**5000}, "--budget: a number has thousands of digits"),
        ({"recipe": 5}, "The recipe is a int; give a file's path or a rung.Recipe"),
        ({"path": "a.yaml"}, "--path: there is no such key"),
        ({"recipe": rung.Recipe(), "recipe_file": 1}, "--recipe-file: there is no such key"),
        ({"recipe": rung.Recipe(), "targets": ["q_proj", "v_proj"]}, "write q_proj+v_proj for one"),
    ],
)
def test_what_tune_is_given_in_python_is_read_or_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(rung.InputError, match=re.escape(says)):
        rung.tune(quiet=True, **given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"device": None}, "--device: give a device's name, or here; a value of the type NoneType"),
        ({"device": "t4", "price": "0.35"}, "--price: '0.35' is not a price"),
        ({"device": "t4", "price": float("nan")}, "--price: nan is not a price"),
    ],
)
def test_what_plan_is_given_in_python_is_refused_in_one_sentence(
    given: dict[str, Any], says: str
) -> None:
    with pytest.raises(rung.InputError, match=re.escape(says)):
        rung.plan(quiet=True, **given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"model": None}, "--model: give a hub id, or the path of a folder or a file"),
        ({"model": ""}, "write a name, without control characters"),
        ({"rank": "16"}, "--rank: '16' is not a rank"),
        ({"rank": 4.5}, "--rank: 4.5 is not a rank"),
        ({"alpha": None}, "--alpha: 'None' is no alpha"),
        ({"targets": ["q_proj"]}, "--targets: give names of modules joined by plus signs"),
    ],
)
def test_what_inspect_is_given_in_python_is_refused_in_one_sentence(
    given: dict[str, Any], says: str
) -> None:
    with pytest.raises(rung.InputError, match=re.escape(says)):
        rung.inspect(**{"model": "smollm2-135m-instruct", **given})


Tuned = list[tuple[rung.Recipe, StudyFolder]]


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch) -> Tuned:
    """The recipes and folders of the studies that would have been run."""
    calls: Tuned = []
    monkeypatch.setattr(
        "rung.tuning.loop.tune", lambda recipe, folder, observer: calls.append((recipe, folder))
    )
    return calls


def test_a_study_may_be_named_by_a_path_of_one_name(tuned: Tuned, tmp_path: Path) -> None:
    result = rung.tune(study=Path("a"), studies=tmp_path, quiet=True)
    assert result.folder == tmp_path / "a"
    assert tuned == [(rung.Recipe(), StudyFolder(tmp_path / "a"))]


def test_a_study_is_named_after_its_data_and_model_by_default(tuned: Tuned, tmp_path: Path) -> None:
    result = rung.tune(data="prices.jsonl", model="org/base", studies=tmp_path, quiet=True)
    assert result.folder == tmp_path / "prices-base"


def test_options_over_a_recipe_keep_which_fields_the_user_set(tuned: Tuned, tmp_path: Path) -> None:
    recipe = rung.Recipe(targets=("attention",), learning_rates=(1e-3,))
    rung.tune(recipe, passes=2, studies=tmp_path, quiet=True)
    ((whole, _),) = tuned
    assert whole.model_fields_set == {"targets", "learning_rates", "passes"}
    assert (whole.targets, whole.learning_rates, whole.passes) == (("attention",), (1e-3,), 2)
    assert recipe.passes == 1, "the recipe that was given stays as it is"
