"""Loading the base model, its tokenizer and its end tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.architectures import make
from tests.model.edit_folder import change_config
from tests.tiny import tiny_llama, tiny_tokenizer
from transformers import AutoModel, GenerationConfig

from rung.defaults import DEFAULT_MODEL, cache_folder
from rung.engine.trainer import Trainer
from rung.errors import ModelError
from rung.model.anatomy import anatomy
from rung.model.load import (
    PRECISIONS,
    Base,
    check_files,
    dense_weight,
    end_tokens,
    load_base,
    load_tokenizer,
)
from rung.model.targets import linear_layers


@pytest.mark.parametrize("quantization", ["bf16", "fp32"])
def test_a_folder_is_loaded_frozen_in_the_precision_asked_for(
    tiny_folder: Path, quantization: str
) -> None:
    base = load_base(str(tiny_folder), quantization, "bf16")
    linear = linear_layers(base.model)
    assert {layer.weight.dtype for layer in linear.values()} == {PRECISIONS[quantization]}
    assert base.dtype == torch.bfloat16
    other_dtypes = {
        p.dtype
        for m in base.model.modules()
        if m not in linear.values()
        for p in m.parameters(recurse=False)
    }
    assert other_dtypes == {torch.bfloat16}
    assert not any(p.requires_grad for p in base.model.parameters())
    assert not base.model.training
    assert base.source == str(tiny_folder)


@pytest.mark.parametrize(("quantization", "nested"), [("nf4", True), ("nf4-single", False)])
def test_nf4_quantises_the_linear_layers_and_not_the_head(
    tiny_folder: Path, quantization: str, nested: bool
) -> None:
    base = load_base(str(tiny_folder), quantization, "fp32")
    layer = base.model.model.layers[0].self_attn.q_proj
    assert layer.weight.dtype == torch.uint8
    assert layer.weight.quant_state.quant_type == "nf4"
    assert layer.weight.quant_state.nested == nested, "double quantisation"
    assert base.model.lm_head.weight.dtype == torch.float32
    assert base.footprint_bytes < load_base(str(tiny_folder), "fp32", "fp32").footprint_bytes


@pytest.mark.parametrize(
    ("quantization", "max_error"), [("nf4", 0.1), ("int8", 0.01), ("bf16", 0.005), ("fp32", 0.0)]
)
def test_a_dense_weight_differs_from_the_stored_one_by_the_quantisation_error(
    tiny_folder: Path, quantization: str, max_error: float
) -> None:
    layer = load_base(str(tiny_folder), quantization, "fp32").model.model.layers[0].mlp.up_proj
    stored = tiny_llama().model.layers[0].mlp.up_proj.weight.detach()
    dense = dense_weight(layer, torch.float32)
    assert dense.dtype == torch.float32
    error = float((dense - stored).norm() / stored.norm())
    assert error == 0 if max_error == 0 else max_error / 10 < error < max_error


def test_an_error_about_an_unknown_quantization_lists_the_known_ones(tiny_folder: Path) -> None:
    with pytest.raises(
        ModelError, match="There is no quantization 'int3'; give one of nf4, nf4-single, int8"
    ):
        load_base(str(tiny_folder), "int3")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nothing", "There is no model './nothing'; give a hub id such as"),
        ("nothing", "There is no model 'nothing'"),
        ("a/b/c", "There is no model 'a/b/c'"),
        ("missing.gguf", "There is no file 'missing.gguf'"),
        ("nobody/has-this-model", "The model 'nobody/has-this-model' is not "),
    ],
)
def test_a_missing_model_is_reported_in_one_sentence(name: str, message: str) -> None:
    with pytest.raises(ModelError) as error:
        load_base(name)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_base(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        ModelError, match=r"has no weights \(model\.safetensors or pytorch_model\.bin\)"
    ):
        load_base(str(tmp_path))


def test_a_broken_gguf_file_is_named_and_leaves_nothing_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF? no")
    with pytest.raises(ModelError, match=r"broken\.gguf"):
        load_base(str(path))
    assert not any(path.is_file() for path in (tmp_path / "cache").rglob("*"))


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantised_conv1d_is_nearly_the_same_matrix_as_a_plain_one(
    tmp_path: Path, quantization: str
) -> None:
    make("gpt2").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    plain, quantized = (
        load_base(str(tmp_path), stored, "fp32").model.transformer.h[0]
        for stored in ("fp32", quantization)
    )
    for name in ("attn.c_attn", "mlp.c_proj"):
        expected = dense_weight(plain.get_submodule(name), torch.float32)
        dense = dense_weight(quantized.get_submodule(name), torch.float32)
        assert dense.shape == expected.shape
        error = (dense - expected).norm() / expected.norm()
        assert 0 < error < 0.15


def test_a_model_that_changes_its_logits_in_an_unknown_way_is_refused(
    tiny_folder: Path,
) -> None:
    base = load_base(str(tiny_folder), "fp32", "fp32")
    forward = base.model.forward

    def softened(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        out.logits = out.logits * 0.9
        return out

    base.model.forward = softened
    with pytest.raises(ModelError, match="changes its logits after the output head"):
        Trainer(base)


def test_a_model_without_a_head_is_refused() -> None:
    model = AutoModel.from_config(tiny_llama().config)
    with pytest.raises(ModelError, match="causal language model"):
        Trainer(Base(model, None, "headless", torch.float32))


def test_the_end_tokens_are_the_special_tokens_that_the_generation_config_names(
    tmp_path: Path,
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    assert end_tokens(str(tiny_config(tmp_path)), tokenizer) == set()
    for eos_token_id, expected in (
        (1, {1}),
        ([0, 1], {0, 1}),
        ([1, 50, 10**6], {1}),
        (None, set()),
    ):
        GenerationConfig(eos_token_id=eos_token_id).save_pretrained(tmp_path)
        assert end_tokens(str(tmp_path), tokenizer) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", r"generation_config\.json is not a JSON object"),
        ("null", r"generation_config\.json is not a JSON object"),
        ('{"eos_token_id": ', r"generation_config\.json is not a JSON object"),
        (
            '{"eos_token_id": 1.5}',
            r"eos_token_id is 1\.5, and should be the number of a token, or a list",
        ),
        ('{"eos_token_id": [[0]]}', r"eos_token_id is \[\[0\]\], and should be"),
        ('{"eos_token_id": [1, "x"]}', r'eos_token_id is \[1, "x"\], and should be'),
        ('{"eos_token_id": true}', r"eos_token_id is true, and should be"),
    ],
)
def test_a_broken_generation_config_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tiny_config(tmp_path) / "generation_config.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        end_tokens(str(tmp_path), tiny_tokenizer())


def tiny_config(folder: Path) -> Path:
    """Write the tiny model's configuration, without weights, into the folder."""
    tiny_llama().config.save_pretrained(folder)
    return folder


