"""A quantised checkpoint is used as it is stored, or refused with a remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.edit_folder import change_config, change_weights
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from rung.errors import ModelError
from rung.model.load import dense_weight, load_base
from rung.model.quantization import stored_quantization, unquantized_model
from rung.model.targets import linear_layers

BITSANDBYTES = ("nf4", "nf4-single", "int8")
NF4_CONFIG = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


@pytest.mark.parametrize("stored", BITSANDBYTES)
def test_a_checkpoint_of_bitsandbytes_is_used_as_it_is_stored_and_in_no_other_way(
    stored: str, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "stored"
    base = load_base(str(tiny_folder), stored, "fp32")
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    expected = {
        name: dense_weight(layer, torch.float32)
        for name, layer in linear_layers(base.model).items()
    }
    reloaded = load_base(str(folder), stored, "fp32")
    layers = linear_layers(reloaded.model)
    assert layers.keys() == expected.keys()
    for name, layer in layers.items():
        assert torch.equal(dense_weight(layer, torch.float32), expected[name])
    for quantization in {*BITSANDBYTES, "bf16", "fp32"} - {stored}:
        with pytest.raises(
            ModelError,
            match=f"stored in bitsandbytes' {stored} .* give --quantization {stored}, or give",
        ):
            load_base(str(folder), quantization, "fp32")
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    for quantization in ("nf4", "bf16"):
        with pytest.raises(ModelError):
            load_base(str(folder), quantization, "fp32")


@pytest.mark.parametrize(
    "method", ["gptq", "awq", "compressed-tensors", "hqq", "fp8", "torchao", "of tomorrow"]
)
def test_another_librarys_quantisation_is_refused_with_the_model_to_give(
    folder: Path, method: str
) -> None:
    change_config(folder, quantization_config={"quant_method": method, "bits": 4})
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model:\n- owner/Plain-7B\n---\n")
    with pytest.raises(
        ModelError,
        match=f"quantised by {method}, .* that it was made from, owner/Plain-7B, which Rung",
    ):
        load_base(str(folder), "nf4", "fp32")


@pytest.mark.parametrize(
    ("config", "stored"),
    [
        ({}, None),
        ({"quantization_config": {"load_in_8bit": True}}, "int8"),
        ({"quantization_config": {"load_in_4bit": True}}, "bitsandbytes in fp4"),
        (
            {"quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}},
            "nf4-single",
        ),
        (
            {
                "quantization_config": {
                    "load_in_4bit": True,
                    "bnb_4bit_quant_type": "nf4",
                    "bnb_4bit_use_double_quant": True,
                }
            },
            "nf4",
        ),
        ({"text_config": {"quantization_config": {"quant_method": "awq"}}}, "awq"),
        ({"quantization_config": {"bits": 4}}, "a method that its config.json does not name"),
    ],
)
def test_the_configuration_says_how_a_checkpoint_is_stored(
    config: dict[str, Any], stored: str | None
) -> None:
    assert stored_quantization(config) == stored


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "Qwen/Qwen2.5-7B-Instruct"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-7B-Instruct"),
        ("unsloth/llama-3-8b-bnb-4bit", "unsloth/llama-3-8b"),
        ("someone/Model-w4a16", "someone/Model"),
        ("someone/Model", None),
    ],
)
def test_the_name_of_a_quantised_model_tells_what_it_was_made_from(
    name: str, original: str | None
) -> None:
    assert unquantized_model(name, None) == original


@pytest.mark.parametrize(
    ("quantization", "config"),
    [
        ("nf4", {**NF4_CONFIG, "bnb_4bit_use_double_quant": True}),
        ("nf4-single", NF4_CONFIG),
        ("int8", {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    ],
)
def test_plain_weights_are_refused_where_the_configuration_says_quantised(
    folder: Path, quantization: str, config: dict[str, Any]
) -> None:
    change_config(folder, quantization_config=config)
    with pytest.raises(
        ModelError,
        match=rf"q_proj\.weight of .* is plain float32 in its file, but {quantization} by the ",
    ):
        load_base(str(folder), quantization, "fp32")


@pytest.mark.parametrize(
    ("kind", "double", "message"),
    [
        ("fp4", False, "is fp4, blocks of 64 in its file"),
        ("nf4", True, "is nf4, blocks of 64, double in its file"),
    ],
)
def test_another_kind_of_four_bits_than_the_configuration_says_is_refused(
    folder: Path, kind: str, double: bool, message: str
) -> None:
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=double
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, device_map={"": "cpu"}
    )
    model.save_pretrained(folder)
    change_config(folder, quantization_config=NF4_CONFIG)
    with pytest.raises(
        ModelError,
        match=rf"q_proj\.weight of .* {message}, but nf4-single by the quantization_config",
    ):
        load_base(str(folder), "nf4-single", "fp32")


def test_eight_bits_without_their_scales_are_refused(folder: Path) -> None:
    config = BitsAndBytesConfig(load_in_8bit=True)
    AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, device_map={"": "cpu"}
    ).save_pretrained(folder)
    change_weights(
        folder, lambda w: {n: t for n, t in w.items() if not n.endswith(("SCB", "weight_format"))}
    )
    with pytest.raises(
        ModelError,
        match="is int8 without its scales in its file, but int8 by the quantization_config",
    ):
        load_base(str(folder), "int8", "fp32")
