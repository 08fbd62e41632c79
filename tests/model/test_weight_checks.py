"""What is loaded is held to what the files and the configuration say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.architectures import ARCHITECTURES, make
from tests.tiny import tiny_llama, tiny_tokenizer
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from rung.errors import ModelError
from rung.model.anatomy import Anatomy
from rung.model.load import check_files, dense_weight, load_base
from rung.model.sound import check_writes, quantization_of, unquantised
from rung.model.targets import linear_layers

Weights = dict[str, torch.Tensor]


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's folder, to be changed."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def change_weights(folder: Path, change: Callable[[Weights], Weights]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def change_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def renamed(prefix: str) -> Callable[[Weights], Weights]:
    return lambda weights: {f"{prefix}{name}": weight for name, weight in weights.items()}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (renamed("_orig_mod."), r"while the file has _orig_mod\.lm_head\.weight, .*\(21 weights\)"),
        (renamed("module."), r"while the file has module\.lm_head\.weight"),
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
            r"at random: model\.layers\.\*\.mlp\.up_proj\.weight \(1 weights\); save the whole model",
        ),
    ],
)
@pytest.mark.parametrize("quantization", ["fp32", "nf4", "int8"])
def test_a_weight_that_is_in_no_file_is_never_drawn_at_random(
    folder: Path, change: Callable[[Weights], Weights], says: str, quantization: str
) -> None:
    change_weights(folder, change)
    with pytest.raises(ModelError, match=says):
        load_base(str(folder), quantization, "fp32")


def test_more_layers_in_the_configuration_than_in_the_file(folder: Path) -> None:
    change_config(folder, num_hidden_layers=4)
    with pytest.raises(ModelError, match=r"would be drawn at random: .* \(18 weights\)"):
        load_base(str(folder), "fp32", "fp32")


def test_more_layers_in_the_file_than_in_the_configuration_are_told(folder: Path) -> None:
    change_config(folder, num_hidden_layers=1)
    (note,) = load_base(str(folder), "fp32", "fp32").notes
    assert "model.layers.*.input_layernorm.weight" in note
    assert "(9 weights)" in note
    assert "no part of the model: left out" in note


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("quantization", ["fp32", "nf4"])
def test_what_an_architecture_saves_is_whole(name: str, quantization: str, tmp_path: Path) -> None:
    """Tied heads and buffers that are made anew are rightly in no file."""
    make(name).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert load_base(str(tmp_path), quantization, "fp32").notes == ()


def test_the_weights_of_the_decoder_alone_do_where_the_head_is_tied(tmp_path: Path) -> None:
    model = make("llama-tied")
    model.model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    found = load_base(str(tmp_path), "fp32", "fp32")
    assert torch.equal(found.model.lm_head.weight, model.model.embed_tokens.weight)
    assert found.notes == ()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vocab_size": 384}, r"is \(98, 64\) in its file and \(384, 64\) by its config\.json"),
        (
            {"intermediate_size": 96},
            r"is \(64, 128\) in its file and \(64, 96\) by its config\.json",
        ),
    ],
)
@pytest.mark.parametrize("quantization", ["fp32", "nf4", "int8"])
def test_a_shape_that_the_configuration_does_not_have_is_named(
    folder: Path, changes: dict[str, Any], says: str, quantization: str
) -> None:
    change_config(folder, **changes)
    with pytest.raises(ModelError, match=says):
        load_base(str(folder), quantization, "fp32")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("quantization", ["fp32", "nf4", "nf4-single", "int8"])
@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp.down_proj.weight", "model.embed_tokens.weight"]
)
def test_a_weight_that_is_no_number_is_named(
    folder: Path, number: float, quantization: str, name: str
) -> None:
    def spoil(weights: Weights) -> Weights:
        weights[name][1, 2] = number
        return weights

    change_weights(folder, spoil)
    with pytest.raises(
        ModelError, match=rf"The weight {name} of .* has (NaN|infinite numbers) in it"
    ):
        load_base(str(folder), quantization, "fp32")


def test_what_is_too_large_for_float16_is_said_with_the_precision(folder: Path) -> None:
    def enlarge(weights: Weights) -> Weights:
        weights["model.norm.weight"][0] = 1e5
        return weights

    change_weights(folder, enlarge)
    with pytest.raises(
        ModelError, match=r"infinite numbers in it, as float16; .* or another --precision"
    ):
        load_base(str(folder), "fp32", "fp16")
    load_base(str(folder), "fp32", "fp32")


KEPT = ("nf4", "nf4-single", "int8")


@pytest.mark.parametrize("kept", KEPT)
def test_a_checkpoint_of_bitsandbytes_is_used_as_it_is_kept_and_in_no_other_way(
    kept: str, tiny_folder: Path, tmp_path: Path
) -> None:
    base = load_base(str(tiny_folder), kept, "fp32")
    base.model.save_pretrained(tmp_path / "kept")
    base.tokenizer.save_pretrained(tmp_path / "kept")
    wanted = {
        name: dense_weight(layer, torch.float32)
        for name, layer in linear_layers(base.model).items()
    }
    again = load_base(str(tmp_path / "kept"), kept, "fp32")
    for name, layer in linear_layers(again.model).items():
        assert torch.equal(dense_weight(layer, torch.float32), wanted[name])
    for asked in {*KEPT, "bf16", "fp32"} - {kept}:
        with pytest.raises(
            ModelError,
            match=f"kept in bitsandbytes' {kept}, .* give --quantization {kept}, or give",
        ):
            load_base(str(tmp_path / "kept"), asked, "fp32")
    config = json.loads((tmp_path / "kept" / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "kept" / "config.json").write_text(json.dumps(config))
    for asked in ("nf4", "bf16"):
        with pytest.raises(ModelError):
            load_base(str(tmp_path / "kept"), asked, "fp32")


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
    ("config", "says"),
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
def test_how_a_checkpoint_is_kept(config: dict[str, Any], says: str | None) -> None:
    assert quantization_of(config) == says


@pytest.mark.parametrize(
    ("spec", "plain"),
    [
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "Qwen/Qwen2.5-7B-Instruct"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-7B-Instruct"),
        ("unsloth/llama-3-8b-bnb-4bit", "unsloth/llama-3-8b"),
        ("someone/Model-w4a16", "someone/Model"),
        ("someone/Model", None),
    ],
)
def test_the_plain_model_by_its_name(spec: str, plain: str | None) -> None:
    assert unquantised(spec, None) == plain


def test_numbers_without_their_scales_are_refused(folder: Path) -> None:
    change_weights(
        folder, lambda w: {n: (t * 50).to(torch.int8) if t.dim() == 2 else t for n, t in w.items()}
    )
    with pytest.raises(
        ModelError,
        match=r"keeps lm_head\.weight in I8, and its config\.json has no quantization_config",
    ):
        load_base(str(folder), "bf16", "fp32")


@pytest.mark.parametrize("kept", ["safetensors", "pickle"])
@pytest.mark.parametrize(
    ("dtype", "said"),
    [
        (torch.int8, "(I8|int8)"),
        (torch.bool, "(BOOL|bool)"),
        (torch.complex64, "(C64|complex64)"),
        (torch.float8_e4m3fn, "(F8_E4M3|float8_e4m3fn)"),
    ],
)
def test_of_its_own_a_weight_is_a_float(
    folder: Path, dtype: torch.dtype, said: str, kept: str
) -> None:
    change_weights(
        folder, lambda w: {**w, "model.layers.1.mlp.up_proj.weight": torch.ones(128, 64).to(dtype)}
    )
    if kept == "pickle":
        as_pickle(folder)
    with pytest.raises(
        ModelError, match=rf"keeps model\.layers\.1\.mlp\.up_proj\.weight in {said}, and its config"
    ):
        load_base(str(folder), "nf4", "fp32")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kept", ["safetensors", "pickle"])
def test_floats_of_any_usual_width_are_weights(folder: Path, dtype: torch.dtype, kept: str) -> None:
    change_weights(folder, lambda w: {n: t.to(dtype) for n, t in w.items()})
    wanted = load_file(folder / "model.safetensors")["lm_head.weight"].float()
    if kept == "pickle":
        as_pickle(folder)
    assert torch.equal(load_base(str(folder), "fp32", "fp32").model.lm_head.weight, wanted)


def test_masks_in_the_file_are_no_weights(folder: Path) -> None:
    change_weights(
        folder, lambda w: {**w, "model.layers.0.self_attn.bias": torch.ones(4, 4, dtype=torch.bool)}
    )
    (note,) = load_base(str(folder), "fp32", "fp32").notes
    assert "model.layers.*.self_attn.bias (1 weights)" in note


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


FOUR = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


@pytest.mark.parametrize(
    ("asked", "config"),
    [
        ("nf4", {**FOUR, "bnb_4bit_use_double_quant": True}),
        ("nf4-single", FOUR),
        ("int8", {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    ],
)
def test_plain_weights_are_not_what_a_configuration_calls_quantised(
    folder: Path, asked: str, config: dict[str, Any]
) -> None:
    change_config(folder, quantization_config=config)
    with pytest.raises(
        ModelError,
        match=rf"q_proj\.weight of .* is plain float32 in its file, and {asked} by the quant",
    ):
        load_base(str(folder), asked, "fp32")


@pytest.mark.parametrize(
    ("kind", "double", "says"),
    [
        ("fp4", False, "is fp4, blocks of 64 in its file"),
        ("nf4", True, "is nf4, blocks of 64, double in its file"),
    ],
)
def test_four_bits_of_another_kind_than_the_configuration_says(
    folder: Path, tmp_path: Path, kind: str, double: bool, says: str
) -> None:
    how = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=double
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=how, device_map={"": "cpu"}
    )
    model.save_pretrained(folder)
    change_config(folder, quantization_config=FOUR)
    with pytest.raises(
        ModelError, match=rf"q_proj\.weight of .* {says}, and nf4-single by the quantization_config"
    ):
        load_base(str(folder), "nf4-single", "fp32")


def test_eight_bits_without_their_scales(folder: Path) -> None:
    how = BitsAndBytesConfig(load_in_8bit=True)
    AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=how, device_map={"": "cpu"}
    ).save_pretrained(folder)
    change_weights(
        folder, lambda w: {n: t for n, t in w.items() if not n.endswith(("SCB", "weight_format"))}
    )
    with pytest.raises(
        ModelError,
        match="is int8 without its scales in its file, and int8 by the quantization_config",
    ):
        load_base(str(folder), "int8", "fp32")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("llama", "LlamaForRewardModel"),
        ("llama", "LlamaForTokenClassification"),
        ("gpt2", "GPT2DoubleHeadsModel"),
        ("llama", "MistralModel"),
        ("bart", "BartForConditionalGeneration"),
        ("whisper", "WhisperForConditionalGeneration"),
        ("t5", "T5Model"),
    ],
)
@pytest.mark.parametrize("check", [check_writes, lambda spec, config: Anatomy(dict(config), spec)])
def test_what_does_not_write_is_refused(kind: str, name: str, check: Callable[..., object]) -> None:
    with pytest.raises(ModelError, match=rf"The model 'x' is no causal language model \({name}\)"):
        check("x", {"model_type": kind, "architectures": [name]})


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("llama", "LlamaForCausalLM"),
        ("llama", "LlamaModel"),
        ("gpt2", "GPT2LMHeadModel"),
        ("gpt2", "GPT2Model"),
        ("gemma3", "Gemma3ForConditionalGeneration"),
        ("bert", "BertLMHeadModel"),
        ("unknown", "UnknownForCausalLM"),
    ],
)
def test_what_writes_is_let_pass(kind: str, name: str) -> None:
    check_writes("x", {"model_type": kind, "architectures": [name]})


def test_a_decoder_whose_configuration_speaks_of_an_encoder_is_refused_before_anything_is_read(
    folder: Path,
) -> None:
    change_config(folder, is_encoder_decoder=True)
    with pytest.raises(ModelError, match="has an encoder and a decoder"):
        check_files(str(folder))
    # The decoder of such a model, saved for itself.
    check_writes(
        "x",
        {"model_type": "bart", "architectures": ["BartForCausalLM"], "is_encoder_decoder": False},
    )


def test_a_classifier_is_no_model_that_writes(folder: Path) -> None:
    change_config(folder, architectures=["LlamaForSequenceClassification"])
    with pytest.raises(
        ModelError, match=r"no causal language model \(LlamaForSequenceClassification\)"
    ):
        load_base(str(folder), "fp32", "fp32")


def test_experts_that_are_not_all_there(tmp_path: Path) -> None:
    """transformers puts a layer's experts together from the file, and says what it could not to nobody."""
    make("mixtral").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    whole = load_file(tmp_path / "model.safetensors")
    for gone, says in (
        (
            "layers.1.block_sparse_moe.experts",
            r"at random: model\.layers\.\*\.mlp\.experts\.down_proj",
        ),
        (
            "experts.3.",
            r"experts\.down_proj of .* is \(3, 64, 96\) in its file and \(4, 64, 96\) by its config",
        ),
        (
            "experts.2.w1",
            r"cannot be loaded \(We encountered some issues during automatic conversion of",
        ),
    ):
        kept = {name: weight for name, weight in whole.items() if gone not in name}
        assert 0 < len(kept) < len(whole)
        save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match=says):
            load_base(str(tmp_path), "fp32", "fp32")


def test_an_adapter_beside_the_model_is_refused(folder: Path) -> None:
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
