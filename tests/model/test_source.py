"""Where a model is, and what is said when it cannot be had."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import huggingface_hub
import pytest
from huggingface_hub import errors

from rung.errors import ModelError
from rung.model.source import read_config

RESPONSE = Mock(headers={})


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            errors.GatedRepoError("gated", response=RESPONSE),
            "is gated: accept its terms at https://huggingface.co/a/b",
        ),
        (
            errors.RepositoryNotFoundError("none", response=RESPONSE),
            "is not on the hub, or is private",
        ),
        (errors.EntryNotFoundError("none"), "has no config.json on the hub"),
        (
            errors.LocalEntryNotFoundError("offline"),
            "is not in the cache, and the hub cannot be reached",
        ),
        (errors.HFValidationError("name"), "no name that the hub allows"),
        (OSError("disk full\nmore"), r"cannot be fetched \(disk full\)"),
    ],
)
def test_a_hub_model_that_cannot_be_had_says_what_to_do(
    error: Exception, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(ModelError, match=says):
        read_config("a/b")


def test_of_a_hub_model_the_configuration_alone_is_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def fetch(hub_id: str, file: str) -> str:
        asked.append((hub_id, file))
        (tmp_path / file).write_text('{"model_type": "llama"}', encoding="utf-8")
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    assert read_config("a/b") == {"model_type": "llama"}
    assert asked == [("a/b", "config.json")]


def test_a_file_that_is_no_gguf_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF and no more")
    with pytest.raises(ModelError, match="cannot be read as GGUF"):
        read_config(str(file))
