"""The command line as a user meets it: exit codes, what goes to which stream, one sentence."""

from __future__ import annotations

import functools
import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.command_line import RUNG, CommandLine, Ended, rung_process
from tests.tiny import write_rows

from rung.version import __version__


@pytest.fixture
def rung(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> CommandLine:
    # `rung inspect` turns garbage collection off for its process.
    monkeypatch.setattr(gc, "disable", lambda: None)
    return CommandLine(monkeypatch, capsys, tmp_path)


def study_options(model: Path, rows: Path) -> list[str | Path]:
    return [
        "tune", "--model", model, "--data", rows, "--validation", rows, "--test", rows,
        "--allow-leakage", "--quantization", "fp32", "--ranks", "2,4",
        "--learning-rates", "4e-3,1.6e-2", "--targets", "attention", "--alphas", "2r",
        "--study", "s",
    ]  # fmt: skip


@pytest.fixture
def options(tiny_folder: Path, rows_file: Path) -> list[str | Path]:
    return study_options(tiny_folder, rows_file)


def test_the_version_is_printed(rung: CommandLine) -> None:
    assert rung("--version") == Ended(0, f"rung {__version__}\n", "")
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


def test_the_help_names_the_commands(rung: CommandLine) -> None:
    for word in ("--help", "-h"):
        text = rung(word).out
        for command in ("tune", "plan", "data", "inspect"):
            assert f" {command} " in text


def test_without_a_command_the_help_is_shown(rung: CommandLine) -> None:
    ended = rung()
    assert ended.code == 2
    assert "Usage" in ended.out + ended.err


# A study.


@pytest.fixture(scope="module")
def studied(
    tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str | Path], subprocess.CompletedProcess[str]]:
    """A study in a process of its own: its folder, its options, and how it ended."""
    folder = tmp_path_factory.mktemp("cli")
    options = study_options(tiny_folder, write_rows(folder / "rows.jsonl"))
    return folder, options, rung_process(*options, "--json", cwd=folder)


def test_json_is_one_document_on_standard_output_and_progress_goes_to_standard_error(
    studied: tuple[Path, list[str | Path], subprocess.CompletedProcess[str]],
) -> None:
    folder, _, ended = studied
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert document == json.loads((folder / "studies" / "s" / "result.json").read_text())
    assert document["schema"] == 2
    assert "learning rate" in ended.stderr
    assert "Rank 2 → 4" in ended.stderr
    assert "\x1b" not in ended.stderr, "no control sequences in a pipe"
    assert max(map(len, ended.stderr.splitlines())) <= 80


def test_the_summary_fits_80_columns_in_a_pipe_and_its_code_can_be_pasted(
    studied: tuple[Path, list[str | Path], subprocess.CompletedProcess[str]], rung: CommandLine
) -> None:
    folder, options, _ = studied
    rung.monkeypatch.chdir(folder)
    ended = rung(*options)
    assert ended.code == 0, ended.err
    assert "\x1b" not in ended.out
    assert max(map(len, ended.out.splitlines())) <= 80
    for word in ("rank", "alpha", "targets", "rate", "loss", "trained", "size", "memory", "time"):
        assert word in ended.out
    code = ended.out[ended.out.index("from peft") : ended.out.index("\nAdapter")]
    names: dict[str, object] = {}
    exec(code, names)
    config = names["config"]
    assert config.lora_alpha == 2 * config.r  # type: ignore[attr-defined]
    assert config.r in (2, 4)  # type: ignore[attr-defined]


