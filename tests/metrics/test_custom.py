"""A user's own metric in a Python file."""

from __future__ import annotations

from pathlib import Path

import pytest

from rung.errors import MetricError
from rung.metrics.metric import CompletionStats, Metric, evaluate
from rung.metrics.registry import find_metric
from rung.types import Generation

NO_STATS = CompletionStats((), None, "")


def custom_metric(folder: Path, code: str, name: str = "mine") -> Metric:
    path = folder / "own.py"
    path.write_text(code)
    return find_metric(f"{path}:{name}")


def test_it_is_the_mean_of_a_function_of_text_wanted_text_and_prompt(tmp_path: Path) -> None:
    metric = custom_metric(
        tmp_path,
        "def mine(text, wanted, prompt):\n    return len(text) - len(wanted) + len(prompt)\n",
    )
    rows = [Generation("abc", "a", "p"), Generation("a", "a", "p")]
    evaluation = evaluate(metric, rows, NO_STATS)
    assert (metric.name, evaluation.value) == ("mine", 2)
    assert evaluation.pseudo_values == pytest.approx([3, 1])


def test_a_parameter_with_a_default_keeps_it(tmp_path: Path) -> None:
    metric = custom_metric(
        tmp_path, "def mine(text, wanted, strict=True):\n    return strict is True\n"
    )
    assert evaluate(metric, [Generation("a", "a", "p")] * 2, NO_STATS).value == 1


def test_the_file_may_define_dataclasses(tmp_path: Path) -> None:
    code = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n"
        "@dataclass\nclass A:\n    x: int\n\n"
        "def mine(text, wanted):\n    return A(3).x\n"
    )
    assert evaluate(custom_metric(tmp_path, code), [Generation("a", "a")], NO_STATS).value == 3


def test_higher_is_better_unless_the_function_says_otherwise(tmp_path: Path) -> None:
    higher = custom_metric(tmp_path, "def mine(text, wanted):\n    return 1\n")
    assert not higher.lower_is_better
    assert higher.to_loss(2.0) == -2
    (tmp_path / "b").mkdir()
    lower = custom_metric(
        tmp_path / "b",
        "def error(text, wanted):\n    return 1\nerror.lower_is_better = True\n",
        "error",
    )
    assert lower.lower_is_better
    assert lower.to_loss(2.0) == 2


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "def mine(a, b):\n    return 1 / 0\n",
            "failed at a.jsonl, line 3 (ZeroDivisionError: division by zero); the generated text "
            "was 'x' and the wanted text 'y'",
        ),
        ("def mine(a, b):\n    return 'much'\n", "failed at a.jsonl, line 3 (ValueError"),
        ("def mine(a, b):\n    return float('nan')\n", "returned nan at a.jsonl, line 3"),
        ("def other(a, b):\n    return 1\n", "has no function 'mine'"),
        ("import nothing_like_this\n", "cannot be loaded (ModuleNotFoundError"),
    ],
)
def test_a_function_that_fails_is_reported_with_the_row(
    tmp_path: Path, code: str, message: str
) -> None:
    rows = [Generation("x", "y", "p", "a.jsonl, line 3")]
    with pytest.raises(MetricError) as error:
        evaluate(custom_metric(tmp_path, code), rows, NO_STATS)
    assert message in str(error.value)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match="there is no file '.*none.py'"):
        find_metric(f"{tmp_path}/none.py:mine")
