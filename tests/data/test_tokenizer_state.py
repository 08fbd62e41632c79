from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.odd_tokenizers import Slow
from tests.tiny import tiny_tokenizer
from tokenizers import AddedToken, models, normalizers, processors

from rung.data.tokenizer_state import tokenizer_fingerprint


def set_post_processor(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<end> $A", special_tokens=[("<end>", 1)]
    )


def set_merges(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.model = models.BPE(
        {**{chr(i): i - 30 for i in range(32, 127)}, "<unk>": 0, "ab": 97}, [("a", "b")]
    )


CHANGES: dict[str, Callable[[Any], Any]] = {
    "the first token": lambda t: setattr(t, "bos_token", "<end>"),
    "the end token": lambda t: setattr(t, "eos_token", "~"),
    "the padding token": lambda t: setattr(t, "pad_token", "<unk>"),
    "the unknown token": lambda t: setattr(t, "unk_token", "~"),
    "a special token": lambda t: t.add_special_tokens({"additional_special_tokens": ["!"]}),
    "an added token": lambda t: t.add_tokens(["hello"]),
    "the spaces around an added token": lambda t: t.add_tokens([AddedToken("~", lstrip=True)]),
    "the chat template": lambda t: setattr(t, "chat_template", "{{ messages[0]['content'] }}"),
    "the post-processor": set_post_processor,
    "the normaliser": lambda t: setattr(t.backend_tokenizer, "normalizer", normalizers.Lowercase()),
    "vocabulary and merges": set_merges,
    "whether a first token is added": lambda t: setattr(t, "_add_bos_token", True),
    "whether special tokens are split": lambda t: setattr(t, "split_special_tokens", True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_fingerprint_changes_with_everything_that_decides_tokens(change: str) -> None:
    tokenizer = tiny_tokenizer()
    before = tokenizer_fingerprint(tokenizer)
    CHANGES[change](tokenizer)
    assert tokenizer_fingerprint(tokenizer) != before


def test_the_fingerprint_does_not_change_when_the_tokenizer_is_used() -> None:
    tokenizer = tiny_tokenizer()
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(["a text"], padding=True, truncation=True, max_length=4)
    tokenizer(["a text"])
    assert tokenizer_fingerprint(tokenizer) == before == tokenizer_fingerprint(tiny_tokenizer())


def test_the_fingerprint_of_a_slow_tokenizer_includes_its_vocabulary() -> None:
    fingerprint = tokenizer_fingerprint(Slow("abc"))
    assert tokenizer_fingerprint(Slow("abc")) == fingerprint
    assert tokenizer_fingerprint(Slow("abd")) != fingerprint
    assert tokenizer_fingerprint(Slow("abc", split_special_tokens=True)) != fingerprint


def test_the_fingerprint_does_not_depend_on_the_tokenizers_folder(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    fingerprints = set()
    for name in ("one", "other"):
        tiny_tokenizer().save_pretrained(tmp_path / name)
        fingerprints.add(tokenizer_fingerprint(AutoTokenizer.from_pretrained(tmp_path / name)))
    assert len(fingerprints) == 1
