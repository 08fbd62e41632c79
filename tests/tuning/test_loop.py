"""The whole way through the house, on a tiny model: a study from nothing to its answer."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tests.architectures import make
from tests.odd_tokenizers import byte_level
from tests.tiny import tiny_llama, tiny_tokenizer, write_rows
from transformers import AutoTokenizer

from rung.errors import DataError, MetricError, ModelError, RecipeError, StudyError, TargetError
from rung.model.files import fingerprint
from rung.model.load import load_base
from rung.recipe import Recipe
from rung.runner.protocol import StepProgress
from rung.search.strategy import Decision
from rung.search.tpe import Tpe
from rung.study.folder import StudyFolder
from rung.study.lock import locked
from rung.tuning import loop
from rung.tuning.loop import tune
from rung.types import Candidate, Verdict


class Listener:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def note(self, text: str) -> None:
        self.heard.append(text)

    def verdict(self, verdict: Verdict) -> None:
        self.heard.append(verdict)

    def left(self, candidate: Candidate, why: str) -> None:
        self.heard.append((candidate, why))

    def stage(self, decision: Decision, full_tokens: int) -> None:
        self.heard.append(decision.stage)

    def tick(self, tick: StepProgress) -> None:
        self.heard.append(tick)


class StopsAt(Listener):
    """Interrupts the study at a tick, as Ctrl-C would."""

    def __init__(self, ticks: int) -> None:
        super().__init__()
        self.ticks = ticks

    def tick(self, tick: StepProgress) -> None:
        self.ticks -= 1
        if self.ticks == 0:
            raise KeyboardInterrupt


@pytest.fixture
def recipe(tiny_folder: Path, rows_file: Path) -> Recipe:
    return recipe_of(tiny_folder, rows_file)


def recipe_of(model: Path, rows: Path) -> Recipe:
    return Recipe(
        model=str(model),
        quantization="fp32",
        precision="fp32",
        data=str(rows),
        validation=str(rows),
        test=str(rows),
        allow_leakage=True,
        ranks=(2, 4, 8),
        learning_rates=(1e-3, 4e-3, 1.6e-2),
        targets=("attention", "mlp"),
        alphas=("2r", "r"),
    )


@dataclass(frozen=True)
class Finished:
    """A whole study, for tests that only read it; those that go on in its folder take a copy."""

    recipe: Recipe
    folder: StudyFolder
    listener: Listener
    found: dict[str, Any]

    def copy(self, into: Path) -> StudyFolder:
        return StudyFolder(shutil.copytree(self.folder.path, into / self.folder.path.name))


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    root = tmp_path_factory.mktemp("finished")
    recipe, folder = (
        recipe_of(tiny_folder, write_rows(root / "rows.jsonl")),
        StudyFolder(root / "studies" / "letters"),
    )
    listener = Listener()
    return Finished(recipe, folder, listener, tune(recipe, folder, listener))


def test_a_study_ends_with_an_answer_and_leaves_everything_behind(finished: Finished) -> None:
    recipe, folder, listener, found = (
        finished.recipe,
        finished.folder,
        finished.listener,
        finished.found,
    )
    assert found == json.loads(folder.result.read_text())
    assert {
        "schema",
        "study",
        "model",
        "baseline",
        "recommendation",
        "verdicts",
        "candidates",
        "cost",
    } <= found.keys()
    assert (found["schema"], found["study"]) == (1, "letters")
    best = found["recommendation"]
    assert (
        best["validation_loss"]["low"]
        < best["validation_loss"]["mean"]
        < best["validation_loss"]["high"]
    )
    assert best["validation_loss"]["high"] < found["baseline"]["validation_loss"]
    assert best["test"]["loss"] < found["baseline"]["test"]["loss"]
    modules = {
        "attention": ["k_proj", "o_proj", "q_proj", "v_proj"],
        "mlp": ["down_proj", "gate_proj", "up_proj"],
    }
    targets, *head = best["targets"].split("+")
    assert sorted(best["target_modules"]) == sorted([*modules[targets], *head])
    assert best["alpha"] in (best["rank"], 2 * best["rank"])
    for verdict in found["verdicts"]:
        assert {
            "lever",
            "from",
            "to",
            "gain",
            "low",
            "high",
            "margin",
            "outcome",
            "rows",
            "seeds",
            "says",
        } == set(verdict)
        assert verdict["low"] <= verdict["gain"] <= verdict["high"]
        assert verdict["rows"] == (64 if "of the budget" in verdict["says"] else 120)
    assert {verdict["lever"] for verdict in found["verdicts"]} >= {
        "learning_rate",
        "target_modules",
        "rank",
        "alpha",
    }
    assert found["noise"]["freedom"] > 0
    assert 1 <= best["effective_rank"] <= best["rank"]
    assert [one["rank"] for one in best["cut"]] == [
        rank for rank in recipe.ranks if rank < best["rank"]
    ]
    assert best["seed"] in (1, 2, 3, 4)
    ids = {candidate["id"] for candidate in found["candidates"]}
    assert best["candidate"] in ids
    assert {path.name for path in (folder.path / "candidates").iterdir()} == ids
    for candidate in found["candidates"]:
        assert candidate["parameters"] * 4 == candidate["adapter_bytes"]
        assert candidate["seconds"] > 0
    cost = found["cost"]
    # Those in the semifinal train once more what they cooled down for the look; the confirmation begins anew.
    again = cost["candidate_tokens"] - sum(candidate["tokens"] for candidate in found["candidates"])
    assert 0 < again <= 4 * recipe.cooldown * cost["single_run_tokens"]
    assert cost["wall_seconds"] > 0
    manifest = json.loads(folder.manifest.read_text())
    assert manifest["rows"] == {"train": 120, "validation": 120, "test": 120}
    assert len(manifest["data_sha256"]) == 64
    assert any(isinstance(heard, Verdict) for heard in listener.heard)


def test_the_recommended_adapter_is_the_one_that_was_measured(finished: Finished) -> None:
    recipe, folder, found = finished.recipe, finished.folder, finished.found
    base = load_base(recipe.model, "fp32", "fp32")
    model = PeftModel.from_pretrained(
        base.model, folder.path / found["recommendation"]["adapter"]
    ).eval()
    losses = tokens = 0.0
    for line in Path(recipe.data).read_text().splitlines():
        row = json.loads(line)
        prompt = base.tokenizer(row["prompt"])["input_ids"]
        ids = torch.tensor(
            [
                [
                    *prompt,
                    *base.tokenizer(row["completion"])["input_ids"],
                    base.tokenizer.eos_token_id,
                ]
            ]
        )
        with torch.no_grad():
            logits = model(ids).logits[0]
        losses += float(
            torch.nn.functional.cross_entropy(
                logits[len(prompt) - 1 : -1], ids[0, len(prompt) :], reduction="sum"
            )
        )
        tokens += ids.shape[1] - len(prompt)
    assert losses / tokens == pytest.approx(
        found["recommendation"]["adapter_validation_loss"], rel=1e-4
    )


def test_a_metric_can_judge_what_was_trained_in_full(recipe: Recipe, tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        "def letters(written, wanted, prompt):\n    return sum(a == b for a, b in zip(written, wanted))\n"
    )
    recipe = recipe.model_copy(
        update={"judge": "metric", "metrics": (f"{own}:letters", "exact_match")}
    )
    folder = StudyFolder(tmp_path / "s")
    listener = Listener()
    found = tune(recipe, folder, listener)
    metrics, best = found["metrics"], found["recommendation"]
    assert (metrics["judge"], metrics["names"], metrics["rows"]) == (
        "letters",
        ["letters", "exact_match"],
        120,
    )
    chosen = next(
        s for s in metrics["settings"] if all(s[k] == best[k] for k in ("rank", "alpha", "targets"))
    )
    values = [setting["metrics"]["letters"]["mean"] for setting in metrics["settings"]]
    assert chosen["metrics"]["letters"]["mean"] >= 0.99 * max(values), (
        "or a cheaper one near the best"
    )
    in_full = [verdict for verdict in found["verdicts"] if verdict["rows"] == 120]
    assert all(
        "of letters" in verdict["says"] for verdict in in_full if "better by" in verdict["says"]
    )
    assert any(
        verdict["lever"] == "adapter" and "of letters" in verdict["says"] for verdict in in_full
    )
    assert all("nats a token" not in verdict["says"] for verdict in in_full)
    # The loss is what it was: nats a token, with its own noise.
    assert best["validation_loss"]["mean"] < found["baseline"]["validation_loss"]
    assert best["test_gains"]["letters"]["low"] > 0
    texts = pq.read_table(folder.written("validation", best["candidate"])).to_pylist()
    rows = [json.loads(line) for line in Path(recipe.data).read_text().splitlines()]
    assert [(row["prompt"], row["wanted"]) for row in texts] == [
        (row["prompt"], row["completion"]) for row in rows
    ]
    again = tune(recipe, folder, Listener())
    assert without_times(again) == without_times(found)


def test_the_metrics_of_the_finalists_stand_beside_their_losses(
    recipe: Recipe, tmp_path: Path
) -> None:
    found = tune(recipe, StudyFolder(tmp_path / "s"), Listener())
    metrics = found["metrics"]
    assert (metrics["judge"], metrics["names"], metrics["rows"]) == (
        "loss",
        ["accuracy", "macro_f1"],
        64,
    )
    assert {setting["seeds"] for setting in metrics["settings"]} == {4}
    beside = [
        setting["metrics"]["accuracy"]
        for setting in metrics["settings"]
        if "gain" in setting["metrics"]["accuracy"]
    ]
    assert len(beside) == len(metrics["settings"]) - 1
    for one in beside:
        assert one["low"] <= one["mean"] <= one["high"]
        assert one["gain"]["low"] <= one["gain"]["gain"] <= one["gain"]["high"]
    test = found["recommendation"]["test"]
    assert (
        set(test)
        == {"loss", "accuracy", "macro_f1"}
        == set(found["recommendation"]["test_intervals"])
    )
    assert set(found["baseline"]["trivial"]) == {"writes", "accuracy", "macro_f1"}
    assert found["baseline"]["trivial"]["accuracy"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"allow_leakage": False}, DataError, "240 rows stand in two splits.*--allow-leakage"),
        ({"metrics": ("nothing",)}, MetricError, "There is no metric 'nothing'"),
        ({"judge": "median_absolute_error"}, MetricError, "has no interval"),
        (
            {"metrics": ("broken.py:score",)},
            MetricError,
            "broken.py:score failed at .*line 1 .ZeroDivisionError",
        ),
    ],
)
def test_what_would_spoil_the_end_is_found_at_the_beginning(
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    error: Any,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text("def score(written, wanted):\n    return 1 / 0\n")
    with pytest.raises(error, match=says):
        tune(recipe.model_copy(update=changes), StudyFolder(tmp_path / "studies" / "s"), Listener())
    assert not (tmp_path / "studies").exists()


def korean(folder: Path) -> tuple[Path, Path]:
    """A model whose tokenizer has bytes, and rows from English to Korean."""
    tokenizer, model = byte_level(), tiny_llama()
    model.resize_token_embeddings(len(tokenizer))
    for part in (model, tokenizer):
        part.save_pretrained(folder / "model")
    rows = [
        {"prompt": f"{i} letters:", "completion": " " + chr(0xAC00 + i) * 2} for i in range(120)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "model", folder / "rows.jsonl"


@pytest.mark.parametrize(("targets", "tried"), [(("attention", "mlp"), True), (("mlp",), False)])
def test_another_language_is_told_and_the_head_is_tried(
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    targets: tuple[str, ...],
    tried: bool,
) -> None:
    """Whatever the untuned model loses; but not where the user has named the modules."""
    monkeypatch.setattr("rung.search.race.LM_HEAD_LOSS_THRESHOLD", 99.0)
    model, rows = map(str, korean(tmp_path))
    changes = {
        "model": model,
        "data": rows,
        "validation": rows,
        "test": rows,
        "targets": targets,
        "passes": 0.5,
    }
    listener = Listener()
    found = tune(recipe.model_copy(update=changes), StudyFolder(tmp_path / "s"), listener)
    said = next(
        text for text in listener.heard if isinstance(text, str) and "another language" in text
    )
    assert "in a script that neither the prompts nor the vocabulary's words have, Hangul" in said
    assert any("lm_head" in candidate["id"] for candidate in found["candidates"]) == tried


def test_texts_that_the_positions_may_cut_are_told_and_rows_beyond_them_refused(
    recipe: Recipe, tmp_path: Path
) -> None:
    rows = [{"prompt": f"{i}:", "completion": "x" * 60} for i in range(6)]
    rows += [{"prompt": f"{i} {'long ' * 12}:", "completion": "y"} for i in range(4)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = dict.fromkeys(("data", "validation", "test"), str(tmp_path / "rows.jsonl"))
    few = {"ranks": (2,), "targets": ("attention",), "alphas": ("2r",), "learning_rates": (4e-3,)}
    listener = Listener()
    tune(recipe.model_copy(update={**files, **few}), StudyFolder(tmp_path / "s"), listener)
    said = "after 4 of 10 test prompts the model's 128 positions leave less room than the longest completion takes"
    assert any(isinstance(text, str) and text.startswith(said) for text in listener.heard)
    rows[0]["completion"] *= 3
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(
        DataError,
        match="3 of 30 rows have more tokens than the model has positions, 128, .*-tokens 128",
    ):
        tune(
            recipe.model_copy(update={**files, **few}), StudyFolder(tmp_path / "other"), Listener()
        )
    assert not (tmp_path / "other").exists()


def test_conversations_and_texts_are_tuned_on_too(recipe: Recipe, tmp_path: Path) -> None:
    chats = [
        [{"role": r, "content": f"{i}{r[0]}{t}"} for t in "ab" for r in ("user", "assistant")]
        for i in range(120)
    ]
    shapes = {
        "messages": [{"messages": chat} for chat in chats],
        "text": [{"text": f"{i} {chr(97 + i % 5) * 3}"} for i in range(120)],
    }
    for name, rows in shapes.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows))
        files = dict.fromkeys(("data", "validation", "test"), str(path))
        few = {
            "ranks": (2,),
            "targets": ("attention",),
            "alphas": ("2r",),
            "learning_rates": (4e-3,),
            "template": "plain",
        }
        found = tune(
            recipe.model_copy(update={**files, **few}), StudyFolder(tmp_path / name), Listener()
        )
        assert found["recommendation"]["test"]["loss"] < found["baseline"]["test"]["loss"]
        assert bool(found["metrics"]["names"]) == (name == "messages"), (
            "after nothing, nothing is written"
        )


def without_times(document: Any) -> Any:
    """What has to be the same in two runs: everything but how long things took and how much memory there was."""
    if isinstance(document, dict):
        times = ("seconds", "wall_seconds", "peak_memory_bytes")
        return {key: without_times(value) for key, value in document.items() if key not in times}
    if isinstance(document, list):
        return [without_times(value) for value in document]
    return pytest.approx(document, rel=1e-4, abs=1e-4) if isinstance(document, float) else document


@pytest.mark.parametrize("ticks", [1, 12, 25])
def test_an_interrupted_study_goes_on_and_ends_where_the_other_ends(
    finished: Finished, tmp_path: Path, ticks: int
) -> None:
    recipe, folder = finished.recipe, StudyFolder(tmp_path / finished.folder.path.name)
    with pytest.raises(KeyboardInterrupt):
        tune(recipe, folder, StopsAt(ticks))
    assert not folder.result.exists()
    assert without_times(tune(recipe, folder, Listener())) == without_times(finished.found)


def test_a_finished_study_answers_again_without_training(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, listener = finished.copy(tmp_path), Listener()

    def test(self: object, candidate: object) -> None:
        raise AssertionError("the test split is opened once")

    monkeypatch.setattr(loop.LocalRunner, "test_scores", test)
    assert without_times(tune(finished.recipe, folder, listener)) == without_times(finished.found)
    assert not any(isinstance(heard, StepProgress) for heard in listener.heard)


def recommended(finished: Finished, folder: StudyFolder) -> Path:
    """The folder of the candidate."""
    return folder.path / "candidates" / finished.found["recommendation"]["candidate"]


@pytest.mark.parametrize("damage", ["gone", "junk", "cut", "other"])
def test_the_recommended_adapter_is_there_when_a_study_answers_again(
    finished: Finished, tmp_path: Path, damage: str
) -> None:
    folder, listener = finished.copy(tmp_path), Listener()
    adapter = recommended(finished, folder) / "adapter"
    weights = adapter / "adapter_model.safetensors"
    kept = {path.name: path.read_bytes() for path in adapter.iterdir()}
    if damage == "gone":
        shutil.rmtree(adapter)
    elif damage == "other":
        save_file({name: tensor * 2 for name, tensor in load_file(weights).items()}, weights)
    else:
        weights.write_bytes(b"junk" if damage == "junk" else kept[weights.name][:-5])
    again = tune(finished.recipe, folder, listener)
    assert {path.name: path.read_bytes() for path in adapter.iterdir()} == kept
    assert without_times(again) == without_times(finished.found)
    assert any(
        "was not as it was trained; it is written again" in str(heard) for heard in listener.heard
    )


@pytest.mark.parametrize("what", ["candidates", "adapter", "tests"])
def test_an_adapter_that_is_gone_with_its_checkpoint_is_one_sentence(
    finished: Finished, tmp_path: Path, what: str
) -> None:
    folder = finished.copy(tmp_path)
    best = recommended(finished, folder)
    shutil.rmtree(folder.path / "candidates" if what != "adapter" else best / "adapter")
    state = next(best.glob("cooled@1.000/step-*/state.safetensors"), None)
    if state:
        state.write_bytes(state.read_bytes()[:-5])
    if what == "tests":
        folder.test_scores(best.name).unlink()
    with pytest.raises(StudyError, match=r"of the study is damaged \(.+\); put the file back"):
        tune(finished.recipe, folder, Listener())


def test_an_adapter_needs_no_checkpoint_when_all_is_measured(
    finished: Finished, tmp_path: Path
) -> None:
    folder = finished.copy(tmp_path)
    for path in folder.path.glob("candidates/*/c*"):
        shutil.rmtree(path)
    assert without_times(tune(finished.recipe, folder, Listener())) == without_times(finished.found)


@pytest.mark.parametrize(
    ("files", "says"), [([], "no names with hashes"), ("x", "no names with hashes")]
)
def test_a_manifest_with_junk_in_it_is_one_sentence(
    finished: Finished, tmp_path: Path, files: object, says: str
) -> None:
    folder = finished.copy(tmp_path)
    folder.manifest.write_text(
        json.dumps({**json.loads(folder.manifest.read_text()), "model_files": files})
    )
    with pytest.raises(StudyError, match=rf"manifest.json' of the study is damaged \(.*{says}"):
        tune(finished.recipe, folder, Listener())


def test_a_folder_answers_one_question(recipe: Recipe, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "s")
    few = {"ranks": (2,), "learning_rates": (4e-3,), "targets": ("attention",), "alphas": ("2r",)}
    recipe = recipe.model_copy(update=few)
    tune(recipe, folder, Listener())
    with pytest.raises(StudyError, match=r"passes was 1.0 and is 2"):
        tune(recipe.model_copy(update={"passes": 2}), folder, Listener())
    rows = Path(recipe.data)
    rows.write_text(rows.read_text().replace("aa", "zz"))
    with pytest.raises(StudyError, match="has changed since it began"):
        tune(recipe, folder, Listener())
    manifest = json.loads(folder.manifest.read_text())
    del manifest["order"]  # as a version of before left it
    folder.manifest.write_text(json.dumps(manifest))
    with pytest.raises(StudyError, match="trained on the rows in another order"):
        tune(recipe, folder, Listener())


def test_a_study_is_of_the_models_files_and_not_of_their_path(
    recipe: Recipe, tmp_path: Path
) -> None:
    model, folder = tmp_path / "model", StudyFolder(tmp_path / "s")
    shutil.copytree(recipe.model, model)
    small = recipe.model_copy(
        update={
            "model": str(model),
            "ranks": (2,),
            "targets": ("mlp",),
            "alphas": ("2r",),
            "budget": "5k",
        }
    )
    tune(small, folder, Listener())
    assert json.loads(folder.manifest.read_text())["model_files"] == fingerprint(str(model))
    weights = load_file(model / "model.safetensors")
    changed = {
        name: weight * 1.001 if "lm_head" in name else weight for name, weight in weights.items()
    }
    save_file(changed, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        StudyError, match=r"model of the study .* has changed since it began \(model\.safetensors\)"
    ):
        tune(small, folder, Listener())
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(
        json.dumps({**settings, "clean_up_tokenization_spaces": True})
    )
    with pytest.raises(
        StudyError, match=r"has changed since it began \(.*tokenizer_config\.json\)"
    ):
        tune(small, folder, Listener())
    manifest = json.loads(folder.manifest.read_text())
    del manifest["model_files"]  # as a version of before left it
    folder.manifest.write_text(json.dumps(manifest))
    with pytest.raises(StudyError, match="did not write down what its model's files hold"):
        tune(small, folder, Listener())


def test_a_token_without_an_embedding_matters_where_a_row_has_it(
    recipe: Recipe, tmp_path: Path
) -> None:
    model, folder = tmp_path / "model", StudyFolder(tmp_path / "studies" / "s")
    shutil.copytree(recipe.model, model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    beyond = len(tokenizer)
    tokenizer.add_tokens(["<new>"])
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(model)
    few = {
        "model": str(model),
        "ranks": (2,),
        "targets": ("mlp",),
        "alphas": ("2r",),
        "budget": "5k",
    }
    with pytest.raises(KeyboardInterrupt):
        tune(recipe.model_copy(update=few), folder, StopsAt(1))
    rows = Path(recipe.data)
    lines = rows.read_text().splitlines()
    lines[70] = json.dumps({"prompt": "70 <new>:", "completion": "aa"})
    rows.write_text("\n".join(lines))
    with pytest.raises(DataError) as error:
        tune(recipe.model_copy(update=few), StudyFolder(tmp_path / "other" / "s"), Listener())
    message = str(error.value)
    assert f"rows.jsonl, line 71 has the token '<new>', which is number {beyond}" in message
    assert f"the model's embedding has only {beyond:,} tokens" in message
    assert not (tmp_path / "other").exists()


def test_what_no_adapter_goes_on_is_told_and_refused_where_it_is_asked_for(
    recipe: Recipe, tmp_path: Path
) -> None:
    make("mamba").save_pretrained(tmp_path / "mamba")
    tiny_tokenizer().save_pretrained(tmp_path / "mamba")
    few = {"model": str(tmp_path / "mamba"), "ranks": (2,), "alphas": ("2r",), "budget": "5k"}
    listener = StopsAt(1)
    with pytest.raises(KeyboardInterrupt):
        tune(
            recipe.model_copy(update={**few, "targets": ("all-linear",)}),
            StudyFolder(tmp_path / "s"),
            listener,
        )
    said = "\n".join(text for text in listener.heard if isinstance(text, str))
    assert (
        "backbone.layers.*.mixer.out_proj: PEFT refuses an adapter on it in this architecture, so none goes"
        in said
    )
    assert "backbone.layers.*.mixer.dt_proj: an adapter on them learns nothing from text" in said
    with pytest.raises(TargetError, match="No adapter can go on 'out_proj'"):
        tune(
            recipe.model_copy(update={**few, "targets": ("out_proj",)}),
            StudyFolder(tmp_path / "t" / "s"),
            Listener(),
        )
    assert not (tmp_path / "t").exists()


def test_nothing_is_tried_again_where_a_study_goes_on(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    monkeypatch.setattr(loop, "preflight", lambda *given: tried.append(given) or [])
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            tune(recipe, StudyFolder(tmp_path / "s"), StopsAt(1))
    assert len(tried) == 1
    assert [candidate.targets for candidate in tried[0][1]] == ["attention", "mlp"]


def test_the_head_that_a_race_adds_by_itself_is_tried_too(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    monkeypatch.setattr(loop, "preflight", lambda *given: tried.append(given) or [])
    monkeypatch.setattr(loop, "asks_for_head", lambda findings: True)
    with pytest.raises(KeyboardInterrupt):
        tune(recipe, StudyFolder(tmp_path / "s"), StopsAt(1))
    assert [candidate.targets for candidate in tried[0][1]] == [
        "attention",
        "mlp",
        "attention+lm_head",
    ]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"model": "./nothing"}, ModelError),
        ({"data": "./nothing.jsonl"}, DataError),
        ({"targets": ("attention", "q_porj")}, TargetError),
        ({"max_tokens": 2}, DataError),
        ({"budget": "100"}, RecipeError),
        ({"budget": "6k", "strategy": "grid"}, RecipeError),
        ({"ranks": (2, 65_536), "memory": "1GB"}, RecipeError),
    ],
)
def test_wrong_input_is_found_before_anything_is_written(
    recipe: Recipe, tmp_path: Path, wrong: dict[str, Any], error: type[Exception]
) -> None:
    folder = StudyFolder(tmp_path / "studies" / "s")
    with pytest.raises(error):
        tune(recipe.model_copy(update=wrong), folder, Listener())
    assert not (tmp_path / "studies").exists()


@pytest.mark.parametrize("strategy", ["grid", "random", "tpe"])
def test_another_strategy_answers_the_same_question(
    recipe: Recipe, tmp_path: Path, strategy: str
) -> None:
    small = {
        "strategy": strategy,
        "ranks": (2, 4),
        "learning_rates": (4e-3, 1.6e-2),
        "targets": ("mlp",),
    }
    folder = StudyFolder(tmp_path / "s")
    listener = Listener()
    found = tune(recipe.model_copy(update={**small, "budget": "20k"}), folder, listener)
    assert found["recommendation"]["targets"] == "mlp"
    assert found["recommendation"]["validation_loss"]["mean"] < found["baseline"]["validation_loss"]
    assert found["noise"] is None
    assert any("trained once" in note for note in found["not_covered"])


@pytest.mark.parametrize("pinned", [True, False])
def test_tpe_proposes_no_more_than_there_are_settings_of_rates_that_the_user_gave(
    recipe: Recipe, pinned: bool
) -> None:
    space = loop.make_space(
        recipe.model_copy(update={"targets": ("mlp",), "ranks": (2, 4)}), pinned
    )
    strategy = loop.make_strategy(
        recipe.model_copy(update={"strategy": "tpe"}), space, 1e9, 0.25, Listener()
    )
    assert isinstance(strategy, Tpe)
    assert strategy.budget == (len(space.settings()) if pinned else 1e9)


def test_what_a_small_budget_leaves_untried_is_not_covered(recipe: Recipe, tmp_path: Path) -> None:
    listener = Listener()
    found = tune(recipe.model_copy(update={"budget": "6k"}), StudyFolder(tmp_path / "s"), listener)
    assert any("too small for a verdict" in str(heard) for heard in listener.heard)
    assert found["cost"]["candidate_tokens"] <= 6_000
    assert "Values that no setting had: target modules mlp; alpha r." in found["not_covered"]
    assert {v["lever"] for v in found["verdicts"]} <= {"learning_rate", "rank", "adapter"}


def test_a_budget_in_time_is_measured_once_and_kept(recipe: Recipe, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "s")
    timed = recipe.model_copy(
        update={"budget": "60s", "targets": ("mlp",), "alphas": ("2r",), "ranks": (2, 4)}
    )
    first, again = Listener(), Listener()
    whole = tune(timed, folder, first)
    assert any("tokens a second here" in heard for heard in first.heard if isinstance(heard, str))
    assert without_times(tune(timed, folder, again)) == without_times(whole)
    assert not any(
        "tokens a second here" in heard for heard in again.heard if isinstance(heard, str)
    )


def test_what_rows_and_seeds_cannot_show_is_said_before_anything_is_trained(
    recipe: Recipe, tmp_path: Path
) -> None:
    listener = StopsAt(1)
    with pytest.raises(KeyboardInterrupt):
        tune(recipe, StudyFolder(tmp_path / "s"), listener)
    (said,) = [
        heard
        for heard in listener.heard
        if isinstance(heard, str) and "mostly stay undecided" in heard
    ]
    assert said.startswith("120 validation rows and 4 seeds would show a gain of ")


def test_a_budget_too_small_for_a_verdict_says_so_before_it_starts(
    recipe: Recipe, tmp_path: Path
) -> None:
    listener = Listener()
    found = tune(recipe.model_copy(update={"budget": "4k"}), StudyFolder(tmp_path / "s"), listener)
    said = next(
        i
        for i, heard in enumerate(listener.heard)
        if isinstance(heard, str) and "too small" in heard
    )
    assert said < next(
        i for i, heard in enumerate(listener.heard) if isinstance(heard, StepProgress)
    )
    assert {v["outcome"] for v in found["verdicts"] if v["lever"] != "adapter"} == {"undecided"}


def test_only_the_levers_that_are_named_are_tried(recipe: Recipe, tmp_path: Path) -> None:
    found = tune(
        recipe.model_copy(update={"levers": ("alpha",)}), StudyFolder(tmp_path / "s"), Listener()
    )
    tried = {(c["rank"], c["targets"], c["learning_rate"]) for c in found["candidates"]}
    assert tried == {(2, "attention", 1e-3)}
    assert {c["alpha"] for c in found["candidates"]} == {4, 2}


def test_a_grid_trains_a_setting_by_two_names_once_and_says_so(
    recipe: Recipe, tmp_path: Path
) -> None:
    few = {
        "ranks": (4,),
        "alphas": ("2r", "8", "rslora"),
        "learning_rates": (4e-3,),
        "targets": ("mlp",),
    }
    listener = Listener()
    # At rank 4 rslora is 16 / √4 = 32 / 4, which is another scale than that of 2r and 8.
    found = tune(
        recipe.model_copy(update={**few, "strategy": "grid"}), StudyFolder(tmp_path / "s"), listener
    )
    assert [(c["alpha"], c["use_rslora"]) for c in found["candidates"]] == [(8, False), (16, True)]
    assert any("1 settings have two names" in str(heard) for heard in listener.heard)


def test_target_modules_by_two_spellings_are_tried_once(recipe: Recipe, tmp_path: Path) -> None:
    same = ("q_proj+k_proj+v_proj+o_proj", "attention", "mlp")
    few = {
        "ranks": (2,),
        "alphas": ("2r",),
        "learning_rates": (4e-3,),
        "targets": same,
        "strategy": "grid",
    }
    listener = Listener()
    found = tune(recipe.model_copy(update=few), StudyFolder(tmp_path / "s"), listener)
    assert [c["targets"] for c in found["candidates"]] == [same[0], "mlp"]
    assert f"attention are the same layers as {same[0]} here, and are tried once" in listener.heard
    assert f"target modules, 2 sets, each for itself: {same[0]}; mlp" in listener.heard


def test_a_usual_set_of_modules_that_a_mixture_lacks_is_left_out_unless_it_was_named(
    recipe: Recipe, tmp_path: Path
) -> None:
    make("mixtral").save_pretrained(tmp_path / "mixture")
    tiny_tokenizer().save_pretrained(tmp_path / "mixture")
    few = {
        "model": str(tmp_path / "mixture"),
        "ranks": (2,),
        "alphas": ("2r",),
        "learning_rates": (4e-3,),
    }
    chosen = {field: getattr(recipe, field) for field in recipe.model_fields_set - {"targets"}}
    usual = Recipe(**{**chosen, **few, "strategy": "grid"})
    listener = Listener()
    found = tune(usual, StudyFolder(tmp_path / "s"), listener)
    # All of its linear layers are those of its attention.
    assert [c["targets"] for c in found["candidates"]] == ["attention"]
    assert (
        "mlp is not tried: this model has no such layers that an adapter could go on"
        in listener.heard
    )
    with pytest.raises(TargetError, match="no target module 'mlp'"):
        tune(
            usual.model_copy(update={"targets": ("attention", "mlp")}),
            StudyFolder(tmp_path / "t"),
            Listener(),
        )
    assert not (tmp_path / "t").exists()


def test_many_modules_by_their_full_names_are_trained(recipe: Recipe, tmp_path: Path) -> None:
    modules = [f"self_attn.{name}_proj" for name in "qkvo"] + [
        f"mlp.{name}_proj" for name in ("gate", "up", "down")
    ]
    names = "+".join(f"model.layers.{block}.{module}" for block in (0, 1) for module in modules)
    few = {"ranks": (2,), "alphas": ("2r",), "learning_rates": (4e-3,), "targets": (names,)}
    folder = StudyFolder(tmp_path / "s")
    found = tune(recipe.model_copy(update=few), folder, Listener())
    assert len(names) > 300
    assert found["recommendation"]["targets"] == names
    assert (folder.path / found["recommendation"]["adapter"] / "adapter_config.json").exists()


def test_what_a_study_has_kept_is_seen_through_before_it_goes_on(
    recipe: Recipe, tmp_path: Path
) -> None:
    folder = StudyFolder(tmp_path / "s")
    with pytest.raises(KeyboardInterrupt):
        tune(recipe, folder, StopsAt(40))
    path = next(path for path in folder.path.glob("scores/*@*.parquet"))
    kept, recipe_kept, database = (
        path.read_bytes(),
        folder.recipe.read_text(),
        folder.database.read_bytes(),
    )
    for damaged, data in (
        (path, kept[:50]),
        (folder.recipe, b"ranks: [8"),
        (folder.recipe, b"rnaks: 8\n"),
    ):
        before = damaged.read_bytes()
        damaged.write_bytes(data)
        listener = Listener()
        with pytest.raises(StudyError, match=f"{damaged.name}' of the study is damaged"):
            tune(recipe, folder, listener)
        assert damaged.read_bytes() == data
        assert not any(isinstance(heard, StepProgress) for heard in listener.heard)
        damaged.write_bytes(before)
    assert (path.read_bytes(), folder.recipe.read_text()) == (kept, recipe_kept)
    assert folder.database.read_bytes() == database
    with locked(folder), pytest.raises(StudyError, match="is being worked on by process"):
        tune(recipe, folder, Listener())
    assert tune(recipe, folder, Listener())["recommendation"]["rank"] in recipe.ranks
