"""Target modules are resolved to the layers that PEFT means, in every architecture."""

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
    head_name,
    last_name,
    linear_layers,
    peft_target_modules,
    resolve_targets,
    stacked_experts,
    star_numbers,
    unsupported_layers,
)

ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj"}
GROUPS: dict[str, tuple[set[str], set[str]]] = {
    "phi3": ({"qkv_proj", "o_proj"}, {"gate_up_proj", "down_proj"}),
    "gpt2": ({"c_attn", "c_proj"}, {"c_fc", "c_proj"}),
    "gpt-neox": ({"query_key_value", "dense"}, {"dense_h_to_4h", "dense_4h_to_h"}),
    "opt": ({"q_proj", "k_proj", "v_proj", "out_proj"}, {"fc1", "fc2"}),
    # The experts of a Mixtral are one stacked parameter, and its router is not a linear layer.
    "mixtral": (ATTENTION, set()),
    # A Qwen-MoE has a shared expert for all tokens, with a gate of its own.
    "qwen2-moe": (ATTENTION, MLP | {"shared_expert_gate"}),
}


def resolved(model: Any, targets: str) -> list[str]:
    layers = linear_layers(model)
    return resolve_targets(layers, targets, head_name(model), unsupported_layers(model, layers))


def module_names(model: Any) -> list[str]:
    return [name for name, _ in model.named_modules()]


def last_names(targets: str) -> set[str]:
    return {last_name(name) for name in resolved(tiny_llama(), targets)}


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


def test_the_groups_of_a_llama() -> None:
    assert last_names("attention") == ATTENTION
    assert last_names("mlp") == MLP
    assert last_names("all-linear") == ATTENTION | MLP
    assert last_names("lm_head") == {"lm_head"}
    assert last_names("attention+lm_head") == ATTENTION | {"lm_head"}


def test_groups_names_and_patterns_can_be_combined() -> None:
    assert last_names("q_proj, v_proj") == {"q_proj", "v_proj"}
    assert last_names("attention,down_*") == ATTENTION | {"down_proj"}
    assert resolved(tiny_llama(), "model.layers.1.self_attn.*_proj") == [
        f"model.layers.1.self_attn.{name}_proj" for name in "qkvo"
    ]
    assert resolved(tiny_llama(), "model.layers.0.mlp.up_proj") == ["model.layers.0.mlp.up_proj"]


def test_layers_are_in_the_models_order_and_only_its_name_selects_the_head() -> None:
    layers = linear_layers(tiny_llama())
    assert resolved(tiny_llama(), "all-linear") == [name for name in layers if name != "lm_head"]
    assert "lm_head" not in resolved(tiny_llama(), "*")
    assert len(layers) == 2 * 7 + 1


@pytest.mark.parametrize("wrong", ["q_porj", "", "attention,nothing", "attention++"])
def test_an_error_about_an_unknown_name_lists_the_valid_ones(wrong: str) -> None:
    with pytest.raises(TargetError) as error:
        last_names(wrong)
    assert "attention, mlp, all-linear, lm_head" in str(error.value)
    for name in ATTENTION | MLP:
        assert name in str(error.value)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_linear_is_what_peft_means_by_it(name: str) -> None:
    theirs = by_peft(make(name), "all-linear")
    if name == "mixtral":
        # Here PEFT also adapts the stacked experts and the router, as parameters.
        beyond = {module for module in theirs if ".mlp." in module}
        assert {last_name(module) for module in beyond} == {"gate", "experts", "base_layer"}
        theirs -= beyond
    assert set(resolved(make(name), "all-linear")) == theirs


