from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.architectures import ARCHITECTURES, SPECIAL_ARCHITECTURES, make
from tests.tiny import tiny_llama
from torch import nn

from rung.errors import TargetError
from rung.model.targets import (
    closed_layers,
    head_name,
    last_name,
    linear_layers,
    peft_names,
    resolve,
    stacked_experts,
)

ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj"}
GROUPS: dict[str, tuple[set[str], set[str]]] = {
    "phi3": ({"qkv_proj", "o_proj"}, {"gate_up_proj", "down_proj"}),
    "gpt2": ({"c_attn", "c_proj"}, {"c_fc", "c_proj"}),
    "gpt-neox": ({"query_key_value", "dense"}, {"dense_h_to_4h", "dense_4h_to_h"}),
    "opt": ({"q_proj", "k_proj", "v_proj", "out_proj"}, {"fc1", "fc2"}),
    # The experts of a Mixtral are one stacked parameter, and its router a plain one: nothing of its MLP is adapted.
    "mixtral": (ATTENTION, set()),
    # A Qwen-MoE has an expert that every token sees, with a gate of its own.
    "qwen2-moe": (ATTENTION, MLP | {"shared_expert_gate"}),
}


def chosen(model: Any, targets: str) -> list[str]:
    layers = linear_layers(model)
    return resolve(layers, targets, head_name(model), closed_layers(model, layers))


def modules(model: Any) -> list[str]:
    return [name for name, _ in model.named_modules()]


def names(targets: str) -> set[str]:
    return {last_name(name) for name in chosen(tiny_llama(), targets)}


def by_peft(model: Any, target_modules: Any) -> set[str]:
    """The modules that PEFT adapts."""
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(target_modules=target_modules, task_type="CAUSAL_LM")
    )
    return {
        name.removeprefix("base_model.model.")
        for name, module in adapted.named_modules()
        if hasattr(module, "lora_A")
    }


def test_the_words_mean_what_they_say_on_a_llama() -> None:
    assert names("attention") == ATTENTION
    assert names("mlp") == MLP
    assert names("all-linear") == ATTENTION | MLP
    assert names("lm_head") == {"lm_head"}
    assert names("attention+lm_head") == ATTENTION | {"lm_head"}


def test_names_and_patterns_can_be_mixed() -> None:
    assert names("q_proj, v_proj") == {"q_proj", "v_proj"}
    assert names("attention,down_*") == ATTENTION | {"down_proj"}
    assert chosen(tiny_llama(), "model.layers.1.self_attn.*_proj") == [
        f"model.layers.1.self_attn.{name}_proj" for name in "qkvo"
    ]
    assert chosen(tiny_llama(), "model.layers.0.mlp.up_proj") == ["model.layers.0.mlp.up_proj"]


def test_the_order_is_the_models_and_the_head_stays_out_but_by_name() -> None:
    layers = linear_layers(tiny_llama())
    assert chosen(tiny_llama(), "all-linear") == [name for name in layers if name != "lm_head"]
    assert "lm_head" not in chosen(tiny_llama(), "*")
    assert len(layers) == 2 * 7 + 1


@pytest.mark.parametrize("wrong", ["q_porj", "", "attention,nothing", "attention++"])
def test_an_unknown_name_is_answered_with_the_valid_ones(wrong: str) -> None:
    with pytest.raises(TargetError) as error:
        names(wrong)
    assert "attention, mlp, all-linear, lm_head" in str(error.value)
    for name in ATTENTION | MLP:
        assert name in str(error.value)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_linear_is_what_peft_means_by_it(name: str) -> None:
    theirs = by_peft(make(name), "all-linear")
    if name == "mixtral":
        # PEFT goes beyond the linear layers here and adapts the stacked experts and the router, as parameters.
        beyond = {module for module in theirs if ".mlp." in module}
        assert {last_name(module) for module in beyond} == {"gate", "experts", "base_layer"}
        theirs -= beyond
    assert set(chosen(make(name), "all-linear")) == theirs


