"""The devices that a climb can be planned for."""

from __future__ import annotations

import pytest

from rung.costs.devices import device, devices
from rung.errors import RecipeError


def test_every_device_has_its_peaks_and_their_source() -> None:
    for name, one in devices().items():
        assert name == name.lower()
        assert 8 <= one.memory_gb <= 200
        assert 50 <= one.tflops <= 2500
        assert 200 <= one.bandwidth_gb <= 10_000
        assert one.source


def test_a_device_is_found_in_any_case_and_with_spaces() -> None:
    assert device("RTX 4090") is device("rtx4090")
    assert {"t4", "l4", "a10", "a100", "h100", "rtx4090"} <= devices().keys()


def test_a_device_without_bfloat16_computes_in_float16() -> None:
    assert device("t4").precision == "fp16"
    assert device("h100").precision == "bf16"


def test_an_unknown_device_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match="no device 'tpu'; give here, or one of t4,"):
        device("tpu")
