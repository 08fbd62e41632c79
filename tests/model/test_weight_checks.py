"""A model is loaded only if its weights are those that its files and its configuration say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.architectures import ARCHITECTURES, make
from tests.model.edit_folder import Weights, change_config, change_weights, save_as_pickle
from tests.tiny import tiny_llama, tiny_tokenizer

from rung.errors import ModelError
from rung.model.load import load_base
from rung.model.weight_checks import summarize_names


def with_prefix(prefix: str) -> Callable[[Weights], Weights]:
    return lambda weights: {f"{prefix}{name}": weight for name, weight in weights.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            with_prefix("_orig_mod."),
            r"while the file has _orig_mod\.lm_head\.weight, .*\(21 weights\)",
        ),
        (with_prefix("module."), r"while the file has module\.lm_head\.weight"),
        (
            lambda w: {n: t for n, t in w.items() if n != "lm_head.weight"},
            r"at random: lm_head\.weight \(1 weights\);",
        ),
        (
            lambda w: {n: t for n, t in w.items() if ".1." not in n},
            r"at random: model\.layers\.\*\.input_layernorm",
        ),
        (
            lambda w: {n: t for n, t in w.items() if n != "model.layers.0.mlp.up_proj.weight"},
            r"at random: model\.layers\.\*\.mlp\.up_proj\.weight \(1 weights\); save the whole",
        ),
    ],
)
@pytest.mark.parametrize("quantization", ["fp32", "nf4", "int8"])
def test_a_weight_that_is_in_no_file_is_never_drawn_at_random(
    folder: Path, change: Callable[[Weights], Weights], message: str, quantization: str
) -> None:
    change_weights(folder, change)
    with pytest.raises(ModelError, match=message):
        load_base(str(folder), quantization, "fp32")


def test_more_layers_in_the_configuration_than_in_the_file_are_refused(folder: Path) -> None:
    change_config(folder, num_hidden_layers=4)
    with pytest.raises(ModelError, match=r"would be drawn at random: .* \(18 weights\)"):
        load_base(str(folder), "fp32", "fp32")


def test_more_layers_in_the_file_than_in_the_configuration_are_reported(folder: Path) -> None:
    change_config(folder, num_hidden_layers=1)
    (note,) = load_base(str(folder), "fp32", "fp32").notes
    assert "model.layers.*.input_layernorm.weight" in note
    assert "(9 weights)" in note
    assert "not part of the model: ignored" in note


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("quantization", ["fp32", "nf4"])
def test_what_an_architecture_saves_is_complete(
    name: str, quantization: str, tmp_path: Path
) -> None:
    """Tied heads, and buffers that are computed anew, are rightly in no file."""
    make(name).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert load_base(str(tmp_path), quantization, "fp32").notes == ()


def test_the_weights_of_the_decoder_are_enough_where_the_head_is_tied(tmp_path: Path) -> None:
    model = make("llama-tied")
    model.model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    base = load_base(str(tmp_path), "fp32", "fp32")
    assert torch.equal(base.model.lm_head.weight, model.model.embed_tokens.weight)
    assert base.notes == ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vocab_size": 384}, r"is \(98, 64\) in its file and \(384, 64\) by its config\.json"),
        (
            {"intermediate_size": 96},
            r"is \(64, 128\) in its file and \(64, 96\) by its config\.json",
        ),
    ],
)
@pytest.mark.parametrize("quantization", ["fp32", "nf4", "int8"])
def test_a_weight_of_another_shape_than_in_the_configuration_is_named(
    folder: Path, values: dict[str, Any], message: str, quantization: str
) -> None:
    change_config(folder, **values)
    with pytest.raises(ModelError, match=message):
        load_base(str(folder), quantization, "fp32")


@pytest.mark.parametrize(
    ("number", "kind"), [(float("nan"), "NaN"), (float("inf"), "(NaN|infinite numbers)")]
)
@pytest.mark.parametrize("quantization", ["fp32", "nf4", "nf4-single", "int8"])
@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp.down_proj.weight", "model.embed_tokens.weight"]
)
def test_a_weight_that_is_not_finite_is_named(
    folder: Path, number: float, kind: str, quantization: str, name: str
) -> None:
    def spoil(weights: Weights) -> Weights:
        weights[name][1, 2] = number
        return weights

    change_weights(folder, spoil)
    with pytest.raises(ModelError, match=rf"The weight {name} of .* has {kind} in it"):
        load_base(str(folder), quantization, "fp32")


def test_a_weight_that_is_too_large_for_float16_is_named_with_the_precision(folder: Path) -> None:
    def enlarge(weights: Weights) -> Weights:
        weights["model.norm.weight"][0] = 1e5
        return weights

    change_weights(folder, enlarge)
    with pytest.raises(
        ModelError, match=r"infinite numbers in it, as float16; .* or another --precision"
    ):
        load_base(str(folder), "fp32", "fp16")
    load_base(str(folder), "fp32", "fp32")


def test_numbers_without_their_scales_are_refused(folder: Path) -> None:
    change_weights(
        folder, lambda w: {n: (t * 50).to(torch.int8) if t.dim() == 2 else t for n, t in w.items()}
    )
    with pytest.raises(
        ModelError,
        match=r"stores lm_head\.weight in I8, and its config\.json has no quantization_config",
    ):
        load_base(str(folder), "bf16", "fp32")


@pytest.mark.parametrize("stored", ["safetensors", "pickle"])
@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.int8, "(I8|int8)"),
        (torch.bool, "(BOOL|bool)"),
        (torch.complex64, "(C64|complex64)"),
        (torch.float8_e4m3fn, "(F8_E4M3|float8_e4m3fn)"),
    ],
)
def test_a_single_weight_that_is_not_a_float_is_refused(
    folder: Path, dtype: torch.dtype, name: str, stored: str
) -> None:
    change_weights(
        folder, lambda w: {**w, "model.layers.1.mlp.up_proj.weight": torch.ones(128, 64).to(dtype)}
    )
    if stored == "pickle":
        save_as_pickle(folder)
    with pytest.raises(
        ModelError,
        match=rf"stores model\.layers\.1\.mlp\.up_proj\.weight in {name}, and its config",
    ):
        load_base(str(folder), "nf4", "fp32")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("stored", ["safetensors", "pickle"])
def test_floats_of_any_usual_width_are_accepted(
    folder: Path, dtype: torch.dtype, stored: str
) -> None:
    change_weights(folder, lambda w: {n: t.to(dtype) for n, t in w.items()})
    expected = load_file(folder / "model.safetensors")["lm_head.weight"].float()
    if stored == "pickle":
        save_as_pickle(folder)
    assert torch.equal(load_base(str(folder), "fp32", "fp32").model.lm_head.weight, expected)


def test_masks_in_the_file_are_not_taken_for_weights(folder: Path) -> None:
    change_weights(
        folder, lambda w: {**w, "model.layers.0.self_attn.bias": torch.ones(4, 4, dtype=torch.bool)}
    )
    (note,) = load_base(str(folder), "fp32", "fp32").notes
    assert "model.layers.*.self_attn.bias (1 weights)" in note


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (
            "layers.1.block_sparse_moe.experts",
            r"at random: model\.layers\.\*\.mlp\.experts\.down_proj",
        ),
        (
            "experts.3.",
            r"experts\.down_proj of .* is \(3, 64, 96\) in its file and \(4, 64, 96\) by its conf",
        ),
        (
            "experts.2.w1",
            r"cannot be loaded \(We encountered some issues during automatic conversion of",
        ),
    ],
)
def test_missing_experts_are_reported(missing: str, message: str, tmp_path: Path) -> None:
    """transformers stacks a layer's experts from the file, and tells nobody which it missed."""
    make("mixtral").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    complete = load_file(tmp_path / "model.safetensors")
    weights = {name: weight for name, weight in complete.items() if missing not in name}
    assert 0 < len(weights) < len(complete)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=message):
        load_base(str(tmp_path), "fp32", "fp32")


def test_an_adapter_in_the_models_folder_is_refused(folder: Path) -> None:
    model = peft.get_peft_model(
        tiny_llama(), peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    model.save_pretrained(folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has an adapter beside it \(adapter_config\.json\)"):
        load_base(str(folder), "fp32", "fp32")
    (folder / "config.json").unlink()
    with pytest.raises(
        ModelError, match=r"has an adapter \(adapter_config\.json\) and no model; give the model"
    ):
        load_base(str(folder), "fp32", "fp32")


def test_names_are_summarised_with_stars_and_a_count() -> None:
    names = [f"model.layers.{layer}.{part}.weight" for part in "dcba" for layer in range(3)]
    assert summarize_names(names) == (
        "model.layers.*.a.weight, model.layers.*.b.weight, model.layers.*.c.weight "
        "and 1 more names (12 weights)"
    )
    assert summarize_names(["lm_head.weight"]) == "lm_head.weight (1 weights)"
