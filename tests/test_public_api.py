from __future__ import annotations

import subprocess
import sys

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
    import rung.loop

    assert callable(rung.tune)


@pytest.mark.parametrize("program", ["import rung", "from rung.cli import app, main"])
def test_importing_is_light(program: str) -> None:
    heavy = ("torch", "transformers", "peft", "optuna", "scipy", "numpy", "pyarrow", "pydantic")
    check = f"{program}; import sys; print([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_error_of_the_input_leads_to_exit_code_2() -> None:
    for name in ("RecipeError", "ModelError", "TargetError", "DataError", "StudyError"):
        error = getattr(rung, name)
        assert issubclass(error, rung.InputError)
        assert error.exit_code == 2
        assert name in (sys.modules["rung.errors"].__doc__ or ""), "the tree in the docstring is whole"
    assert rung.TrainingError.exit_code == 1
