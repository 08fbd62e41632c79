"""Broken files of a model are named, and a model is known again by what its files hold."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rung.errors import ModelError
from rung.model.files import dtypes, fingerprint, weight_files
from rung.model.load import load_base, load_tokenizer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 99\n"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's folder, to be broken."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def index_of_nothing(folder: Path) -> None:
    gone(folder)
    (folder / "model.safetensors.index.json").write_text('{"metadata": {}, "weight_map": {}}')


def named_by(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": name}))

    return change


def pointer(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(POINTER)


def cut(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def cut_in_the_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:100])


def empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def gone(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def in_shards(folder: Path) -> list[str]:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    place = {name: shards[number % 2] for number, name in enumerate(weights)}
    for shard in shards:
        save_file(
            {n: w for n, w in weights.items() if place[n] == shard},
            folder / shard,
            metadata={"format": "pt"},
        )
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": place})
    )
    return shards


def a_shard_gone(folder: Path) -> None:
    (folder / in_shards(folder)[1]).unlink()


def index_broken(folder: Path) -> None:
    in_shards(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a')


def index_of_something_else(folder: Path) -> None:
    in_shards(folder)
    (folder / "model.safetensors.index.json").write_text("[]")


def tokenizer_cut(folder: Path) -> None:
    whole = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(whole[: len(whole) // 2])


def pickled(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")


class Code:
    def __reduce__(self) -> tuple[object, ...]:
        return exec, ("raise SystemExit('run')",)


def pickled_code(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Code()}, folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (
            pointer("model.safetensors"),
            r"model\.safetensors is a pointer of git LFS and not the file itself",
        ),
        (pointer("tokenizer.json"), r"tokenizer\.json is a pointer of git LFS"),
        (pointer("config.json"), r"config\.json is a pointer of git LFS"),
        (cut, r"model\.safetensors is cut off or broken"),
        (cut_in_the_header, r"model\.safetensors is cut off or broken"),
        (empty, r"model\.safetensors is empty; fetch it again"),
        (gone, r"has no weights \(model\.safetensors or pytorch_model\.bin\)"),
        (a_shard_gone, r"index\.json names model-00002-of-00002\.safetensors, which is not there"),
        (index_broken, r"index\.json is no index of weights"),
        (index_of_something_else, r"index\.json is no index of weights"),
        (index_of_nothing, r"index\.json names no files"),
        (
            named_by("none.safetensors"),
            r"names none\.safetensors as transformers_weights, which is not there",
        ),
        (
            named_by("config.json"),
            r"names 'config\.json' as transformers_weights, which is no safetensors file",
        ),
        (
            named_by("../model.safetensors"),
            r"as transformers_weights, which is no safetensors file in its folder",
        ),
        (tokenizer_cut, r"tokenizer\.json is cut off or no JSON"),
        (pickled_code, r"are a pickle that is broken or holds more than tensors"),
    ],
)
def test_a_broken_file_is_named(folder: Path, broken: Callable[[Path], object], says: str) -> None:
    broken(folder)
    with pytest.raises(ModelError, match=says) as error:
        load_base(str(folder), "fp32", "fp32")
    assert "\n" not in str(error.value)


def test_a_tokenizer_needs_no_weights(folder: Path) -> None:
    gone(folder)
    assert load_tokenizer(str(folder)).eos_token_id is not None


@pytest.mark.parametrize("kept", [in_shards, pickled])
def test_shards_and_pickles_of_tensors_alone_hold_the_same_model(
    folder: Path, tiny_folder: Path, kept: Callable[[Path], object]
) -> None:
    kept(folder)
    found, wanted = (
        load_base(str(f), "fp32", "fp32").model.state_dict() for f in (folder, tiny_folder)
    )
    assert all(torch.equal(found[name], weight) for name, weight in wanted.items())


def test_a_model_is_known_by_every_byte_of_what_it_is_read_from(folder: Path) -> None:
    before = fingerprint(str(folder))
    assert (
        before["model.safetensors"]
        == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    )
    assert {"config.json", "tokenizer.json"} < before.keys()
    (folder / "README.md").write_text("A word on it.")
    assert fingerprint(str(folder)) == before
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    after = fingerprint(str(folder))
    assert {name for name in after if after[name] != before[name]} == {"model.safetensors"}


def test_a_file_of_the_hubs_cache_is_known_by_its_name_there(folder: Path) -> None:
    blobs, name = folder / "blobs", "ab" * 32
    blobs.mkdir()
    shutil.move(folder / "model.safetensors", blobs / name)
    (folder / "model.safetensors").symlink_to(blobs / name)
    assert fingerprint(str(folder))["model.safetensors"] == name


def test_shards_are_the_files_of_the_weights_and_say_their_dtypes(folder: Path) -> None:
    shards = in_shards(folder)
    assert [file.name for file in weight_files(folder)] == shards
    assert set(dtypes(folder / shards[0]).values()) == {"F32"}


@pytest.mark.parametrize("beside", [False, True])
def test_weights_that_the_configuration_names_are_those_that_are_looked_at(
    folder: Path, beside: bool
) -> None:
    named_by("other.safetensors")(folder)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {n: t * 2 for n, t in weights.items()},
        folder / "other.safetensors",
        metadata={"format": "pt"},
    )
    if not beside:
        gone(folder)
    assert [file.name for file in weight_files(folder)] == ["other.safetensors"]
    assert {name for name in fingerprint(str(folder)) if "safetensors" in name} == {
        "other.safetensors"
    }
    loaded = load_base(str(folder), "fp32", "fp32").model.state_dict()
    assert torch.equal(loaded["model.norm.weight"], 2 * weights["model.norm.weight"])


def test_the_dtypes_of_a_pickle_are_known_without_its_numbers(folder: Path) -> None:
    pickled(folder)
    (file,) = weight_files(folder)
    assert file.name == "pytorch_model.bin"
    assert set(dtypes(file).values()) == {"float32"}
