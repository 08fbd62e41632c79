"""Which split a file is of, by its name: `dev.jsonl`, `test/a.csv`, `my_train-00000-of-00003.parquet`.

A name says a split with its first or its last word. In its middle, or at the end of a word, it says one only where
another file has the same name with another split there (`squad-train-en.csv`, `squad-dev-en.csv`; `xtrain`, `xtest`):
`unit-test-writing.jsonl` is about tests. So it is with folders. A file's own name says more than its folder's, and a
folder's more than that of the folder that it lies in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import TypeVar

from rung.data.text import Tell
from rung.errors import DataError

Found = TypeVar("Found")

SPLITS = ("train", "validation", "test")
_WORDS = {
    **dict.fromkeys(("train", "trains", "training", "trn"), "train"),
    **dict.fromkeys(
        ("validation", "valid", "val", "vals", "dev", "devs", "devel", "development"), "validation"
    ),
    **dict.fromkeys(("eval", "evals", "evaluation", "evaluations", "validations"), "validation"),
    **dict.fromkeys(("test", "tests", "testing", "tst", "holdout", "heldout"), "test"),
}
_NEUTRAL = {"set", "split", "splits", "data", "dataset", "file", "part", "v"}
"""Words at the ends of a name that do not count, and nowhere in the names of two files that are alike."""
_ENDINGS = re.compile(r"(\.(jsonl|ndjson|json|csv|tsv|parquet|arrow))?(\.gz)?$", re.IGNORECASE)
_SHARD = re.compile(r"-\d+-of-\d+(-[0-9a-f]+)?$")


def by_split(named: Sequence[tuple[PurePath, Found]], tell: Tell) -> dict[str, list[Found]]:
    """What is of each split, by its name. Files that say none are to train on, unless others say that they are.

    Args:
        tell: hears what is left out, of a file whose own name and whose folder's say two splits, and of one that is
            trained on though a word of its name is another split's.

    Raises:
        DataError: the name of a file says two splits.
    """
    siblings = _siblings(name for name, _ in named)
    splits = [_split(name, siblings, tell) for name, _ in named]
    unnamed = "" if "train" in splits else "train"
    found: dict[str, list[Found]] = {split: [] for split in SPLITS}
    left: list[PurePath] = []
    doubtful: list[tuple[PurePath, str]] = []
    for split, (name, own) in zip(splits, named, strict=True):
        if split or unnamed:
            found[split or unnamed].append(own)
            if not split and (word := _held(name)):
                doubtful.append((name, word))
        else:
            left.append(name)
    if left:
        more = f" and {len(left) - 1:,} more" if len(left) > 1 else ""
        tell(f"'{left[0]}'{more} names no split where others are called train, and is left out")
    if doubtful:
        (name, word), more = (
            doubtful[0],
            f" and {len(doubtful) - 1:,} more" if len(doubtful) > 1 else "",
        )
        tell(
            f"'{name}'{more} is trained on, though '{word}' stands in the name; if it is to judge by, call it {word}"
        )
    return {split: own for split, own in found.items() if own}


def _split(name: PurePath, siblings: dict[tuple[str, ...], set[str]], tell: Tell) -> str:
    *around, said = [
        _said(words := _words(part))
        or {
            split
            for frame, split in _frames(words)
            if len(siblings.get((*name.parts[:depth], "/", *frame), ()))
            > 1  # a sibling has another split there
        }
        for depth, part in enumerate(name.parts)
    ]
    if len(said) > 1:
        raise DataError(
            f"The name of '{name}' says both {' and '.join(sorted(said))}; call it after the split that it is of."
        )
    # Where a folder's name says two, as that of train_test_split, it says none.
    outer = [next(iter(own)) for own in reversed(around) if len(own) == 1]
    if said and outer and outer[0] not in said:
        split = next(iter(said))
        tell(
            f"'{name}' is taken for the {split} split by its own name, though it lies in one called {outer[0]}"
        )
    return next(iter(said), "") or next(iter(outer), "")


def _held(name: PurePath) -> str:
    """A word of a name that is a split to judge by, where none of that file or folder says that it is to train on."""
    for part in reversed(name.parts):
        own = [word for word in _words(part) if word in _WORDS]
        if own and all(_WORDS[word] != "train" for word in own):
            return own[0]
    return ""


def _words(name: str) -> list[str]:
    """The words of a name, without what does not count: endings, the numbers of shards and versions."""
    bare = _SHARD.sub("", _ENDINGS.sub("", name))
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", bare).lower()
    joined = re.sub(r"(hold|held)[^a-z]out", r"\1out", apart)
    return [
        word if word in _WORDS else re.sub(r"(?<=.)(set|split|data)$", "", word) or word
        for word in _letters(joined)
    ]


def _letters(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text)


def _said(words: list[str]) -> set[str]:
    """The splits that the first and the last word say."""
    own = list(words)
    while own and own[-1] in _NEUTRAL:
        own.pop()
    while own and own[0] in _NEUTRAL:
        own.pop(0)
    return {_WORDS[word] for word in (*own[:1], *own[-1:]) if word in _WORDS}


def _frames(words: list[str]) -> list[tuple[tuple[str, ...], str]]:
    """The name with a gap in the place of each word, or end of a word, that may be a split, and that split."""
    own = [word for word in words if word not in _NEUTRAL]
    return [
        ((*own[:i], f"{word.removesuffix(end)}*", *own[i + 1 :]), split)
        for i, word in enumerate(own)
        for end, split in _WORDS.items()
        if word == end or (word not in _WORDS and word.endswith(end))
    ]


def _siblings(names: Iterable[PurePath]) -> dict[tuple[str, ...], set[str]]:
    """The splits that stand in each such gap, of the files and folders of one folder."""
    found: dict[tuple[str, ...], set[str]] = {}
    for name in names:
        for depth, part in enumerate(name.parts):
            for frame, split in _frames(_words(part)):
                found.setdefault((*name.parts[:depth], "/", *frame), set()).add(split)
    return found
