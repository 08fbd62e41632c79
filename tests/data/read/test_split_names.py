from __future__ import annotations

from pathlib import PurePath

import pytest

from rung.data.read.split_names import by_split
from rung.errors import DataError


def split(*names: str) -> dict[str, list[str]]:
    return by_split([(PurePath(name), name) for name in names], lambda _: None)


def notes(*names: str) -> list[str]:
    found: list[str] = []
    by_split([(PurePath(name), name) for name in names], found.append)
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
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
def test_the_first_or_last_word_of_a_name_names_a_split(name: str, expected: str) -> None:
    assert split(name, "train.jsonl")[expected][0] == name


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
def test_other_names_name_no_split_and_are_training_data(name: str) -> None:
    assert split(name, "test.jsonl", "dev.jsonl") == {
        "train": [name],
        "validation": ["dev.jsonl"],
        "test": ["test.jsonl"],
    }


class TestSiblings:
    def test_a_word_in_the_middle_counts_if_a_sibling_has_another_split_there(self) -> None:
        names = [
            "squad_train_en.csv",
            "squad_dev_en.csv",
            "squad_test_en.csv",
            "unit_test_writing.csv",
        ]
        assert split(*names) == {"train": names[:1], "validation": names[1:2], "test": names[2:3]}
        assert split("squad_dev_en.csv") == {"train": ["squad_dev_en.csv"]}

    def test_the_end_of_a_word_counts_if_a_sibling_has_another_split_there(self) -> None:
        names = ["contest.csv", "latest.csv", "approval.csv", "minitrain.csv", "minival.csv"]
        assert split(*names) == {"train": ["minitrain.csv"], "validation": ["minival.csv"]}
        others = ["contest.csv", "latest.csv", "protest/rows.csv"]
        assert split(*others) == {"train": others}

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
    def test_names_that_differ_only_in_the_split_are_sorted_without_a_note(
        self, train: str, validation: str, test: str
    ) -> None:
        assert split(train, validation, test) == {
            "train": [train],
            "validation": [validation],
            "test": [test],
        }
        assert notes(train, validation, test) == []


class TestNotes:
    def test_files_without_a_split_are_left_out_and_noted_if_others_are_called_train(self) -> None:
        names = ["train.jsonl", "notes.jsonl", "more/rows.jsonl"]
        assert split(*names) == {"train": ["train.jsonl"]}
        assert notes(*names) == [
            "'notes.jsonl' and 1 more names no split, while other files are called train, and is "
            "left out"
        ]
        assert notes("notes.jsonl", "test.jsonl") == []

    def test_a_file_in_a_folder_of_another_split_is_noted(self) -> None:
        assert notes("test/train_of_thought.csv") == [
            "'test/train_of_thought.csv' is read as the train split because of its own name, "
            "although its folder is called test"
        ]
        assert notes("train_test_split/test.csv", "test/test-1.csv", "data/train.csv") == []

    @pytest.mark.parametrize(
        "name", ["mydata_test_final.jsonl", "unit-test-writing.jsonl", "my_test_rows/a.jsonl"]
    )
    def test_a_training_file_whose_name_contains_another_split_is_noted(self, name: str) -> None:
        assert notes(name, "mydata_final.jsonl") == [
            f"'{name}' is trained on, although its name contains 'test'; rename it to test if it "
            "is for evaluation"
        ]
        assert split(name, "mydata_final.jsonl") == {"train": [name, "mydata_final.jsonl"]}
        assert notes("train_test_split/rows.jsonl", "latest.csv") == []


def test_a_file_whose_name_names_two_splits_is_an_error() -> None:
    with pytest.raises(
        DataError,
        match=r"The name of 'train_test.jsonl' contains both test and train; rename the file",
    ):
        split("train_test.jsonl")
