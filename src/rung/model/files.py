"""The files of a model's folder: whether they are complete, and their dtypes and hashes.

A file that is a git LFS pointer, is truncated, or is listed in an index and missing is reported
here by its name. Further down it would break the libraries in ways that name no file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from rung.errors import ModelError

LFS_POINTER = b"version https://git-lfs"
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
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""The names that `from_pretrained` looks for, in its order; an index lists shards instead."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


def weight_files(folder: Path) -> list[Path]:
    """The files that `from_pretrained` would read the weights from.

    Raises:
        ModelError: There are none, an index is broken, or the index or the `config.json` names a
            file that is missing.
    """
    if (name := _weights_named_by_config(folder)) is not None:
        file = (folder / name).resolve()
        if not name.endswith(
            (".safetensors", ".safetensors.index.json")
        ) or not file.is_relative_to(folder.resolve()):
            raise ModelError(
                f"The config.json in '{folder}' names '{name}' as transformers_weights, which is "
                "not a safetensors file in that folder; correct the entry or remove it."
            )
        if not (folder / name).is_file():
            raise ModelError(
                f"The config.json in '{folder}' names {name} as transformers_weights, and that "
                "file is missing; download the whole model again."
            )
        return list(_shards(folder / name)) if name.endswith(".json") else [folder / name]
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return list(_shards(index))
    raise ModelError(
        f"The folder '{folder}' has no weights ({' or '.join(WEIGHT_FILES)}); give one that has "
        "them."
    )


def _weights_named_by_config(folder: Path) -> str | None:
    """The weight file that `config.json` names, which takes precedence over all others."""
    try:
        name = json.loads((folder / "config.json").read_bytes())["transformers_weights"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # `rung.model.source.read_config` reports what is wrong with the file
    return name if isinstance(name, str) else None


def _shards(index: Path) -> Iterator[Path]:
    check_not_pointer(index)
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(
            f"{index} is not an index of weights (JSON with a 'weight_map'); download the model "
            "again."
        ) from None
    if not names:
        raise ModelError(f"{index} names no files; download the whole model again.")
    for name in names:
        if not (index.parent / str(name)).is_file():
            raise ModelError(
                f"{index} names {name}, and that file is missing; download the whole model again."
            )
        yield index.parent / str(name)


def check_not_pointer(file: Path) -> None:
    """Refuse a file whose content was never downloaded.

    Raises:
        ModelError: The file is a git LFS pointer, or is empty.
    """
    with file.open("rb") as opened:
        start = opened.read(len(LFS_POINTER))
    if start == LFS_POINTER:
        raise ModelError(
            f"{file} is a git LFS pointer and not the file itself; run 'git lfs pull' in its "
            "folder, or download the model from the hub."
        )
    if not start:
        raise ModelError(f"{file} is empty; download it again.")


def check_tokenizer_files(folder: Path) -> None:
    """Check the files that the configuration and the tokenizer are read from.

    Raises:
        ModelError: One of them is a git LFS pointer, is empty, or is not JSON.
    """
    for name in ("config.json", *TOKENIZER_FILES):
        if (folder / name).is_file():
            check_not_pointer(folder / name)
            if name.endswith(".json"):
                _check_json(folder / name)


def check_no_adapter(folder: Path) -> None:
    """Refuse a model's folder with an adapter in it, which `from_pretrained` would load too.

    Raises:
        ModelError: The folder has an `adapter_config.json`.
    """
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"The model '{folder}' has an adapter beside it (adapter_config.json), and Rung trains "
            "no adapter over another adapter; remove that file, or merge the adapter with PEFT's "
            "merge_and_unload() and save the model."
        )


def check_weight_files(folder: Path) -> None:
    """Check the files that the weights are read from.

    Raises:
        ModelError: One of them is missing, a git LFS pointer, empty, truncated or broken; or an
            adapter is in the folder.
    """
    check_no_adapter(folder)
    for file in weight_files(folder):
        check_not_pointer(file)
        if file.suffix == ".safetensors":
            weight_dtypes(file)


def _check_json(file: Path) -> None:
    try:
        json.loads(file.read_bytes())
    except ValueError as error:  # bytes that are not UTF-8 too
        raise ModelError(
            f"{file} is truncated or not JSON ({str(error).splitlines()[0]}); download it again."
        ) from None


def weight_dtypes(file: Path) -> dict[str, str]:
    """The dtype of each weight in a file, by the weight's name, without reading its numbers.

    A dtype is spelt as safetensors does (`F32`, `I8`), or for a pickle as torch does (`float32`,
    `int8`).

    Raises:
        ModelError: A safetensors file is truncated or broken.
    """
    if file.suffix != ".safetensors":
        import torch

        content = torch.load(file, map_location="meta", weights_only=True)
        tensors = (
            (name, tensor) for name, tensor in content.items() if isinstance(tensor, torch.Tensor)
        )
        return {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors}
    try:
        with safe_open(file, framework="pt") as opened:
            names = opened.keys()
            return {name: opened.get_slice(name).get_dtype() for name in names}
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{file} is truncated or broken ({str(error).rstrip('.')}); download it again."
        ) from None


def fingerprint(source: str) -> dict[str, str]:
    """The SHA-256 of each file that the model and its tokenizer are read from, by its name.

    Every byte is read, except of files that the hub's cache names by their hash: only the content
    tells two sets of weights with the same path and shapes apart.

    Args:
        source: what `from_pretrained` was given: a folder, or a hub id that is in the cache by now.
    """
    folder = local_folder(source)
    if folder is None:
        return {}
    others = [folder / name for name in ("config.json", *TOKENIZER_FILES)]
    files = [*weight_files(folder), *(file for file in others if file.is_file())]
    return {str(file.relative_to(folder)): _sha256(file) for file in files}


def local_folder(source: str) -> Path | None:
    """The folder on this machine that holds the model's files; None if there is none.

    Args:
        source: a folder or a hub id.
    """
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(source, "config.json")
    return Path(config).parent if isinstance(config, str) else None


def _sha256(file: Path) -> str:
    target = file.resolve()
    if target.parent.name == "blobs" and _SHA256.fullmatch(target.name):
        return target.name
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
