from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.data.audit.rows import by_kind, read
from tests.odd_tokenizers import byte_level, pieces, words
from tests.tiny import tiny_tokenizer

from rung.data.audit import Finding, audit


def audit_tokens(
    tmp_path: Path, tokenizer: Any, train: list[Any], held_out: list[Any] | None = None
) -> dict[str, Finding]:
    held_out = held_out or train
    data = read(tmp_path, train, held_out, held_out, tokenizer)
    return by_kind(audit(data, tokenizer))


@pytest.mark.parametrize(
    ("make_tokenizer", "completion", "decoded"),
    [(tiny_tokenizer, "달 w1", "w1"), (words, "Lima", "lima")],
    ids=["letters without a token", "capitals that are folded"],
)
def test_a_completion_that_the_tokenizer_cannot_reproduce_is_a_warning(
    tmp_path: Path, make_tokenizer: Any, completion: str, decoded: str
) -> None:
    rows = [{"prompt": "the " * (i + 1), "completion": " cat"} for i in range(60)]
    train = [*rows[:7], {**rows[7], "completion": f" {completion}"}, *rows[8:]]
    finding = audit_tokens(tmp_path, make_tokenizer(), train, rows[:30])["lossy"]
    assert finding.severity == "warning"
    assert finding.message == (
        f"Of 60 rows the tokenizer cannot reproduce 1 exactly: {tmp_path}/train.jsonl, line 8: "
        f"'{completion}' comes back as '{decoded}'."
    )


def test_a_tokenizer_of_bytes_reproduces_everything(tmp_path: Path) -> None:
    rows = [{"prompt": "the " * (i + 1), "completion": " e\u0301"} for i in range(60)]
    assert "lossy" not in audit_tokens(tmp_path, byte_level(), rows)


def test_a_prompt_with_letters_that_the_tokenizer_does_not_know_is_a_warning_too(
    tmp_path: Path,
) -> None:
    rows = [{"prompt": f"row {i} {'달' * (i == 3)}:", "completion": " w"} for i in range(60)]
    assert audit_tokens(tmp_path, tiny_tokenizer(), rows)["lossy"].message == (
        f"Of 60 rows the tokenizer cannot reproduce 1 exactly: {tmp_path}/train.jsonl, line 4: "
        "'row 3 달:' is read as 'row 3 :'."
    )


@pytest.mark.parametrize("make_tokenizer", [pieces, lambda: byte_level(bos="<s>", around="<s> $A")])
def test_texts_with_special_tokens_of_their_own_are_reproduced(
    tmp_path: Path, make_tokenizer: Any
) -> None:
    texts = [{"text": f"<s>{'the ' * (i + 1)}cat</s><s>and Peru"} for i in range(60)]
    assert "lossy" not in audit_tokens(tmp_path, make_tokenizer(), texts)


def chats() -> list[Any]:
    return [
        {
            "prompt": [{"role": "user", "content": f"{i}"}],
            "completion": [{"role": "assistant", "content": "yes"}],
        }
        for i in range(60)
    ]


@pytest.mark.parametrize(("first", "is_noted"), [("", True), ("<s>", False)])
def test_a_template_without_the_tokenizers_first_token_is_a_note(
    tmp_path: Path, first: str, is_noted: bool
) -> None:
    tokenizer = byte_level(bos="<s>", around="<s> $A")
    tokenizer.chat_template = first + "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    findings = audit_tokens(tmp_path, tokenizer, chats())
    assert ("first_token" in findings) == is_noted
    if is_noted:
        assert findings["first_token"].severity == "note"
        assert findings["first_token"].message.startswith(
            "The tokenizer begins a text with '<s>' and the chat template"
        )


@pytest.mark.parametrize("is_known", [True, False])
def test_an_end_token_that_only_the_template_knows_is_a_warning(
    tmp_path: Path, is_known: bool
) -> None:
    """As in ChatML on a base model: turns end with another token than texts.

    Servers know the latter.
    """
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["~"]})
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + '~' }}{% endfor %}"
    end = tokenizer.convert_tokens_to_ids("~")
    rows = chats()
    data = read(tmp_path, rows, rows, rows, tokenizer, ends=(end,) if is_known else ())
    assert data.stats.end_tokens == [tokenizer.eos_token_id, end]
    findings = by_kind(audit(data, tokenizer))
    assert ("end_token" in findings) != is_known
    if not is_known:
        assert findings["end_token"].severity == "warning"
        assert findings["end_token"].message.startswith(
            "What is trained on ends with '~', which neither the tokenizer nor"
        )
