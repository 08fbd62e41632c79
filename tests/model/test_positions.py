"""The longest row by a model's configuration, with and without scaled rotary positions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import GPT2Config, LlamaConfig, MambaConfig, Qwen2Config

from rung.model.positions import max_positions

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "rope_theta": 5e5,
}
LLAMA3 |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 32768,
    "rope_theta": 1e6,
}


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (GPT2Config(n_positions=56), 56),
        (LlamaConfig(max_position_embeddings=4096), 4096),
        (LlamaConfig(max_position_embeddings=131072, rope_parameters=LLAMA3), 131072),
        (
            LlamaConfig(
                max_position_embeddings=2048, rope_parameters={"rope_type": "linear", "factor": 4.0}
            ),
            8192,
        ),
        (Qwen2Config(max_position_embeddings=32768, rope_parameters=YARN), 131072),
        (MambaConfig(), None),
        (SimpleNamespace(max_position_embeddings=-1), None),
    ],
)
def test_the_longest_row_that_a_configuration_allows(config: Any, positions: int | None) -> None:
    assert max_positions(config) == positions
