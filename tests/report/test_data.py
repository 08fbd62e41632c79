"""What `rung data` shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.report.render import printed, words

from rung.commands.data import (
    AuditFinding,
    BadRows,
    DataReport,
    EndToken,
    ExampleRow,
    LengthBar,
    Lengths,
    TrivialPredictor,
)
from rung.data.audit import Severity
from rung.formats.numbers import POINT
from rung.report.data import MAX_EXAMPLE, data_page

REPORT = DataReport(
    schema=2,
    data="train.jsonl",
    model="SmolLM2",
    format="prompt_completion",
    splits={"train": 1_820, "validation": 90, "test": 86},
    made_splits=("validation", "test"),
    read={"train": 1_823, "validation": 90, "test": 87},
    too_long={"train": 3, "validation": 0, "test": 1},
    bad_rows=BadRows(0, ()),
    example=ExampleRow("line 1", (1, 2, 3), (0, 1, 1), ("Say the: ", " DH AH", "<end>")),
    ends=(EndToken(2, "<end>"), EndToken(3, "\n")),
    lengths=Lengths(
        512,
        21,
        48,
        600,
        (LengthBar(1, 100, 1_900), LengthBar(101, 200, 2), LengthBar(513, 600, 4)),
    ),
    metrics=("exact_match", "phoneme_error_rate"),
    numbers=POINT,
    trivial=TrivialPredictor("DH\nAH", {"exact_match": 0.005, "phoneme_error_rate": 0.9}),
    untuned=None,
    audit=(AuditFinding("few_rows", "warning", "There are few validation rows."),),
)


def shown(**changes: Any) -> str:
    return printed(data_page(replace(REPORT, **changes)))


def test_it_names_the_data_their_shape_and_the_model() -> None:
    assert "train.jsonl: prompt and completion, for SmolLM2" in shown()


def test_the_splits_say_what_was_read_left_out_and_used() -> None:
    lines = [words(line) for line in shown().splitlines()]
    assert "train 1,823 3 1,820" in lines
    assert "validation (split off by a hash) 90 0 90" in lines


def test_the_example_marks_what_is_learned() -> None:
    assert "Say the: ⟦ DH AH<end>⟧" in shown()
    assert "A generated text ends at <end> and \\n." in shown()


def test_of_a_long_example_the_start_and_the_end_are_shown() -> None:
    example = replace(REPORT.example, text=("a" * 3000, "b" * 3000, "<end>"))
    text = shown(example=example)
    assert "[…]" in text
    assert "<end>⟧" in text
    assert text.count("a") + text.count("b") < MAX_EXAMPLE + 200


def test_lengths_have_a_bar_for_every_span_that_has_rows() -> None:
    text = shown()
    assert "half of the rows have at most 21, 99 % at most 48, the longest has 600" in words(text)
    bars = [line.split() for line in text.splitlines() if "–" in line]
    assert bars == [["1–100", "█" * 40, "1,900"], ["101–200", "▏", "2"], ["513–600", "▏", "4"]]


def test_it_names_the_metrics_and_what_the_trivial_answer_gives() -> None:
    text = words(shown())
    assert "Metrics that suit these data: exact match, phoneme error rate." in text
    assert (
        "Always answering 'DH AH' gives exact match 0.5%, phoneme error rate 90.0% on the "
        "validation rows."
    ) in text


def test_texts_without_prompts_have_no_metrics_and_no_trivial_answer() -> None:
    text = shown(format="text", metrics=(), trivial=None)
    assert "Metrics" not in text
    assert "Always" not in text


@pytest.mark.parametrize(("severity", "mark"), [("error", "✗"), ("warning", "!"), ("note", "·")])
def test_a_finding_is_marked_by_its_severity(severity: Severity, mark: str) -> None:
    text = shown(audit=(AuditFinding("leakage", severity, "Rows are in two splits."),))
    assert f"{mark} Rows are in two splits." in text


def test_an_audit_without_findings_says_so() -> None:
    assert "The audit found nothing." in shown(audit=())


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    text = printed(data_page(REPORT), width=width)
    assert max(map(len, text.splitlines())) <= width
