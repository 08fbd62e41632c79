"""Devices that a climb can be planned for without having one: their memory and their peaks, and who says so."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from rung.errors import RecipeError

HERE = "here"


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU by its data sheet: GB of memory, dense tensor TFLOPS in 16 bits, GB/s of bandwidth, all by powers of ten.

    `bf16` says whether it multiplies bfloat16; without it float16 is computed in.
    """

    name: str
    title: str
    memory_gb: float
    tflops: float
    bandwidth_gb: float
    bf16: bool
    source: str

    @property
    def precision(self) -> str:
        return "bf16" if self.bf16 else "fp16"


@cache
def devices() -> dict[str, Device]:
    """All that are known, by name."""
    text = files("rung.costs").joinpath("devices.json").read_text(encoding="utf-8")
    return {found["name"]: Device(**found) for found in json.loads(text)}


def device(name: str) -> Device:
    """The device of that name.

    Raises:
        RecipeError: there is none.
    """
    found = devices().get(name.lower().replace(" ", ""))
    if found is None:
        raise RecipeError(
            f"--device: there is no device '{name}'; give {HERE}, or one of {', '.join(devices())}."
        )
    return found
