from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.tiny import ALPHABET, tiny_llama, tiny_tokenizer

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": len(ALPHABET),
    "pad_token_id": 1,
}
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    PretrainedConfig,
)

from rung.engine.trainer import Trainer
from rung.errors import ModelError
from rung.model import load as module
from rung.model.load import load_base
from rung.recipe import DEFAULT_MODEL


def test_a_folder_is_loaded_frozen_in_the_precision_asked_for(tiny_folder: Path) -> None:
    base = load_base(str(tiny_folder), "none", "bf16")
    assert base.dtype == torch.bfloat16
    assert {p.dtype for p in base.model.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in base.model.parameters())
    assert not base.model.training
    assert base.source == str(tiny_folder)


def test_nf4_takes_the_linear_layers_and_leaves_the_head(tiny_folder: Path) -> None:
    base = load_base(str(tiny_folder), "nf4", "fp32")
    layer = base.model.model.layers[0].self_attn.q_proj
    assert layer.weight.dtype == torch.uint8
    assert layer.weight.quant_state.quant_type == "nf4"
    assert layer.weight.quant_state.nested, "double quantisation"
    assert base.model.lm_head.weight.dtype == torch.float32
    assert base.footprint_bytes < load_base(str(tiny_folder), "none", "fp32").footprint_bytes


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("./nothing", "There is no model './nothing'; give a hub id such as"),
        ("nothing", "There is no model 'nothing'"),
        ("a/b/c", "There is no model 'a/b/c'"),
        ("missing.gguf", "There is no file 'missing.gguf'"),
        ("nobody/has-this-model", "The model 'nobody/has-this-model' cannot be loaded"),
    ],
)
def test_a_model_that_is_not_there_is_one_clear_sentence(spec: str, says: str) -> None:
    with pytest.raises(ModelError) as error:
        load_base(spec)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_base(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_base(str(tmp_path))


def test_a_gguf_file_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF? no")
    with pytest.raises(ModelError, match=r"broken\.gguf"):
        load_base(str(path))
    assert not list((tmp_path / "cache").rglob("*")) or not any(p.is_file() for p in (tmp_path / "cache").rglob("*")), (
        "nothing is left half made"
    )


def test_a_model_whose_layers_are_not_linear_is_refused(tmp_path: Path) -> None:
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=97, n_positions=32)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no linear layers inside its blocks"):
        Trainer(load_base(str(tmp_path), "none", "fp32"))


@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(head_dim=8, final_logit_softcapping=30.0, **SIZES),
        GraniteConfig(logits_scaling=8.0, **SIZES),
    ],
    ids=["a cap", "a scale"],
)
def test_a_model_that_changes_its_logits_is_refused_rather_than_trained_wrongly(
    config: PretrainedConfig, tmp_path: Path
) -> None:
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="changes its logits after the output head"):
        Trainer(load_base(str(tmp_path), "none", "fp32"))


def test_the_cache_is_where_the_variable_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path))
    assert module.cache_folder() == tmp_path


@pytest.mark.slow
def test_the_embedded_default_is_converted_once_and_knows_the_capital_of_france() -> None:
    base = load_base(DEFAULT_MODEL)
    assert Path(base.source).is_relative_to(module.cache_folder())
    assert base.footprint_bytes < 170e6
    tokenizer = base.tokenizer
    question = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    trainer = Trainer(base)
    ids = tokenizer(text, return_tensors="pt")
    out = trainer.model.generate(**ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0, ids["input_ids"].shape[1] :])


def test_the_tiny_model_is_the_same_each_time() -> None:
    assert torch.equal(tiny_llama().lm_head.weight, tiny_llama().lm_head.weight)