def test_experts_that_are_stacked_parameters_are_named_since_nothing_adapts_them() -> None:
    assert stacked_experts(make("mixtral")) == ["model.layers.*.mlp.experts"]
    assert stacked_experts(make("qwen2-moe")) == ["model.layers.*.mlp.experts"]
    assert stacked_experts(make("gpt-oss")) == ["model.layers.*.mlp.experts"]
    assert stacked_experts(make("llama")) == []
    assert stacked_experts(make("mamba")) == [], "a convolution's kernel is no expert"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_groups_are_told_apart_by_the_modules_names(name: str) -> None:
    model = make(name)
    attention, mlp = GROUPS.get(name, (ATTENTION, MLP))
    assert {last_name(found) for found in chosen(model, "attention")} == attention
    if mlp:
        assert {last_name(found) for found in chosen(model, "mlp")} == mlp
        assert not set(chosen(model, "mlp")) & set(chosen(model, "attention"))
    else:
        with pytest.raises(TargetError, match="no target module 'mlp'"):
            chosen(model, "mlp")
    assert len(chosen(model, "lm_head")) == 1


@pytest.mark.parametrize(
    "targets", ["attention", "mlp", "all-linear", "attention+lm_head", "lm_head"]
)
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "mixtral"])
def test_peft_finds_the_same_modules_by_the_names_it_is_given(name: str, targets: str) -> None:
    model = make(name)
    wanted = chosen(model, targets)
    assert by_peft(make(name), peft_names(modules(model), wanted)) == set(wanted)


CLOSED = {
    "deepseek-v3": {"gate_proj", "up_proj", "down_proj"},
    "qwen3-next": {"gate_proj", "up_proj", "down_proj"},
    "mamba": {"out_proj"},
}


@pytest.mark.parametrize("name", [*ARCHITECTURES, *SPECIAL_ARCHITECTURES])
def test_what_peft_would_not_find_again_is_closed(name: str) -> None:
    model = make(name)
    assert {last_name(found) for found in closed_layers(model, linear_layers(model))} == CLOSED.get(
        name, set()
    )


@pytest.mark.parametrize("name", list(SPECIAL_ARCHITECTURES))
def test_peft_finds_all_linear_layers_that_are_open(name: str) -> None:
    model = make(name)
    wanted = chosen(model, "all-linear")
    assert wanted
    assert by_peft(make(name), peft_names(modules(model), wanted)) == set(wanted)


def test_a_closed_layer_is_refused_with_the_reason_and_the_open_ones() -> None:
    with pytest.raises(TargetError) as error:
        chosen(make("mamba"), "out_proj")
    assert "No adapter can go on 'out_proj' in this model (PEFT refuses an adapter on it" in str(
        error.value
    )
    assert str(error.value).endswith("or from dt_proj, in_proj, x_proj.")
    with pytest.raises(
        TargetError, match=r"on 'mlp' in this model \(PEFT takes its name for the stacked experts"
    ):
        chosen(make("deepseek-v3"), "mlp")


def test_a_vision_tower_is_no_part_of_what_text_goes_through() -> None:
    model = make("gemma3-vision")
    assert any("vision_tower" in name and name.endswith("q_proj") for name in modules(model))
    assert not any("vision" in name or "projector" in name for name in linear_layers(model))
    assert {last_name(name) for name in chosen(model, "all-linear")} == ATTENTION | MLP
    # A name that the tower has too is written in full, so that PEFT leaves the tower alone.
    names = peft_names(modules(model), chosen(model, "q_proj"))
    assert len(names) == 2
    assert all(name.endswith("self_attn.q_proj") and "vision" not in name for name in names)


class Router(nn.Linear):
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x), x


class Named(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.T


def test_a_kind_of_linear_layer_that_does_more_is_none() -> None:
    model = nn.ModuleDict(
        {"plain": nn.Linear(4, 3), "router": Router(4, 3), "named": Named(4, 3, bias=False)}
    )
    assert list(linear_layers(model)) == ["plain", "named"]


@given(st.sets(st.sampled_from(list(linear_layers(tiny_llama()))), min_size=1))
def test_any_choice_of_layers_has_names_that_mean_it_alone(wanted: set[str]) -> None:
    layers = linear_layers(tiny_llama())
    given_names = peft_names(layers, wanted)
    assert {n for n in layers for g in given_names if n == g or n.endswith(f".{g}")} == wanted
