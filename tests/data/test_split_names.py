from __future__ import annotations

from pathlib import PurePath

import pytest

from rung.data.read.split_names import by_split
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
    assert told(*names) == [
        "'notes.jsonl' and 1 more names no split where others are called train, and is left out"
    ]
    assert told("notes.jsonl", "test.jsonl") == []


def test_a_file_in_a_folder_of_another_split_is_told() -> None:
    says = "'test/train_of_thought.csv' is taken for the train split by its own name, though it lies in one called test"
    assert told("test/train_of_thought.csv") == [says]
    assert told("train_test_split/test.csv", "test/test-1.csv", "data/train.csv") == []


def test_a_file_whose_name_says_two_splits_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"The name of 'train_test.jsonl' says both test and train; call it after"
    ):
        split("train_test.jsonl")


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("corpus_train_en/a.jsonl", "corpus_dev_en/a.jsonl", "corpus_test_en/a.jsonl"),
        ("en/sst2_train_full/a.csv", "en/sst2_val_full/a.csv", "en/sst2_test_full/b.csv"),
        ("mydata_train_final_v2.jsonl", "mydata_dev_final_v1.jsonl", "mydata_test_final.jsonl"),
        ("xtrain.jsonl", "xval.jsonl", "xtest.jsonl"),
        ("data.jsonl", "vals.jsonl", "tests.jsonl"),
        ("trains.jsonl", "evals.jsonl", "my_tests.jsonl"),
    ],
)
def test_names_that_are_alike_but_for_a_split(train: str, validation: str, test: str) -> None:
    assert split(train, validation, test) == {
        "train": [train],
        "validation": [validation],
        "test": [test],
    }
    assert told(train, validation, test) == []


def test_a_word_at_the_end_of_another_counts_only_where_a_sibling_has_another_split_there() -> None:
    assert split("contest.csv", "latest.csv", "approval.csv", "minitrain.csv", "minival.csv") == {
        "train": ["minitrain.csv"],
        "validation": ["minival.csv"],
    }
    assert split("contest.csv", "latest.csv", "protest/rows.csv") == {
        "train": ["contest.csv", "latest.csv", "protest/rows.csv"]
    }


@pytest.mark.parametrize(
    "name", ["mydata_test_final.jsonl", "unit-test-writing.jsonl", "my_test_rows/a.jsonl"]
)
def test_a_file_that_is_trained_on_although_its_name_has_another_split_is_told(name: str) -> None:
    says = f"'{name}' is trained on, though 'test' stands in the name; if it is to judge by, call it test"
    assert told(name, "mydata_final.jsonl") == [says]
    assert split(name, "mydata_final.jsonl") == {"train": [name, "mydata_final.jsonl"]}
    assert told("train_test_split/rows.jsonl", "latest.csv") == []
