from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung import atomic
from rung.atomic import write_bytes
from rung.errors import FolderError, StudyError
from rung.study.folder import FORMAT, SCHEMA, StudyFolder, study_folder
from rung.study.tables import read_scores, write_scores
from rung.types import Candidate, Scores, Setting


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 10**6)), min_size=1, max_size=50))
def test_scores_read_back_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, int]]
) -> None:
    scores = Scores(tuple(loss for loss, _ in rows), tuple(tokens for _, tokens in rows))
    path = tmp_path_factory.mktemp("scores") / "a.parquet"
    write_scores(path, scores)
    assert read_scores(path) == scores


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_bytes(path, b"old")

    def broken(handle: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(atomic.os, "fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_each_candidate_and_each_fraction_has_a_place_of_its_own(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    candidate = Candidate(Setting(8, 16, "attention", 1e-3))
    paths = {
        folder.scores(),
        folder.scores(candidate),
        folder.scores(candidate, 1 / 3),
        folder.adapter(candidate),
        folder.checkpoint(candidate),
        folder.scores(Candidate(Setting(8, 16, "q_proj,v_*", 1e-3))),
    }
    assert len(paths) == 6
    assert all(path.is_relative_to(tmp_path) and "*" not in path.name for path in paths)


@pytest.mark.parametrize(
    "name",
    [
        "s",
        "Prices 2",
        "50% #a",
        "a%20b",
        "{x}",
        "数据-模型",
        "été",
        "a.b",
        "한글 🙂",
        "👩\u200d🔬",
        "می\u200cخواهم",
        "console",
        "COM10",
        "x" * 200,
    ],
)
def test_a_study_is_called_by_any_word_that_is_a_folder_everywhere(
    tmp_path: Path, name: str
) -> None:
    folder = study_folder(tmp_path, name)
    assert (folder.path, folder.name) == (tmp_path / name, name)
    folder.path.mkdir()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "no letters"),
        ("   ", "no letters"),
        ("../../evil", "it contains '/'"),
        ("/tmp/evil", "it contains '/'"),
        ("a/b", "it contains '/'"),
        ("a\\b", "it contains"),
        ("what?now", r"it contains '\?'"),
        ("a:b", "it contains ':'"),
        ("a\nb", r"it contains '\\n'"),
        ("a\0b", r"it contains '\\x00'"),
        ("\udcff", r"it contains '\\udcff'"),
        (".", "starts with '.'"),
        ("..", "starts with '.'"),
        (".hidden", "starts with '.'"),
        ("-rf", "starts with '-'"),
        ("~", "starts with '~'"),
        (" a", "starts with ' '"),
        ("a ", "ends with ' '"),
        ("a.", "ends with '.'"),
        ("CON", "Windows"),
        ("lpt1.txt", "Windows"),
        ("con .txt", "Windows"),
        ("COM¹", "Windows"),
        ("CONIN$", "Windows"),
        ("\ufeff", r"it contains '\\ufeff'"),
        ("\u200b", r"it contains '\\u200b'"),
        ("\u200d\u200d", "no letters"),
        ("a\u200d", "ends with"),
        ("\u202egnp", r"it contains '\\u202e'"),
        ("a\ufeff", r"it contains '\\ufeff'"),
        ("x" * 201, "has 201 bytes, and 200 are allowed"),
        ("数" * 67, "has 201 bytes"),
    ],
)
def test_any_other_name_is_one_sentence_and_nothing_is_made(
    tmp_path: Path, name: str, why: str
) -> None:
    with pytest.raises(
        StudyError, match=f"^--study: .* cannot be the name of a folder .*{why}"
    ) as error:
        study_folder(tmp_path / "studies", name)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300
    str(error.value).encode()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_the_studies_may_be_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert study_folder("~/studies", "s").path == tmp_path / "studies" / "s"


@pytest.fixture
def begun(tmp_path: Path) -> StudyFolder:
    """A study's folder with all that says that it has begun."""
    folder = StudyFolder(tmp_path / "s")
    folder.path.mkdir()
    folder.recipe.touch()
    folder.database.touch()
    folder.manifest.write_text(json.dumps({"schema": SCHEMA, "format": FORMAT}))
    folder.result.write_text(json.dumps({"schema": SCHEMA}))
    return folder


def test_a_study_that_has_begun_is_one_to_go_on_with(begun: StudyFolder) -> None:
    begun.check()
    begun.result.unlink()
    begun.check()


@pytest.mark.parametrize(
    "files",
    [[], ["study.db"], ["study.db", "recipe.yaml"], ["study.db", ".recipe.yaml.77"], ["lock.json"]],
)
def test_so_is_one_that_was_stopped_before_it_began(tmp_path: Path, files: list[str]) -> None:
    for name in files:
        (tmp_path / name).touch()
    StudyFolder(tmp_path).check()
    StudyFolder(tmp_path / "new" / "s").check()
    assert sorted(os.listdir(tmp_path)) == sorted(files)


@pytest.mark.parametrize("name", ["recipe.yaml", "result.json", "src", "notes.txt"])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(
        StudyError, match=f"is no study's: there is '{name}' in it; give another --study"
    ):
        StudyFolder(tmp_path).check()
    assert (tmp_path / name).read_text() == "mine"


def test_a_file_is_no_study(tmp_path: Path) -> None:
    (tmp_path / "s").touch()
    with pytest.raises(StudyError, match="is a file, so it cannot be a study's folder"):
        StudyFolder(tmp_path / "s").check()
    with pytest.raises(FolderError, match="cannot be written to"):
        StudyFolder(tmp_path / "s" / "t").check()


@pytest.mark.parametrize("which", ["manifest", "result"])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is damaged"),
        ('{"schema": 1', "is damaged"),
        ("[" * 100_000, r"is damaged \(maximum recursion depth"),
        ("[]", r"is damaged \(it is no JSON object\)"),
        ("\udcff", "is damaged"),
        ("{}", r"another version of Rung \(schema None, and this one has 1\)"),
        ('{"schema": 2}', r"another version of Rung \(schema 2, and this one has 1\)"),
    ],
)
def test_a_document_that_is_broken_or_of_another_version_is_one_sentence(
    begun: StudyFolder, which: str, text: str, says: str
) -> None:
    path = getattr(begun, which)
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(StudyError, match=f"{path.name}.*{says}"):
        begun.check()
    assert path.read_bytes() == text.encode(errors="surrogateescape")


def test_a_study_of_before_is_told_apart_from_data_that_changed(begun: StudyFolder) -> None:
    begun.manifest.write_text(json.dumps({"schema": SCHEMA}))
    with pytest.raises(
        StudyError,
        match=r"read data or kept studies in another way \(format None, and this one has",
    ):
        begun.check()


@pytest.mark.parametrize("which", ["recipe", "database"])
def test_a_study_without_a_part_of_it_is_not_begun_anew(begun: StudyFolder, which: str) -> None:
    path = getattr(begun, which)
    path.unlink()
    with pytest.raises(
        StudyError, match=rf"{path.name}' of the study is damaged \(it is not there\)"
    ):
        begun.check()
    assert not path.exists()
