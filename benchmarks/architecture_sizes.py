"""The reduced sizes of the small models in benchmarks/architectures.py."""

from __future__ import annotations

from typing import Any

ALPHABET = ["<unk>", "<end>", *map(chr, range(32, 126))]
SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "text_vocab_size"), len(ALPHABET)),
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "embed_dim", "dim", "embedding_size", "emb_dim"), 64
    ),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner", "d_ff", "encoder_ffn_dim"),
        96,
    ),
    **dict.fromkeys(
        ("decoder_ffn_dim", "shared_intermediate_size", "intermediate_size_mlp", "dff", "dim_ff"),
        96,
    ),
    **dict.fromkeys(
        (
            "num_hidden_layers",
            "n_layer",
            "n_layers",
            "num_layers",
            "decoder_layers",
            "encoder_layers",
        ),
        4,
    ),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4
    ),
    **dict.fromkeys(("encoder_attention_heads",), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 128),
    "num_key_value_heads": 2,
    "head_dim": 16,
    "word_embed_proj_dim": 48,
    "dim_head": 16,
    "d_kv": 16,
    **dict.fromkeys(
        ("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 32
    ),
    **dict.fromkeys(
        ("moe_ffn_hidden_size", "moe_shared_expert_intermediate_size", "shared_expert_size"), 32
    ),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(
        (
            "n_shared_experts",
            "n_group",
            "topk_group",
            "first_k_dense_replace",
            "num_shared_experts",
        ),
        1,
    ),
    **dict.fromkeys(("num_dense_layers", "moe_num_shared_experts", "zero_expert_num"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 16),
    "qk_head_dim": 32,
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_headdim"), 16),
    **dict.fromkeys(("mamba_dt_rank", "time_step_rank"), 4),
    **dict.fromkeys(("mamba_n_groups", "n_groups", "mamba_ngroups"), 1),
    "mamba_d_ssm": 128,
    **dict.fromkeys(("index_n_heads",), 2),
    **dict.fromkeys(("index_head_dim",), 32),
    "index_topk": 64,
    **dict.fromkeys(("sliding_window", "attention_window_size", "window_size"), 8),
    "lru_width": 64,
    "conv_dim": 64,
    "image_size": 28,
    "patch_size": 14,
    "hidden_size_per_layer_input": 16,
    "vocab_size_per_layer_input": len(ALPHABET),
    "num_kv_shared_layers": 0,
    "global_head_dim": 16,
    "num_global_key_value_heads": 2,
    "axial_pos_shape": (8, 16),
    "axial_pos_embds_dim": (32, 32),
    "attn_layers": ["local", "lsh", "local", "lsh"],
    "is_decoder": True,
    "initializer_range": 0.1,
    "init_std": 0.1,
    "pad_token_id": 1,
    "eos_token_id": 1,
    "bos_token_id": 0,
    "scale_embedding": False,
}
"""The sizes by every name that configurations have for them."""
_LATENT: tuple[str, ...] = (
    "axk1",
    "axk2",
    "bailing_hybrid",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "glm4_moe_lite",
    "glm_moe_dsa",
)
_LATENT += ("kimi_linear", "longcat_flash", "minicpm3", "youtu")
OWN: dict[str, dict[str, Any]] = {
    **{kind: {"num_key_value_heads": 4} for kind in _LATENT},
    **{kind: {"rotary_dim": 8} for kind in ("codegen", "gptj")},
    **{kind: {"intermediate_size": 128} for kind in ("mamba", "falcon_mamba")},
    **{kind: {"head_dim": 16} for kind in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")},
    "mamba2": {"num_heads": 8, "head_dim": 16, "expand": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "reformer": {"is_decoder": True, "num_hidden_layers": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "dots1": {
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    },
    "deepseek_v2": {"num_key_value_heads": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "nemotron": {"head_dim": 16, "num_key_value_heads": 2},
    "zaya": {"num_experts_per_tok": 1},
    "qwen4_exp_text": {"token_budget": 32, "compress_ratio": 4},
    "dots3_note_text": {"num_key_value_heads": 4},
}
"""Values that an architecture needs beside the sizes."""
