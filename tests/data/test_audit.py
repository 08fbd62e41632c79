from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tests.odd_tokenizers import byte_level, pieces, words
from tests.tiny import tiny_tokenizer

from rung.data.audit import Finding, audit
from rung.data.prepare import prepare
from rung.recipe import Recipe

WORDS = [f"w{i}" for i in range(400)]


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def rows(count: int, seed: int, words: int = 20) -> list[dict[str, str]]:
    draw = random.Random(seed)
    return [
        {
            "prompt": "Say this: " + " ".join(draw.choices(WORDS, k=words)),
            "completion": " " + " ".join(draw.choices(WORDS, k=2)),
        }
        for _ in range(count)
    ]


def found(
    tmp_path: Path, train: list[Any], validation: list[Any], test: list[Any], **options: Any
) -> dict[str, Finding]:
    files = [
        write(tmp_path / name, part)
        for name, part in zip(("a.jsonl", "v.jsonl", "t.jsonl"), (train, validation, test), strict=True)
    ]
    recipe = Recipe(data=files[0], validation=files[1], test=files[2], **options)
    return {finding.kind: finding for finding in audit(prepare(recipe, tiny_tokenizer()))}


def test_clean_data_have_nothing_said_of_them(tmp_path: Path) -> None:
    assert found(tmp_path, rows(300, 1), rows(120, 2), rows(120, 3)) == {}


def test_a_row_in_two_splits_is_an_error_with_both_places(tmp_path: Path) -> None:
    train, validation, test = rows(300, 1), rows(120, 2), rows(120, 3)
    leaked = {"prompt": train[7]["prompt"].upper() + " !", "completion": train[7]["completion"]}
    finding = found(tmp_path, train, [*validation, leaked], [*test, validation[3]])["leakage"]
    assert finding.severity == "error"
    assert finding.says.startswith("2 rows stand in two splits")
    assert f"{tmp_path}/a.jsonl, line 8 = {tmp_path}/v.jsonl, line 121" in finding.says
    assert f"{tmp_path}/v.jsonl, line 4 = {tmp_path}/t.jsonl, line 121" in finding.says


def test_the_same_prompt_with_another_answer_is_a_warning(tmp_path: Path) -> None:
    train, validation = rows(300, 1), rows(120, 2)
    validation.append({**train[0], "completion": " something else"})
    finding = found(tmp_path, train, validation, rows(120, 3))
    assert "leakage" not in finding
    assert finding["same_prompt"].severity == "warning"
    assert "line 1 ~ " in finding["same_prompt"].says


def test_a_row_that_is_nearly_another_is_a_warning_with_both_places(tmp_path: Path) -> None:
    train, validation = rows(300, 1, words=60), rows(120, 2, words=60)
    words = train[9]["prompt"].split()
    words[30] = "changed"
    validation.append({"prompt": " ".join(words), "completion": " something else"})
    finding = found(tmp_path, train, validation, rows(120, 3, words=60))
    assert set(finding) == {"near_duplicates"}
    assert finding["near_duplicates"].says.startswith("1 training row is nearly a row that is judged by")
    assert f"{tmp_path}/a.jsonl, line 10 ≈ {tmp_path}/v.jsonl, line 121" in finding["near_duplicates"].says


def test_a_frame_that_all_rows_share_makes_no_two_of_them_alike(tmp_path: Path) -> None:
    frame = "Below is an instruction that describes a task. Write a response that fits the request well. " * 3
    parts = [[{**row, "prompt": frame + row["prompt"]} for row in rows(200, seed, words=8)] for seed in (1, 2, 3)]
    assert found(tmp_path, *parts) == {}


def test_rows_that_stand_twice_in_training_are_noted(tmp_path: Path) -> None:
    train = rows(300, 1)
    finding = found(tmp_path, [*train, *train[:5]], rows(120, 2), rows(120, 3))["duplicates"]
    assert (finding.severity, finding.says[:12]) == ("note", "5 of 305 tra")


def test_empty_and_identical_completions(tmp_path: Path) -> None:
    train = rows(300, 1)
    for row in train[:100]:
        row["completion"] = " I do not know."
    train[200]["completion"] = ""
    finding = found(tmp_path, train, rows(120, 2), rows(120, 3))
    assert "1 of 300 training rows have an empty completion" in finding["empty"].says
    assert "line 201" in finding["empty"].says
    assert "33.3% of the training rows have the same completion, 'I do not know.'" in finding["identical"].says
    for row in train:
        row["completion"] = " x"
    assert "Every completion is 'x'" in found(tmp_path, train, rows(120, 2), rows(120, 3))["identical"].says


def test_labels_and_their_imbalance(tmp_path: Path) -> None:
    parts = [rows(300, 1), rows(120, 2), rows(120, 3)]
    for part in parts:
        for i, row in enumerate(part):
            row["completion"] = " yes" if i % 10 else " no"
    assert "90.0% of the training rows have the label 'yes'" in found(tmp_path, *parts)["imbalance"].says
    for part in parts:
        for i, row in enumerate(part):
            row["completion"] = " yes" if i % 2 else " no"
    finding = found(tmp_path, *parts)
    assert (finding["labels"].severity, set(finding)) == ("note", {"labels"})


def test_long_rows_and_malformed_ones_and_few_of_them(tmp_path: Path) -> None:
    train = [*rows(300, 1), {"prompt": "p"}, {"prompt": "p " * 300, "completion": "c"}]
    finding = found(tmp_path, train, rows(50, 2), rows(120, 3), skip_bad_rows=True)
    assert "1 malformed row is left out" in finding["malformed"].says
    assert "line 301" in finding["malformed"].says
    assert "1 of 471 rows (0.2%) are longer than max_tokens; the longest has 602 tokens" in finding["long"].says
    assert "There are 50 validation rows" in finding["few_rows"].says


