"""What a whole study answers and leaves behind, on the tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from tests.tuning.studies import ONE_SETTING, Finished, run, split_files, without_times

from rung.formats.documents import to_json
from rung.model.load import load_base
from rung.recipe import Recipe
from rung.study.folder import StudyFolder


def test_the_answer_is_written_to_the_folder_as_it_is_returned(finished: Finished) -> None:
    result = finished.result
    assert to_json(result) == json.loads(finished.folder.result.read_text())
    assert (result.schema, result.study, result.model) == (2, "letters", finished.recipe.model)
    assert result.data == finished.recipe.data


def test_the_recommended_setting_is_better_than_the_untuned_model(finished: Finished) -> None:
    best, baseline = finished.result.recommendation, finished.result.baseline
    loss = best.validation_loss
    assert loss is not None
    assert loss.low < loss.mean < loss.high < baseline.validation_loss
    assert best.test["loss"] < baseline.test["loss"]
    assert 0 < best.test_gains["loss"].low < best.test_gains["loss"].high


def test_the_recommendation_has_a_setting_of_the_recipe_and_its_names_for_peft(
    finished: Finished,
) -> None:
    best = finished.result.recommendation
    modules = {
        "attention": ["k_proj", "o_proj", "q_proj", "v_proj"],
        "mlp": ["down_proj", "gate_proj", "up_proj"],
    }
    targets, *head = best.setting.targets.split("+")
    assert sorted(best.target_modules) == sorted([*modules[targets], *head])
    assert best.setting.alpha in (best.setting.rank, 2 * best.setting.rank)
    assert best.seed in (1, 2, 3, 4), "a seed of the confirmation"


def test_every_lever_is_judged_with_an_interval(finished: Finished) -> None:
    verdicts = finished.result.verdicts
    assert {verdict.lever for verdict in verdicts} >= {"learning_rate", "targets", "rank", "alpha"}
    for verdict in verdicts:
        assert verdict.low < verdict.gain < verdict.high
        assert verdict.rows == (64 if verdict.fraction < 1 else 120)
        assert (verdict.kind in ("race", "matched_parameters")) == (verdict.fraction < 1)
    (untuned,) = [verdict for verdict in verdicts if verdict.kind == "untuned"]
    assert (untuned.before, untuned.lever, untuned.outcome) == (None, "adapter", "better")


def test_the_ladder_has_every_rank_of_the_recipe(finished: Finished) -> None:
    ladder = finished.result.ladder
    assert [step.rank for step in ladder] == list(finished.recipe.ranks)
    best = finished.result.recommendation.setting
    (own,) = [step for step in ladder if step.rank == best.rank]
    assert (own.setting, own.fraction, own.seeds) == (best, 1.0, 4)


def test_how_much_of_its_rank_the_adapter_uses_is_measured(finished: Finished) -> None:
    best = finished.result.recommendation
    rank = best.setting.rank
    assert 1 <= best.rank_use.effective_rank <= rank
    lower = [one for one in finished.recipe.ranks if one < rank]
    assert list(best.rank_use.truncated_losses) == lower


def test_the_noise_of_seeds_is_measured(finished: Finished) -> None:
    noise = finished.result.noise
    assert noise is not None
    assert noise.degrees_of_freedom > 0
    assert noise.standard_deviation > 0


def test_every_candidate_has_a_folder_and_its_numbers(finished: Finished) -> None:
    candidates = finished.result.candidates
    ids = {candidate.id for candidate in candidates}
    assert finished.result.recommendation.candidate in ids
    assert {path.name for path in (finished.folder.path / "candidates").iterdir()} == ids
    for candidate in candidates:
        assert candidate.parameters * 4 == candidate.adapter_bytes
        assert candidate.seconds > 0
        assert (candidate.exclusion is None) == (candidate.status == "trained")


def test_the_cost_counts_what_was_trained_twice(finished: Finished) -> None:
    """A semifinalist resumes from its cooldown start; the confirmation starts anew."""
    cost, recipe = finished.result.cost, finished.recipe
    twice = cost.candidate_tokens - sum(own.tokens for own in finished.result.candidates)
    assert 0 < twice <= 4 * recipe.cooldown * cost.single_run_tokens
    assert cost.wall_seconds > 0


def test_the_manifest_says_what_was_tuned_on_what(finished: Finished) -> None:
    manifest = json.loads(finished.folder.manifest.read_text())
    assert manifest["rows"] == {"train": 120, "validation": 120, "test": 120}
    assert len(manifest["data_sha256"]) == 64
    assert manifest["model_files"]
    assert all(len(digest) == 64 for digest in manifest["model_files"].values())


def test_the_recommended_adapter_is_the_one_that_was_measured(finished: Finished) -> None:
    best = finished.result.recommendation
    base = load_base(finished.recipe.model, "fp32", "fp32")
    model = PeftModel.from_pretrained(base.model, finished.folder.path / best.adapter).eval()
    loss_sum = tokens = 0.0
    for line in Path(finished.recipe.data).read_text().splitlines():
        row = json.loads(line)
        prompt = base.tokenizer(row["prompt"])["input_ids"]
        completion = base.tokenizer(row["completion"])["input_ids"]
        ids = torch.tensor([[*prompt, *completion, base.tokenizer.eos_token_id]])
        with torch.no_grad():
            logits = model(ids).logits[0]
        answers = ids[0, len(prompt) :]
        loss_sum += float(
            torch.nn.functional.cross_entropy(
                logits[len(prompt) - 1 : -1], answers, reduction="sum"
            )
        )
        tokens += len(answers)
    assert loss_sum / tokens == pytest.approx(best.adapter_validation_loss, rel=1e-4)


def test_the_metrics_of_the_finalists_stand_beside_their_losses(finished: Finished) -> None:
    metrics, best = finished.result.metrics, finished.result.recommendation
    assert (metrics.judge, metrics.names, metrics.rows) == ("loss", ("accuracy", "macro_f1"), 64)
    assert {own.seeds for own in metrics.settings} == {4}
    with_gain = [own for own in metrics.settings if "accuracy" in own.gains]
    assert len(with_gain) == len(metrics.settings) - 1 > 0
    assert best.setting not in [own.setting for own in with_gain]
    for own in with_gain:
        bounds, gain = own.metrics["accuracy"], own.gains["accuracy"]
        assert bounds.low is not None
        assert bounds.high is not None
        assert bounds.low <= bounds.mean <= bounds.high
        assert gain.low <= gain.gain <= gain.high
    assert set(best.test) == {"loss", "accuracy", "macro_f1"} == set(best.test_intervals)
    trivial = finished.result.baseline.trivial
    assert trivial is not None
    assert set(trivial.test) == {"accuracy", "macro_f1"}
    assert trivial.test["accuracy"] == pytest.approx(0.2), "one letter of five"


def test_a_metric_can_judge_what_was_trained_in_full(recipe: Recipe, tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        "def letters(written, wanted, prompt):\n"
        "    return sum(a == b for a, b in zip(written, wanted))\n"
    )
    held_out = tmp_path / "held-out.jsonl"
    rows = Path(recipe.data).read_text().splitlines()[:80]
    held_out.write_text("\n".join(rows))
    options = {
        "judge": "metric",
        "metrics": (f"{own}:letters", "exact_match"),
        "validation": str(held_out),
        "test": str(held_out),
    }
    result = run(recipe, tmp_path / "s", **options)
    metrics, best = result.metrics, result.recommendation
    assert (metrics.judge, metrics.names) == ("letters", ("letters", "exact_match"))
    assert metrics.rows == 80, "all of them, where a metric judges"
    values = {one.setting: one.metrics["letters"].mean for one in metrics.settings}
    assert values[best.setting] >= 0.99 * max(values.values()), "or a cheaper one near the best"

    in_full = [verdict for verdict in result.verdicts if verdict.fraction == 1]
    assert {verdict.unit for verdict in in_full} == {"letters"}
    assert "untuned" in {verdict.kind for verdict in in_full}
    raced = [verdict for verdict in result.verdicts if verdict.fraction < 1]
    assert {verdict.unit for verdict in raced} == {"nats a token"}

    # The loss is what it was: nats a token, with its own noise.
    assert best.validation_loss is not None
    assert best.validation_loss.mean < result.baseline.validation_loss
    assert best.test_gains["letters"].low > 0

    texts = pq.read_table(StudyFolder(tmp_path / "s").generations("validation", best.candidate))
    wanted = [tuple(json.loads(row).values()) for row in rows]
    assert [(row["prompt"], row["wanted"]) for row in texts.to_pylist()] == wanted
    assert without_times(run(recipe, tmp_path / "s", **options)) == without_times(result)


def test_conversations_and_texts_are_tuned_on_too(recipe: Recipe, tmp_path: Path) -> None:
    chats = [
        [{"role": r, "content": f"{i}{r[0]}{t}"} for t in "ab" for r in ("user", "assistant")]
        for i in range(120)
    ]
    formats = {
        "messages": [{"messages": chat} for chat in chats],
        "text": [{"text": f"{i} {chr(97 + i % 5) * 3}"} for i in range(120)],
    }
    for name, rows in formats.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows))
        options = {**ONE_SETTING, **split_files(path), "template": "plain"}
        result = run(recipe, tmp_path / name, **options)
        assert result.recommendation.test["loss"] < result.baseline.test["loss"]
        generates = name == "messages"
        assert bool(result.metrics.names) == generates, "a text has no prompt to generate after"
        assert (result.baseline.trivial is not None) == generates
