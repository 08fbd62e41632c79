from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import tiny_tokenizer

from rung.data.audit import Finding, audit
from rung.data.prepare import Data, prepare
from rung.recipe import Recipe

SYSTEMS = [
    "You are of help.",
    "Be terse and kind.",
    "Think of every step.",
    "You teach small children.",
]


def question(i: int) -> str:
    return f"What colour did painter {i} use for the sky?"


def as_messages(system: str, asked: str, answer: str) -> Any:
    turns = (("system", system), ("user", asked), ("assistant", answer))
    return {"messages": [{"role": role, "content": text} for role, text in turns if text]}


def as_sharegpt(system: str, asked: str, answer: str) -> Any:
    return {
        "system": system,
        "conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}],
    }


def as_system(system: str, asked: str, answer: str) -> Any:
    return {"system": system, "instruction": asked, "output": answer}


def as_input(system: str, asked: str, answer: str) -> Any:
    return {"instruction": system, "input": asked, "output": answer}


def as_text(system: str, asked: str, answer: str) -> Any:
    return {"prompt": f"Context: {system}\nQuestion: {asked}\nAnswer:", "completion": f" {answer}"}


def read(folder: Path, **parts: list[Any]) -> Data:
    for name, rows in parts.items():
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    given = {name: str(folder / f"{name}.jsonl") for name in parts if name != "data"}
    return prepare(
        Recipe(data=str(folder / "data.jsonl"), template="plain", **given), tiny_tokenizer()
    )


def findings(data: Data) -> dict[str, Finding]:
    return {finding.kind: finding for finding in audit(data)}


def asked_in(data: Data, name: str) -> set[str]:
    return {text.prompt.partition("painter ")[2] for text in data.splits[name].every_text()}


@pytest.mark.parametrize("shape", [as_messages, as_sharegpt, as_system, as_input])
def test_one_question_under_several_systems_is_on_one_side_and_counts_as_one(
    tmp_path: Path, shape: Any
) -> None:
    data = read(
        tmp_path,
        data=[shape(s, question(i), f"Shade {i * 7}.") for i in range(200) for s in SYSTEMS],
    )
    sides = [asked_in(data, name) for name in data.splits]
    assert [len(one & other) for one, other in (sides[:2], sides[1:], sides[::2])] == [0, 0, 0]
    assert data.stats.grouped_rows == 800
    assert len({example.source for part in data.splits.values() for example in part}) == 200
    assert not {"leakage", "same_prompt"} & findings(data).keys()


@pytest.mark.parametrize("shape", [as_messages, as_sharegpt, as_system])
@pytest.mark.parametrize("system", ["", SYSTEMS[1]])
def test_a_question_that_is_trained_on_under_another_system_has_leaked(
    tmp_path: Path, shape: Any, system: str
) -> None:
    def rows(system: str, some: range) -> list[Any]:
        return [shape(system, question(i), f"Shade {i * 7}.") for i in some]

    parts = {"validation": rows(system, range(60)), "test": rows(system, range(500, 560))}
    finding = findings(read(tmp_path, data=rows(SYSTEMS[0], range(200)), **parts))["leakage"]
    assert finding.severity == "error"
    assert finding.message.startswith(
        "60 held-out rows ask and answer the same as training rows, with another system"
    )
    assert (
        f"{tmp_path}/validation.jsonl, line 1 ~ {tmp_path}/data.jsonl, line 1;" in finding.message
    )


def test_every_row_to_judge_by_that_is_trained_on_counts(tmp_path: Path) -> None:
    """Also where validation and test have the same question, each under its own system."""

    def rows(system: str, some: range) -> list[Any]:
        return [as_messages(system, question(i), f"Shade {i * 7}.") for i in some]

    parts = {"validation": rows(SYSTEMS[1], range(60)), "test": rows(SYSTEMS[2], range(30, 90))}
    found = findings(
        read(tmp_path, data=[*rows(SYSTEMS[0], range(200)), *rows("", range(200))], **parts)
    )
    assert found["leakage"].message.startswith(
        "120 held-out rows ask and answer the same as training rows"
    )
    parts["test"] = rows(SYSTEMS[2], range(30, 60)) + rows("", range(300, 360))
    found = findings(read(tmp_path, data=rows("", range(500, 700)), **parts))
    assert "leakage" not in found
    assert found["same_prompt"].message.startswith(
        "In 30 rows the last question and the answer are those of a row in"
    )


@pytest.mark.parametrize("shape", [as_input, as_text])
def test_the_same_question_after_other_words_is_told(
    tmp_path: Path, shape: Callable[..., Any]
) -> None:
    def rows(system: str, some: range) -> list[Any]:
        return [shape(system, question(i), f"Shade {i * 7}.") for i in some]

    parts = {"validation": rows(SYSTEMS[1], range(60)), "test": rows(SYSTEMS[1], range(500, 560))}
    found = findings(read(tmp_path, data=rows(SYSTEMS[0], range(200)), **parts))
    assert "leakage" not in found
    assert found["same_prompt"].message.startswith(
        "In 60 rows the last question and the answer are those of a row in"
    )


def test_the_last_turns_of_a_conversation_alone_are_told(tmp_path: Path) -> None:
    def rows(some: range, whole: bool) -> list[Any]:
        turns = [
            [("user", f"Hello from {i}"), ("assistant", "Hi.")] * whole + [("user", question(i))]
            for i in some
        ]
        return [
            {
                "messages": [
                    {"role": r, "content": t} for r, t in [*own, ("assistant", f"Shade {i}.")]
                ]
            }
            for i, own in zip(some, turns, strict=True)
        ]

    parts = {"validation": rows(range(50), False), "test": rows(range(500, 550), False)}
    found = findings(read(tmp_path, data=rows(range(200), True), **parts))
    assert found["same_prompt"].message.startswith("In 50 rows the last question and the answer")


def test_a_question_that_is_asked_of_many_documents_ties_no_rows(tmp_path: Path) -> None:
    rows = [
        as_messages(f"It says {i * i}.", "Is it a positive review?", ("yes", "no")[i % 2])
        for i in range(400)
    ]
    data = read(tmp_path, data=rows)
    assert (data.stats.grouped_rows, data.stats.ungrouped_rows) == (0, 0)
    assert not {"leakage", "same_prompt", "grown"} & findings(data).keys()


def test_a_text_that_is_asked_about_stays_where_it_is(tmp_path: Path) -> None:
    rows = [
        as_text(f"Tale {i} of {j}", question(i), f"Shade {i}.")
        for i in range(200)
        for j in range(3)
    ]
    data = read(tmp_path, data=rows)
    assert data.stats.grouped_rows == 0
    assert "same_prompt" in findings(data)


def test_questions_that_are_answered_otherwise_have_not_leaked(tmp_path: Path) -> None:
    def rows(system: str, some: range, answer: str) -> list[Any]:
        return [as_messages(system, question(i), answer) for i in some]

    parts = {
        "validation": rows(SYSTEMS[1], range(60), "Blue."),
        "test": rows("", range(500, 560), "Blue."),
    }
    found = findings(read(tmp_path, data=rows(SYSTEMS[0], range(200), "Red."), **parts))
    assert not {"leakage", "same_prompt"} & found.keys()