def test_a_completion_that_runs_into_its_prompt(tmp_path: Path) -> None:
    parts = [[{**row, "completion": row["completion"].strip()} for row in rows(200, seed)] for seed in (1, 2, 3)]
    assert "nothing parts prompt and completion" in found(tmp_path, *parts)["separator"].says


@pytest.mark.slow
def test_a_prompt_whose_last_token_merges_with_the_completion(tmp_path: Path) -> None:
    from rung.model.load import load_tokenizer

    data = write(tmp_path / "a.jsonl", [{"prompt": f"{i}. Answer: ", "completion": "yes indeed"} for i in range(400)])
    kinds = {f.kind: f for f in audit(prepare(Recipe(data=data), load_tokenizer("smollm2-135m-instruct")))}
    assert "In 400 rows the prompt's last token merges with the completion" in kinds["boundary"].says


def test_completions_that_the_tokenizer_cannot_write_are_a_warning(tmp_path: Path) -> None:
    """Letters that it has no token for, and capitals that it folds."""
    for tokenizer, spoiled, back in (
        (tiny_tokenizer(), " 달 w1", "w1"),
        (words(), " Lima", "lima"),
        (byte_level(), " e\u0301", None),
    ):
        train = [{"prompt": "the " * (i + 1), "completion": " cat"} for i in range(60)]
        train[7]["completion"] = spoiled
        files = [write(tmp_path / f"{name}.jsonl", train[:30] if name != "a" else train) for name in "avt"]
        data = prepare(Recipe(data=files[0], validation=files[1], test=files[2]), tokenizer)
        findings = {finding.kind: finding for finding in audit(data, tokenizer)}
        if back is None:
            assert "lossy" not in findings, "bytes write everything"
            continue
        assert findings["lossy"].severity == "warning"
        assert findings["lossy"].says == (
            f"Of 60 rows the tokenizer cannot write 1 as they are: {tmp_path}/a.jsonl, line 8: "
            f"'{spoiled.strip()}' comes back as '{back}'."
        )


def test_prompts_with_letters_that_the_tokenizer_does_not_know_are_a_warning_too(tmp_path: Path) -> None:
    train = [{"prompt": f"row {i} {'달' * (i == 3)}:", "completion": " w"} for i in range(60)]
    files = [write(tmp_path / f"{name}.jsonl", train) for name in "avt"]
    data = prepare(Recipe(data=files[0], validation=files[1], test=files[2]), tiny_tokenizer())
    findings = {finding.kind: finding for finding in audit(data, tiny_tokenizer())}
    assert findings["lossy"].says == (
        f"Of 60 rows the tokenizer cannot write 1 as they are: {tmp_path}/a.jsonl, line 4: "
        "'row 3 달:' is read as 'row 3 :'."
    )


def test_texts_that_write_marks_of_their_own_are_no_loss(tmp_path: Path) -> None:
    for tokenizer, marks in ((pieces(), "<s>"), (byte_level(bos="<s>", around="<s> $A"), "<s>")):
        texts = [{"text": f"{marks}{'the ' * (i + 1)}cat</s>{marks}and Peru"} for i in range(60)]
        files = [write(tmp_path / f"{name}.jsonl", texts) for name in "avt"]
        data = prepare(Recipe(data=files[0], validation=files[1], test=files[2]), tokenizer)
        assert "lossy" not in {finding.kind for finding in audit(data, tokenizer)}


def test_a_template_that_leaves_the_tokenizers_first_token_out_is_noted(tmp_path: Path) -> None:
    tokenizer = byte_level(bos="<s>", around="<s> $A")
    chats = [{"prompt": [user(f"{i}")], "completion": [{"role": "assistant", "content": "yes"}]} for i in range(60)]
    files = [write(tmp_path / f"{name}.jsonl", chats) for name in "avt"]
    for first, noted in (("", True), ("<s>", False)):
        tokenizer.chat_template = first + "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        data = prepare(Recipe(data=files[0], validation=files[1], test=files[2]), tokenizer)
        kinds = {finding.kind: finding for finding in audit(data, tokenizer)}
        assert ("first_token" in kinds) == noted
        if noted:
            assert kinds["first_token"].says.startswith("The tokenizer begins a text with '<s>' and the chat template")


def test_an_end_that_only_the_template_knows_is_a_warning(tmp_path: Path) -> None:
    """As a base model's ChatML has it: its turns end with another token than its texts, and servers know the latter."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["~"]})
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + '~' }}{% endfor %}"
    chats = [{"prompt": [user(f"{i}")], "completion": [{"role": "assistant", "content": "yes"}]} for i in range(60)]
    files = [write(tmp_path / f"{name}.jsonl", chats) for name in "avt"]
    end = tokenizer.convert_tokens_to_ids("~")
    for ends, warned in ([], True), ([end], False):
        data = prepare(Recipe(data=files[0], validation=files[1], test=files[2]), tokenizer, ends=ends)
        assert data.facts.ends == [1, end]
        kinds = {finding.kind: finding for finding in audit(data, tokenizer)}
        assert ("end_token" in kinds) == warned
        if warned:
            assert kinds["end_token"].severity == "warning"
            assert kinds["end_token"].says.startswith("What is learnt ends with '~', which neither the tokenizer nor")


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}
