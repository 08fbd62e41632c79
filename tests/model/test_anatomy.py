"""The counts and sizes of a model agree with published ones, with transformers and with PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from tests.architectures import ARCHITECTURES, make
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from rung.defaults import DEFAULT_MODEL
from rung.errors import ModelError, TargetError
from rung.model.anatomy import Anatomy, anatomy
from rung.model.load import load_base
from rung.types import Setting

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "num_key_value_heads": 8,
}
EIGHT = LLAMA | {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 14336,
    "tie_word_embeddings": False,
}
THREE = LLAMA | {
    "hidden_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "intermediate_size": 8192,
    "tie_word_embeddings": True,
}


def setting(rank: int, targets: str) -> Setting:
    return Setting(rank, 2 * rank, targets, 1e-3)


@pytest.mark.parametrize(
    ("config", "gigabytes"),
    [
        (EIGHT, {"float32": "32.1", "int8": "9.1", "nf4": "5.59"}),
        (THREE, {"float32": "12.9", "int8": "3.6", "nf4": "2.2"}),
    ],
)
def test_footprints_are_those_that_a_course_published(
    config: dict[str, Any], gigabytes: dict[str, str]
) -> None:
    reported = Anatomy(config, "llama").footprint().reported
    for kind, text in gigabytes.items():
        digits = len(text.partition(".")[2])
        assert f"{reported[kind] / 1e9:.{digits}f}" == text


@pytest.mark.parametrize(
    ("config", "rank", "targets", "parameters", "megabytes"),
    [
        (EIGHT, 32, "attention", 27_262_976, 109.1),
        (THREE, 32, "attention", 18_350_080, 73.4),
        (THREE, 256, "attention+mlp", 389_021_696, 1556.1),
    ],
)
def test_adapter_sizes_are_those_that_a_course_published(
    config: dict[str, Any], rank: int, targets: str, parameters: int, megabytes: float
) -> None:
    adapter = Anatomy(config, "llama").adapter(setting(rank, targets))
    assert adapter.parameters == parameters
    assert round(4 * adapter.parameters / 1e6, 1) == megabytes


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("targets", ["attention", "mlp", "all-linear", "attention+lm_head"])
def test_an_adapter_has_as_many_parameters_as_pefts_own(name: str, targets: str) -> None:
    config = ARCHITECTURES[name]()
    model = Anatomy(config.to_dict(), name)
    if name == "mixtral" and targets == "mlp":
        assert "mlp" not in model.groups(), "its MLP is nothing but stacked experts"
        return
    adapter = model.adapter(setting(4, targets))
    wrapped = peft.get_peft_model(
        make(name), peft.LoraConfig(r=4, target_modules=list(adapter.target_modules))
    )
    assert adapter.parameters == wrapped.get_nb_trainable_parameters()[0]
    assert adapter.parameters == sum(
        eval(adapter.arithmetic(module).replace("×", "*").replace("·", "*"))
        for module in adapter.modules
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_footprints_are_what_the_loaded_model_reports(name: str, tmp_path: Path) -> None:
    make(name).save_pretrained(tmp_path)
    model = anatomy(str(tmp_path))
    options = {
        "float32": {"dtype": torch.float32},
        "bfloat16": {"dtype": torch.bfloat16},
        "int8": {
            "dtype": torch.bfloat16,
            "quantization_config": BitsAndBytesConfig(load_in_8bit=True),
        },
        "nf4": {
            "dtype": torch.bfloat16,
            "quantization_config": BitsAndBytesConfig(load_in_4bit=True),
        },
    }
    loaded = {
        kind: AutoModelForCausalLM.from_pretrained(tmp_path, **own) for kind, own in options.items()
    }
    assert {kind: own.get_memory_footprint() for kind, own in loaded.items()} == {
        kind: model.footprint().reported[kind] for kind in options
    }
    assert model.parameters == loaded["float32"].num_parameters()
    assert sum(own.count * own.parameters for own in model.modules) == model.parameters


@pytest.mark.parametrize(
    ("quantization", "kind"), [("nf4", "nf4"), ("nf4-single", "nf4_single"), ("int8", "int8")]
)
def test_the_footprint_with_scales_is_what_the_loaded_tensors_take(
    tiny_folder: Path, quantization: str, kind: str
) -> None:
    base = load_base(str(tiny_folder), quantization, "bf16")
    size = base.footprint_bytes
    for module in base.model.modules():
        state, scales = getattr(getattr(module, "weight", None), "quant_state", None), None
        if quantization == "int8":
            scales = getattr(getattr(module, "weight", None), "SCB", None)
            size += 0 if scales is None else scales.numel() * 4
        elif state is not None:
            inner = [state.offset, state.state2.absmax, state.state2.code] if state.nested else []
            size += sum(t.numel() * t.element_size() for t in [state.absmax, state.code, *inner])
    assert anatomy(str(tiny_folder)).footprint().with_scales[kind] == size


def test_alike_modules_are_one_entry_with_shape_and_count() -> None:
    model = Anatomy(EIGHT, "llama")
    modules = {module.name: module for module in model.modules}
    key = modules["model.layers.*.self_attn.k_proj"]
    assert (key.kind, key.inputs, key.outputs, key.count) == ("attention", 4096, 1024, 32)
    assert modules["model.embed_tokens"].kind == "embedding"
    assert modules["lm_head"].kind == "head"
    assert {own.kind for own in modules.values()} == {
        "embedding",
        "attention",
        "mlp",
        "norm",
        "head",
    }
    assert model.groups()["mlp"] == ("down_proj", "gate_proj", "up_proj")
    assert model.groups()["lm_head"] == ("lm_head",)


def test_layers_of_different_shapes_are_counted_separately() -> None:
    config = ARCHITECTURES["qwen2-moe"]().to_dict() | {
        "mlp_only_layers": [0],
        "num_hidden_layers": 3,
    }
    del config["layer_types"]
    modules = {(own.name, own.outputs): own for own in Anatomy(config, "mixed").modules}
    assert modules["model.layers.*.mlp.gate_proj", 96].count == 1
    assert modules["model.layers.*.mlp.experts.gate_up_proj", 64].count == 2
    assert modules["model.layers.*.mlp.experts.gate_up_proj", 64].kind == "experts"


@pytest.mark.parametrize(("config", "tied"), [(EIGHT, False), (THREE, True)])
def test_a_tied_head_counts_once(config: dict[str, Any], tied: bool) -> None:
    model = Anatomy(config, "llama")
    assert model.tied == tied
    head = next(module for module in model.modules if module.kind == "head")
    assert head.parameters == (0 if tied else 128256 * 4096)


@pytest.mark.slow
def test_the_footprint_of_the_default_is_what_the_loaded_model_reports() -> None:
    # Footprints count weights that are not quantised in bfloat16, on any machine.
    base, model = load_base(DEFAULT_MODEL, precision="bf16"), anatomy(DEFAULT_MODEL)
    assert model.footprint().reported["nf4"] == base.footprint_bytes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": "llama",', "line 1: this is not JSON"),
        ('{"hidden_size": 8}', "has no 'model_type'"),
        ("[1]", "has no 'model_type'"),
        (
            '{"model_type": "bert", "architectures": ["BertForMaskedLM"]}',
            "not a causal language model .BertForMaskedLM.",
        ),
        ('{"model_type": "vit"}', "not a causal language model"),
        ('{"model_type": "t5", "is_encoder_decoder": true}', "not a causal language model"),
        ('{"model_type": "mystery"}', "unknown architecture .model_type 'mystery'."),
        (
            '{"model_type": "mystery", "auto_map": {"AutoConfig": "c.C"}}',
            "code of its own, which Rung never runs",
        ),
        (
            '{"model_type": "llama", "hidden_size": 7, "num_attention_heads": 3}',
            "transformers builds no model",
        ),
        ('{"model_type": "llama", "num_hidden_layers": "many"}', "transformers builds no model"),
    ],
)
def test_a_configuration_of_no_usable_model_is_refused_with_the_reason(
    text: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "config.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=message):
        anatomy(str(file))


def test_code_that_comes_with_a_model_is_never_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "c.py").write_text(f"open({str(ran)!r}, 'w')", encoding="utf-8")
    config = {
        "model_type": "mystery",
        "auto_map": {"AutoConfig": "c.C", "AutoModelForCausalLM": "c.M"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for use in (anatomy, load_base):
        with pytest.raises(ModelError):
            use(str(tmp_path))
    assert not ran.exists()


def test_targets_that_the_model_does_not_have_are_refused() -> None:
    with pytest.raises(TargetError, match="valid targets are"):
        Anatomy(EIGHT, "llama").adapter(setting(8, "c_attn"))


def test_the_method_of_a_quantised_checkpoint_is_known() -> None:
    assert (
        Anatomy(EIGHT | {"quantization_config": {"quant_method": "awq"}}, "llama").quantized_by
        == "awq"
    )
