"""A model is found by its name; of a hub model only the configuration is downloaded."""

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
    ("error", "message"),
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
        (errors.HFValidationError("name"), "has a name that the hub does not allow"),
        (OSError("disk full\nmore"), r"cannot be downloaded \(disk full\)"),
    ],
)
def test_an_unreachable_hub_model_is_reported_with_the_remedy(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(ModelError, match=message):
        read_config("a/b")


def test_only_the_configuration_of_a_hub_model_is_downloaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    requests = []

    def download(hub_id: str, file: str) -> str:
        requests.append((hub_id, file))
        (tmp_path / file).write_text('{"model_type": "llama"}', encoding="utf-8")
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert read_config("a/b") == {"model_type": "llama"}
    assert requests == [("a/b", "config.json")]


def test_a_file_that_is_not_gguf_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF and no more")
    with pytest.raises(ModelError, match="cannot be read as GGUF"):
        read_config(str(file))
