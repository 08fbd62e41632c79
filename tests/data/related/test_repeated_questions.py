"""Rows that repeat a question and its answer: in one split if Rung makes it, a finding if not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.data.jsonl import prepare_data, write_rows

from rung.data.audit import Finding, audit
from rung.data.prepare import Data
from rung.data.related.repeated_questions import question_hashes
from rung.data.rows import Row

SYSTEMS = [
    "You are of help.",
    "Be terse and kind.",
    "Think of every step.",
    "You teach small children.",
]
Format = Callable[[str, str, str], Any]
"""A row with this system message or context, question and answer."""


def as_messages(system: str, question: str, answer: str) -> Any:
    turns = (("system", system), ("user", question), ("assistant", answer))
    return {"messages": [{"role": role, "content": text} for role, text in turns if text]}


def as_sharegpt(system: str, question: str, answer: str) -> Any:
    return {
        "system": system,
        "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}],
    }


def as_alpaca_with_system(system: str, question: str, answer: str) -> Any:
    return {"system": system, "instruction": question, "output": answer}


def as_alpaca_with_input(system: str, question: str, answer: str) -> Any:
    return {"instruction": system, "input": question, "output": answer}


def as_text(system: str, question: str, answer: str) -> Any:
    prompt = f"Context: {system}\nQuestion: {question}\nAnswer:"
    return {"prompt": prompt, "completion": f" {answer}"}


def question(i: int) -> str:
    return f"What colour did painter {i} use for the sky?"


def painters(row_format: Format, system: str, numbers: range, answer: str = "") -> list[Any]:
    return [row_format(system, question(i), answer or f"Shade {i * 7}.") for i in numbers]


def read(folder: Path, train: list[Any], **held_out: list[Any]) -> Data:
    files = {split: write_rows(folder / f"{split}.jsonl", rows) for split, rows in held_out.items()}
    return prepare_data(write_rows(folder / "train.jsonl", train), template="plain", **files)


def findings(data: Data) -> dict[str, Finding]:
    return {finding.kind: finding for finding in audit(data)}


class TestMadeSplits:
    @pytest.mark.parametrize(
        "row_format", [as_messages, as_sharegpt, as_alpaca_with_system, as_alpaca_with_input]
    )
    def test_a_question_with_several_systems_is_in_one_split_and_has_one_source(
        self, tmp_path: Path, row_format: Format
    ) -> None:
        rows = [row for system in SYSTEMS for row in painters(row_format, system, range(200))]
        data = read(tmp_path, rows)
        painters_of = [
            {text.prompt.partition("painter ")[2] for text in examples.every_text()}
            for examples in data.splits.values()
        ]
        assert sum(map(len, painters_of)) == len(set.union(*painters_of)) == 200
        assert data.stats.grouped_rows == 800
        sources = {example.source for part in data.splits.values() for example in part}
        assert len(sources) == 200
        assert not {"leakage", "same_prompt"} & findings(data).keys()

    def test_a_question_about_many_documents_does_not_relate_rows(self, tmp_path: Path) -> None:
        rows = [
            as_messages(f"It says {i * i}.", "Is it a positive review?", ("yes", "no")[i % 2])
            for i in range(400)
        ]
        data = read(tmp_path, rows)
        assert (data.stats.grouped_rows, data.stats.ungrouped_rows) == (0, 0)
        assert not {"leakage", "same_prompt", "grown"} & findings(data).keys()

    def test_a_question_at_the_end_of_different_texts_does_not_relate_rows(
        self, tmp_path: Path
    ) -> None:
        rows = [
            as_text(f"Tale {i} of {j}", question(i), f"Shade {i}.")
            for i in range(200)
            for j in range(3)
        ]
        data = read(tmp_path, rows)
        assert data.stats.grouped_rows == 0
        assert "same_prompt" in findings(data)


class TestGivenSplits:
    @pytest.mark.parametrize("row_format", [as_messages, as_sharegpt, as_alpaca_with_system])
    @pytest.mark.parametrize("system", ["", SYSTEMS[1]])
    def test_a_question_that_is_trained_on_with_another_system_is_a_leak(
        self, tmp_path: Path, row_format: Format, system: str
    ) -> None:
        data = read(
            tmp_path,
            painters(row_format, SYSTEMS[0], range(200)),
            validation=painters(row_format, system, range(60)),
            test=painters(row_format, system, range(500, 560)),
        )
        leak = findings(data)["leakage"]
        assert leak.severity == "error"
        assert leak.message.startswith(
            "60 held-out rows ask and answer the same as training rows, with another system"
        )
        first = f"{tmp_path}/validation.jsonl, line 1 ~ {tmp_path}/train.jsonl, line 1;"
        assert first in leak.message

    def test_every_held_out_row_counts_if_both_splits_have_the_question(
        self, tmp_path: Path
    ) -> None:
        data = read(
            tmp_path,
            painters(as_messages, SYSTEMS[0], range(200)) + painters(as_messages, "", range(200)),
            validation=painters(as_messages, SYSTEMS[1], range(60)),
            test=painters(as_messages, SYSTEMS[2], range(30, 90)),
        )
        assert findings(data)["leakage"].message.startswith(
            "120 held-out rows ask and answer the same as training rows"
        )

    def test_a_question_in_validation_and_test_alone_is_not_a_leak(self, tmp_path: Path) -> None:
        data = read(
            tmp_path,
            painters(as_messages, "", range(500, 700)),
            validation=painters(as_messages, SYSTEMS[1], range(60)),
            test=painters(as_messages, SYSTEMS[2], range(30, 60))
            + painters(as_messages, "", range(300, 360)),
        )
        found = findings(data)
        assert "leakage" not in found
        assert found["same_prompt"].message.startswith(
            "In 30 rows the last question and the answer are those of a row in"
        )

    @pytest.mark.parametrize("row_format", [as_alpaca_with_input, as_text])
    def test_the_same_last_question_after_other_text_is_a_warning(
        self, tmp_path: Path, row_format: Format
    ) -> None:
        data = read(
            tmp_path,
            painters(row_format, SYSTEMS[0], range(200)),
            validation=painters(row_format, SYSTEMS[1], range(60)),
            test=painters(row_format, SYSTEMS[1], range(500, 560)),
        )
        found = findings(data)
        assert "leakage" not in found
        assert found["same_prompt"].message.startswith(
            "In 60 rows the last question and the answer are those of a row in"
        )

    def test_the_same_last_question_after_other_turns_is_a_warning(self, tmp_path: Path) -> None:
        def rows(numbers: range, has_greeting: bool) -> list[Any]:
            return [
                {
                    "messages": [
                        *(
                            [
                                {"role": "user", "content": f"Hello from {i}"},
                                {"role": "assistant", "content": "Hi."},
                            ]
                            if has_greeting
                            else []
                        ),
                        {"role": "user", "content": question(i)},
                        {"role": "assistant", "content": f"Shade {i}."},
                    ]
                }
                for i in numbers
            ]

        data = read(
            tmp_path,
            rows(range(200), has_greeting=True),
            validation=rows(range(50), has_greeting=False),
            test=rows(range(500, 550), has_greeting=False),
        )
        assert findings(data)["same_prompt"].message.startswith(
            "In 50 rows the last question and the answer"
        )

    def test_the_same_question_with_another_answer_is_no_finding(self, tmp_path: Path) -> None:
        data = read(
            tmp_path,
            painters(as_messages, SYSTEMS[0], range(200), "Red."),
            validation=painters(as_messages, SYSTEMS[1], range(60), "Blue."),
            test=painters(as_messages, "", range(500, 560), "Blue."),
        )
        assert not {"leakage", "same_prompt"} & findings(data).keys()


class TestHashes:
    def test_a_system_message_case_and_punctuation_do_not_count(self) -> None:
        turns = [{"role": "user", "content": question(1)}]
        spoken = [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": question(1).upper() + "!"},
        ]
        assert question_hashes(Row(turns, "Red"), "Red") == question_hashes(
            Row(spoken, "red."), "red."
        )

    def test_short_questions_and_empty_answers_have_no_hash(self) -> None:
        assert question_hashes(Row([{"role": "user", "content": "And then?"}], ""), "") == (0, 0, 0)

    def test_a_plain_text_of_several_lines_has_its_last_long_line_as_its_question(self) -> None:
        one = question_hashes(Row(f"A tale.\n{question(1)}\nAnswer:", "x"), "x")
        other = question_hashes(Row(f"Another tale.\n{question(1)}\nAnswer:", "x"), "x")
        assert one == other
        assert (one[0], one[1] != 0) == (0, True)
        assert question_hashes(Row(question(1), "x"), "x")[:2] == (0, 0)
