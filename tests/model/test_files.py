"""Broken files of a model are named in the error, and a model is recognised by its files."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.model.edit_folder import Weights, change_config, change_weights, save_as_pickle

from rung.errors import ModelError
from rung.model.files import fingerprint, weight_dtypes, weight_files
from rung.model.load import load_base, load_tokenizer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 99\n"


def empty_index(folder: Path) -> None:
    remove_weights(folder)
    (folder / "model.safetensors.index.json").write_text('{"metadata": {}, "weight_map": {}}')


def name_in_config(name: str) -> Callable[[Path], object]:
    return lambda folder: change_config(folder, transformers_weights=name)


def replace_by_pointer(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(POINTER)


def truncate_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def truncate_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:100])


def empty_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def split_into_shards(folder: Path) -> list[str]:
    """Store the weights in two files with an index; return the names of the files."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    shard_of = {name: shards[number % 2] for number, name in enumerate(weights)}
    for shard in shards:
        save_file(
            {n: w for n, w in weights.items() if shard_of[n] == shard},
            folder / shard,
            metadata={"format": "pt"},
        )
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": shard_of})
    )
    return shards


def remove_a_shard(folder: Path) -> None:
    (folder / split_into_shards(folder)[1]).unlink()


def truncate_index(folder: Path) -> None:
    split_into_shards(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a')


def replace_index(folder: Path) -> None:
    split_into_shards(folder)
    (folder / "model.safetensors.index.json").write_text("[]")


def truncate_tokenizer(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text[: len(text) // 2])


class Code:
    """Its pickle ends the process when it is loaded."""

    def __reduce__(self) -> tuple[object, ...]:
        return exec, ("raise SystemExit('run')",)


def pickle_code(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Code()}, folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("break_file", "message"),
    [
        (
            replace_by_pointer("model.safetensors"),
            r"model\.safetensors is a git LFS pointer and not the file itself",
        ),
        (replace_by_pointer("tokenizer.json"), r"tokenizer\.json is a git LFS pointer"),
        (replace_by_pointer("config.json"), r"config\.json is a git LFS pointer"),
        (truncate_weights, r"model\.safetensors is truncated or broken"),
        (truncate_header, r"model\.safetensors is truncated or broken"),
        (empty_weights, r"model\.safetensors is empty; download it again"),
        (remove_weights, r"has no weights \(model\.safetensors or pytorch_model\.bin\)"),
        (
            remove_a_shard,
            r"index\.json names model-00002-of-00002\.safetensors, and that file is missing",
        ),
        (truncate_index, r"index\.json is not an index of weights"),
        (replace_index, r"index\.json is not an index of weights"),
        (empty_index, r"index\.json names no files"),
        (
            name_in_config("none.safetensors"),
            r"names none\.safetensors as transformers_weights, and that file is missing",
        ),
        (
            name_in_config("config.json"),
            r"names 'config\.json' as transformers_weights, which is not a safetensors file",
        ),
        (
            name_in_config("../model.safetensors"),
            r"as transformers_weights, which is not a safetensors file in that folder",
        ),
        (truncate_tokenizer, r"tokenizer\.json is truncated or not JSON"),
        (pickle_code, r"are a pickle that is broken or holds more than tensors"),
    ],
)
def test_a_broken_file_is_named(
    folder: Path, break_file: Callable[[Path], object], message: str
) -> None:
    break_file(folder)
    with pytest.raises(ModelError, match=message) as error:
        load_base(str(folder), "fp32", "fp32")
    assert "\n" not in str(error.value)


def test_a_tokenizer_needs_no_weights(folder: Path) -> None:
    remove_weights(folder)
    assert load_tokenizer(str(folder)).eos_token_id is not None


@pytest.mark.parametrize("store", [split_into_shards, save_as_pickle])
def test_shards_and_pickles_of_tensors_give_the_same_model(
    folder: Path, tiny_folder: Path, store: Callable[[Path], object]
) -> None:
    store(folder)
    weights, expected = (
        load_base(str(f), "fp32", "fp32").model.state_dict() for f in (folder, tiny_folder)
    )
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], weight) for name, weight in expected.items())


def test_a_fingerprint_covers_every_byte_that_the_model_is_read_from(folder: Path) -> None:
    before = fingerprint(str(folder))
    assert (
        before["model.safetensors"]
        == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    )
    assert {"config.json", "tokenizer.json"} < before.keys()
    (folder / "README.md").write_text("A model card.")
    assert fingerprint(str(folder)) == before

    def change_one_number(weights: Weights) -> Weights:
        weights["model.norm.weight"][3] += 1e-3
        return weights

    change_weights(folder, change_one_number)
    after = fingerprint(str(folder))
    assert {name for name in after if after[name] != before[name]} == {"model.safetensors"}


def test_the_hash_of_a_file_in_the_hubs_cache_is_its_name_there(folder: Path) -> None:
    blobs, name = folder / "blobs", "ab" * 32
    blobs.mkdir()
    shutil.move(folder / "model.safetensors", blobs / name)
    (folder / "model.safetensors").symlink_to(blobs / name)
    assert fingerprint(str(folder))["model.safetensors"] == name


def test_the_weight_files_are_the_shards_and_tell_their_dtypes(folder: Path) -> None:
    shards = split_into_shards(folder)
    assert [file.name for file in weight_files(folder)] == shards
    assert set(weight_dtypes(folder / shards[0]).values()) == {"F32"}


@pytest.mark.parametrize("usual_file_exists", [False, True])
def test_weights_that_the_configuration_names_take_precedence(
    folder: Path, usual_file_exists: bool
) -> None:
    change_config(folder, transformers_weights="other.safetensors")
    weights = load_file(folder / "model.safetensors")
    save_file(
        {n: t * 2 for n, t in weights.items()},
        folder / "other.safetensors",
        metadata={"format": "pt"},
    )
    if not usual_file_exists:
        remove_weights(folder)
    assert [file.name for file in weight_files(folder)] == ["other.safetensors"]
    assert {name for name in fingerprint(str(folder)) if "safetensors" in name} == {
        "other.safetensors"
    }
    loaded = load_base(str(folder), "fp32", "fp32").model.state_dict()
    assert torch.equal(loaded["model.norm.weight"], 2 * weights["model.norm.weight"])


def test_the_dtypes_of_a_pickle_are_read_without_its_numbers(folder: Path) -> None:
    save_as_pickle(folder)
    (file,) = weight_files(folder)
    assert file.name == "pytorch_model.bin"
    assert set(weight_dtypes(file).values()) == {"float32"}
