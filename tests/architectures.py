"""Small random instances of the architectures that people fine-tune, made by the tests."""

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
        **GROUPED,
        query_pre_attn_scalar=16,
        sliding_window=4,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=3.0,
    ),
    "gemma3": lambda: t.Gemma3TextConfig(**GROUPED, query_pre_attn_scalar=16, sliding_window=4),
    "phi3": lambda: t.Phi3Config(**{k: v for k, v in GROUPED.items() if k != "head_dim"}),
    "gpt2": lambda: t.GPT2Config(
        vocab_size=len(ALPHABET),
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=128,
        initializer_range=0.2,
        eos_token_id=1,
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
        **{k: v for k, v in GROUPED.items() if k != "head_dim"},
        logits_scaling=4.0,
        residual_multiplier=0.5,
    ),
}

_LATENT = {
    **COMMON,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
SPECIAL_ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "deepseek-v3": lambda: t.DeepseekV3Config(
        **_LATENT,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        moe_intermediate_size=32,
        first_k_dense_replace=1,
        n_shared_experts=1,
    ),
    "qwen3-next": lambda: t.Qwen3NextConfig(
        **GROUPED,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        layer_types=["linear_attention", "full_attention"],
    ),
    "gpt-oss": lambda: t.GptOssConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "granite-moe": lambda: t.GraniteMoeConfig(
        **{k: v for k, v in GROUPED.items() if k != "head_dim"},
        num_local_experts=4,
        num_experts_per_tok=2,
    ),
    "olmoe": lambda: t.OlmoeConfig(
        **{k: v for k, v in GROUPED.items() if k != "head_dim"},
        num_experts=4,
        num_experts_per_tok=2,
    ),
    "falcon": lambda: t.FalconConfig(
        **{k: v for k, v in COMMON.items() if k != "intermediate_size"},
        multi_query=True,
        parallel_attn=True,
    ),
    "mamba": lambda: t.MambaConfig(
        vocab_size=len(ALPHABET),
        hidden_size=64,
        state_size=4,
        num_hidden_layers=2,
        initializer_range=0.2,
        pad_token_id=1,
        eos_token_id=1,
    ),
    "recurrent-gemma": lambda: t.RecurrentGemmaConfig(
        **{
            k: v
            for k, v in GROUPED.items()
            if k not in ("initializer_range", "max_position_embeddings")
        },
        lru_width=64,
        attention_window_size=8,
        block_types=["recurrent", "attention"],
        logits_soft_cap=3.0,
    ),
    "gemma3-vision": lambda: t.Gemma3Config(
        text_config={**GROUPED, "query_pre_attn_scalar": 16, "sliding_window": 4},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        mm_tokens_per_image=4,
    ),
}
"""Architectures that PEFT or a frozen layer must treat in a special way."""
ALL_ARCHITECTURES = ARCHITECTURES | SPECIAL_ARCHITECTURES


def make(name: str, seed: int = 0) -> Any:
    """The model, in float32 and in evaluation mode."""
    torch.manual_seed(seed)
    config = ALL_ARCHITECTURES[name]()
    model = t.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            # Biases start at zero and norms at one, which would hide a mistake.
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()