def test_a_tokenizer_without_an_end_token_is_refused_with_the_remedy(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tiny_config(tmp_path))
    with pytest.raises(
        ModelError, match='no end token, .*name one as "eos_token" in its tokenizer_config.json'
    ):
        load_tokenizer(str(tmp_path))


def test_an_environment_variable_sets_the_cache_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path


@pytest.mark.slow
def test_the_default_is_converted_into_the_cache_and_knows_the_capital_of_france() -> None:
    base = load_base(DEFAULT_MODEL)
    assert Path(base.source).is_relative_to(cache_folder())
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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architectures": [1]}, "'architectures' has a value that is not the name of a class"),
        (
            {"architectures": "LlamaForCausalLM"},
            "'architectures' is \"LlamaForCausalLM\" and should be a list of names",
        ),
        ({"text_config": "x"}, "'text_config' is \"x\" and should be an object"),
        (
            {"quantization_config": "nf4"},
            "'quantization_config' is \"nf4\" and should be an object",
        ),
        ({"quantization_config": ["nf4"]}, "'quantization_config' is .* and should be an object"),
        ({"model_type": ["llama"]}, "'model_type' is .* and should be a text"),
        (
            {"transformers_weights": 1},
            "'transformers_weights' is 1 and should be the name of a file",
        ),
    ],
)
@pytest.mark.parametrize("read", [load_base, load_tokenizer, check_files, anatomy])
def test_a_value_of_the_wrong_type_in_the_configuration_is_reported_by_every_reader(
    folder: Path,
    values: dict[str, Any],
    message: str,
    read: Callable[[str], object],
) -> None:
    change_config(folder, **values)
    with pytest.raises(ModelError, match=rf"config\.json: {message}"):
        read(str(folder))


@pytest.mark.parametrize("read", [load_base, load_tokenizer, check_files, anatomy])
def test_a_folder_in_the_place_of_the_configuration_is_refused(
    tmp_path: Path, read: Callable[[str], object]
) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        read(str(tmp_path))


def test_the_suffix_gguf_may_be_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "x.GGUF").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"x\.GGUF' cannot be read as GGUF"):
        load_base(str(tmp_path / "x.GGUF"))


def test_an_adapter_beside_a_gguf_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="has an adapter beside it"):
        load_base(str(tmp_path / "x.gguf"))
