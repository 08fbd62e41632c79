"""The split of a file, by its name: `dev.jsonl`, `test/a.csv`, `my_train-00000-of-00003.parquet`.

The first or the last word of a name names a split. A word in the middle, or the end of a word,
names one only if a sibling file has the same name with another split in that place
(`squad-train-en.csv` and `squad-dev-en.csv`; `xtrain` and `xtest`): `unit-test-writing.jsonl` is
about tests. The same rules hold for folders. A file's own name counts before its folder's name, and
a folder's before its parent's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import TypeVar

from rung.data.read.text_files import Notify
from rung.errors import DataError

Item = TypeVar("Item")

SPLITS = ("train", "validation", "test")
_SPLIT_OF_WORD = {
    **dict.fromkeys(("train", "trains", "training", "trn"), "train"),
    **dict.fromkeys(
        ("validation", "valid", "val", "vals", "dev", "devs", "devel", "development"), "validation"
    ),
    **dict.fromkeys(("eval", "evals", "evaluation", "evaluations", "validations"), "validation"),
    **dict.fromkeys(("test", "tests", "testing", "tst", "holdout", "heldout"), "test"),
}
_IGNORED_WORDS = {"set", "split", "splits", "data", "dataset", "file", "part", "v"}
"""Words that say nothing at either end of a name, and nowhere when two names are compared."""
_ENDING = re.compile(r"(\.(jsonl|ndjson|json|csv|tsv|parquet|arrow))?(\.gz)?$", re.IGNORECASE)
_SHARD_NUMBER = re.compile(r"-\d+-of-\d+(-[0-9a-f]+)?$")
_Gaps = list[tuple[tuple[str, ...], str]]
"""Names with a gap in the place of a split, each with that split."""


def by_split(named: Sequence[tuple[PurePath, Item]], notify: Notify) -> dict[str, list[Item]]:
    """Sort items into splits by their names.

    Items that name no split are training data, unless others are named as training data; then they
    are left out.

    Args:
        named: Each item with its path inside the data folder.
        notify: Takes notes for the user: which items are left out, which file's own name and
            folder name different splits, and which item is trained on although its name contains
            another split.

    Returns:
        The items of each split that has any, in the order of `SPLITS`.

    Raises:
        DataError: A file's name names two splits.
    """
    siblings = _splits_of_siblings(name for name, _ in named)
    splits = [_split_of(name, siblings, notify) for name, _ in named]
    default = "" if "train" in splits else "train"
    items: dict[str, list[Item]] = {split: [] for split in SPLITS}
    left_out: list[PurePath] = []
    doubtful: list[tuple[PurePath, str]] = []
    for split, (name, item) in zip(splits, named, strict=True):
        if split or default:
            items[split or default].append(item)
            if not split and (word := _evaluation_word(name)):
                doubtful.append((name, word))
        else:
            left_out.append(name)
    if left_out:
        notify(
            f"'{left_out[0]}'{_and_more(left_out)} names no split, while other files are called "
            "train, and is left out"
        )
    if doubtful:
        name, word = doubtful[0]
        notify(
            f"'{name}'{_and_more(doubtful)} is trained on, although its name contains '{word}'; "
            f"rename it to {word} if it is for evaluation"
        )
    return {split: of_split for split, of_split in items.items() if of_split}


def _and_more(items: Sequence[object]) -> str:
    return f" and {len(items) - 1:,} more" if len(items) > 1 else ""


def _split_of(name: PurePath, siblings: dict[tuple[str, ...], set[str]], notify: Notify) -> str:
    """The split that a file's name or its folders name; empty if none."""
    *of_folders, of_file = [
        _splits_at_ends(words := _words(part))
        or {
            split
            for gap, split in _gaps(words)
            if len(siblings.get((*name.parts[:depth], "/", *gap), ())) > 1
        }
        for depth, part in enumerate(name.parts)
    ]
    if len(of_file) > 1:
        raise DataError(
            f"The name of '{name}' contains both {' and '.join(sorted(of_file))}; rename the file "
            "after the one split that it belongs to."
        )
    # A folder that names two splits, such as train_test_split, names none.
    folder_splits = [next(iter(splits)) for splits in reversed(of_folders) if len(splits) == 1]
    if of_file and folder_splits and folder_splits[0] not in of_file:
        split = next(iter(of_file))
        notify(
            f"'{name}' is read as the {split} split because of its own name, although its folder "
            f"is called {folder_splits[0]}"
        )
    return next(iter(of_file), "") or next(iter(folder_splits), "")


def _evaluation_word(name: PurePath) -> str:
    """A word of a name that is an evaluation split, if no word beside it is a training split."""
    for part in reversed(name.parts):
        split_words = [word for word in _words(part) if word in _SPLIT_OF_WORD]
        if split_words and all(_SPLIT_OF_WORD[word] != "train" for word in split_words):
            return split_words[0]
    return ""


def _words(name: str) -> list[str]:
    """The words of a name in lower case, without endings and the numbers of shards and versions."""
    stem = _SHARD_NUMBER.sub("", _ENDING.sub("", name))
    separated = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem).lower()
    joined = re.sub(r"(hold|held)[^a-z]out", r"\1out", separated)
    return [
        word if word in _SPLIT_OF_WORD else re.sub(r"(?<=.)(set|split|data)$", "", word) or word
        for word in re.findall(r"[^\W\d_]+", joined)
    ]


def _splits_at_ends(words: list[str]) -> set[str]:
    """The splits that the first and the last word name."""
    words = list(words)
    while words and words[-1] in _IGNORED_WORDS:
        words.pop()
    while words and words[0] in _IGNORED_WORDS:
        words.pop(0)
    return {_SPLIT_OF_WORD[word] for word in (*words[:1], *words[-1:]) if word in _SPLIT_OF_WORD}


def _gaps(words: list[str]) -> _Gaps:
    """The name with a gap in the place of each word, or end of a word, that may name a split."""
    words = [word for word in words if word not in _IGNORED_WORDS]
    return [
        ((*words[:i], f"{word.removesuffix(ending)}*", *words[i + 1 :]), split)
        for i, word in enumerate(words)
        for ending, split in _SPLIT_OF_WORD.items()
        if word == ending or (word not in _SPLIT_OF_WORD and word.endswith(ending))
    ]


def _splits_of_siblings(names: Iterable[PurePath]) -> dict[tuple[str, ...], set[str]]:
    """For each name with a gap, the splits that stand in the gap among the files of one folder."""
    splits: dict[tuple[str, ...], set[str]] = {}
    for name in names:
        for depth, part in enumerate(name.parts):
            for gap, split in _gaps(_words(part)):
                splits.setdefault((*name.parts[:depth], "/", *gap), set()).add(split)
    return splits
