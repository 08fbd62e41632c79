"""A study that was interrupted goes on with the same command, and a finished one answers again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.tuning.observers import InterruptAt, Recorder
from tests.tuning.studies import Finished, run, without_times

from rung.errors import StudyError
from rung.recipe import Recipe
from rung.runner.local import LocalRunner
from rung.study.folder import StudyFolder
from rung.study.lock import locked
from rung.tuning.loop import tune


def test_a_study_that_is_interrupted_at_any_stage_ends_where_the_other_ends(
    finished: Finished, tmp_path: Path
) -> None:
    folder = StudyFolder(tmp_path / finished.folder.name)
    phases = []
    for step in (1, 12, 25):
        recorder = InterruptAt(step)
        with pytest.raises(KeyboardInterrupt):
            tune(finished.recipe, folder, recorder)
        assert not folder.result.exists()
        phases.append(recorder.stages[-1].phase)
    assert phases[0] == "race"
    assert phases[-1] != "race"
    result = tune(finished.recipe, folder, Recorder())
    assert without_times(result) == without_times(finished.result)


def test_a_finished_study_answers_again_without_training(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, recorder = finished.copy(tmp_path), Recorder()

    def test_scores(self: object, candidate: object) -> None:
        raise AssertionError("the test split is used once")

    monkeypatch.setattr(LocalRunner, "test_scores", test_scores)
    again = tune(finished.recipe, folder, recorder)
    assert without_times(again) == without_times(finished.result)
    assert recorder.steps == []


def test_the_time_of_all_runs_of_a_study_is_added_up(finished: Finished, tmp_path: Path) -> None:
    again = tune(finished.recipe, finished.copy(tmp_path), Recorder())
    assert again.cost.wall_seconds > finished.result.cost.wall_seconds


def recommended(finished: Finished, folder: StudyFolder) -> Path:
    """The folder of the recommended candidate."""
    return folder.path / "candidates" / finished.result.recommendation.candidate


@pytest.mark.parametrize("damage", ["gone", "junk", "cut", "other"])
def test_a_damaged_adapter_is_written_again_from_its_checkpoint(
    finished: Finished, tmp_path: Path, damage: str
) -> None:
    folder, recorder = finished.copy(tmp_path), Recorder()
    adapter = recommended(finished, folder) / "adapter"
    weights = adapter / "adapter_model.safetensors"
    before = {path.name: path.read_bytes() for path in adapter.iterdir()}
    if damage == "gone":
        shutil.rmtree(adapter)
    elif damage == "other":
        save_file({name: tensor * 2 for name, tensor in load_file(weights).items()}, weights)
    else:
        weights.write_bytes(b"junk" if damage == "junk" else before[weights.name][:-5])
    again = tune(finished.recipe, folder, recorder)
    assert {path.name: path.read_bytes() for path in adapter.iterdir()} == before
    assert without_times(again) == without_times(finished.result)
    says = "was not as it was trained; it is written again from its checkpoint"
    assert any(says in note for note in recorder.notes)


@pytest.mark.parametrize("lost", ["all candidates", "adapter", "all candidates and test scores"])
def test_an_adapter_that_is_lost_with_its_checkpoint_is_one_sentence(
    finished: Finished, tmp_path: Path, lost: str
) -> None:
    folder = finished.copy(tmp_path)
    best = recommended(finished, folder)
    if lost == "adapter":
        shutil.rmtree(best / "adapter")
        (state,) = best.glob("cooldown@1.000/step-*/state.safetensors")
        state.write_bytes(state.read_bytes()[:-5])
    else:
        shutil.rmtree(folder.path / "candidates")
    if lost == "all candidates and test scores":
        folder.test_scores(best.name).unlink()
    with pytest.raises(StudyError, match=r"of the study is damaged \(.+\); put the file back"):
        tune(finished.recipe, folder, Recorder())


def test_an_adapter_needs_no_checkpoint_when_all_is_measured(
    finished: Finished, tmp_path: Path
) -> None:
    folder = finished.copy(tmp_path)
    checkpoints = [*folder.path.glob("candidates/*/c*")]
    assert checkpoints
    for path in checkpoints:
        shutil.rmtree(path)
    again = tune(finished.recipe, folder, Recorder())
    assert without_times(again) == without_times(finished.result)


def test_a_damaged_file_is_found_before_a_study_goes_on(recipe: Recipe, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "s")
    with pytest.raises(KeyboardInterrupt):
        run(recipe, folder.path, InterruptAt(12), budget="5k")
    scores = next(folder.path.glob("scores/*@*.parquet"))
    before = {path: path.read_bytes() for path in (scores, folder.recipe, folder.database)}
    for damaged, content in (
        (scores, before[scores][:50]),
        (folder.recipe, b"ranks: [8"),
        (folder.recipe, b"rnaks: 8\n"),
    ):
        damaged.write_bytes(content)
        recorder = Recorder()
        with pytest.raises(StudyError, match=f"{damaged.name}' of the study is damaged"):
            run(recipe, folder.path, recorder, budget="5k")
        assert damaged.read_bytes() == content
        assert recorder.steps == []
        damaged.write_bytes(before[damaged])
    assert {path: path.read_bytes() for path in before} == before
    with locked(folder), pytest.raises(StudyError, match="is being worked on by process"):
        run(recipe, folder.path, budget="5k")
    recorder = Recorder()
    result = run(recipe, folder.path, recorder, budget="5k")
    assert result.recommendation.setting.rank in recipe.ranks
    assert recorder.steps, "it was not finished before"


def test_a_study_of_schema_1_is_answered_with_one_sentence(
    finished: Finished, tmp_path: Path
) -> None:
    folder = finished.copy(tmp_path)
    content = json.loads(folder.manifest.read_text())
    folder.manifest.write_text(json.dumps({**content, "schema": 1}))
    with pytest.raises(StudyError) as error:
        tune(finished.recipe, folder, Recorder())
    assert str(error.value) == (
        f"The study '{folder.path}' was made by another version of Rung (manifest.json has schema "
        "1; this version has 2); go on with that version, or give another --study."
    )
