"""The benchmark of the search, on a scale on which its figures mean nothing: does it say what it is to say?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
import search
document = search.judged(40, 1, parts=False) | {"seconds": 1}
print(json.dumps([document, search.markdown(document)]))
"""


@pytest.mark.slow
def test_it_judges_every_strategy_by_the_same_figures() -> None:
    command = [sys.executable, "-c", PROGRAM, str(BENCHMARKS)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    document, page = json.loads(out.stdout)
    assert document["null"]["climbs"] == 40
    shares = [
        document["null"]["false_better"],
        document["power"],
        document["coverage"],
        document["coverage_of_loss"],
    ]
    assert all(0 <= share <= 1 for share in shares)
    for figures in (document["replay"], *document["replay_by_task"].values()):
        assert {"climb", "tpe", "rate_grid", "random", "recipe"} <= figures.keys()
        for one in figures.values():
            assert -0.01 < one["regret_mean"] < 1, "nobody beats the best of the table"
            assert 0 < one["cost_fraction"] < 0.2
    costs = {name: document["replay"][name]["cost"] for name in ("recipe", "rate_grid")}
    assert costs == pytest.approx({"recipe": 1, "rate_grid": 4}, rel=0.01)
    assert page.count("| climb, thorough |") == 4
