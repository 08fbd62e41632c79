"""The benchmark of the search, at a size at which it runs in a minute.

The figures are the same in each run. At this size they are rough, so the bounds are wide.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
import search
if __name__ == "__main__":
    document = search.run_all(40, 1, parts=False) | {"seconds": 1}
    print(json.dumps([document, search.markdown(document)]))
"""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The document of a short run, and its page."""
    program = tmp_path_factory.mktemp("benchmark") / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    command = [sys.executable, str(program), str(BENCHMARKS)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    document, page = json.loads(out.stdout)
    return document, page


@pytest.mark.slow
def test_claims_are_rare_without_gains_and_intervals_hold_the_truth(
    output: tuple[dict[str, Any], str],
) -> None:
    document, _ = output
    assert document["null"]["climbs"] == 40
    assert document["null"]["false_better"] <= 0.1
    assert document["power"] >= 0.6
    assert document["coverage"] >= 0.85
    assert document["coverage_of_loss"] >= 0.85


@pytest.mark.slow
def test_every_strategy_has_the_same_figures(output: tuple[dict[str, Any], str]) -> None:
    document, page = output
    for figures in (document["replay"], *document["replay_by_task"].values()):
        assert {"climb", "tpe", "rate_grid", "random", "recipe"} <= figures.keys()
        for one in figures.values():
            assert -0.01 < one["regret_mean"] < 1, "no strategy beats the best of the table"
            assert 0 < one["cost_fraction"] < 0.2
    costs = {name: document["replay"][name]["cost"] for name in ("recipe", "rate_grid")}
    assert costs == pytest.approx({"recipe": 1, "rate_grid": 4}, rel=0.01)
    assert page.count("| climb, thorough |") == 4, "a table of each task, and of its own rates"
