"""Every causal language model that transformers knows: trained by Rung for a few steps, saved, and read back by PEFT.

A small random model of each architecture is made from its own configuration with the sizes cut down, saved, and loaded
as a study loads it. An adapter on all linear layers is trained for three steps and saved; then a second, plain copy of
the model is loaded with `PeftModel.from_pretrained`, and every row's loss compared. A model has to be trained and
equal, or refused in one sentence.

    python benchmarks/architectures.py [--json] [--targets all-linear+lm_head] [NAME …]
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from rung.data.batches import collate
from rung.data.example import Example
from rung.engine.adapter_state import fresh_state
from rung.engine.checkpoint import save_adapter
from rung.engine.pack import Pack
from rung.engine.preflight import preflight
from rung.engine.trainer import Trainer
from rung.errors import RungError
from rung.model.load import load_base
from rung.model.silence import silence_libraries
from rung.model.targets import last_name
from rung.types import Candidate, Setting

ALPHABET = ["<unk>", "<end>", *map(chr, range(32, 126))]
SECONDS = 120
ABSENT = object()
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
"""What an architecture wants beside the sizes."""


def small(kind: str, given: Any = None) -> Any:
    """The architecture's own configuration, with every size that it has cut down."""
    made = given or CONFIG_MAPPING[kind]()
    own, known = OWN.get(kind, {}), inspect.signature(type(made).__init__).parameters
    values: dict[str, Any] = {}
    sub = {name: getattr(made, name) for name in getattr(made, "sub_configs", {})}
    for name, value in vars(made).items():
        if name in sub and value is not None:
            values[name] = small(value.model_type, value)
    values |= {
        name: value for name, value in SIZES.items() if name in known and _has(made, name)
    } | own
    for name in ("layer_types", "layers_block_type", "mlp_layer_types", "block_types"):
        kinds = getattr(made, name, None)
        if isinstance(kinds, list) and kinds and name in known and name not in own:
            # One of each kind, and the first again.
            each = list(dict.fromkeys(kinds))
            values[name] = (each * 4)[:4] if name != "block_types" else kinds
    return type(made)(**values)


def _has(config: Any, name: str) -> bool:
    """Whether the configuration has a value there that can be cut down."""
    try:
        return getattr(config, name, None) not in (None, False)
    except Exception:  # a value of each layer
        return True


def make(kind: str) -> Any:
    """A small random model, in which no parameter stands at a value that would hide a mistake."""
    config = small(kind)
    with torch.device("meta"):
        count = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if count > 3e7:
        raise ValueError(f"{count / 1e6:.0f} million parameters")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def tokenizer() -> Any:
    made = Tokenizer(models.WordLevel({c: i for i, c in enumerate(ALPHABET)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="<end>")


def rows() -> list[Example]:
    draw = torch.Generator().manual_seed(3)
    lengths = [int(torch.randint(8, 24, (1,), generator=draw)) for _ in range(6)]
    tokens = [torch.randint(2, len(ALPHABET), (n,), generator=draw).tolist() for n in lengths]
    return [Example(tuple(ids), 3) for ids in tokens]


@torch.no_grad()
def losses(model: Any, examples: Sequence[Example]) -> list[float]:
    found = []
    for example in examples:
        batch = collate([example])
        logits = model(input_ids=batch.ids, use_cache=False).logits[0, batch.positions].float()
        found.append(
            float(torch.nn.functional.cross_entropy(logits, batch.labels, reduction="sum"))
        )
    return found


def off(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def tried(kind: str, folder: Path, targets: str = "all-linear") -> dict[str, Any]:
    """What became of one architecture: `outcome` is equal, refused, WRONG, TRACEBACK, or none where none was made."""
    try:
        with silence_libraries():
            model = make(kind)
            model.save_pretrained(folder / "base")
            tokenizer().save_pretrained(folder / "base")
    except Exception as error:
        return {"outcome": "none", "why": f"{type(error).__name__}: {first_line(error)}"}
    examples, refused = rows(), None
    try:
        trainer = Trainer(load_base(str(folder / "base"), "fp32", "fp32"))
        candidate = Candidate(Setting(4, 8, targets, 1e-2))
        layers = trainer.frozen.targets(candidate.setting)
        closed = sorted(set(map(last_name, trainer.frozen.unsupported)))
        untuned = trainer.score(examples)[0].losses
        try:
            preflight(trainer, [candidate.setting], examples, 0)
        except RungError as error:
            refused = error
        with Pack(trainer.frozen, [candidate], [fresh_state(trainer.frozen, candidate, 0)]) as pack:
            for _ in range(3):
                trainer.step(pack, collate(examples), 1.0)
            ours = trainer.score(examples, pack)[0].losses
            idle = [n for n, t in pack.state(0).weights.items() if n.endswith(".B") and not t.any()]
            save_adapter(
                folder / "adapter", candidate.setting, pack.state(0), trainer.frozen, str(folder / "base")
            )
        about = {
            "layers": len(layers),
            "closed": closed,
            "idle": sorted(set(map(last_name, (n[:-2] for n in idle)))),
        }
    except RungError as error:
        return {"outcome": "refused", "why": str(error)}
    except TimeoutError:
        raise
    except Exception as error:
        if refused:
            return {"outcome": "refused", "why": str(refused)}
        return {"outcome": "TRACEBACK", "why": f"{type(error).__name__}: {first_line(error)}"}
    found: dict[str, Any]
    try:
        with silence_libraries():
            base, other = (
                AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
                for _ in "12"
            )
            found = {
                "base": off(untuned, losses(base.eval(), examples)),
                "adapter": off(
                    ours,
                    losses(PeftModel.from_pretrained(other, folder / "adapter").eval(), examples),
                ),
                "moved": off(ours, untuned),
            }
    except Exception as error:
        found = {"base": 9.0, "adapter": 9.0, "moved": 0.0, "peft": first_line(error)}
    right = max(found["base"], found["adapter"]) < 1e-4 < found["moved"]
    outcome = "refused" if refused else "equal" if right else "WRONG"
    return {
        "outcome": outcome,
        **found,
        **about,
        **({"why": str(refused), "true": not right} if refused else {}),
    }


def first_line(error: Exception) -> str:
    return (str(error).strip() or "nothing said").splitlines()[0][:150]


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} seconds")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="architectures, by model_type; all by default")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--targets", default="all-linear")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    found = {}
    for kind in options.names or list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        with tempfile.TemporaryDirectory() as folder:
            try:
                with at_most(SECONDS):
                    found[kind] = tried(kind, Path(folder), options.targets)
            except TimeoutError as error:
                found[kind] = {"outcome": "none", "why": str(error)}
        if not options.json:
            print(
                kind,
                *(
                    f"{k}={v:.1e}" if isinstance(v, float) else f"{v}"
                    for k, v in found[kind].items()
                ),
                sep="\t",
            )
            sys.stdout.flush()
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        outcomes = [one["outcome"] for one in found.values()]
        print({outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))})
    sys.exit(any(one["outcome"] in ("WRONG", "TRACEBACK") for one in found.values()))


if __name__ == "__main__":
    main()
