from __future__ import annotations

from pathlib import PurePath

import pytest

from rung.data.split_names import by_split
from rung.errors import DataError


def split(*names: str) -> dict[str, list[str]]:
    return by_split([(PurePath(name), name) for name in names], lambda _: None)


def told(*names: str) -> list[str]:
    heard: list[str] = []
    by_split([(PurePath(name), name) for name in names], heard.append)
    return heard


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("train-00000-of-00003.parquet", "train"),
        ("data/train-00000-of-00001-a09b74b3ef9c3b56.parquet", "train"),
        ("data/validation-00000-of-00001.parquet", "validation"),
        ("default/partial-train/0000.parquet", "train"),
        ("train_test_split/valid.jsonl", "validation"),
        ("train_test_split/test.jsonl", "test"),
        ("test/train.jsonl", "train"),
        ("train/eval.csv", "validation"),
        ("test/part-1.csv", "test"),
        ("dev/en/0.jsonl", "validation"),
        ("my_test.json", "test"),
        ("squad-dev-v1.1.json", "validation"),
        ("en-de.train.jsonl.gz", "train"),
        ("train.en.jsonl", "train"),
        ("test-2024-01-05.csv", "test"),
        ("trainset.csv", "train"),
        ("TestData.csv", "test"),
        ("the_test_set.csv", "test"),
        ("test1.jsonl", "test"),
        ("hold-out.jsonl", "test"),
        ("holdout.jsonl", "test"),
        ("eval.jsonl", "validation"),
        ("evaluation_split.jsonl", "validation"),
    ],
)
def test_what_a_name_says(name: str, wanted: str) -> None:
    assert split(name, "train.jsonl")[wanted][0] == name


@pytest.mark.parametrize(
    "name",
    [
        "unit-test-writing.jsonl",
        "latest.jsonl",
        "validated.jsonl",
        "contest.csv",
        "a-test-of-time.csv",
        "retrain.csv",
        "devices.csv",
        "value.csv",
        "train_test_split/rows.jsonl",
        "protest/rows.jsonl",
    ],
)
def test_what_a_name_does_not_say(name: str) -> None:
    assert split(name, "test.jsonl", "dev.jsonl") == {
        "train": [name],
        "validation": ["dev.jsonl"],
        "test": ["test.jsonl"],
    }


def test_a_word_in_the_middle_counts_where_another_file_has_another_split_there() -> None:
    names = ["squad_train_en.csv", "squad_dev_en.csv", "squad_test_en.csv", "unit_test_writing.csv"]
    assert split(*names) == {"train": names[:1], "validation": names[1:2], "test": names[2:3]}
    assert split("squad_dev_en.csv") == {"train": ["squad_dev_en.csv"]}


def test_files_without_a_split_are_left_out_where_others_are_to_train_on_and_are_named() -> None:
    names = ["train.jsonl", "notes.jsonl", "more/rows.jsonl"]
    assert split(*names) == {"train": ["train.jsonl"]}
    assert told(*names) == ["'notes.jsonl' and 1 more names no split where others are called train, and is left out"]
    assert told("notes.jsonl", "test.jsonl") == []


def test_a_file_in_a_folder_of_another_split_is_told() -> None:
    says = "'test/train_of_thought.csv' is taken for the train split by its own name, though it lies in one called test"
    assert told("test/train_of_thought.csv") == [says]
    assert told("train_test_split/test.csv", "test/test-1.csv", "data/train.csv") == []


def test_a_file_whose_name_says_two_splits_is_refused() -> None:
    with pytest.raises(DataError, match=r"The name of 'train_test.jsonl' says both test and train; call it after"):
        split("train_test.jsonl")
