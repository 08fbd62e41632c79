"""A plan, against the climb that it is the plan of."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import write_rows
from tests.tuning.observers import Recorder
from tests.tuning.studies import run

from rung.commands.plan import Plan, make_plan
from rung.commands.plan_inputs import read_inputs
from rung.costs.probes import DeviceCosts
from rung.errors import InputError, ModelError, RecipeError, TargetError
from rung.formats.documents import to_json
from rung.recipe import Recipe, read_recipe, with_options


def plan(recipe: Recipe, where: str = "t4", price: float | None = None, **options: Any) -> Plan:
    return make_plan(with_options(recipe, **options), where, price, lambda _: None)


@pytest.fixture(scope="module")
def recipe(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    rows = str(write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl"))
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


@pytest.fixture(scope="module")
def here(recipe: Recipe) -> Plan:
    """The plan for this machine."""
    return plan(recipe, "here")


@pytest.fixture(scope="module")
def working_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the plan for a T4 was made."""
    return tmp_path_factory.mktemp("working")


@pytest.fixture(scope="module")
def on_t4(recipe: Recipe, working_folder: Path) -> Plan:
    """The plan for a T4, at 3.60 an hour."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(working_folder)
        return plan(recipe, "t4", 3.6)


@pytest.fixture(scope="module")
def measured(recipe: Recipe) -> dict[str, DeviceCosts]:
    """The costs here and on a T4, for tests of something else."""
    return {where: read_inputs(recipe, where, lambda _: None).costs for where in ("here", "t4")}


@pytest.fixture
def costs_at_hand(monkeypatch: pytest.MonkeyPatch, measured: dict[str, DeviceCosts]) -> None:
    """No costs are measured or traced again."""
    here, on_t4 = measured["here"], measured["t4"]
    monkeypatch.setattr("rung.commands.plan_inputs.measure_costs", lambda *_: here)
    monkeypatch.setattr("rung.commands.plan_inputs.estimate_costs", lambda *_: on_t4)


def test_it_has_the_stages_of_the_climb_that_will_run(
    recipe: Recipe, here: Plan, tmp_path: Path
) -> None:
    class InterruptAfterSemifinal(Recorder):
        def stage_started(self, stage: Any, full_tokens: int) -> None:
            super().stage_started(stage, full_tokens)
            if stage.phase == "confirmation":
                raise KeyboardInterrupt

    recorder = InterruptAfterSemifinal()
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "s", recorder)
    actual = [(s.phase, s.fraction, len(s.candidates)) for s in recorder.stages]
    planned = [(s.phase, s.fraction, s.settings * s.seeds) for s in here.stages]
    assert planned[:2] == actual[:2], "the later stages depend on the losses"
    assert planned[2:4] == [("semifinal", 1.0, 4), ("confirmation", 1.0, 12)]
    assert planned[2] in actual
    assert sum(here.stages[0].widths) == 9


def test_a_plan_for_this_machine_is_measured(here: Plan) -> None:
    assert (here.device.name, here.device.measured) == ("here", True)
    assert here.device.memory_bytes == here.memory.limit
    assert here.cost.seconds > here.cost.single_run_seconds > 0
    assert here.cost.seconds > here.cost.other_seconds > 0
    assert here.notes == ()


def test_the_untuned_models_losses_say_which_gains_can_be_shown(here: Plan) -> None:
    assert here.power is not None
    assert here.power.gains.rows == 120
    assert here.power.gains.detectable > 0
    assert here.power.baseline_loss > 0
    assert here.power.margin == 0.01


def test_the_tokens_of_the_stages_are_the_tokens_of_the_cost(here: Plan) -> None:
    tokens = sum(stage.tokens for stage in here.stages)
    assert here.cost.candidate_tokens == tokens
    assert here.cost.full_trainings == pytest.approx(tokens / here.candidate_tokens, abs=0.01)


def test_nothing_is_written(on_t4: Plan, working_folder: Path) -> None:
    assert on_t4.stages
    assert list(working_folder.iterdir()) == []


def test_the_parts_of_the_memory_add_up(on_t4: Plan) -> None:
    memory = on_t4.memory
    parts = memory.base, memory.adapters, memory.optimizer, memory.activations, memory.logits
    assert min(parts) > 0
    assert sum(parts) == pytest.approx(memory.total, rel=0.05)
    assert {cell.fits for cell in on_t4.fits} == {"in one pass"}


def test_less_memory_makes_packs_narrower(recipe: Recipe, on_t4: Plan) -> None:
    tight = plan(recipe, memory="669MB")
    widest = max(max(stage.widths) for stage in tight.stages)
    assert widest < max(max(stage.widths) for stage in on_t4.stages) <= 12
    assert {cell.fits for cell in tight.fits} > {"in one pass"}


def test_a_price_is_time_times_the_hour(on_t4: Plan, here: Plan) -> None:
    assert on_t4.cost.price_per_hour == 3.6
    assert on_t4.cost.price == pytest.approx(on_t4.cost.seconds / 1000, abs=0.01)
    assert (here.cost.price_per_hour, here.cost.price) == (None, None)


def test_a_budget_buys_a_smaller_climb(recipe: Recipe, on_t4: Plan) -> None:
    third = on_t4.cost.candidate_tokens // 3
    part = plan(recipe, budget=third)
    assert part.cost.candidate_tokens <= third
    assert part.cost.seconds < on_t4.cost.seconds


def test_a_named_device_needs_no_weights_and_says_that_it_is_an_estimate(
    recipe: Recipe, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    config.write_bytes((Path(recipe.model) / "config.json").read_bytes())
    estimate = plan(recipe, model=str(config), precision="auto")
    assert not estimate.device.measured
    assert estimate.power is None
    notes = " ".join(estimate.notes)
    assert "An estimate for the NVIDIA T4" in notes
    assert "no tokenizer, so a token is taken to have 4 characters" in notes


def test_the_document_is_json_of_schema_2(here: Plan, on_t4: Plan) -> None:
    for document in (here, on_t4):
        content = to_json(document)
        assert content["schema"] == 2
        assert [stage["phase"] for stage in content["stages"]][:1] == ["race"]
        assert content["memory"]["total"] == document.memory.total


@pytest.mark.parametrize(
    ("where", "wrong", "error", "says"),
    [
        ("toaster", {}, RecipeError, "no device 'toaster'"),
        (
            "t4",
            {"budget": "10"},
            RecipeError,
            "The budget is 10 training tokens, and one candidate",
        ),
        ("t4", {"targets": "q_porj"}, TargetError, "valid targets are"),
        ("t4", {"model": "./none"}, ModelError, "There is no model"),
    ],
)
@pytest.mark.usefixtures("costs_at_hand")
def test_what_cannot_be_planned_is_refused(
    recipe: Recipe, where: str, wrong: dict[str, Any], error: type[InputError], says: str
) -> None:
    with pytest.raises(error, match=says):
        plan(recipe, where, **wrong)


def test_a_broken_generation_config_is_not_taken_for_a_missing_tokenizer(
    recipe: Recipe, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(recipe.model, tmp_path / "model"))
    (model / "generation_config.json").write_text("[]")
    with pytest.raises(ModelError, match="is not a JSON object"):
        plan(recipe, model=str(model))


@pytest.mark.parametrize("where", ["here", "t4"])
@pytest.mark.usefixtures("costs_at_hand")
def test_the_head_is_planned_for_where_the_climb_would_try_it(
    recipe: Recipe, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rung.search.race.LM_HEAD_LOSS_THRESHOLD", 99.0)
    heads: list[bool] = []

    def stop(recipe: Recipe, space: Any, *_: object) -> None:
        heads.append(space.try_lm_head)
        raise StopIteration

    monkeypatch.setattr("rung.commands.plan.make_strategy", stop)
    for foreign in (None, "Hangul"):
        monkeypatch.setattr(
            "rung.commands.plan_inputs.find_foreign_language",
            lambda rows, tokenizer, foreign=foreign: foreign,
        )
        with pytest.raises(StopIteration):
            plan(recipe, where)
    assert heads == [False, True]
