"""`rung inspect`, `rung plan` and `rung data` on the command line."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest
from tests.command_line import CommandLine, rung_process


@pytest.fixture
def rung(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> CommandLine:
    # `rung inspect` turns garbage collection off for its process.
    monkeypatch.setattr(gc, "disable", lambda: None)
    return CommandLine(monkeypatch, capsys, tmp_path)


def test_inspect_shows_a_model_without_its_weights(tiny_folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_bytes((tiny_folder / "config.json").read_bytes())
    levers = ["--r", "4", "--lora-alpha", "8", "--target-modules", "mlp"]
    ended = rung_process("inspect", config, *levers, "--explain", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "rank 4" in ended.stdout
    lines = [line.rstrip() for line in ended.stdout.splitlines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= 80


def test_inspect_prints_one_document(tiny_folder: Path, tmp_path: Path) -> None:
    ended = rung_process("inspect", tiny_folder, "--rank", "4", "--json", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    keys = {"schema", "architecture", "parameters", "footprint_bytes", "modules", "adapter"}
    assert keys <= document.keys()
    assert {"float32", "bfloat16", "int8", "nf4"} <= document["footprint_bytes"].keys()
    adapter = document["adapter"]
    assert {"setting", "scale", "target_modules", "parameters", "bytes"} <= adapter.keys()
    assert (adapter["setting"]["rank"], adapter["setting"]["alpha"]) == (4, 8)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["./none"], "There is no model './none'"),
        (["none.json"], "There is no file 'none.json'"),
        (["{folder}", "--targets", "q_porj"], "valid targets are"),
        (["{folder}", "--alpha", "twice"], "--alpha: 'twice' is no alpha"),
        (["{folder}", "--alpha", "1e9"], "--alpha: "),
        (["{folder}", "--rank", "0"], "--rank: 0 is not a rank"),
        (["some/where"], "the hub cannot be reached"),
    ],
)
def test_what_inspect_cannot_look_at_is_one_sentence(
    arguments: list[str], says: str, tiny_folder: Path, rung: CommandLine
) -> None:
    ended = rung("inspect", *(word.replace("{folder}", str(tiny_folder)) for word in arguments))
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err
    assert len(ended.err.strip().splitlines()) == 1


def test_plan_prints_one_document_and_writes_nothing(
    tiny_folder: Path, rows_file: Path, tmp_path: Path, rung: CommandLine
) -> None:
    rows = [word for name in ("data", "validation", "test") for word in (f"--{name}", rows_file)]
    given = ["plan", "--model", tiny_folder, *rows]
    ended = rung(*given, "--device", "t4", "--price", "0.35", "--json")
    assert ended.code == 0, ended.err
    document = json.loads(ended.out)
    assert {"device", "stages", "cost", "memory", "fits", "power", "notes"} <= document.keys()
    assert document["cost"]["price_per_hour"] == 0.35
    assert not (tmp_path / "studies").exists()
    for wrong, says in (
        (["--device", "toaster"], "no device 'toaster'"),
        (["--price", "-1"], "--price: -1 is not a price"),
    ):
        ended = rung(*given, *wrong)
        assert (ended.code, ended.out) == (2, "")
        assert says in ended.err


def test_data_prints_one_document_and_audits(
    tiny_folder: Path, tmp_path: Path, rung: CommandLine
) -> None:
    rows = [{"question": f"{i} {chr(97 + i % 5)}:", "answer": i % 5} for i in range(400)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"question": "?"}])))
    given = ["data", "--model", tiny_folder, "--data", "a.jsonl"]
    fields = ["--fields", "prompt=question,completion=answer"]
    ended = rung(*given, *fields, "--json")
    assert (ended.code, ended.out) == (2, "")
    assert "a.jsonl, line 401: there is no field 'answer'" in ended.err

    ended = rung(*given, *fields, "--skip-bad-rows", "--json")
    assert ended.code == 0, ended.err
    document = json.loads(ended.out)
    assert {"schema", "format", "splits", "example", "audit"} <= document.keys()
    assert len(document["example"]["tokens"]) == len(document["example"]["learned"])
    assert {"far", "malformed"} <= {finding["kind"] for finding in document["audit"]}

    ended = rung(*given, "--fields", "prompt")
    assert (ended.code, ended.out) == (2, "")
    says = "--fields: 'prompt' is not a list of names; write prompt=question,completion=answer"
    assert says in ended.err


def test_data_takes_a_recipe_and_prints_a_page(
    tiny_folder: Path, tmp_path: Path, rung: CommandLine
) -> None:
    rows = [{"question": f"{i} {chr(97 + i % 5)}:", "answer": i % 5} for i in range(400)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "recipe.yaml").write_text(
        f"model: {tiny_folder}\ndata: a.jsonl\nfields: {{prompt: question, completion: answer}}\n"
    )
    ended = rung("data", "recipe.yaml", "--no-model")
    assert ended.code == 0, ended.err
    assert "One row as the model sees it" in ended.out


def test_the_decimal_mark_is_an_option(
    tiny_folder: Path, tmp_path: Path, rung: CommandLine
) -> None:
    rows = [{"prompt": f"{i} it:", "completion": f"{i % 9 + 1},{100 + i % 37}"} for i in range(400)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = "data", "--data", "a.jsonl", "--model", tiny_folder, "--no-model", "--json", "--numbers"
    ended = rung(*given, "dots")
    assert (ended.code, ended.out) == (2, "")
    says = "--numbers: input should be 'auto', 'point' or 'comma', but it says dots"
    assert says in ended.err
    ended = rung(*given, "comma")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["numbers"]["decimal"] == "comma"