def test_the_manifest_has_the_version(
    studied: tuple[Path, list[str | Path], subprocess.CompletedProcess[str]],
) -> None:
    manifest = json.loads((studied[0] / "studies" / "s" / "manifest.json").read_text())
    assert manifest["versions"]["rung"] == __version__


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_the_middle_the_same_command_goes_on(
    options: list[str | Path], tmp_path: Path, rung: CommandLine, how: signal.Signals
) -> None:
    # Eight settings, so that there is a race, and after it the confirmation to be stopped in.
    options = [*options, "--alphas", "2r,r", "--passes", "4", "--json"]
    process = subprocess.Popen(
        [*RUNG, *map(str, options)],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A shell has its background jobs ignore Ctrl-C, and they hand that on.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    scores = tmp_path / "studies" / "s" / "scores"
    limit = time.monotonic() + 240
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
    again = rung(*options)
    assert again.code == 0, again.err
    assert json.loads(again.out)["recommendation"]["setting"]["rank"] in (2, 4)
    assert "scoring the untuned model" in errors
    assert "scoring the untuned model" not in again.err, "nothing is measured twice"


# Wrong input.


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"--data": "none.jsonl"}, "There is no data file 'none.jsonl'"),
        ({"--data": "empty.jsonl"}, "'empty.jsonl' has no row"),
        ({"--data": "fields.jsonl"}, 'line 1: the row also needs a "completion"'),
        ({"--model": "./none"}, "There is no model './none'"),
        (
            {"--targets": "q_porj"},
            "valid targets are attention, mlp, all-linear, lm_head, or from down_proj,",
        ),
        ({"--margin": "3"}, "--margin: input should be less than 1"),
        ({"--ranks": "eight"}, "--ranks: 'eight' is not a list of numbers"),
        ({"--ranks": "8,4"}, "write the ranks from small to large"),
        ({"--passes": "inf"}, "--passes: input should be a finite number, but it says inf"),
        ({"--passes": "two"}, "--passes: input should be a valid number, "),
        (
            {"--budget": "1e308k"},
            "--budget: that is more than 1e+15 tokens; write a number of tokens such as 300k",
        ),
        (
            {"--budget": "90m"},
            "--budget: 'm' may be minutes or millions; write 90min, or 90M tokens",
        ),
        (
            {"--study": "../../evil"},
            "--study: '../../evil' cannot be the name of a folder (it contains '/')",
        ),
        ({"--study": ""}, "--study: '' cannot be the name of a folder (it has no letters)"),
        (
            {"--studies": "empty.jsonl"},
            "The folder 'empty.jsonl/s' cannot be written to (Not a directory)",
        ),
        ({"--studies": "/proc/none"}, "The folder '/proc/none/s' cannot be written to"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(
    options: list[str | Path],
    tmp_path: Path,
    rung: CommandLine,
    changes: dict[str, str],
    says: str,
) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "fields.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    ended = rung(*options, *(part for change in changes.items() for part in change), "--json")
    assert (ended.code, ended.out) == (2, ""), ended.err
    message = ended.err.splitlines()[-1]
    assert message.startswith("rung: ")
    assert says in message
    assert "Traceback" not in ended.err
    assert not (tmp_path / "studies").exists()
    assert not (tmp_path.parent / "evil").exists()


def test_wrong_data_are_refused_in_a_process_of_its_own(
    options: list[str | Path], tmp_path: Path
) -> None:
    ended = rung_process(*options, "--data", "none.jsonl", "--json", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    message = ended.stderr.splitlines()[-1]
    assert message.startswith("rung: There is no data file 'none.jsonl'")
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "studies").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["tune", "--ranks", "8,4"],
        ["tune", "none.yaml"],
        ["tune", "--study", "a/b"],
        ["plan", "--margin", "3"],
        ["plan", "--price", "-1"],
        ["data", "--numbers", "dots"],
        ["tune", "--rnaks", "8"],
    ],
)
def test_a_wrong_option_is_answered_before_torch_is_imported(
    tmp_path: Path, arguments: list[str]
) -> None:
    program = f"""
import sys
from rung.cli import main
sys.argv = ["rung", *{arguments!r}]
try:
    main()
except SystemExit as end:
    heavy = [name for name in ("torch", "transformers", "optuna", "scipy") if name in sys.modules]
    print(end.code, heavy)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert ended.stdout == "2 []\n", ended.stderr
    assert ended.stderr.startswith("rung: ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tune", "--rnaks", "8"], "No such option"),
        (["tnue"], "No such command 'tnue'"),
        (["tune", "a.yaml", "b.yaml"], "unexpected extra argument"),
        (["tune", "--ranks"], "Option '--ranks' requires an argument"),
        (["inspect", "m", "--rank", "x"], "but it says x; see 'rung --help'"),
    ],
)
def test_what_is_no_command_or_option_is_one_sentence_too(
    rung: CommandLine, arguments: list[str], says: str
) -> None:
    ended = rung(*arguments)
    assert (ended.code, ended.out) == (2, "")
    (message,) = ended.err.splitlines()
    assert message.startswith("rung: ")
    assert says in message


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a full device")
@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_an_answer_that_cannot_be_written_is_one_sentence(
    tiny_folder: Path, tmp_path: Path, as_json: list[str]
) -> None:
    with Path("/dev/full").open("w") as full:
        command = [*RUNG, "inspect", str(tiny_folder), *as_json]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    (message,) = ended.stderr.splitlines()
    assert message.startswith("rung: Standard output cannot be written (No space left on device)")


def test_a_code_page_without_every_character_is_enough(tiny_folder: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [*RUNG, "inspect", str(tiny_folder)]
    page = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (page.returncode, page.stderr) == (0, "")
    assert "?? q_proj" in page.stdout
    document = subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True)
    assert "?" not in document.stdout
    assert json.loads(document.stdout)["architecture"] == "LlamaForCausalLM"


def test_the_folder_of_studies_is_not_the_current_one_by_an_empty_name(rung: CommandLine) -> None:
    ended = rung("tune", "--studies", "")
    assert ended == Ended(2, "", "rung: --studies: write a name, without control characters.\n")


def test_rows_in_two_splits_stop_a_study(
    options: list[str | Path], tmp_path: Path, rung: CommandLine
) -> None:
    ended = rung(*(option for option in options if option != "--allow-leakage"))
    assert ended.code == 2
    assert "240 rows" in ended.err
    assert "two splits" in ended.err
    assert not (tmp_path / "studies").exists()
