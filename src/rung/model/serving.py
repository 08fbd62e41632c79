"""Which servers load an adapter: vLLM, llama.cpp and Ollama, and what each of them needs for it.

From their sources and documentation in November 2026: vLLM 0.22 (`vllm/config/lora.py`,
`vllm/lora/peft_helper.py`), llama.cpp (`convert_lora_to_gguf.py`, `src/llama-adapter.cpp`) and
Ollama (`convert/convert.go`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rung.types import Setting

VLLM_MAX_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values of `--max-lora-rank` from 8 up."""
VLLM_DEFAULT_MAX_RANK = 16
OLLAMA_ARCHITECTURES = ("llama", "mistral", "mixtral", "gemma2")
"""The `model_type`s whose PEFT folders Ollama converts by itself."""


@dataclass(frozen=True, slots=True)
class ServerSupport:
    """Whether a server loads an adapter as it is, and a sentence about it.

    The sentence has the server as its subject: `loads it as it is.`
    """

    server: str
    accepts: bool
    message: str


def server_support(
    setting: Setting, model_type: str, architecture: str, on_head: bool, tied: bool
) -> list[ServerSupport]:
    """What the three servers do with an adapter of this setting.

    Args:
        setting: rank, alpha and rsLoRA decide.
        model_type: of the model's `config.json`.
        architecture: the model's class, for messages.
        on_head: whether the adapter is on the output head too.
        tied: whether the output head is the embedding.
    """
    return [
        _vllm(setting, on_head),
        *_llama_cpp_and_ollama(setting, model_type, architecture, on_head, tied),
    ]


def _vllm(setting: Setting, on_head: bool) -> ServerSupport:
    max_rank = next((rank for rank in VLLM_MAX_RANKS if rank >= setting.rank), None)
    if max_rank is None:
        return ServerSupport(
            "vLLM", False, f"loads no adapter of a rank over {VLLM_MAX_RANKS[-1]}."
        )
    message = "loads it as it is."
    if max_rank > VLLM_DEFAULT_MAX_RANK:
        message = (
            f"loads it with --max-lora-rank {max_rank}; its default is {VLLM_DEFAULT_MAX_RANK}."
        )
    if on_head:
        message += (
            " Whether it loads the part on lm_head depends on the architecture: if not, merge the "
            "adapter."
        )
    return ServerSupport("vLLM", True, message)


def _llama_cpp_and_ollama(
    setting: Setting, model_type: str, architecture: str, on_head: bool, tied: bool
) -> list[ServerSupport]:
    """Both multiply by alpha / rank, and have no separate output head where it is tied."""
    if on_head and tied:
        message = (
            "has no output head apart from the embedding in this model: merge an adapter that is "
            "on lm_head."
        )
        return [ServerSupport(server, False, message) for server in ("llama.cpp", "Ollama")]
    if setting.use_rslora:
        alpha = setting.alpha * math.sqrt(setting.rank)
        message = (
            "scales by alpha / rank and does not know rsLoRA: write lora_alpha "
            f"{alpha:.4g} into adapter_config.json."
        )
        return [ServerSupport(server, False, message) for server in ("llama.cpp", "Ollama")]
    llama_cpp = ServerSupport(
        "llama.cpp",
        True,
        f"loads what convert_lora_to_gguf.py makes of it, if that supports {architecture}.",
    )
    if not float(setting.alpha).is_integer():
        ollama = ServerSupport("Ollama", False, "accepts only whole numbers as lora_alpha.")
    elif model_type in OLLAMA_ARCHITECTURES:
        ollama = ServerSupport("Ollama", True, "loads the folder: ADAPTER <folder> in a Modelfile.")
    else:
        ollama = ServerSupport(
            "Ollama",
            True,
            f"converts no {model_type} adapter by itself: give it the file made for llama.cpp.",
        )
    return [llama_cpp, ollama]
