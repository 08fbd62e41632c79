"""Tokenizers that write tokens of their own, and what the cache's key is made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.odd_tokenizers import Slow, byte_level, pieces, words
from tests.tiny import tiny_tokenizer
from tokenizers import AddedToken, models, normalizers, processors

from rung.data.example import Example
from rung.data.example_cache import code_versions
from rung.data.rows import Row
from rung.data.tokenize import RowTokenizer
from rung.data.tokenizer_state import first_tokens, tokenizer_fingerprint

ASKED, ANSWER = "The capital of Peru:", " lima"


def one(tokenizer: Any, prompt: str = ASKED, completion: str = ANSWER, **options: Any) -> Example:
    (found,) = RowTokenizer(tokenizer, **options).tokenize([Row(prompt, completion)])
    assert isinstance(found, Example), found
    return found


def both_ends() -> Any:
    return byte_level(bos="<s>", around="<s> $A </s>")


TOKENIZERS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "none of its own": (byte_level, []),
    "unknown, first and end token are one": (
        lambda: byte_level("<|endoftext|>", "<|endoftext|>", "<|endoftext|>", "<|endoftext|> $A"),
        ["<|endoftext|>"],
    ),
    "padding and end token are one": (lambda: byte_level(pad_token="</s>"), []),
    "an end token behind every text": (lambda: byte_level(around="$A </s>"), []),
    "a first and an end token": (both_ends, ["<s>"]),
    "special tokens that are split as text": (lambda: byte_level(split_special_tokens=True), []),
    "pieces with a space before every text": (pieces, ["<s>"]),
    "words in small letters, in brackets": (words, ["[CLS]"]),
    "no fast version": (Slow, []),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_whatever_a_tokenizer_adds_there_is_one_end_and_the_prompt_can_be_gone_on_from(
    name: str,
) -> None:
    make, first = TOKENIZERS[name]
    tokenizer = make()
    example, end = one(tokenizer), tokenizer.eos_token_id
    assert tokenizer.convert_ids_to_tokens(list(first_tokens(tokenizer))) == first
    inside = example.ids[len(first) :]
    assert (inside.count(end), inside[-1]) == (1, end)
    assert tokenizer.convert_ids_to_tokens(list(example.ids[: len(first)])) == first
    assert example.prompt_ids == example.ids[: example.prompt_length], (
        "nothing stands between prompt and completion"
    )
    learnt = tokenizer.decode(example.ids[example.prompt_length :], skip_special_tokens=True)
    assert learnt.strip() == ANSWER.strip()
    assert example.mask[example.prompt_length :] == [1] * (len(example.ids) - example.prompt_length)


@pytest.mark.parametrize(
    "make", [both_ends, lambda: byte_level("<e>", "<e>", around="<e> $A <e>"), pieces]
)
def test_a_text_that_writes_the_first_and_the_end_token_itself_has_them_once(
    make: Callable[[], Any],
) -> None:
    tokenizer = make()
    row_tokenizer, row = (
        RowTokenizer(tokenizer),
        Row(f"{tokenizer.bos_token}{ASKED}", f"{ANSWER}{tokenizer.eos_token}"),
    )
    (written,) = row_tokenizer.tokenize([row])
    assert isinstance(written, Example)
    own = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    assert [place for place, token in enumerate(written.ids) if token in own] == [
        0,
        len(written.ids) - 1,
    ]
    assert row_tokenizer.answer(row, written) == ("", ANSWER), "nobody writes an end token as text"


def test_a_line_end_may_follow_the_end_token_that_a_completion_writes_and_no_word() -> None:
    tokenizer = byte_level()
    end = tokenizer.eos_token_id
    assert one(tokenizer, completion=" Lima</s>\n").ids.count(end) == 1
    assert one(tokenizer, completion=" Lima</s> x").ids.count(end) == 2
    assert one(tokenizer, "Say </s>", "x").ids.count(end) == 2, (
        "the prompt's is not the completion's"
    )


def test_an_end_token_that_is_no_special_one_is_known_by_the_models_own_list() -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken("<|done|>", special=False)])
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + '<|done|>' }}{% endfor %}"
    done, row = (
        tokenizer.convert_tokens_to_ids("<|done|>"),
        Row([{"role": "user", "content": "Peru?"}], [{"role": "assistant", "content": "Lima"}]),
    )
    (unaware,) = RowTokenizer(tokenizer).tokenize([row])
    row_tokenizer = RowTokenizer(tokenizer, ends={done})
    (aware,) = row_tokenizer.tokenize([row])
    assert isinstance(unaware, Example)
    assert isinstance(aware, Example)
    assert unaware.ids[-2:] == (done, tokenizer.eos_token_id)
    assert aware.ids[-1] == done
    assert row_tokenizer.ends == {done, tokenizer.eos_token_id}


def test_the_plain_template_begins_as_the_tokenizer_does() -> None:
    row = Row([{"role": "user", "content": "Peru?"}], [{"role": "assistant", "content": "Lima"}])
    tokenizer = both_ends()
    (example,) = RowTokenizer(tokenizer, template="plain").tokenize([row])
    assert isinstance(example, Example)
    assert tokenizer.decode(example.ids) == "<s>### User:\nPeru?\n\n### Assistant:\nLima</s>\n\n"
    assert example.prompt_ids[0] == tokenizer.bos_token_id


# The key of the cache.


def with_post_processor(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<end> $A", special_tokens=[("<end>", 1)]
    )


def with_other_merges(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.model = models.BPE(
        {**{chr(i): i - 30 for i in range(32, 127)}, "<unk>": 0, "ab": 97}, [("a", "b")]
    )


CHANGES: dict[str, Callable[[Any], Any]] = {
    "the first token": lambda t: setattr(t, "bos_token", "<end>"),
    "the end token": lambda t: setattr(t, "eos_token", "~"),
    "the token for padding": lambda t: setattr(t, "pad_token", "<unk>"),
    "the unknown token": lambda t: setattr(t, "unk_token", "~"),
    "a special token": lambda t: t.add_special_tokens({"additional_special_tokens": ["!"]}),
    "an added token": lambda t: t.add_tokens(["hello"]),
    "how an added token is taken": lambda t: t.add_tokens([AddedToken("~", lstrip=True)]),
    "the chat template": lambda t: setattr(t, "chat_template", "{{ messages[0]['content'] }}"),
    "the post-processor": with_post_processor,
    "the normaliser": lambda t: setattr(t.backend_tokenizer, "normalizer", normalizers.Lowercase()),
    "vocabulary and merges": with_other_merges,
    "whether a first token is added": lambda t: setattr(t, "_add_bos_token", True),
    "whether special tokens are split": lambda t: setattr(t, "split_special_tokens", True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_state_of_a_tokenizer_is_all_that_makes_tokens(change: str) -> None:
    tokenizer = tiny_tokenizer()
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(["calls change nothing"], padding=True, truncation=True, max_length=4)
    tokenizer(["as the row_tokenizer calls it"])
    assert tokenizer_fingerprint(tokenizer) == before == tokenizer_fingerprint(tiny_tokenizer())
    CHANGES[change](tokenizer)
    assert tokenizer_fingerprint(tokenizer) != before


def test_a_tokenizer_without_a_fast_version_is_known_by_its_vocabulary() -> None:
    assert (
        tokenizer_fingerprint(Slow("abc"))
        == tokenizer_fingerprint(Slow("abc"))
        != tokenizer_fingerprint(Slow("abd"))
    )
    assert tokenizer_fingerprint(Slow("abc", split_special_tokens=True)) != tokenizer_fingerprint(
        Slow("abc")
    )


def test_where_a_tokenizer_lies_does_not_matter(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    states = set()
    for name in ("one", "other"):
        tiny_tokenizer().save_pretrained(tmp_path / name)
        states.add(tokenizer_fingerprint(AutoTokenizer.from_pretrained(tmp_path / name)))
    assert len(states) == 1


def test_the_versions_name_the_libraries_and_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    found = code_versions()
    assert [one.split()[0] for one in found[:4]] == [
        "transformers",
        "tokenizers",
        "jinja2",
        "pyarrow",
    ]
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"other code")
    assert code_versions()[:-1] == found[:-1]
    assert code_versions()[-1] != found[-1]
