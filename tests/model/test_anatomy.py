"""What a model is made of, against the published numbers, and against transformers and PEFT themselves."""

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
from rung.types import Candidate, Setting

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


def setting(rank: int, targets: str) -> Candidate:
    return Candidate(Setting(rank, 2 * rank, targets, 1e-3))


@pytest.mark.parametrize(
    ("config", "gigabytes"),
    [
        (EIGHT, {"float32": "32.1", "int8": "9.1", "nf4": "5.59"}),
        (THREE, {"float32": "12.9", "int8": "3.6", "nf4": "2.2"}),
    ],
)
def test_the_footprints_that_a_course_has_published(
    config: dict[str, Any], gigabytes: dict[str, str]
) -> None:
    printed = Anatomy(config, "llama").footprint().printed
    for kind, text in gigabytes.items():
        digits = len(text.partition(".")[2])
        assert f"{printed[kind] / 1e9:.{digits}f}" == text


@pytest.mark.parametrize(
    ("config", "rank", "targets", "parameters", "megabytes"),
    [
        (EIGHT, 32, "attention", 27_262_976, 109.1),
        (THREE, 32, "attention", 18_350_080, 73.4),
        (THREE, 256, "attention+mlp", 389_021_696, 1556.1),
    ],
)
def test_the_adapters_that_a_course_has_published(
    config: dict[str, Any], rank: int, targets: str, parameters: int, megabytes: float
) -> None:
    found = Anatomy(config, "llama").adapter(setting(rank, targets))
    assert found.parameters == parameters
    assert round(4 * found.parameters / 1e6, 1) == megabytes


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("targets", ["attention", "mlp", "all-linear", "attention+lm_head"])
def test_an_adapter_has_as_many_parameters_as_pefts_own(name: str, targets: str) -> None:
    config = ARCHITECTURES[name]()
    whole = Anatomy(config.to_dict(), name)
    if name == "mixtral" and targets == "mlp":
        assert "mlp" not in whole.groups(), "its MLP is nothing but stacked experts"
        return
    found = whole.adapter(setting(4, targets))
    wrapped = peft.get_peft_model(
        make(name), peft.LoraConfig(r=4, target_modules=list(found.target_modules))
    )
    assert found.parameters == wrapped.get_nb_trainable_parameters()[0]
    assert found.parameters == sum(
        eval(found.arithmetic(s).replace("×", "*").replace("·", "*")) for s in found.shares
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_footprints_are_what_loading_really_prints(name: str, tmp_path: Path) -> None:
    make(name).save_pretrained(tmp_path)
    found = anatomy(str(tmp_path))
    ways = {
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
        kind: AutoModelForCausalLM.from_pretrained(tmp_path, **way) for kind, way in ways.items()
    }
    assert {kind: model.get_memory_footprint() for kind, model in loaded.items()} == {
        kind: found.footprint().printed[kind] for kind in ways
    }
    assert found.parameters == loaded["float32"].num_parameters()
    assert sum(part.count * part.parameters for part in found.parts) == found.parameters


@pytest.mark.parametrize(
    ("quantization", "kind"), [("nf4", "nf4"), ("nf4-single", "nf4_single"), ("int8", "int8")]
)
def test_what_is_held_has_the_scales_too(tiny_folder: Path, quantization: str, kind: str) -> None:
    base = load_base(str(tiny_folder), quantization, "bf16")
    held = base.footprint_bytes
    for module in base.model.modules():
        state, scales = getattr(getattr(module, "weight", None), "quant_state", None), None
        if quantization == "int8":
            scales = getattr(getattr(module, "weight", None), "SCB", None)
            held += 0 if scales is None else scales.numel() * 4
        elif state is not None:
            inner = [state.offset, state.state2.absmax, state.state2.code] if state.nested else []
            held += sum(t.numel() * t.element_size() for t in [state.absmax, state.code, *inner])
    assert anatomy(str(tiny_folder)).footprint().held[kind] == held


def test_modules_are_folded_with_their_shapes_and_counts() -> None:
    found = Anatomy(EIGHT, "llama")
    parts = {part.name: part for part in found.parts}
    key = parts["model.layers.*.self_attn.k_proj"]
    assert (key.kind, key.inputs, key.outputs, key.count) == ("attention", 4096, 1024, 32)
    assert parts["model.embed_tokens"].kind == "embedding"
    assert parts["lm_head"].kind == "head"
    assert {p.kind for p in parts.values()} == {"embedding", "attention", "mlp", "norm", "head"}
    assert found.groups()["mlp"] == ("down_proj", "gate_proj", "up_proj")
    assert found.groups()["lm_head"] == ("lm_head",)


def test_layers_that_differ_are_counted_apart() -> None:
    config = ARCHITECTURES["qwen2-moe"]().to_dict() | {
        "mlp_only_layers": [0],
        "num_hidden_layers": 3,
    }
    del config["layer_types"]
    parts = {(part.name, part.outputs): part for part in Anatomy(config, "mixed").parts}
    assert parts["model.layers.*.mlp.gate_proj", 96].count == 1
    assert parts["model.layers.*.mlp.experts.gate_up_proj", 64].count == 2
    assert parts["model.layers.*.mlp.experts.gate_up_proj", 64].kind == "experts"


@pytest.mark.parametrize(("config", "tied"), [(EIGHT, False), (THREE, True)])
def test_a_tied_head_is_known_and_counts_once(config: dict[str, Any], tied: bool) -> None:
    found = Anatomy(config, "llama")
    assert found.tied == tied
    head = next(part for part in found.parts if part.kind == "head")
    assert head.parameters == (0 if tied else 128256 * 4096)


@pytest.mark.slow
def test_the_embedded_default_is_what_it_is_when_it_is_loaded() -> None:
    # What is not quantised is told as it is in bfloat16, whatever the machine would compute in.
    base, found = load_base(DEFAULT_MODEL, precision="bf16"), anatomy(DEFAULT_MODEL)
    assert found.footprint().printed["nf4"] == base.footprint_bytes


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"model_type": "llama",', "line 1: this is not JSON"),
        ('{"hidden_size": 8}', "has no 'model_type'"),
        ("[1]", "has no 'model_type'"),
        (
            '{"model_type": "bert", "architectures": ["BertForMaskedLM"]}',
            "no causal language model .BertForMaskedLM.",
        ),
        ('{"model_type": "vit"}', "no causal language model"),
        ('{"model_type": "t5", "is_encoder_decoder": true}', "no causal language model"),
        ('{"model_type": "mystery"}', "unknown architecture .model_type 'mystery'."),
        (
            '{"model_type": "mystery", "auto_map": {"AutoConfig": "c.C"}}',
            "code of its own, which Rung never runs",
        ),
        ('{"model_type": "llama", "hidden_size": 7, "num_attention_heads": 3}', "makes no model"),
        ('{"model_type": "llama", "num_hidden_layers": "many"}', "makes no model"),
    ],
)
def test_what_is_no_model_is_refused_with_the_reason(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=says):
        anatomy(str(file))


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
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


def test_a_checkpoint_that_is_quantised_already_says_by_what() -> None:
    assert (
        Anatomy(EIGHT | {"quantization_config": {"quant_method": "awq"}}, "llama").quantized_by
        == "awq"
    )
