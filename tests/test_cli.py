"""The command line as a user meets it: its own process, its exit codes, what goes to which stream."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUNG = [sys.executable, "-c", "from rung.cli import main; main()"]


def rung(*args: str | Path, cwd: Path, columns: int = 80) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": str(columns), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [*RUNG, *map(str, args)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def options(tiny_folder: Path, rows_file: Path) -> list[str | Path]:
    return [
        "tune", "--model", tiny_folder, "--data", rows_file, "--validation", rows_file, "--test", rows_file,
        "--allow-leakage", "--quantization", "fp32", "--ranks", "2,4", "--learning-rates", "4e-3,1.6e-2",
        "--targets", "attention", "--alphas", "2r", "--study", "s",
    ]  # fmt: skip


def test_help_and_version_answer(tmp_path: Path) -> None:
    assert "tune" in rung("--help", cwd=tmp_path).stdout
    assert re.fullmatch(r"rung \d+\.\d+\.\d+\n", rung("--version", cwd=tmp_path).stdout)
    found = rung("tune", "--help", cwd=tmp_path).stdout
    for option in (
        "--model",
        "--data",
        "--validation",
        "--budget",
        "--alphas",
        "--strategy",
        "--margin",
        "--json",
    ):
        assert option in found


def test_json_is_one_document_on_standard_output_and_progress_goes_elsewhere(
    options: list[str | Path], tmp_path: Path
) -> None:
    done = rung(*options, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == json.loads((tmp_path / "studies" / "s" / "result.json").read_text())
    assert "learning rate" in done.stderr
    assert "Rank 2 → 4" in done.stderr
    assert "\x1b" not in done.stderr, "no control sequences in a pipe"


def test_the_summary_fits_80_columns_in_a_pipe(options: list[str | Path], tmp_path: Path) -> None:
    done = rung(*options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    lines = [line for line in done.stdout.splitlines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= 80
    assert max(map(len, done.stderr.splitlines())) <= 80
    for word in (
        "rank",
        "alpha",
        "targets",
        "rate",
        "loss",
        "trained",
        "size",
        "memory",
        "time",
        "LoraConfig(",
    ):
        assert word in done.stdout
    pasted = done.stdout[done.stdout.index("from peft") : done.stdout.index("\nAdapter")]
    names: dict[str, object] = {}
    exec(pasted, names)
    assert names["config"].lora_alpha == 2 * names["config"].r  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"--data": "none.jsonl"}, "There is no data file 'none.jsonl'"),
        ({"--data": "empty.jsonl"}, "is not one row that can be used"),
        ({"--data": "fields.jsonl"}, 'line 1: the row needs a "completion" too'),
        ({"--model": "./none"}, "There is no model './none'"),
        (
            {"--targets": "q_porj"},
            "valid targets are attention, mlp, all-linear, lm_head, or from down_proj,",
        ),
        ({"--margin": "3"}, "--margin: input should be less than 1"),
        ({"--ranks": "eight"}, "--ranks: 'eight' is no list of numbers"),
        ({"--ranks": "8,4"}, "write the ranks from small to large"),
        ({"--passes": "inf"}, "--passes: input should be a finite number, but it says inf"),
        ({"--passes": "two"}, "Invalid value for '--passes'"),
        ({"--passes": "two"}, "as a number, but it says two; see 'rung --help'"),
        (
            {"--budget": "1e308k"},
            "--budget: that is more than 1e+15 tokens; write a number of tokens such as 300k",
        ),
        (
            {"--budget": "90m"},
            "--budget: 'm' may be minutes or millions; write 90min, or 90M tokens",
        ),
        ({"--study": "../../evil"}, "--study: '../../evil' is no name for a folder ('/' is in it)"),
        ({"--study": ""}, "--study: '' is no name for a folder (there are no letters in it)"),
        (
            {"--studies": "empty.jsonl"},
            "The folder 'empty.jsonl/s' cannot be written to (Not a directory)",
        ),
        ({"--studies": "/proc/none"}, "The folder '/proc/none/s' cannot be written to"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(
    options: list[str | Path], tmp_path: Path, changes: dict[str, str], says: str
) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "fields.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    done = rung(
        *options, *(part for change in changes.items() for part in change), "--json", cwd=tmp_path
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    message = done.stderr.splitlines()[-1]
    assert message.startswith("rung: ")
    assert says in message
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "studies").exists()
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tune", "--rnaks", "8"], "No such option"),
        (["tnue"], "No such command 'tnue'"),
        (["tune", "a.yaml", "b.yaml"], "unexpected extra argument"),
    ],
)
def test_what_is_no_command_or_option_is_one_sentence_too(
    arguments: list[str], says: str, tmp_path: Path
) -> None:
    done = rung(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (message,) = done.stderr.splitlines()
    assert message.startswith("rung: ")
    assert says in message


def test_without_a_command_the_help_is_shown(tmp_path: Path) -> None:
    done = rung(cwd=tmp_path)
    assert done.returncode == 2
    assert "Usage" in done.stdout + done.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_the_middle_the_same_command_goes_on(
    options: list[str | Path], tmp_path: Path, how: signal.Signals
) -> None:
    # Eight settings, so that there is a race, and after it the confirmation to be stopped in.
    options = [*options, "--alphas", "2r,r", "--passes", "8", "--json"]
    command = [*RUNG, *map(str, options)]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A shell has its background jobs ignore Ctrl-C, and they hand that on.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    scores = tmp_path / "studies" / "s" / "scores"
    limit = time.monotonic() + 120
    while not (scores.exists() and any("@" in path.name for path in scores.iterdir())):
        assert time.monotonic() < limit
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    if how == signal.SIGINT:
        assert process.returncode == 1
        assert "the same command goes on" in errors
        assert "Traceback" not in errors
    again = rung(*options, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["recommendation"]["rank"] in (2, 4)
    assert "scoring the untuned model" not in again.stderr, (
        "what was measured is not measured again"
    )


def test_inspect_shows_a_model_without_its_weights(tiny_folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_bytes((tiny_folder / "config.json").read_bytes())
    done = rung(
        "inspect",
        config,
        "--r",
        "4",
        "--lora-alpha",
        "8",
        "--target-modules",
        "mlp",
        "--explain",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Adapter of rank 4, alpha 8, on mlp" in done.stdout
    assert (
        max(len(line.rstrip()) for line in done.stdout.splitlines() if str(tmp_path) not in line)
        <= 80
    )
    done = rung("inspect", tiny_folder, "--rank", "4", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    keys = {"architecture", "parameters", "footprint_bytes", "modules", "adapter"}
    assert keys <= found.keys()
    assert {"float32", "bfloat16", "int8", "nf4"} <= found["footprint_bytes"].keys()
    assert {"name", "kind", "in", "out", "count"} <= found["modules"][0].keys()
    assert {"rank", "alpha", "targets", "target_modules", "parameters", "bytes"} <= found[
        "adapter"
    ].keys()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["./none"], "There is no model './none'"),
        (["none.json"], "There is no file 'none.json'"),
        (["{folder}", "--targets", "q_porj"], "valid targets are"),
        (["{folder}", "--alpha", "twice"], "--alpha: 'twice' is no alpha"),
        (["{folder}", "--rank", "0"], "--rank: 0 is no rank"),
        (["some/where"], "the hub cannot be reached"),
    ],
)
def test_what_inspect_cannot_look_at_is_one_sentence(
    arguments: list[str], says: str, tiny_folder: Path, tmp_path: Path
) -> None:
    done = rung(
        "inspect", *(a.replace("{folder}", str(tiny_folder)) for a in arguments), cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_plan_says_what_a_climb_takes_and_writes_nothing(
    tiny_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    given = [
        "--model",
        tiny_folder,
        "--data",
        rows_file,
        "--validation",
        rows_file,
        "--test",
        rows_file,
    ]
    done = rung("plan", *given, "--device", "t4", "--price", "0.35", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"device", "heats", "cost", "memory", "fits", "rows", "notes"} <= found.keys()
    assert not (tmp_path / "studies").exists()
    for wrong, says in (
        (["--device", "toaster"], "no device 'toaster'"),
        (["--price", "-1"], "is no price"),
    ):
        done = rung("plan", *given, *wrong, cwd=tmp_path)
        assert done.returncode == 2
        assert says in done.stderr


def test_data_prints_one_document_and_audits(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [{"question": f"{i} {chr(97 + i % 5)}:", "answer": i % 5} for i in range(400)]
    (tmp_path / "a.jsonl").write_text(
        "\n".join(json.dumps(row) for row in [*rows, {"question": "?"}])
    )
    given = [
        "data",
        "--model",
        tiny_folder,
        "--data",
        "a.jsonl",
        "--fields",
        "prompt=question,completion=answer",
    ]
    done = rung(*given, "--json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "a.jsonl, line 401: there is no field 'answer'" in done.stderr
    done = rung(*given, "--skip-bad-rows", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"format", "splits", "example", "audit"} <= found.keys()
    assert len(found["example"]["tokens"]) == len(found["example"]["learned"])
    assert {"far", "malformed"} <= {finding["kind"] for finding in found["audit"]}
    (tmp_path / "recipe.yaml").write_text(
        f"model: {tiny_folder}\ndata: a.jsonl\nfields: {{prompt: question, completion: answer}}\nskip_bad_rows: true\n"
    )
    done = rung("data", "recipe.yaml", "--no-model", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "One row as the model sees it" in done.stdout
    done = rung(*given[:-1], "prompt", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        "--fields: 'prompt' is no list of names; write prompt=question,completion=answer"
        in done.stderr
    )


def test_the_decimal_mark_is_an_option(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"{i} it:", "completion": f"{i % 9 + 1},{100 + i % 37}"} for i in range(400)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    given = "data", "--data", "a.jsonl", "--model", tiny_folder, "--no-model", "--json", "--numbers"
    done = rung(*given, "dots", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--numbers: input should be 'auto', 'point' or 'comma', but it says dots" in done.stderr
    done = rung(*given, "comma", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["numbers"]["decimal"] == "comma"


def test_what_is_in_two_splits_stops_a_study(options: list[str | Path], tmp_path: Path) -> None:
    without = [option for option in options if option != "--allow-leakage"]
    done = rung(*without, cwd=tmp_path)
    assert done.returncode == 2
    assert "240 rows stand in two splits" in done.stderr
    assert not (tmp_path / "studies").exists()
