"""Before the first training step: what is refused, what is told, and that nothing is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.architectures import make
from tests.tiny import tiny_tokenizer
from tests.tuning.observers import InterruptAt, Recorder
from tests.tuning.studies import ONE_SETTING, run, split_files
from transformers import AutoTokenizer

from rung.errors import (
    DataError,
    InputError,
    MetricError,
    ModelError,
    RecipeError,
    TargetError,
)
from rung.recipe import Recipe
from rung.study.folder import StudyFolder
from rung.types import Setting


@pytest.fixture(autouse=True)
def in_a_folder_with_a_broken_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text("def score(generated, wanted):\n    return 1 / 0\n")


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"model": "./nothing"}, ModelError, "There is no model './nothing'"),
        ({"data": "./nothing.jsonl"}, DataError, "There is no data file"),
        ({"max_tokens": 2}, DataError, "360 of 360 rows .* are longer than 2 tokens"),
        ({"allow_leakage": False}, DataError, "240 rows .* two splits.*--allow-leakage"),
        ({"metrics": ("nothing",)}, MetricError, "There is no metric 'nothing'"),
        ({"judge": "median_absolute_error"}, MetricError, "has no interval"),
        (
            {"metrics": ("broken.py:score",)},
            MetricError,
            r"broken.py:score failed at .*line 1 \(ZeroDivisionError",
        ),
        ({"targets": ("attention", "q_porj")}, TargetError, "valid targets are"),
        ({"ranks": (2, 65_536), "memory": "1GB"}, RecipeError, "--ranks: an adapter of rank"),
        ({"budget": "100"}, RecipeError, "The budget is 100 training tokens, and one candidate"),
        ({"budget": "6k", "strategy": "grid"}, RecipeError, "The grid has 36 candidates"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(
    recipe: Recipe, tmp_path: Path, wrong: dict[str, Any], error: type[InputError], says: str
) -> None:
    if "allow_leakage" in wrong:
        recipe = recipe.model_copy(update=wrong)
        wrong = {}
    recorder = Recorder()
    with pytest.raises(error, match=says):
        run(recipe, tmp_path / "studies" / "s", recorder, **wrong)
    assert not (tmp_path / "studies").exists()
    assert recorder.steps == []


def test_an_adapter_that_peft_does_not_read_back_is_found_before_anything_is_written(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the last check, so nothing is written before any of them."""

    def fails(*_: object) -> None:
        raise ModelError("PEFT read back another adapter.")

    monkeypatch.setattr("rung.tuning.setup.preflight", fails)
    with pytest.raises(ModelError, match="PEFT read back another adapter"):
        run(recipe, tmp_path / "studies" / "s", **ONE_SETTING)
    assert not (tmp_path / "studies").exists()


