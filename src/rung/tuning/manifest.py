"""`manifest.json`: what another person needs to know to run the study again."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

import torch

from rung.data.batches import ORDER_VERSION
from rung.data.prepare import Data
from rung.model.files import fingerprint
from rung.model.load import Base
from rung.recipe import Recipe
from rung.study.folder import FORMAT, SCHEMA
from rung.version import __version__

LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "optuna",
    "safetensors",
    "scipy",
)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the study was started."""

    platform: str
    cores: int | None
    threads: int
    device: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """See the module.

    Attributes:
        model_files: the SHA-256 of each file of the model, by its name.
        data_sha256: of the rows and of how they were tokenized.
        order: the version of the rule that orders the rows.
        rows: of each split.
    """

    schema: int
    format: int
    versions: Mapping[str, str]
    machine: Machine
    model_source: str
    model_files: Mapping[str, str]
    precision: str
    seed: int
    data_sha256: str
    order: int
    rows: Mapping[str, int]


def make_manifest(recipe: Recipe, base: Base, data: Data) -> Manifest:
    device = torch.cuda.get_device_name() if base.device.type == "cuda" else platform.machine()
    return Manifest(
        schema=SCHEMA,
        format=FORMAT,
        versions={
            "python": platform.python_version(),
            "rung": __version__,
            **{name: version(name) for name in LIBRARIES},
        },
        machine=Machine(platform.platform(), os.cpu_count(), torch.get_num_threads(), device),
        model_source=base.source,
        model_files=fingerprint(base.source),
        precision=str(base.dtype).removeprefix("torch."),
        seed=recipe.seed,
        data_sha256=data.stats.digest,
        order=ORDER_VERSION,
        rows={name: len(rows) for name, rows in data.splits.items()},
    )
