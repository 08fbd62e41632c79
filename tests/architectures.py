"""Small random instances of the architectures that people fine-tune, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as t
from tests.tiny import ALPHABET

COMMON: dict[str, Any] = {
    "vocab_size": len(ALPHABET),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,  # see tests.tiny
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
GROUPED = {**COMMON, "num_key_value_heads": 2, "head_dim": 16}

ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "llama": lambda: t.LlamaConfig(**GROUPED, tie_word_embeddings=False),
    "llama-tied": lambda: t.LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "mistral": lambda: t.MistralConfig(**GROUPED, sliding_window=4),
    "qwen2": lambda: t.Qwen2Config(**GROUPED),
    "qwen3": lambda: t.Qwen3Config(**GROUPED),
    "gemma2": lambda: t.Gemma2Config(
        **GROUPED, query_pre_attn_scalar=16, sliding_window=4, attn_logit_softcapping=5.0, final_logit_softcapping=3.0
    ),
    "gemma3": lambda: t.Gemma3TextConfig(**GROUPED, query_pre_attn_scalar=16, sliding_window=4),
    "phi3": lambda: t.Phi3Config(**{k: v for k, v in GROUPED.items() if k != "head_dim"}),
    "gpt2": lambda: t.GPT2Config(
        vocab_size=len(ALPHABET), n_embd=64, n_layer=2, n_head=4, n_positions=128, initializer_range=0.2, eos_token_id=1
    ),
    "gpt-neox": lambda: t.GPTNeoXConfig(**COMMON),
    "opt": lambda: t.OPTConfig(
        vocab_size=len(ALPHABET),
        hidden_size=64,
        ffn_dim=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        word_embed_proj_dim=48,
        init_std=0.2,
        eos_token_id=1,
        pad_token_id=1,
    ),
    "mixtral": lambda: t.MixtralConfig(**GROUPED, num_local_experts=4),
    "qwen2-moe": lambda: t.Qwen2MoeConfig(
        **{k: v for k, v in GROUPED.items() if k != "head_dim"},
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=48,
    ),
    "cohere": lambda: t.CohereConfig(
        **{k: v for k, v in GROUPED.items() if k != "head_dim"}, logit_scale=0.25, use_qk_norm=False
    ),
    "granite": lambda: t.GraniteConfig(
        **{k: v for k, v in GROUPED.items() if k != "head_dim"}, logits_scaling=4.0, residual_multiplier=0.5
    ),
}


def make(name: str, seed: int = 0) -> Any:
    """The model, in float32 and in evaluation mode."""
    torch.manual_seed(seed)
    config = ARCHITECTURES[name]()
    model = t.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            # Biases and norms start at zero or one, which would hide a mistake.
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()
