from __future__ import annotations

import pytest
import torch
from tests.tiny import tiny_llama
from transformers import AutoModelForCausalLM, GPTNeoXConfig, PhiConfig

from rung.errors import TargetError
from rung.model.targets import last_name, linear_layers, resolve

ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj"}


def names(targets: str) -> set[str]:
    return {last_name(name) for name in resolve(linear_layers(tiny_llama()), targets)}


def test_the_words_mean_what_they_say_on_a_llama() -> None:
    assert names("attention") == ATTENTION
    assert names("mlp") == MLP
    assert names("all-linear") == ATTENTION | MLP


def test_names_and_patterns_can_be_mixed() -> None:
    assert names("q_proj, v_proj") == {"q_proj", "v_proj"}
    assert names("attention,down_*") == ATTENTION | {"down_proj"}


def test_the_order_is_the_models_and_the_head_stays_out() -> None:
    layers = linear_layers(tiny_llama())
    assert resolve(layers, "all-linear") == list(layers)
    assert "lm_head" not in layers
    assert len(layers) == 2 * 7


@pytest.mark.parametrize("wrong", ["q_porj", "", "attention,nothing"])
def test_an_unknown_name_is_answered_with_the_valid_ones(wrong: str) -> None:
    with pytest.raises(TargetError) as error:
        names(wrong)
    assert "attention, mlp, all-linear" in str(error.value)
    for name in ATTENTION | MLP:
        assert name in str(error.value)


@pytest.mark.parametrize(
    ("config", "attention", "mlp"),
    [
        (GPTNeoXConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=32),
         {"query_key_value", "dense"}, {"dense_h_to_4h", "dense_4h_to_h"}),
        (PhiConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=32),
         {"q_proj", "k_proj", "v_proj", "dense"}, {"fc1", "fc2"}),
    ],
)  # fmt: skip
def test_other_architectures_are_told_apart_by_their_modules_names(
    config: object, attention: set[str], mlp: set[str]
) -> None:
    with torch.device("meta"):
        layers = linear_layers(AutoModelForCausalLM.from_config(config))
    assert {last_name(name) for name in resolve(layers, "attention")} == attention
    assert {last_name(name) for name in resolve(layers, "mlp")} == mlp
