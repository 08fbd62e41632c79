"""What the GPU scripts share: options, the clock and the report, rows, candidates and timing."""

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

MODULES = {
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "all-linear": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
LEARNING_RATE = 1e-3


def arguments(about: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the script out")
    parser.add_argument("--seconds", type=float, default=600, help="start nothing new after these")
    parser.add_argument("--out", type=Path, help="a file for the results, one JSON object a line")
    return parser


def place(options: argparse.Namespace) -> torch.device:
    """The device of the options; exits where it does not exist."""
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here; --device cpu --tiny tries the script out")
    return torch.device("cuda", 0) if options.device == "cuda" else torch.device("cpu")


class Clock:
    """Seconds since the script started."""

    def __init__(self, limit: float) -> None:
        self.begun, self.limit = time.perf_counter(), limit

    @property
    def gone(self) -> float:
        return time.perf_counter() - self.begun

    def left(self, need: float = 0.0) -> bool:
        return self.gone + need < self.limit


class Report:
    """Lines of JSON, written as the results come, so that a time-out loses nothing."""

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
    segment_seconds: float = 0.4,
) -> list[float]:
    """Seconds of a step: the mean of each segment.

    A segment has as many steps as fit in `segment_seconds`, from 1 to 20. The script waits for the
    device only between segments, so that a loop that runs ahead of the device is not slowed down.
    """
    for _ in range(warm):
        wait(device)
        started = time.perf_counter()
        step()
        wait(device)
        last = time.perf_counter() - started
    count = max(1, min(20, int(segment_seconds / max(last, 1e-4))))
    means = []
    for _ in range(segments):
        started = time.perf_counter()
        for _ in range(count):
            step()
        wait(device)
        means.append((time.perf_counter() - started) / count)
    return means


def spread(name: str, values: list[float], digits: int = 5) -> dict[str, float]:
    return {
        name: round(statistics.median(values), digits),
        f"{name}_least": round(min(values), digits),
        f"{name}_most": round(max(values), digits),
    }


def rows_of(length: int, count: int, vocabulary: int, seed: int = 0) -> list[Any]:
    """Rows of exactly `length` random tokens; the second half of each is the completion."""
    from rung.data.example import Example

    draw = random.Random(seed)
    return [
        Example(tuple(draw.randrange(2, vocabulary) for _ in range(length)), length // 2)
        for _ in range(count)
    ]


def labels_of(rows: list[Any]) -> list[list[int]]:
    """The labels of each row as TRL wants them: −100 for the prompt."""
    return [[-100] * row.prompt_length + list(row.ids[row.prompt_length :]) for row in rows]


def candidates_of(count: int, targets: str, rank: int = 16) -> list[Any]:
    from rung.types import Candidate, Setting

    return [
        Candidate(Setting(rank, 2 * rank, targets, LEARNING_RATE), seed=seed)
        for seed in range(count)
    ]


def race_pack() -> list[Any]:
    """Twelve candidates as in a race: four ranks, three sets of modules, several rates."""
    from rung.types import Candidate, Setting

    kinds = ("all-linear", "attention", "mlp")
    return [
        Candidate(Setting(rank, 2 * rank, kind, LEARNING_RATE * 2**i))
        for i, kind in enumerate(kinds)
        for rank in (8, 16, 32, 64)
    ]


def step_flops(trainer: Any, candidates: list[Any], batch: int, length: int) -> float:
    """The FLOP of a step's matrix products.

    They are the frozen weights forwards and backwards, the head at completion tokens, the adapters,
    and the attention's two products (four backwards), causal.
    """
    from rung.costs.time_model import ModelSize, adapter_parameters

    size, numbers = ModelSize.of(trainer.frozen), adapter_parameters(trainer.frozen, candidates)
    load = size.training(numbers, batch * length, batch * (length - length // 2))
    config = trainer.model.config.get_text_config()
    pairs = len(candidates) * batch * length * length / 2
    head_sizes = config.num_attention_heads * config.head_dim
    attention = 2 * 6 * pairs * head_sizes * config.num_hidden_layers
    return 2 * (load.frozen + load.adapters) + attention


def gemm_rate(device: torch.device, side: int, dtype: torch.dtype = torch.bfloat16) -> float:
    """FLOP/s of a square product, on random data."""
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    seconds = 0.05 if device.type == "cuda" else 0.01
    means = timed(lambda: a @ b, device, segment_seconds=seconds)
    return 2 * side**3 / statistics.median(means)


def is_out_of_memory(error: BaseException) -> bool:
    from rung.engine.process_memory import is_out_of_memory as check

    return check(error)