def test_experts_that_are_stacked_parameters_are_found() -> None:
    assert stacked_experts(make("mixtral")) == ["model.layers.*.mlp.experts"]
    assert stacked_experts(make("qwen2-moe")) == ["model.layers.*.mlp.experts"]
    assert stacked_experts(make("gpt-oss")) == ["model.layers.*.mlp.experts"]
    assert stacked_experts(make("llama")) == []
    assert stacked_experts(make("mamba")) == [], (
        "the kernel of a convolution is not a stack of experts"
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_groups_follow_from_the_names_of_the_modules(name: str) -> None:
    model = make(name)
    attention, mlp = GROUPS.get(name, (ATTENTION, MLP))
    assert {last_name(found) for found in resolved(model, "attention")} == attention
    if mlp:
        assert {last_name(found) for found in resolved(model, "mlp")} == mlp
        assert not set(resolved(model, "mlp")) & set(resolved(model, "attention"))
    else:
        with pytest.raises(TargetError, match="no target module 'mlp'"):
            resolved(model, "mlp")
    assert len(resolved(model, "lm_head")) == 1


@pytest.mark.parametrize(
    "targets", ["attention", "mlp", "all-linear", "attention+lm_head", "lm_head"]
)
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "mixtral"])
def test_peft_finds_the_same_layers_by_the_target_modules(name: str, targets: str) -> None:
    model = make(name)
    wanted = resolved(model, targets)
    assert by_peft(make(name), peft_target_modules(module_names(model), wanted)) == set(wanted)


UNSUPPORTED = {
    "deepseek-v3": {"gate_proj", "up_proj", "down_proj"},
    "qwen3-next": {"gate_proj", "up_proj", "down_proj"},
    "mamba": {"out_proj"},
}


@pytest.mark.parametrize("name", [*ARCHITECTURES, *SPECIAL_ARCHITECTURES])
def test_layers_whose_adapter_peft_would_not_load_are_unsupported(name: str) -> None:
    model = make(name)
    assert {
        last_name(found) for found in unsupported_layers(model, linear_layers(model))
    } == UNSUPPORTED.get(name, set())


@pytest.mark.parametrize("name", list(SPECIAL_ARCHITECTURES))
def test_peft_finds_all_supported_layers_by_the_target_modules(name: str) -> None:
    model = make(name)
    wanted = resolved(model, "all-linear")
    assert wanted
    assert by_peft(make(name), peft_target_modules(module_names(model), wanted)) == set(wanted)


def test_an_error_about_an_unsupported_layer_has_the_reason_and_the_valid_names() -> None:
    with pytest.raises(TargetError) as error:
        resolved(make("mamba"), "out_proj")
    assert "No adapter can go on 'out_proj' in this model (PEFT refuses an adapter on it" in str(
        error.value
    )
    assert str(error.value).endswith("or from dt_proj, in_proj, x_proj.")
    with pytest.raises(
        TargetError, match=r"on 'mlp' in this model \(PEFT takes its name for the stacked experts"
    ):
        resolved(make("deepseek-v3"), "mlp")


def test_a_vision_tower_gets_no_adapter() -> None:
    model = make("gemma3-vision")
    assert any("vision_tower" in name and name.endswith("q_proj") for name in module_names(model))
    assert not any("vision" in name or "projector" in name for name in linear_layers(model))
    assert {last_name(name) for name in resolved(model, "all-linear")} == ATTENTION | MLP
    # The vision tower has a q_proj too, so PEFT needs the full names.
    target_modules = peft_target_modules(module_names(model), resolved(model, "q_proj"))
    assert len(target_modules) == 2
    assert all(
        name.endswith("self_attn.q_proj") and "vision" not in name for name in target_modules
    )


class Router(nn.Linear):
    """A linear layer that returns more than a product."""

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x), x


class Product(nn.Linear):
    """The plain product, written anew."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.T


def test_a_subclass_of_a_linear_layer_counts_only_if_it_is_a_plain_product() -> None:
    model = nn.ModuleDict(
        {"plain": nn.Linear(4, 3), "router": Router(4, 3), "product": Product(4, 3, bias=False)}
    )
    assert list(linear_layers(model)) == ["plain", "product"]


def test_layer_numbers_become_stars_and_each_name_is_kept_once() -> None:
    names = ["h.0.mlp.up", "h.1.mlp.up", "lm_head", "h.0.attn.q"]
    assert star_numbers(names) == ["h.*.mlp.up", "lm_head", "h.*.attn.q"]


@given(st.sets(st.sampled_from(list(linear_layers(tiny_llama()))), min_size=1))
def test_the_target_modules_of_any_layers_select_those_layers_alone(wanted: set[str]) -> None:
    layers = linear_layers(tiny_llama())
    target_modules = peft_target_modules(layers, wanted)
    assert {n for n in layers for t in target_modules if n == t or n.endswith(f".{t}")} == wanted
