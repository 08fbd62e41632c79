"""What servers make of an adapter: whether vLLM, llama.cpp and Ollama load it, and what they need for that.

Read in their sources and documentation in November 2026: vLLM 0.22 (`vllm/config/lora.py`, `vllm/lora/peft_helper.py`),
llama.cpp (`convert_lora_to_gguf.py`, `src/llama-adapter.cpp`) and Ollama (`convert/convert.go`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rung.types import Candidate

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` may be, from what an adapter is likely to have."""
OLLAMA_READS = {"llama": "llama", "mistral": "llama", "mixtral": "llama", "gemma2": "gemma2"}
"""The architectures whose PEFT folders Ollama converts by itself, by `model_type`."""


@dataclass(frozen=True, slots=True)
class Serving:
    """Whether a server accepts an adapter as it is, and a sentence on it."""

    server: str
    accepts: bool
    says: str


def serving(
    candidate: Candidate, model_type: str, architecture: str, on_head: bool, tied: bool
) -> list[Serving]:
    """What the three servers make of the candidate's adapter; `on_head` says that it is on the output head too."""
    return [
        _vllm(candidate, on_head),
        *_by_gguf(candidate, model_type, architecture, on_head, tied),
    ]


def _vllm(candidate: Candidate, on_head: bool) -> Serving:
    most = next((rank for rank in VLLM_RANKS if rank >= candidate.rank), None)
    if most is None:
        return Serving("vLLM", False, f"loads no adapter of a rank over {VLLM_RANKS[-1]}.")
    says = (
        "loads it as it is."
        if most <= 16
        else f"loads it with --max-lora-rank {most}; its default is 16."
    )
    if on_head:
        says += " Whether it takes the part on lm_head depends on the architecture: serve it merged if it refuses."
    return Serving("vLLM", True, says)


def _by_gguf(
    candidate: Candidate, model_type: str, architecture: str, on_head: bool, tied: bool
) -> list[Serving]:
    """llama.cpp and Ollama, which both multiply by alpha / rank, and know no tied head of its own."""
    if on_head and tied:
        why = "has no output head apart from the embedding in this model: merge an adapter that is on lm_head."
        return [Serving(server, False, why) for server in ("llama.cpp", "Ollama")]
    if candidate.use_rslora:
        alpha = candidate.alpha * math.sqrt(candidate.rank)
        why = f"scales by alpha / rank, and knows no rsLoRA: write lora_alpha {alpha:.4g} into adapter_config.json."
        return [Serving(server, False, why) for server in ("llama.cpp", "Ollama")]
    llama = Serving(
        "llama.cpp",
        True,
        f"loads it from convert_lora_to_gguf.py, where that knows {architecture}.",
    )
    if not float(candidate.alpha).is_integer():
        return [llama, Serving("Ollama", False, "reads whole numbers for lora_alpha alone.")]
    if model_type in OLLAMA_READS:
        return [
            llama,
            Serving("Ollama", True, "loads the folder: ADAPTER <folder> in a Modelfile."),
        ]
    return [
        llama,
        Serving(
            "Ollama", True, f"converts no {model_type} adapter by itself: give it llama.cpp's file."
        ),
    ]
