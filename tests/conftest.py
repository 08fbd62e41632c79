"""Fixtures and settings that most tests share."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import settings
from tests.tiny import tiny_llama, tiny_tokenizer, write_rows

import rung.data.prepare
from rung.model.load import Base, load_base

# How long an example takes depends on the machine, so it has no deadline.
settings.register_profile("rung", deadline=None)
settings.load_profile("rung")


@pytest.fixture(autouse=True, scope="session")
def imported_libraries_are_not_searched_for_garbage() -> None:
    """Rung collects garbage before it looks at the memory, many times in a study.

    A test process has a million objects of imported libraries. Frozen, they are not visited, which
    took half of the time of a study of the tiny model.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def cache_of_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tokenised data go to a temporary folder.

    Converted models stay in the user's cache, because converting one takes 20 seconds.
    """
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rung.data.prepare, "cache_folder", lambda: folder)
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny Llama, as save_pretrained writes it."""
    folder = tmp_path_factory.mktemp("tiny") / "tiny-llama"
    tiny_llama().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_base(tiny_folder: Path) -> Base:
    """The tiny Llama in float32, not quantised."""
    return load_base(str(tiny_folder), quantization="fp32", precision="fp32")


@pytest.fixture
def exact_base(tiny_folder: Path) -> Iterator[Base]:
    """The tiny Llama in float64 throughout, so rounding can neither hide nor fake a difference."""
    import torch
    from tests.engine.rounding import throughout
    from tests.engine.setups import Loader

    with throughout(torch.float64):
        yield Loader(str(tiny_folder), "fp32", torch.float64)()


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl")
