from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.jsonl import numbered_rows, prepare_data, write_rows
from tests.tiny import tiny_tokenizer

import rung.data.example_cache
import rung.data.prepare
from rung.data.example_cache import code_versions
from rung.data.prepare import prepare
from rung.data.tokenize import RowTokenizer
from rung.errors import DataError
from rung.recipe import Recipe


@pytest.fixture
def path(tmp_path: Path) -> str:
    return write_rows(tmp_path / "a.jsonl", numbered_rows(400))


def test_rows_are_tokenized_once(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare_data(path)
    monkeypatch.setattr(
        RowTokenizer, "tokenize", lambda *_: pytest.fail("the examples are in the cache")
    )
    assert prepare_data(path).stats == first.stats
    with pytest.raises(pytest.fail.Exception):
        prepare_data(path, max_tokens=99)


def test_another_content_of_the_file_makes_other_data(path: str) -> None:
    first = prepare_data(path)
    write_rows(Path(path), numbered_rows(401))
    assert prepare_data(path).stats.digest != first.stats.digest


def test_another_version_of_the_code_has_another_cache(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare_data(path)
    monkeypatch.setattr(rung.data.example_cache, "code_versions", lambda: ["another"])
    assert prepare_data(path).train.path != first.train.path


def test_other_end_tokens_of_the_model_have_another_cache(path: str) -> None:
    first, other = prepare_data(path), prepare(Recipe(data=path), tiny_tokenizer(), end_tokens=[7])
    assert (first.stats.end_tokens, other.stats.end_tokens) == ([1], [1, 7])
    assert first.train.path != other.train.path


def test_an_incomplete_folder_is_filled_again(path: str) -> None:
    first = prepare_data(path)
    folder = first.train.path.parent
    (folder / "stats.json").unlink()
    (folder / "train.arrow").write_bytes(b"")
    assert prepare_data(path).stats == first.stats


def test_an_error_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rung.data.prepare, "cache_folder", lambda: tmp_path / "cache")
    with pytest.raises(DataError):
        prepare_data(write_rows(tmp_path / "a.jsonl", [*numbered_rows(600), 7]))
    assert list((tmp_path / "cache" / "data").iterdir()) == []


def test_the_versions_name_the_libraries_and_all_code_of_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions = code_versions()
    libraries = [version.split()[0] for version in versions[:4]]
    assert libraries == ["transformers", "tokenizers", "jinja2", "pyarrow"]
    read_bytes, read = Path.read_bytes, set()

    def record(path: Path) -> bytes:
        read.add(path.name)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", record)
    assert code_versions() == versions
    assert {"tokenize.py", "csv_files.py"} <= read, "also in the folders of the package"
    monkeypatch.setattr(Path, "read_bytes", lambda _: b"other code")
    assert code_versions()[:-1] == versions[:-1]
    assert code_versions()[-1] != versions[-1]
