"""Shows that a change to the code changes no result: the same studies, compared bit by bit.

Record the results before the change and after it, each from its own checkout, and compare:

    python benchmarks/same_results.py record FOLDER [tiny] [demo] [grid]
    python benchmarks/same_results.py compare FOLDER_A FOLDER_B [tiny] [demo] [grid]

`record` runs three seeded studies through the command line, on the CPU with one thread, with an
empty cache, and with the code of the checkout that this file is in:

- `tiny`: a climb that reaches verdicts, on a random Llama of two layers in float32;
- `demo`: a climb on SmolLM2-135M in NF4 that confirms its finalists with two seeds;
- `grid`: a grid that a metric judges, on the tiny Llama in NF4.

For each it writes what the program printed (`NAME.log`) and what the study found (`NAME.json`), in
the form of `neutral.py`. So results can be compared when `result.json`, the database or the names
of files change; then a reader for the new schema goes into `neutral.py`.

`compare` lists what differs and exits with 1 if anything does. Times, memory and paths are not
compared. Results of two machines need not be equal: `compare` says where the machines differ.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from neutral import read_study

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = (sys.executable, "-c", "from rung.cli import main; main()", "tune")
Difference = tuple[str, Any, Any]
"""Where two documents differ, and what each has there."""
ABSENT = "absent"
SHOWN = 10
"""The most differences of a study that `compare` lists."""

TINY = "--model {model} --data {rows} --precision fp32 --batch-size 8 --max-tokens 64 "
STUDIES = {
    "tiny": TINY + "--quantization fp32 --targets attention --targets mlp --ranks 2,4,8 "
    "--alphas 2r,r,rslora --seed 2 --passes 1 --budget 200k",
    "demo": "--passes 0.15 --budget 25k",
    # The highest rate and alpha make some candidates diverge.
    "grid": TINY + "--quantization nf4 --targets attention --targets lm_head --ranks 2,4 "
    "--alphas 2r,1000000 --learning-rates 1.6e-2,0.9 --passes 2 --strategy grid "
    "--metric exact_match --judge metric",
}
"""The options of each study. `{model}` and `{rows}` are the tiny Llama and its data."""
ANYWHERE = " --memory 20GB"
"""The memory decides how wide packs are, and the width the last bits. So it is fixed, and at so
much that Rung measures nothing before a pack. No study really holds as much."""

ALPHABET = ["<unk>", "<end>", *map(chr, range(32, 127)), "\n"]


def make_tiny_llama(folder: Path) -> None:
    """Save a random Llama of two layers, with a tokenizer of single characters."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(ALPHABET),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.2,  # with the usual 0.02 a model this small hardly learns
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    ids = {character: number for number, character in enumerate(ALPHABET)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>", pad_token="<end>"
    ).save_pretrained(folder)


