"""What a tokenizer adds to a text, and a fingerprint of everything that its tokens depend on."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

_SAMPLE_TEXT = "a"
_UNSAVED_SETTINGS = (
    "add_bos_token",
    "add_eos_token",
    "split_special_tokens",
    "add_prefix_space",
)
"""Settings that a tokenizer does not always save."""


def first_tokens(tokenizer: Any) -> tuple[int, ...]:
    """The tokens that the tokenizer puts before every text, such as `<s>` or `[CLS]`.

    Tokens after a text, such as `</s>` or `[SEP]`, are left out on purpose: a prompt must be open
    for its completion, and a row is ended only once.
    """
    plain, whole = (
        tokenizer([_SAMPLE_TEXT], add_special_tokens=special, verbose=False)["input_ids"][0]
        for special in (False, True)
    )
    starts = (
        at for at in range(len(whole) - len(plain) + 1) if whole[at : at + len(plain)] == plain
    )
    return tuple(whole[: next(starts, 0)])


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A hash of everything in a tokenizer that decides its tokens.

    This is the vocabulary, merges, normaliser, post-processor, special and added tokens, and
    templates. It is what the tokenizer saves, by the library's own list, and what it does not save.
    """
    digest = hashlib.sha256()
    settings = [getattr(tokenizer, name, None) for name in _UNSAVED_SETTINGS]
    digest.update(repr([type(tokenizer).__name__, settings]).encode())
    if not hasattr(tokenizer, "save_pretrained"):
        digest.update(repr(tokenizer).encode())
        return digest.hexdigest()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        # A slow tokenizer is Python code, which may not save all that it knows.
        if not tokenizer.is_fast:
            digest.update(repr(sorted(tokenizer.get_vocab().items())).encode())
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                digest.update(f"{path.relative_to(folder)}:{path.stat().st_size}:".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()
