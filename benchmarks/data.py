"""Time and memory to read, tokenize and audit data, with SmolLM2's tokenizer.

The rows are random words of the CMU dictionary: 10 to 60 in a prompt and 2 to 30 in a completion.
One row in fifty is nearly the row before it. They are read from a JSONL file into an empty cache.
Memory is anonymous memory, sampled five times a second: the kernel can take back what is mapped
from files.

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

Result = TypeVar("Result")
SAMPLE_SECONDS = 0.2


def write_rows(path: Path, count: int, chats: bool) -> None:
    """Write the rows. Every run with this count has the same ones."""
    generator = random.Random(count)
    words = [prompt.split()[1].rstrip(":") for split in pronounce() for prompt, _ in split]
    prompt: list[str] = []
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            if number % 50 or not prompt:
                prompt = generator.choices(words, k=generator.randint(10, 60))
            else:
                prompt[generator.randrange(len(prompt))] = "changed"
            question = f"Question: {' '.join(prompt)}?"
            answer = " ".join(generator.choices(words, k=generator.randint(2, 30)))
            row = chat_row(question, answer) if chats else text_row(question, answer)
            file.write(json.dumps(row) + "\n")


def chat_row(question: str, answer: str) -> dict[str, Any]:
    """A row of messages."""
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns}


def text_row(question: str, answer: str) -> dict[str, Any]:
    """A row of two texts."""
    return {"prompt": f"{question}\nAnswer:", "completion": f" {answer}"}


@dataclass(frozen=True)
class Measurement(Generic[Result]):
    """The result of some work, its time, and the most anonymous memory of the process meanwhile."""

    result: Result
    seconds: float
    peak_gigabytes: float


def measure(work: Callable[[], Result]) -> Measurement[Result]:
    """Do some work and measure it."""
    peak_bytes, is_done, process = 0, threading.Event(), psutil.Process(os.getpid())

    def sample_memory() -> None:
        nonlocal peak_bytes
        while not is_done.wait(SAMPLE_SECONDS):
            memory = process.memory_info()
            peak_bytes = max(peak_bytes, memory.rss - memory.shared)

    sampler = threading.Thread(target=sample_memory)
    sampler.start()
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    is_done.set()
    sampler.join()
    return Measurement(result, seconds, peak_bytes / 1e9)


def run(count: int, chats: bool) -> dict[str, Any]:
    """Read, tokenize and audit the rows once, in an empty cache."""
    tokenizer = load_tokenizer(DEFAULT_MODEL)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RUNG_CACHE"] = folder
        path = Path(folder) / "rows.jsonl"
        write_rows(path, count, chats)
        recipe = Recipe(data=str(path))
        tokenized = measure(lambda: prepare(recipe, tokenizer))
        audited = measure(lambda: audit(tokenized.result))
        cached = measure(lambda: prepare(recipe, tokenizer))
        megabytes = path.stat().st_size / 1e6
    return {
        "machine": machine(fast_dtype("cpu")),
        "date": time.strftime("%Y-%m-%d"),
        "rows": count,
        "format": tokenized.result.stats.record_format,
        "megabytes": round(megabytes),
        "tokenize": as_document(tokenized),
        "audit": as_document(audited),
        "cached_seconds": round(cached.seconds, 1),
        "findings": [finding.message for finding in audited.result],
    }


def as_document(measurement: Measurement[Any]) -> dict[str, float]:
    """Time and memory, rounded."""
    return {
        "seconds": round(measurement.seconds, 1),
        "gigabytes": round(measurement.peak_gigabytes, 2),
    }


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--chats", action="store_true", help="messages, with the chat template")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    document = run(options.rows, options.chats)
    if options.json:
        print(json.dumps(document, indent=2))
        return
    tokenize, audited = document["tokenize"], document["audit"]
    print(
        f"{options.rows:,} rows ({document['megabytes']} MB, {document['format']}), "
        f"{document['machine']}, {document['date']}"
    )
    print(
        f"  tokenized in {tokenize['seconds']} s with {tokenize['gigabytes']} GB; "
        f"audited in {audited['seconds']} s with {audited['gigabytes']} GB"
    )
    print(f"  from the cache in {document['cached_seconds']} s")
    for message in document["findings"]:
        print(f"  {message}")


if __name__ == "__main__":
    main()
