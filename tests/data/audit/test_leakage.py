from __future__ import annotations

from pathlib import Path

from tests.data.audit.rows import audit_splits, random_splits


def test_a_row_in_two_splits_is_an_error_with_both_places(tmp_path: Path) -> None:
    train, validation, test = random_splits()
    leaked = {"prompt": train[7]["prompt"].upper() + " !", "completion": train[7]["completion"]}
    finding = audit_splits(tmp_path, train, [*validation, leaked], [*test, validation[3]])[
        "leakage"
    ]
    assert finding.severity == "error"
    assert finding.message.startswith("2 rows stand in two splits")
    assert f"{tmp_path}/train.jsonl, line 8 = {tmp_path}/validation.jsonl, line 121" in (
        finding.message
    )
    assert f"{tmp_path}/validation.jsonl, line 4 = {tmp_path}/test.jsonl, line 121" in (
        finding.message
    )


def test_the_same_prompt_with_another_answer_is_a_warning(tmp_path: Path) -> None:
    train, validation, test = random_splits()
    validation.append({**train[0], "completion": " something else"})
    findings = audit_splits(tmp_path, train, validation, test)
    assert "leakage" not in findings
    assert findings["same_prompt"].severity == "warning"
    assert "line 1 ~ " in findings["same_prompt"].message


def test_training_rows_that_are_repeated_are_a_note(tmp_path: Path) -> None:
    train, validation, test = random_splits()
    finding = audit_splits(tmp_path, [*train, *train[:5]], validation, test)["duplicates"]
    assert finding.severity == "note"
    assert finding.message.startswith("5 of 305 training rows repeat an earlier row")


def conversation(number: int, turns: int) -> dict[str, list[dict[str, str]]]:
    """The first turns of a conversation."""
    texts = [
        f"Where did {number} go first of all?",
        f"To the port of {number}.",
        "And then?",
        f"To hill {number * 3}.",
    ]
    return {
        "messages": [
            {"role": ("user", "assistant")[n % 2], "content": text}
            for n, text in enumerate(texts[:turns])
        ]
    }


def test_a_held_out_conversation_that_goes_on_in_training_is_an_error(tmp_path: Path) -> None:
    train = [conversation(i, 4) for i in range(200)]
    validation = [conversation(i + 1000, 4) for i in range(110)]
    test = [
        *(conversation(i, 2) for i in range(12)),
        *(conversation(i + 2000, 4) for i in range(110)),
    ]
    finding = audit_splits(tmp_path, train, validation, test, template="plain")["leakage"]
    assert finding.severity == "error"
    assert finding.message.startswith(
        "12 held-out rows are part of conversations in the training split"
    )
    assert f"{tmp_path}/test.jsonl, line 1 ⊂ {tmp_path}/train.jsonl, line 1;" in finding.message


def test_a_prompt_that_shows_another_splits_row_is_a_warning(tmp_path: Path) -> None:
    train, validation, test = random_splits()
    shown = f"{train[4]['prompt']}{train[4]['completion']}\n{validation[9]['prompt']}"
    validation[9] = {**validation[9], "prompt": shown}
    shown = f"{test[2]['prompt']}{test[2]['completion']}\n{train[7]['prompt']}"
    train[7] = {**train[7], "prompt": shown}
    findings = audit_splits(tmp_path, train, validation, test)
    assert "leakage" not in findings
    finding = findings["same_prompt"]
    assert finding.severity == "warning"
    assert finding.message.startswith("2 rows have all of another split's row in the prompt")
    assert f"{tmp_path}/validation.jsonl, line 10 ~ {tmp_path}/train.jsonl, line 5" in (
        finding.message
    )
    assert f"{tmp_path}/test.jsonl, line 3 ~ {tmp_path}/train.jsonl, line 8" in finding.message
