"""How long data take to read, tokenise and audit, and how much memory that holds: with SmolLM2's tokenizer.

Made-up rows of words from the CMU dictionary, 10 to 60 to a prompt and 2 to 30 to a completion, one in fifty of them
nearly another one, from a JSONL file into an empty cache. Memory is anonymous memory, sampled five times a second: what
is mapped from files is the kernel's to take back.

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
from pathlib import Path
from typing import Any

import psutil
from packed import machine

from rung.data.audit import audit
from rung.data.builtin import pronounce
from rung.data.prepare import prepare
from rung.defaults import DEFAULT_MODEL
from rung.model.load import fast_dtype, load_tokenizer
from rung.recipe import Recipe


def write(path: Path, count: int, chats: bool) -> None:
    """The rows, the same for every run of a size."""
    draw = random.Random(count)
    words = [prompt.split()[1].rstrip(":") for part in pronounce() for prompt, _ in part]
    prompt: list[str] = []
    with path.open("w", encoding="utf-8") as file:
        for row in range(count):
            if row % 50 or not prompt:
                prompt = draw.choices(words, k=draw.randint(10, 60))
            else:
                prompt[draw.randrange(len(prompt))] = "changed"
            asked, answer = (
                f"Question: {' '.join(prompt)}?",
                " ".join(draw.choices(words, k=draw.randint(2, 30))),
            )
            if chats:
                turns = [
                    {"role": "user", "content": asked},
                    {"role": "assistant", "content": answer},
                ]
                file.write(json.dumps({"messages": turns}) + "\n")
            else:
                file.write(
                    json.dumps({"prompt": f"{asked}\nAnswer:", "completion": f" {answer}"}) + "\n"
                )


def watched(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it gives, the seconds it takes, and the most gigabytes that the process holds meanwhile."""
    peak, done, process = [0], threading.Event(), psutil.Process(os.getpid())

    def watch() -> None:
        while not done.wait(0.2):
            memory = process.memory_info()
            peak[0] = max(peak[0], memory.rss - memory.shared)

    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.perf_counter()
    found = work()
    seconds = time.perf_counter() - begun
    done.set()
    watcher.join()
    return found, seconds, peak[0] / 1e9


def main() -> None:
    """Once, in an empty cache."""
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
        write(path, options.rows, options.chats)
        recipe = Recipe(data=str(path))
        data, reading, held = watched(lambda: prepare(recipe, tokenizer))
        findings, auditing, audited = watched(lambda: audit(data))
        _, again, _ = watched(lambda: prepare(recipe, tokenizer))
        megabytes = path.stat().st_size / 1e6
    document = {
        "machine": machine(fast_dtype("cpu")),
        "date": time.strftime("%Y-%m-%d"),
        "rows": options.rows,
        "shape": data.stats.record_format,
        "megabytes": round(megabytes),
        "tokenise": {"seconds": round(reading, 1), "gigabytes": round(held, 2)},
        "audit": {"seconds": round(auditing, 1), "gigabytes": round(audited, 2)},
        "again_seconds": round(again, 1),
        "findings": [finding.message for finding in findings],
    }
    if options.json:
        print(json.dumps(document, indent=2))
        return
    print(
        f"{options.rows:,} rows ({megabytes:.0f} MB, {data.stats.record_format}), {document['machine']}, {document['date']}"
    )
    print(
        f"  tokenised in {reading:.1f} s, holding {held:.2f} GB; audited in {auditing:.1f} s, {audited:.2f} GB"
    )
    print(f"  from the cache in {again:.1f} s")
    for finding in findings:
        print(f"  {finding.message}")


if __name__ == "__main__":
    main()
