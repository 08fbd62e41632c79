from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.audit.rows import audit_splits, by_kind, random_splits, splits_with, write

from rung.data.audit import audit
from rung.data.prepare import prepare
from rung.model.load import load_tokenizer
from rung.recipe import Recipe


def test_an_empty_completion_is_a_warning_with_its_place(tmp_path: Path) -> None:
    train, validation, test = random_splits()
    train[200]["completion"] = ""
    finding = audit_splits(tmp_path, train, validation, test)["empty"]
    assert finding.severity == "warning"
    assert "1 of 300 training rows have an empty completion" in finding.message
    assert "line 201" in finding.message


def test_a_text_that_a_program_wrote_for_a_missing_one_is_a_warning(tmp_path: Path) -> None:
    train, validation, test = random_splits()
    train[3]["completion"], train[4]["prompt"] = " nan", "None"
    findings = audit_splits(tmp_path, train, validation, test)
    assert set(findings) == {"missing"}
    assert findings["missing"].severity == "warning"
    assert findings["missing"].message.startswith("2 of 300 training rows have 'nan'")


@pytest.mark.parametrize(
    ("text", "times", "is_missing"),
    [("N/A", 100, False), ("None", 30, False), ("N/A", 1, True), ("nan", 100, True)],
)
def test_no_answer_may_be_a_label(tmp_path: Path, text: str, times: int, is_missing: bool) -> None:
    splits = splits_with([" Yes", " No"])
    for split in splits:
        for row in split[:times]:
            row["completion"] = f" {text}"
    assert ("missing" in audit_splits(tmp_path, *splits)) == is_missing


def test_letters_that_were_lost_or_misread_are_a_warning(tmp_path: Path) -> None:
    train, validation, test = random_splits()
    train[5]["completion"], train[6]["prompt"] = " cafÃ©", "it is lost \ufffd here"
    train[7]["completion"] = " São Paulo, «Ça va»"
    findings = audit_splits(tmp_path, train, validation, test)
    assert set(findings) == {"garbled"}
    assert findings["garbled"].severity == "warning"
    assert findings["garbled"].message.startswith("2 training rows have letters that were lost")


def test_completions_in_quotes_are_a_warning(tmp_path: Path) -> None:
    train, validation, test = random_splits()
    for row in train:
        row["completion"] = f'"{row["completion"]}"'
    finding = audit_splits(tmp_path, train, validation, test)["quoted"]
    assert finding.severity == "warning"
    assert "In 300 of 300 training rows the completion is in quotes" in finding.message


def test_a_code_fence_is_not_a_quote(tmp_path: Path) -> None:
    splits = [
        [{**row, "completion": f'\n```json\n{{"a": {i}}}\n```'} for i, row in enumerate(split)]
        for split in random_splits()
    ]
    assert "quoted" not in audit_splits(tmp_path, *splits)


def test_completions_that_run_into_the_prompt_are_a_warning(tmp_path: Path) -> None:
    splits = [
        [{**row, "completion": row["completion"].strip()} for row in split]
        for split in random_splits()
    ]
    finding = audit_splits(tmp_path, *splits)["separator"]
    assert finding.severity == "warning"
    assert "nothing separates prompt and completion" in finding.message


@pytest.mark.slow
def test_a_prompt_whose_last_token_merges_with_the_completion_is_a_warning(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}. Answer: ", "completion": "yes indeed"} for i in range(400)]
    recipe = Recipe(data=write(tmp_path / "train.jsonl", rows))
    data = prepare(recipe, load_tokenizer("smollm2-135m-instruct"))
    finding = by_kind(audit(data))["boundary"]
    assert finding.severity == "warning"
    assert "In 400 rows the prompt's last token merges with the completion" in finding.message
