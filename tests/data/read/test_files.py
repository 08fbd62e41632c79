from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.data.read.records import records, write

from rung.data.read.files import find_files, is_hub_id, is_table
from rung.errors import DataError

ROWS = [{"prompt": "p", "completion": "달 🌙"}, {"prompt": "q\nr", "completion": "null"}] * 700


def test_every_format_gives_the_same_records(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    with pa.ipc.new_file(str(tmp_path / "file.arrow"), table.schema) as file:
        file.write_table(table)
    with pa.ipc.new_stream(str(tmp_path / "stream.arrow"), table.schema) as stream:
        stream.write_table(table)
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    write(tmp_path / "lines.json", lines)
    for name in ("a.parquet", "file.arrow", "stream.arrow", "a.jsonl.gz", "lines.json"):
        assert records(tmp_path / name) == ROWS, name


def test_a_file_without_a_known_ending_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ends in '.txt'; give \.jsonl, .* or \.arrow\.$"):
        records(write(tmp_path / "a.txt", "x"))


def test_a_csv_file_is_a_table() -> None:
    assert is_table(Path("a.CSV"))
    assert is_table(Path("a.tsv.gz"))
    assert not is_table(Path("a.jsonl"))
    assert not is_table(Path("csv"))


def test_the_names_of_files_in_a_folder_decide_their_splits(tmp_path: Path) -> None:
    names = {
        "train": ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
        "validation": ["dev.jsonl", "eval.csv", "val/x.csv"],
        "test": ["my_test.json"],
    }
    not_read = [
        ".hidden.jsonl",
        "README.md",
        "dataset_info.json",
        "cache-1f.arrow",
        "unsupervised.jsonl",
    ]
    for name in [*(name for in_split in names.values() for name in in_split), *not_read]:
        write(tmp_path / name, "")
    assert find_files(str(tmp_path)) == {
        split: [tmp_path / name for name in in_split] for split, in_split in names.items()
    }


def test_a_folder_that_save_to_disk_wrote_is_read(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list(ROWS)
    saved = datasets.DatasetDict({"train": rows, "test": rows.select(range(3))})
    saved.save_to_disk(tmp_path / "saved")
    files = find_files(str(tmp_path / "saved"))
    assert list(files) == ["train", "test"]
    assert records(files["train"][0]) == ROWS


def test_a_hub_id_is_downloaded_by_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        split: str(write(tmp_path / f"{split}.jsonl", json.dumps(ROWS[0]) + "\n"))
        for split in ("train", "val")
    }
    requests = []
    load_dataset = datasets.load_dataset

    def load_local(name: str, configuration: str | None) -> Any:
        requests.append((name, configuration))
        return load_dataset("json", data_files=files, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", load_local)
    by_split = find_files("owner/name:main")
    assert requests == [("owner/name", "main")]
    assert list(by_split) == ["train", "validation"]
    assert records(by_split["validation"][0]) == ROWS[:1]


def test_a_hub_id_that_cannot_be_downloaded_is_an_error() -> None:
    with pytest.raises(
        DataError, match="The data set 'nobody/nothing' cannot be downloaded from the hub"
    ):
        find_files("nobody/nothing")


def test_a_hub_id_has_an_owner_and_a_name_and_is_not_a_path() -> None:
    assert is_hub_id("a/b:c")
    assert not is_hub_id("a/b.jsonl")
    assert not is_hub_id("./a/b")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("none.jsonl", "There is no data file 'none.jsonl'; give .jsonl, .json, .csv"),
        ("notes.txt", "The data file 'notes.txt' ends in '.txt'; give"),
        ("empty", "The folder 'empty' has no file of rows"),
    ],
)
def test_a_path_without_data_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError) as error:
        find_files(data)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            gzip.compress(b'{"a": 1}\n' * 999, mtime=0)[:-20],
            "cannot be read (Compressed file ended",
        ),
        (b"no gzip at all", "cannot be read (Not a gzipped file"),
    ],
)
def test_a_broken_gzip_file_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError) as error:
        records(write(tmp_path / "a.jsonl.gz", content))
    assert message in str(error.value)
    assert "a.jsonl.gz" in str(error.value)
