from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import rung


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


@pytest.mark.parametrize("program", ["import rung", "from rung.cli import app, main"])
def test_importing_is_light(program: str) -> None:
    heavy = ("torch", "transformers", "peft", "optuna", "scipy", "numpy", "pyarrow", "pydantic")
    check = f"{program}; import sys; print([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_every_error_of_the_input_leads_to_exit_code_2() -> None:
    for name in ("RecipeError", "ModelError", "TargetError", "DataError", "StudyError"):
        error = getattr(rung, name)
        assert issubclass(error, rung.InputError)
        assert error.exit_code == 2
        assert name in (sys.modules["rung.errors"].__doc__ or ""), (
            "the tree in the docstring is whole"
        )
    assert rung.TrainingError.exit_code == 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"study": 5}, "--study: give a name such as prices-2; a value of the type int is none"),
        ({"study": b"x"}, "type bytes is none"),
        ({"study": 10**5000}, "type int is none"),
        ({"study": Path("a/b")}, "--study: 'a/b' is no name for a folder ('/' is in it)"),
        (
            {"studies": None},
            "--studies: give the path of a folder; a value of the type NoneType is none",
        ),
        ({"studies": ""}, "--studies: write a name, without control characters"),
        ({"studies": "a\0b"}, "--studies: write a name, without control characters"),
        ({"ranks": 10**5000}, "--ranks: there is a number of thousands of digits"),
        ({"budget": 10**5000}, "--budget: there is a number of thousands of digits"),
    ],
)
def test_what_tune_is_given_in_python_is_read_or_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(rung.InputError, match=re.escape(says)):
        rung.tune(quiet=True, **given)
    assert list(tmp_path.iterdir()) == []


def test_a_study_may_be_named_by_a_path_of_one_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rung.tuning.loop.tune", lambda recipe, folder, progress: {})
    assert rung.tune(study=Path("a"), studies=tmp_path, quiet=True).folder == tmp_path / "a"