def write_rows(path: Path) -> None:
    """Write 600 rows that the tiny Llama can learn: the completion repeats the prompt's letter."""
    rows = []
    for i in range(600):
        letter = chr(97 + i % 5)
        rows.append({"prompt": f"{i} {letter}:", "completion": letter * (2 + i % 3 // 2)})
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def record(folder: Path, names: Sequence[str]) -> None:
    """Run the studies of these names and write what each found into the folder.

    Raises:
        SystemExit: a study failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        make_tiny_llama(work / "tiny-llama")
        write_rows(work / "rows.jsonl")
        paths = {"model": work / "tiny-llama", "rows": work / "rows.jsonl"}
        for name in names:
            options = [option.format(**paths) for option in (STUDIES[name] + ANYWHERE).split()]
            seconds = run([*options, "--study", name], work, folder / f"{name}.log")
            document = {
                "options": STUDIES[name] + ANYWHERE,
                "seconds": seconds,
                "machine": machine(),
                "results": read_study(work / "studies" / name),
            }
            path = folder / f"{name}.json"
            path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            print(f"{name}: {seconds} s, {path}", flush=True)


def run(options: Sequence[str], work: Path, log: Path) -> float:
    """Run a study of this checkout's code in the folder `work/studies`; returns its seconds.

    Raises:
        SystemExit: it failed.
    """
    variables = {
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HUB_OFFLINE"), "1"),
        **{"CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"},
        **{"PYTHONPATH": str(ROOT / "src"), "RUNG_CACHE": str(work / "cache")},
    }
    command = [*PROGRAM, *options, "--studies", str(work / "studies")]
    begun = time.perf_counter()
    with log.open("w", encoding="utf-8") as output:
        environment = os.environ | variables
        done = subprocess.run(command, stdout=output, stderr=output, env=environment, cwd=work)
    if done.returncode:
        raise SystemExit(f"The study ended with exit code {done.returncode}; see {log}.")
    return round(time.perf_counter() - begun, 1)


def machine() -> dict[str, str]:
    """What results may depend on besides the code."""
    import torch

    libraries = ("torch", "transformers", "peft", "bitsandbytes", "scipy", "numpy", "tokenizers")
    return {
        "platform": platform.platform(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
    }


def compare(one: Path, other: Path, names: Sequence[str]) -> bool:
    """Print for each study whether the two folders have the same results; whether all do."""
    equal = True
    for name in names:
        paths = [folder / f"{name}.json" for folder in (one, other)]
        if missing := [str(path) for path in paths if not path.exists()]:
            print(f"{name}: not compared, for there is no {' and no '.join(missing)}")
            equal = False
            continue
        before, after = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
        if before["options"] != after["options"]:
            print(f"{name}: not compared, for the options differ")
            equal = False
            continue
        differences = list(unequal(before["results"], after["results"]))
        what = f"{len(differences)} differences" if differences else "equal"
        seconds = f"{before['seconds']} s and {after['seconds']} s"
        print(f"{name}: {what}, {count_values(before['results'])} values, {seconds}")
        if differences:
            tell(differences)
            for where, left, right in unequal(before["machine"], after["machine"]):
                print(f"  the machines differ: {where} {left}, then {right}")
            equal = False
    return equal


def tell(differences: Sequence[Difference]) -> None:
    """Print what differs in a study, and the largest relative difference of two numbers."""
    for where, left, right in differences[:SHOWN]:
        print(f"  {where}: {shown(left)}, then {shown(right)}")
    if len(differences) > SHOWN:
        print(f"  and {len(differences) - SHOWN} more")
    apart = [(apart_by(left, right), where) for where, left, right in differences]
    if numbers := [(by, where) for by, where in apart if by is not None]:
        most, where = max(numbers)
        print(f"  largest relative difference of a number: {most:.3g}, at {where}")


def unequal(one: Any, other: Any, where: str = "") -> Iterator[Difference]:
    """The places where the two documents differ, as deep as both have them."""
    if isinstance(one, list) and isinstance(other, list):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            place = f"{where} / {key}" if where else str(key)
            yield from unequal(one.get(key, ABSENT), other.get(key, ABSENT), place)
    elif one != other:
        yield where, one, other


def count_values(document: Any) -> int:
    """How many values a JSON document has that hold no others."""
    if isinstance(document, dict | list):
        inner = document.values() if isinstance(document, dict) else document
        return sum(map(count_values, inner))
    return 1


def number(value: Any) -> float | None:
    """A number of the neutral form as a float; None where the value is something else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and ("0x" in value or value in ("inf", "-inf", "nan")):
        return float.fromhex(value)
    return None


def apart_by(one: Any, other: Any) -> float | None:
    """How far two numbers are apart, relative to the larger; None where either is no number."""
    left, right = number(one), number(other)
    if left is None or right is None:
        return None
    apart = abs(left - right) / max(abs(left), abs(right), math.ulp(0.0))
    return math.inf if math.isnan(apart) else apart


def shown(value: Any) -> str:
    """A value for people to read."""
    if isinstance(value, dict | list):
        return f"{count_values(value)} values"
    return repr(number(value)) if isinstance(value, str) and "0x" in value else str(value)


def main() -> None:
    """Record or compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="run the studies and write what they found")
    recording.add_argument("folder", type=Path)
    comparing = commands.add_parser("compare", help="say what differs between two recordings")
    comparing.add_argument("one", type=Path)
    comparing.add_argument("other", type=Path)
    for command in (recording, comparing):
        command.add_argument("studies", nargs="*", help=f"of {', '.join(STUDIES)}; all by default")
    options = parser.parse_args()
    names = options.studies or list(STUDIES)
    if unknown := set(names) - STUDIES.keys():
        parser.error(f"there is no study {min(unknown)}; the studies are {', '.join(STUDIES)}")
    if options.command == "record":
        record(options.folder, names)
    elif not compare(options.one, options.other, names):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
