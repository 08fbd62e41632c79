"""What `rung data` computes: the data as a model sees them, and their audit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rung.commands.data import SCORED_ROWS, DataReport, report_data
from rung.data.audit import Finding
from rung.errors import MetricError
from rung.formats.documents import to_json
from rung.formats.numbers import Convention
from rung.recipe import Recipe


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    return str(path)


def pairs(count: int) -> list[dict[str, str]]:
    letters = [chr(97 + i % 5) for i in range(count)]
    return [
        {"prompt": f"{i} {letter}:", "completion": letter * 2} for i, letter in enumerate(letters)
    ]


def look(model: Path, data: str, with_model: bool = False, **options: Any) -> DataReport:
    recipe = Recipe(model=str(model), data=data, quantization="fp32", precision="fp32", **options)
    return report_data(recipe, with_model, lambda _: None)


def by_kind(report: DataReport) -> dict[str, Finding]:
    return {finding.kind: finding for finding in report.audit}


@pytest.fixture(scope="module")
def report(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> DataReport:
    """A report without the model."""
    folder = tmp_path_factory.mktemp("data")
    return look(tiny_folder, write(folder / "a.jsonl", pairs(400)))


@pytest.fixture(scope="module")
def asked(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> DataReport:
    """A report for which the untuned model scored some rows."""
    folder = tmp_path_factory.mktemp("data")
    return look(tiny_folder, write(folder / "a.jsonl", pairs(400)), with_model=True)


def test_the_rows_are_split(report: DataReport) -> None:
    assert report.format == "prompt_completion"
    assert sum(report.splits.values()) == 400
    assert report.made_splits == ("validation", "test")
    assert sum(report.read.values()) == 400
    assert (report.bad_rows.count, report.bad_rows.messages) == (0, ())


def test_a_row_is_shown_as_the_model_sees_it(report: DataReport) -> None:
    example = report.example
    assert "".join(example.text) == "0 a:aa<end>"
    learned = zip(example.text, example.learned, strict=True)
    assert "".join(text for text, is_learned in learned if is_learned) == "aa<end>"
    assert len(example.tokens) == len(example.learned) == len(example.text)
    assert example.where.endswith("a.jsonl, line 1")
    assert [end.text for end in report.ends] == ["<end>"]


def test_the_histogram_of_lengths_has_every_row(report: DataReport) -> None:
    lengths = report.lengths
    assert sum(bar.rows for bar in lengths.histogram) == 400
    assert lengths.histogram[0].first <= lengths.median <= lengths.p99 <= lengths.longest == 9
    assert (lengths.histogram[-1].last, lengths.max_tokens) == (9, 512)


def test_the_trivial_predictor_has_the_metrics_of_the_study(report: DataReport) -> None:
    assert report.metrics == ("accuracy", "macro_f1")
    assert report.trivial is not None
    assert set(report.trivial.metrics) == {"accuracy", "macro_f1"}
    assert report.trivial.writes in {"aa", "bb", "cc", "dd", "ee"}


def test_the_document_is_json_of_schema_2(report: DataReport) -> None:
    content = to_json(report)
    assert content == json.loads(json.dumps(content, allow_nan=False))
    assert (content["schema"], content["untuned"]) == (2, None)
    assert set(content["audit"][0]) >= {"kind", "severity", "says"}


def test_the_untuned_model_scores_some_rows_if_its_weights_are_here(asked: DataReport) -> None:
    assert asked.untuned is not None
    assert asked.untuned.rows == min(SCORED_ROWS, asked.splits["validation"])
    says = f"the untuned model's loss is {asked.untuned.validation_loss:.2f} nats a token"
    assert says in by_kind(asked)["far"].says


def test_the_worst_findings_come_first(asked: DataReport) -> None:
    severities = [finding.severity for finding in asked.audit]
    assert len(set(severities)) > 1
    assert severities == sorted(severities, key=["error", "warning", "note"].index)


def test_rows_that_do_not_fit_the_model_are_an_error_in_the_audit(
    tiny_folder: Path, tmp_path: Path
) -> None:
    rows = [*pairs(400), {"prompt": "long " * 30, "completion": "x"}]
    report = look(tiny_folder, write(tmp_path / "a.jsonl", rows), with_model=True)
    assert report.untuned is None
    first = report.audit[0]
    assert (first.kind, first.severity) == ("limits", "error")
    says = "1 of 401 rows have more tokens than the model has positions, 128"
    assert first.says.startswith(says)


def test_a_small_loss_does_not_say_that_the_language_is_the_same(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rung.commands.data.LM_HEAD_LOSS_THRESHOLD", 99.0)
    data = write(tmp_path / "a.jsonl", pairs(400))
    findings = {}
    for foreign in (None, "It is in Hangul"):
        monkeypatch.setattr(
            "rung.data.audit.tokens.find_foreign_language",
            lambda rows, tokenizer, foreign=foreign: foreign,
        )
        findings[foreign] = by_kind(look(tiny_folder, data, with_model=True))
    same, other = findings[None], findings["It is in Hangul"]
    assert "the output head (lm_head) need not be tried" in same["near"].says
    assert "language" not in same
    assert other["near"].says.endswith("but they are in another language.")
    assert other["language"].says.startswith("It is in Hangul")
    assert "lm_head" in other["language"].says


def test_too_few_validation_rows_for_the_margin_are_a_warning(asked: DataReport) -> None:
    finding = by_kind(asked)["few_rows"]
    assert finding.severity == "warning"
    rows = asked.splits["validation"]
    says = f"There are {rows} validation rows. To show a gain of 1.0% in four of five studies"
    assert finding.says.startswith(says)


def test_characters_of_several_tokens_are_shown_whole(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [{"text": f"달 🌙 {i}"} for i in range(400)]
    report = look(tiny_folder, write(tmp_path / "a.jsonl", rows))
    assert (report.metrics, report.trivial) == ((), None), "there is no prompt to generate after"
    assert all(report.example.learned)


@pytest.mark.slow
def test_characters_of_several_tokens_in_a_real_tokenizer(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}: 달 🌙", "completion": " 👩‍🚀 끝"} for i in range(400)]
    recipe = Recipe(data=write(tmp_path / "a.jsonl", rows))
    example = report_data(recipe, False, lambda _: None).example
    assert "".join(example.text) == "0: 달 🌙 👩‍🚀 끝<|im_end|>"
    assert len(example.text) == len(example.tokens)


def test_bad_and_long_rows_are_counted(tiny_folder: Path, tmp_path: Path) -> None:
    long = [{"prompt": f"long{i} " * 20, "completion": "x"} for i in range(9)]
    data = write(tmp_path / "a.jsonl", [*pairs(380), *long, {"prompt": "p"}])
    report = look(tiny_folder, data, max_tokens=60, skip_bad_rows=True)
    assert report.bad_rows.count == len(report.bad_rows.messages) == 1
    assert "a.jsonl, line 390" in report.bad_rows.messages[0]
    assert sum(report.too_long.values()) == 9
    assert sum(report.splits.values()) == 380
    assert {"malformed", "long_rows"} & set(by_kind(report))


def test_numbers_are_read_as_the_column_or_the_user_says(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"{i} it:", "completion": f"{i % 9 + 1},{100 + i % 37}"} for i in range(400)]
    path = write(tmp_path / "a.jsonl", rows)
    assumed, told = look(tiny_folder, path), look(tiny_folder, path, numbers="comma")
    assert assumed.numbers == Convention()
    assert (assumed.numbers.decimal, told.numbers.decimal) == ("point", "comma")
    messages = " ".join(finding.says for finding in assumed.audit)
    assert "--numbers point or --numbers comma" in messages
    assert told.metrics[0] == assumed.metrics[0] == "mean_absolute_error"
    assert told.trivial is not None
    assert assumed.trivial is not None
    assert float(told.trivial.writes.replace(",", ".")) < 10 < float(assumed.trivial.writes)


def test_held_out_numbers_that_are_written_otherwise_are_told(
    tiny_folder: Path, tmp_path: Path
) -> None:
    def part(name: str, mark: str, first: int) -> str:
        texts = [f"{i % 50}{mark}{i % 9}1" for i in range(first, first + 150)]
        rows = [{"prompt": f"{name} {i}:", "completion": text} for i, text in enumerate(texts)]
        return write(tmp_path / name, rows)

    files: dict[str, Any] = {
        "data": part("a.jsonl", ",", 0),
        "validation": part("b.jsonl", ",", 7),
        "test": part("c.jsonl", ".", 3),
    }
    report = look(tiny_folder, **files)
    assert "mean_absolute_error" not in report.metrics
    messages = [finding.says for finding in report.audit if finding.kind == "numbers"]
    assert "150 of 300 held-out completions" in messages[0]
    assert "'3.31'" in messages[0]
    with pytest.raises(MetricError, match=r"test completions.*'3.31'"):
        look(tiny_folder, metrics=["rmsle"], **files)
