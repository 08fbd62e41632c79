"""A plan, against the very climb that it is the plan of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rung.commands.plan import plan
from rung.errors import ModelError, RecipeError, TargetError
from rung.recipe import Recipe, read_recipe
from rung.report.plan import planned
from rung.runner.protocol import StepProgress
from rung.search.strategy import Decision
from rung.study.folder import StudyFolder
from rung.tuning.loop import tune
from rung.types import Candidate, Verdict


class Listener:
    """Remembers the heats."""

    def __init__(self) -> None:
        self.stages: list[Any] = []
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def verdict(self, verdict: Verdict) -> None: ...

    def left(self, candidate: Candidate, why: str) -> None: ...

    def stage(self, decision: Decision, full_tokens: int) -> None:
        self.stages.append(decision.stage)

    def tick(self, tick: StepProgress) -> None: ...


@pytest.fixture
def recipe(tiny_folder: Path, rows_file: Path) -> Recipe:
    rows = str(rows_file)
    return read_recipe(
        None,
        model=str(tiny_folder),
        data=rows,
        validation=rows,
        test=rows,
        allow_leakage=True,
        precision="fp32",
        ranks=(2, 4, 8),
    )


def test_it_is_the_climb_that_would_run(recipe: Recipe, tmp_path: Path) -> None:
    found, listener = plan(recipe, "here", None, Listener()), Listener()
    tune(recipe, StudyFolder(tmp_path / "s"), listener)
    really = [(h.phase, h.fraction, len(h.candidates)) for h in listener.stages]
    foretold = [(h["phase"], h["until"], h["settings"] * h["seeds"]) for h in found["heats"]]
    assert foretold[:2] == really[:2], "what comes then depends on the losses"
    assert foretold[2:4] == [("semifinal", 1.0, 4), ("confirmation", 1.0, 12)]
    assert foretold[2] in really
    first = found["heats"][0]
    assert sum(first["widths"]) == 9
    assert found["device"] == {
        "name": "here",
        "measured": True,
        "memory_bytes": found["memory"]["limit"],
    }
    assert found["cost"]["seconds"] > found["cost"]["single_run_seconds"] > 0
    assert found["rows"]["rows"] > 0


def test_nothing_is_written(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan(recipe, "t4", None, Listener())
    assert not list(tmp_path.glob("studies*"))


def test_parts_of_the_memory_add_up_and_a_tight_one_makes_packs_narrower(recipe: Recipe) -> None:
    found = plan(recipe, "t4", None, Listener())
    parts = ("base", "adapters", "optimizer", "activations", "logits")
    assert sum(found["memory"][part] for part in parts) == pytest.approx(
        found["memory"]["total"], rel=0.05
    )
    assert {cell["fits"] for cell in found["fits"]} == {"in one pass"}
    tight = plan(recipe.model_copy(update={"memory": "669MB"}), "t4", None, Listener())
    assert max(max(stage["widths"]) for stage in tight["heats"]) < 12
    assert {cell["fits"] for cell in tight["fits"]} > {"in one pass"}


def test_a_price_is_time_times_the_hour(recipe: Recipe) -> None:
    cost = plan(recipe, "a100", 3.6, Listener())["cost"]
    assert cost["price"] == pytest.approx(cost["seconds"] / 1000, abs=0.01)


def test_a_budget_buys_a_smaller_climb(recipe: Recipe) -> None:
    whole = plan(recipe, "t4", None, Listener())["cost"]
    part = plan(
        recipe.model_copy(update={"budget": str(whole["candidate_tokens"] // 3)}),
        "t4",
        None,
        Listener(),
    )["cost"]
    assert part["candidate_tokens"] <= whole["candidate_tokens"] // 3


def test_a_named_device_needs_no_weights_and_says_that_it_is_an_estimate(
    recipe: Recipe, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    config.write_bytes((Path(recipe.model) / "config.json").read_bytes())
    found = plan(
        recipe.model_copy(update={"model": str(config), "precision": "auto"}),
        "t4",
        None,
        Listener(),
    )
    assert not found["device"]["measured"]
    assert found["rows"] is None
    notes = " ".join(found["notes"])
    assert "An estimate for the NVIDIA T4" in notes
    assert "no tokenizer, so a token is taken for 4 characters" in notes
    json.dumps(found)


def test_it_fits_80_columns(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    for where in ("here", "h100"):
        Console(width=80, force_terminal=False).print(planned(plan(recipe, where, 1.0, Listener())))
    text = capsys.readouterr().out
    assert max(len(line.rstrip()) for line in text.splitlines() if recipe.model not in line) <= 80
    for words in ("An estimate: see below.", "AdamW's moments", "What can be seen"):
        assert words in " ".join(text.split())


def test_what_cannot_be_planned_is_refused(recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match="no device 'toaster'"):
        plan(recipe, "toaster", None, Listener())
    with pytest.raises(
        RecipeError, match="The budget is 10 training tokens, and one candidate takes"
    ):
        plan(recipe.model_copy(update={"budget": "10"}), "t4", None, Listener())
    with pytest.raises(TargetError, match="valid targets are"):
        plan(recipe.model_copy(update={"targets": ("q_porj",)}), "t4", None, Listener())
    with pytest.raises(ModelError, match="There is no model"):
        plan(recipe.model_copy(update={"model": "./none"}), "t4", None, Listener())


def test_a_broken_generation_config_is_not_taken_for_a_tokenizer_that_is_not_there(
    recipe: Recipe, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(recipe.model, tmp_path / "model"))
    (model / "generation_config.json").write_text("[]")
    with pytest.raises(ModelError, match="is not a JSON object"):
        plan(recipe.model_copy(update={"model": str(model)}), "t4", None, Listener())


@pytest.mark.parametrize("where", ["here", "t4"])
def test_the_head_is_planned_for_where_the_climb_would_try_it(
    recipe: Recipe, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rung.search.race.LM_HEAD_LOSS_THRESHOLD", 99.0)
    heads = []
    for foreign in (None, "Hangul"):
        monkeypatch.setattr(
            "rung.commands.plan.find_foreign_language",
            lambda rows, tokenizer, foreign=foreign: foreign,
        )
        monkeypatch.setattr(
            "rung.commands.plan.make_strategy",
            lambda r, space, *_: heads.append(space.head) or stop(),
        )
        with pytest.raises(StopIteration):
            plan(recipe, where, None, Listener())
    assert heads == [False, True]


def stop() -> None:
    raise StopIteration
