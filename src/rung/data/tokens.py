"""What a tokenizer adds of its own to a text, and everything that its tokens follow from."""

from __future__ import annotations

import hashlib
import tempfile
import unicodedata
from importlib.metadata import version
from pathlib import Path
from typing import Any

_PROBE = "a"
_LIBRARIES = ("transformers", "tokenizers", "jinja2", "pyarrow")
"""Those that make tokens of rows, and read and keep both."""
_FLAGS = ("add_bos_token", "add_eos_token", "split_special_tokens", "add_prefix_space")
"""Settings of a tokenizer that it does not always save."""


def first_tokens(tokenizer: Any) -> tuple[int, ...]:
    """The tokens that it writes before every text, such as `<s>` or `[CLS]`.

    What it writes behind a text, such as `</s>` or `[SEP]`, is left out on purpose: a prompt is to be gone on from, and
    a row is ended once.
    """
    plain, whole = (
        tokenizer([_PROBE], add_special_tokens=added, verbose=False)["input_ids"][0]
        for added in (False, True)
    )
    starts = (
        at for at in range(len(whole) - len(plain) + 1) if whole[at : at + len(plain)] == plain
    )
    return tuple(whole[: next(starts, 0)])


def state_of(tokenizer: Any) -> str:
    """A hash of everything about a tokenizer that makes tokens: vocabulary, merges, normaliser, post-processor, special
    and added tokens, templates. That is what it saves, by the library's own list, and what it forgets to save.
    """
    digest = hashlib.sha256()
    flags = [getattr(tokenizer, flag, None) for flag in _FLAGS]
    digest.update(repr([type(tokenizer).__name__, flags]).encode())
    if not hasattr(tokenizer, "save_pretrained"):
        digest.update(repr(tokenizer).encode())
        return digest.hexdigest()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        if not tokenizer.is_fast:  # such a one is code, which may save less than it knows
            digest.update(repr(sorted(tokenizer.get_vocab().items())).encode())
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                digest.update(f"{path.relative_to(folder)}:{path.stat().st_size}:".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def versions() -> list[str]:
    """Of everything but the tokenizer that tokens follow from: the libraries, Unicode, and this package's own code."""
    code = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        code.update(path.read_bytes())
    return [
        *(f"{name} {version(name)}" for name in _LIBRARIES),
        unicodedata.unidata_version,
        code.hexdigest(),
    ]
