"""The files of a model's folder: whether they are whole, what they hold, and what they are to be known again by.

A file that is a pointer of git LFS, is cut off, or is named by an index and not there is told apart here, by its name:
further down it would break the libraries in ways that name neither.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from rung.errors import ModelError

POINTER = b"version https://git-lfs"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""The names that `from_pretrained` looks for, in its order; shards stand in an index beside them."""

_BLOB = re.compile(r"[0-9a-f]{64}")


def weight_files(folder: Path) -> list[Path]:
    """The files that `from_pretrained` would read the weights from.

    Raises:
        ModelError: there are none, or an index is broken, or it or the config.json names a file that is not there.
    """
    if (name := _named_by_config(folder)) is not None:
        file = (folder / name).resolve()
        if not name.endswith(
            (".safetensors", ".safetensors.index.json")
        ) or not file.is_relative_to(folder.resolve()):
            raise ModelError(
                f"The config.json in '{folder}' names '{name}' as transformers_weights, which is no safetensors file "
                "in its folder; put that right, or take it out."
            )
        if not (folder / name).is_file():
            raise ModelError(
                f"The config.json in '{folder}' names {name} as transformers_weights, which is not there; fetch the "
                "whole model again."
            )
        return list(_shards(folder / name)) if name.endswith(".json") else [folder / name]
    for name in WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return list(_shards(index))
    raise ModelError(
        f"The folder '{folder}' has no weights ({' or '.join(WEIGHTS)}); give one that has them."
    )


def _named_by_config(folder: Path) -> str | None:
    """The file that `config.json` names for the weights, which goes before all others."""
    try:
        name = json.loads((folder / "config.json").read_bytes())["transformers_weights"]
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
    ):  # what is wrong with it, `rung.model.source.read_config` says
        return None
    return name if isinstance(name, str) else None


def _shards(index: Path) -> Iterator[Path]:
    check_pointer(index)
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(
            f"{index} is no index of weights (a 'weight_map' in JSON); fetch the model again."
        ) from None
    if not names:
        raise ModelError(f"{index} names no files; fetch the whole model again.")
    for name in names:
        if not (index.parent / str(name)).is_file():
            raise ModelError(
                f"{index} names {name}, which is not there; fetch the whole model again."
            )
        yield index.parent / str(name)


def check_pointer(file: Path) -> None:
    """
    Raises:
        ModelError: the file is a pointer of git LFS, or is empty.
    """
    with file.open("rb") as opened:
        start = opened.read(len(POINTER))
    if start == POINTER:
        raise ModelError(
            f"{file} is a pointer of git LFS and not the file itself; run 'git lfs pull' in its folder, or fetch the "
            "model from the hub."
        )
    if not start:
        raise ModelError(f"{file} is empty; fetch it again.")


def check_tokenizer(folder: Path) -> None:
    """
    Raises:
        ModelError: a file that the configuration or the tokenizer is read from is a pointer, or empty or broken.
    """
    for name in ("config.json", *TOKENIZER_FILES):
        if (folder / name).is_file():
            check_pointer(folder / name)
            if name.endswith(".json"):
                _check_json(folder / name)


def check_no_adapter(folder: Path) -> None:
    """
    Raises:
        ModelError: an adapter lies in the model's folder, which `from_pretrained` would put on the model.
    """
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"The model '{folder}' has an adapter beside it (adapter_config.json), and an adapter of an adapter is not "
            "what a study is of; take that file away, or merge the adapter with PEFT's merge_and_unload() and save the "
            "model."
        )


def check_weights(folder: Path) -> None:
    """
    Raises:
        ModelError: a file that the weights are read from is not there, or is a pointer, or empty, cut off or broken,
            or an adapter lies beside it.
    """
    check_no_adapter(folder)
    for file in weight_files(folder):
        check_pointer(file)
        if file.suffix == ".safetensors":
            dtypes(file)


def _check_json(file: Path) -> None:
    try:
        json.loads(file.read_bytes())
    except ValueError as error:  # bytes that are no UTF-8 too
        raise ModelError(
            f"{file} is cut off or no JSON ({str(error).splitlines()[0]}); fetch it again."
        ) from None


def dtypes(file: Path) -> dict[str, str]:
    """The dtype of each weight in a file: as safetensors spells it (`F32`, `I8`), or of a pickle as torch does
    (`float32`, `int8`). Their numbers are not read.

    Raises:
        ModelError: a safetensors file is cut off, or none of that format.
    """
    if file.suffix != ".safetensors":
        import torch

        held = torch.load(file, map_location="meta", weights_only=True)
        tensors = (
            (name, tensor) for name, tensor in held.items() if isinstance(tensor, torch.Tensor)
        )
        return {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors}
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{file} is cut off or broken ({str(error).rstrip('.')}); fetch it again."
        ) from None


def fingerprint(source: str) -> dict[str, str]:
    """SHA-256 of each file that the model and its tokenizer are read from, by its name.

    Every byte is read, but for files that the hub's cache already calls by their hash: the same path may hold other
    weights of the same shapes tomorrow, and nothing short of their content tells.

    Args:
        source: what `from_pretrained` was given: a folder, or a hub id whose files are here by now.
    """
    folder = snapshot(source)
    if folder is None:
        return {}
    names = [folder / name for name in ("config.json", *TOKENIZER_FILES)]
    files = [*weight_files(folder), *(file for file in names if file.is_file())]
    return {str(file.relative_to(folder)): _digest(file) for file in files}


def snapshot(source: str) -> Path | None:
    """The folder that holds a model's files on this machine, if it is here."""
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(source, "config.json")
    return Path(config).parent if isinstance(config, str) else None


def _digest(file: Path) -> str:
    blob = file.resolve()
    if blob.parent.name == "blobs" and _BLOB.fullmatch(blob.name):
        return blob.name
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
