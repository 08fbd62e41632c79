"""How long it takes to read, tokenize and audit data, and how much memory that holds.

The rows are made of words from the CMU dictionary, 10 to 60 in a prompt and 2 to 30 in a
completion; one row in fifty nearly repeats the one before it. They are read from a JSONL file into
an empty cache, with SmolLM2's tokenizer. Memory is anonymous memory, sampled five times a second:
what is mapped from files can be taken back by the kernel.

    python benchmarks/data.py [--rows 100000] [--chats] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import psutil
from packed import machine

from rung.data.audit import audit
from rung.data.builtin import pronounce
from rung.data.prepare import prepare
from rung.defaults import DEFAULT_MODEL
from rung.model.load import fast_dtype, load_tokenizer
from rung.recipe import Recipe


def write_rows(path: Path, count: int, chats: bool) -> None:
    """Write the rows; the same for every run of a size."""
    draw = random.Random(count)
    words = [prompt.split()[1].rstrip(":") for part in pronounce() for prompt, _ in part]
    question: list[str] = []
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            if number % 50 or not question:
                question = draw.choices(words, k=draw.randint(10, 60))
            else:
                question[draw.randrange(len(question))] = "changed"
            prompt = f"Question: {' '.join(question)}?"
            answer = " ".join(draw.choices(words, k=draw.randint(2, 30)))
            row: dict[str, Any] = {"prompt": f"{prompt}\nAnswer:", "completion": f" {answer}"}
            if chats:
                turns = (("user", prompt), ("assistant", answer))
                row = {"messages": [{"role": role, "content": text} for role, text in turns]}
            file.write(json.dumps(row) + "\n")


Result = TypeVar("Result")


@dataclass(frozen=True)
class Watched(Generic[Result]):
    """What some work returned, how long it took, and the most gigabytes that the process held."""

    result: Result
    seconds: float
    gigabytes: float


def watch(work: Callable[[], Result]) -> Watched[Result]:
    """Do the work, and watch the memory of the process meanwhile."""
    peak, done, process = 0, threading.Event(), psutil.Process(os.getpid())

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.2):
            memory = process.memory_info()
            peak = max(peak, memory.rss - memory.shared)

    sampler = threading.Thread(target=sample)
    sampler.start()
    begun = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - begun
    done.set()
    sampler.join()
    return Watched(result, seconds, peak / 1e9)


def main() -> None:
    """Measure once, in an empty cache."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--chats", action="store_true", help="messages, through the chat template")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    tokenizer = load_tokenizer(DEFAULT_MODEL)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RUNG_CACHE"] = folder
        path = Path(folder) / "rows.jsonl"
        write_rows(path, options.rows, options.chats)
        recipe = Recipe(data=str(path))
        reading = watch(lambda: prepare(recipe, tokenizer))
        data = reading.result
        auditing = watch(lambda: audit(data))
        again = watch(lambda: prepare(recipe, tokenizer))
        megabytes = path.stat().st_size / 1e6
    where, date = machine(fast_dtype("cpu")), time.strftime("%Y-%m-%d")
    findings = [finding.message for finding in auditing.result]
    if options.json:
        document = {
            "machine": where,
            "date": date,
            "rows": options.rows,
            "format": data.stats.record_format,
            "megabytes": round(megabytes),
            "tokenize": _rounded(reading),
            "audit": _rounded(auditing),
            "again_seconds": round(again.seconds, 1),
            "findings": findings,
        }
        print(json.dumps(document, indent=2))
        return
    print(
        f"{options.rows:,} rows ({megabytes:.0f} MB, {data.stats.record_format}), {where}, {date}"
    )
    print(f"  tokenized in {reading.seconds:.1f} s, holding {reading.gigabytes:.2f} GB")
    print(f"  audited in {auditing.seconds:.1f} s, holding {auditing.gigabytes:.2f} GB")
    print(f"  from the cache in {again.seconds:.1f} s")
    for finding in findings:
        print(f"  {finding}")


def _rounded(watched: Watched[Any]) -> dict[str, float]:
    return {"seconds": round(watched.seconds, 1), "gigabytes": round(watched.gigabytes, 2)}


if __name__ == "__main__":
    main()
