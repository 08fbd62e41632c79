"""Devices that a climb can be planned for without having one: their memory, their peaks, and the
data sheets that say so."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from rung.errors import RecipeError

HERE = "here"
"""The name of this machine, in the place of a device's name."""


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU as its data sheet describes it. Units are decimal: a GB is 10⁹ bytes.

    Attributes:
        name: as the user writes it, such as `a100`.
        title: as its maker writes it.
        memory_gb: GB of memory.
        tflops: the peak of dense 16-bit tensor arithmetic, in TFLOPS.
        bandwidth_gb: the peak bandwidth of its memory, in GB/s.
        bf16: whether it computes in bfloat16; if not, float16 is used.
        source: the data sheet.
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
        """What a study computes in there: `bf16` or `fp16`."""
        return "bf16" if self.bf16 else "fp16"


@cache
def devices() -> dict[str, Device]:
    """All known devices by name."""
    text = files("rung.costs").joinpath("devices.json").read_text(encoding="utf-8")
    return {fields["name"]: Device(**fields) for fields in json.loads(text)}


def device(name: str) -> Device:
    """The device of that name, in any case and with or without spaces.

    Raises:
        RecipeError: there is no such device.
    """
    known = devices().get(name.lower().replace(" ", ""))
    if known is None:
        raise RecipeError(
            f"--device: there is no device '{name}'; give {HERE}, or one of {', '.join(devices())}."
        )
    return known
