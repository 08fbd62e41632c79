"""What a study tries, and what its observer is told, on the tiny model."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from tests.odd_tokenizers import byte_level
from tests.tiny import tiny_llama
from tests.tuning.observers import InterruptAfterRace, Recorder
from tests.tuning.studies import ONE_SETTING, Finished, run, split_files, without_times

from rung.recipe import Recipe
from rung.search.strategy import Exclusion, LeverStanding, Stage
from rung.types import Candidate, Verdict


def test_the_observer_is_told_every_verdict_standing_and_exclusion_once(finished: Finished) -> None:
    result, recorder = finished.result, finished.recorder
    assert tuple(recorder.verdicts) == result.verdicts
    standings = [event for event in recorder.events if isinstance(event, LeverStanding)]
    assert tuple(standings) == result.standings
    told = [event for event in recorder.events if isinstance(event, tuple)]
    excluded = {own.id: own.exclusion for own in result.candidates if own.exclusion}
    assert excluded
    assert sorted(candidate.id for candidate, _ in told) == sorted(excluded)
    for candidate, exclusion in told:
        assert isinstance(candidate, Candidate)
        assert isinstance(exclusion, Exclusion)


def test_stages_and_steps_are_told_in_order(finished: Finished) -> None:
    events = finished.recorder.events
    assert finished.recorder.stages[0].phase == "race"
    first_stage = next(at for at, event in enumerate(events) if isinstance(event, Stage))
    first_step = events.index(finished.recorder.steps[0])
    first_verdict = next(at for at, event in enumerate(events) if isinstance(event, Verdict))
    assert first_stage < first_step < first_verdict
    for earlier, later in itertools.pairwise(events):
        if isinstance(earlier, Stage):
            assert not isinstance(later, Stage), "a stage trains"


@pytest.mark.parametrize("strategy", ["grid", "random", "tpe"])
def test_another_strategy_answers_the_same_question(
    recipe: Recipe, tmp_path: Path, strategy: str
) -> None:
    small = {"ranks": (2, 4), "learning_rates": (4e-3, 1.6e-2), "targets": ("mlp",)}
    budget = 20_000 if strategy == "grid" else 4_000
    result = run(recipe, tmp_path / "s", **small, strategy=strategy, budget=budget)
    loss = result.recommendation.validation_loss
    assert loss is not None
    assert result.recommendation.setting.targets == "mlp"
    assert loss.mean < result.baseline.validation_loss
    assert result.noise is None, "each setting was trained once"
    assert {own.seeds for own in result.settings} == {1}
    assert result.verdicts == ()
    assert result.standings, "the losses stand without a claim"


def test_what_a_small_budget_leaves_untried_is_listed(recipe: Recipe, tmp_path: Path) -> None:
    recorder = Recorder()
    result = run(recipe, tmp_path / "s", recorder, budget="5k")
    assert any("too small for a verdict" in note for note in recorder.notes)
    assert result.cost.candidate_tokens <= 5_000
    assert result.untried == {"targets": ("mlp",), "alpha": ("r",)}
    judged = [verdict for verdict in result.verdicts if verdict.kind != "untuned"]
    assert {verdict.lever for verdict in judged} <= {"learning_rate", "rank"}
    assert {verdict.outcome for verdict in judged} == {"undecided"}


def test_a_budget_in_time_is_measured_once_and_kept(recipe: Recipe, tmp_path: Path) -> None:
    options = {**ONE_SETTING, "budget": "60s", "strategy": "grid"}
    first, again = Recorder(), Recorder()
    result = run(recipe, tmp_path / "s", first, **options)
    assert any("tokens a second here" in note for note in first.notes)
    assert without_times(run(recipe, tmp_path / "s", again, **options)) == without_times(result)
    assert not any("tokens a second here" in note for note in again.notes)


def test_only_the_levers_that_are_named_are_tried(recipe: Recipe, tmp_path: Path) -> None:
    result = run(recipe, tmp_path / "s", levers=("alpha",), strategy="grid")
    settings = [own.setting for own in result.settings]
    assert {(s.rank, s.targets, s.learning_rate) for s in settings} == {(2, "attention", 1e-3)}
    assert [s.alpha for s in settings] == [4, 2]


def test_a_grid_trains_a_setting_by_two_names_once_and_says_so(
    recipe: Recipe, tmp_path: Path
) -> None:
    recorder = Recorder()
    # At rank 4 rslora is 16 / √4 = 32 / 4, which is another scale than that of 2r and 8.
    options = {**ONE_SETTING, "ranks": (4,), "alphas": ("2r", "8", "rslora"), "strategy": "grid"}
    result = run(recipe, tmp_path / "s", recorder, **options)
    settings = [own.setting for own in result.settings]
    assert [(s.alpha, s.use_rslora) for s in settings] == [(8, False), (16, True)]
    assert any("1 settings have two names" in note for note in recorder.notes)


def test_target_modules_by_two_spellings_are_tried_once(recipe: Recipe, tmp_path: Path) -> None:
    recorder = Recorder()
    sets = ("q_proj+k_proj+v_proj+o_proj", "attention", "mlp")
    options = {**ONE_SETTING, "targets": sets, "strategy": "grid"}
    result = run(recipe, tmp_path / "s", recorder, **options)
    assert [own.setting.targets for own in result.settings] == [sets[0], "mlp"]
    same = f"attention means the same layers as {sets[0]} in this model, so it is tried once"
    assert same in recorder.notes
    tried = f"target modules, 2 sets, tried one after the other: {sets[0]}; mlp"
    assert tried in recorder.notes


def test_many_modules_by_their_full_names_are_trained(recipe: Recipe, tmp_path: Path) -> None:
    modules = [f"self_attn.{name}_proj" for name in "qkvo"]
    modules += [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
    names = "+".join(f"model.layers.{block}.{module}" for block in (0, 1) for module in modules)
    assert len(names) > 300
    options = {**ONE_SETTING, "targets": [names.split("+")], "strategy": "grid"}
    best = run(recipe, tmp_path / "s", **options).recommendation
    assert best.setting.targets == names
    assert (tmp_path / "s" / best.adapter / "adapter_config.json").exists()


@pytest.fixture(scope="module")
def korean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model whose tokenizer has bytes, and rows from English to Korean."""
    folder = tmp_path_factory.mktemp("korean")
    tokenizer, model = byte_level(), tiny_llama()
    model.resize_token_embeddings(len(tokenizer))
    for part in (model, tokenizer):
        part.save_pretrained(folder / "model")
    rows = [
        {"prompt": f"{i} letters:", "completion": " " + chr(0xAC00 + i) * 2} for i in range(120)
    ]
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return {"model": str(folder / "model"), **split_files(path)}


@pytest.mark.parametrize(("targets", "tried"), [(("attention", "mlp"), True), (("mlp",), False)])
def test_another_language_is_told_and_the_head_is_tried(
    recipe: Recipe,
    korean: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    targets: tuple[str, ...],
    tried: bool,
) -> None:
    """Whatever the untuned model's loss is; but not where the user named one set of modules."""
    monkeypatch.setattr("rung.search.race.LM_HEAD_LOSS_THRESHOLD", 99.0)
    recorder = InterruptAfterRace()
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "s", recorder, **korean, passes=0.5, targets=targets)
    (told,) = [note for note in recorder.notes if "another language" in note]
    assert "in a script that neither the prompts nor the vocabulary's words have, Hangul" in told
    raced = {candidate.targets for stage in recorder.stages for candidate in stage.candidates}
    assert any("lm_head" in own for own in raced) == tried
