"""The study folder: a place for every file, its name, and what is not a study."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rung.errors import FolderError, StudyError
from rung.study.folder import FORMAT, SCHEMA, StudyFolder, study_folder
from rung.types import Candidate, Setting


def test_the_cooldown_copies_of_a_candidate_are_found(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    candidate = Candidate(Setting(8, 16, "attention", 1e-3))
    copies = [folder.cooldown_copy(candidate, fraction) for fraction in (0.25, 1.0)]
    for path in (*copies, folder.checkpoint(candidate), folder.adapter(candidate)):
        path.mkdir(parents=True)
    assert folder.cooldown_copies(candidate) == copies


def test_each_candidate_and_each_fraction_has_a_place_of_its_own(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    candidate = Candidate(Setting(8, 16, "attention", 1e-3))
    paths = {
        folder.scores(),
        folder.scores(candidate),
        folder.scores(candidate, 1 / 3),
        folder.adapter(candidate),
        folder.checkpoint(candidate),
        folder.cooldown_copy(candidate, 1.0),
        folder.cooldown_copy(candidate, 1 / 3),
        folder.test_scores(candidate.id),
        folder.generations("test", candidate.id),
        folder.generations("validation", candidate.id),
        folder.scores(Candidate(Setting(8, 16, "q_proj,v_*", 1e-3))),
    }
    assert len(paths) == 11
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
def test_a_study_may_have_any_name_that_a_folder_has_on_every_system(
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
def test_any_other_name_is_refused_in_one_sentence_and_nothing_is_made(
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
def started(tmp_path: Path) -> StudyFolder:
    """A study's folder with all files of a study that has started."""
    folder = StudyFolder(tmp_path / "s")
    folder.path.mkdir()
    folder.recipe.touch()
    folder.database.touch()
    folder.manifest.write_text(json.dumps({"schema": SCHEMA, "format": FORMAT}))
    folder.result.write_text(json.dumps({"schema": SCHEMA}))
    return folder


def test_a_study_that_has_started_can_go_on(started: StudyFolder) -> None:
    started.check()
    started.result.unlink()
    started.check()


@pytest.mark.parametrize(
    "files",
    [[], ["study.db"], ["study.db", "recipe.yaml"], ["study.db", ".recipe.yaml.77"], ["lock.json"]],
)
def test_a_study_that_was_stopped_before_it_started_can_start(
    tmp_path: Path, files: list[str]
) -> None:
    for name in files:
        (tmp_path / name).touch()
    StudyFolder(tmp_path).check()
    StudyFolder(tmp_path / "new" / "s").check()
    assert sorted(os.listdir(tmp_path)) == sorted(files)


@pytest.mark.parametrize("name", ["recipe.yaml", "result.json", "src", "notes.txt"])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(
        StudyError, match=f"is not a study's: it contains '{name}'; give another --study"
    ):
        StudyFolder(tmp_path).check()
    assert (tmp_path / name).read_text() == "mine"


def test_a_file_cannot_be_a_studys_folder(tmp_path: Path) -> None:
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
        ("[]", r"is damaged \(it is not a JSON object\)"),
        ("\udcff", "is damaged"),
        ("{}", r"has schema None; this version has 2\); go on with that version"),
        ('{"schema": 1}', r"has schema 1; this version has 2\); go on with that version"),
        ('{"schema": 3}', r"has schema 3; this version has 2\); go on with that version"),
    ],
)
def test_a_document_that_is_broken_or_of_another_version_is_one_sentence(
    started: StudyFolder, which: str, text: str, says: str
) -> None:
    path = getattr(started, which)
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(StudyError, match=f"{path.name}.*{says}") as error:
        started.check()
    assert "\n" not in str(error.value)
    assert path.read_bytes() == text.encode(errors="surrogateescape")


def test_a_study_of_another_format_is_told_apart_from_data_that_changed(
    started: StudyFolder,
) -> None:
    started.manifest.write_text(json.dumps({"schema": SCHEMA, "format": FORMAT - 1}))
    says = rf"manifest.json has format {FORMAT - 1}; this version has {FORMAT}\)"
    with pytest.raises(StudyError, match=says):
        started.check()


@pytest.mark.parametrize("which", ["recipe", "database"])
def test_a_study_that_lacks_a_file_is_not_started_anew(started: StudyFolder, which: str) -> None:
    path = getattr(started, which)
    path.unlink()
    says = rf"{path.name}' of the study is damaged \(the file is missing\)"
    with pytest.raises(StudyError, match=says):
        started.check()
    assert not path.exists()