def test_the_manifest_is_written_last(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that the study has started: without it the folder can be used anew."""
    folder = StudyFolder(tmp_path / "s")

    def fails(*_: object) -> None:
        assert folder.recipe.exists()
        assert folder.database.exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rung.tuning.setup.make_manifest", fails)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, folder.path, **ONE_SETTING)
    assert not folder.manifest.exists()
    with pytest.raises(KeyboardInterrupt):
        run(recipe, folder.path, InterruptAt(1), **ONE_SETTING, passes=2)
    assert folder.manifest.exists()


Checked = list[Sequence[Setting]]


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Checked:
    """The settings of each call of the preflight, which is left out."""
    calls: Checked = []
    monkeypatch.setattr(
        "rung.tuning.setup.preflight",
        lambda trainer, settings, *_: calls.append(settings) or [],
    )
    return calls


def test_adapters_are_checked_once_in_a_study(
    recipe: Recipe, tmp_path: Path, checked: Checked
) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(recipe, tmp_path / "s", InterruptAt(1))
    assert [[setting.targets for setting in own] for own in checked] == [["attention", "mlp"]]


def test_the_head_that_the_race_adds_by_itself_is_checked_too(
    recipe: Recipe, tmp_path: Path, checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rung.tuning.setup.suggests_lm_head", lambda findings: True)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "s", InterruptAt(1))
    (settings,) = checked
    sets = [setting.targets for setting in settings]
    assert sets == ["attention", "mlp", "attention+lm_head"]


def test_gains_that_rows_and_seeds_cannot_show_are_told_before_anything_is_trained(
    recipe: Recipe, tmp_path: Path
) -> None:
    recorder = InterruptAt(1)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "s", recorder)
    (said,) = [note for note in recorder.notes if "mostly stay undecided" in note]
    assert said.startswith("120 validation rows and 4 seeds would show a gain of ")


def test_a_budget_too_small_for_a_verdict_is_told_before_anything_is_trained(
    recipe: Recipe, tmp_path: Path
) -> None:
    recorder = InterruptAt(1)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "s", recorder, budget="4k")
    assert any("too small for a verdict" in note for note in recorder.notes)


def test_texts_that_may_be_cut_are_told_and_rows_beyond_the_positions_refused(
    recipe: Recipe, tmp_path: Path
) -> None:
    path = tmp_path / "positions.jsonl"
    rows = [{"prompt": f"{i}:", "completion": "x" * 60} for i in range(6)]
    rows += [{"prompt": f"{i} {'long ' * 12}:", "completion": "y"} for i in range(4)]
    path.write_text("\n".join(map(json.dumps, rows)))
    options = {**ONE_SETTING, **split_files(path)}
    recorder = InterruptAt(1)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "s", recorder, **options)
    says = (
        "after 4 of 10 test prompts the model's 128 positions leave less room than the longest "
        "completion takes"
    )
    assert any(note.startswith(says) for note in recorder.notes)

    rows[0]["completion"] *= 3
    path.write_text("\n".join(map(json.dumps, rows)))
    says = "3 of 30 rows have more tokens than the model has positions, 128, .*-tokens 128"
    with pytest.raises(DataError, match=says):
        run(recipe, tmp_path / "other", **options)
    assert not (tmp_path / "other").exists()


def test_a_token_without_an_embedding_matters_where_a_row_has_it(
    recipe: Recipe, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(recipe.model, model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    beyond = len(tokenizer)
    tokenizer.add_tokens(["<new>"])
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(model)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "s", InterruptAt(1), **ONE_SETTING, model=str(model))

    rows = Path(recipe.data)
    lines = rows.read_text().splitlines()
    lines[70] = json.dumps({"prompt": "70 <new>:", "completion": "aa"})
    rows.write_text("\n".join(lines))
    with pytest.raises(DataError) as error:
        run(recipe, tmp_path / "other" / "s", **ONE_SETTING, model=str(model))
    says = f"rows.jsonl, line 71 has the token '<new>', which is number {beyond}"
    assert says in str(error.value)
    assert f"has only {beyond} tokens" in str(error.value)
    assert not (tmp_path / "other").exists()


def test_layers_that_no_adapter_goes_on_are_told_and_refused_where_they_are_asked_for(
    recipe: Recipe, tmp_path: Path
) -> None:
    model = tmp_path / "mamba"
    make("mamba").save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    options = {**ONE_SETTING, "model": str(model)}
    recorder = InterruptAt(1)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "s", recorder, **{**options, "targets": ("all-linear",)})
    told = "\n".join(recorder.notes)
    assert "backbone.layers.*.mixer.out_proj: PEFT refuses an adapter on it" in told
    assert "so no adapter goes on them" in told
    assert "backbone.layers.*.mixer.dt_proj: an adapter on these layers learns nothing" in told
    with pytest.raises(TargetError, match="No adapter can go on 'out_proj'"):
        run(recipe, tmp_path / "t" / "s", **{**options, "targets": ("out_proj",)})
    assert not (tmp_path / "t").exists()


def test_a_usual_set_of_modules_that_a_mixture_lacks_is_left_out_unless_it_was_named(
    tiny_folder: Path, recipe: Recipe, tmp_path: Path, checked: Checked
) -> None:
    model = tmp_path / "mixture"
    make("mixtral").save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    options = {**ONE_SETTING, "model": str(model), "strategy": "grid"}
    given = {name: getattr(recipe, name) for name in recipe.model_fields_set - {"targets"}}
    del options["targets"]
    recorder = InterruptAt(1)
    with pytest.raises(KeyboardInterrupt):
        run(Recipe(**given), tmp_path / "s", recorder, **options)
    (stage,) = recorder.stages
    sets = [candidate.targets for candidate in stage.candidates]
    assert sets == ["attention"], "all of its linear layers are those of its attention"
    says = "mlp is not tried: this model has no such layers that an adapter fits on"
    assert says in recorder.notes
    with pytest.raises(TargetError, match="no target module 'mlp'"):
        run(Recipe(**given), tmp_path / "t", **options, targets=("attention", "mlp"))
    assert not (tmp_path / "t").exists()
