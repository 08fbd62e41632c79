from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rung.commands.data import datasheet
from rung.errors import MetricError
from rung.recipe import Recipe
from rung.report.data import sheet


def quiet(_: str) -> None:
    """Nobody listens."""


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    return str(path)


def pairs(count: int) -> list[dict[str, str]]:
    return [
        {"prompt": f"{i} {chr(97 + i % 5)}:", "completion": chr(97 + i % 5) * 2}
        for i in range(count)
    ]


def shown(found: dict[str, Any], width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(sheet(found))
    return out.getvalue()


def look(folder: Path, data: str, with_model: bool = False, **options: Any) -> dict[str, Any]:
    recipe = Recipe(model=str(folder), data=data, quantization="fp32", precision="fp32", **options)
    found = datasheet(recipe, with_model, quiet)
    assert found == json.loads(json.dumps(found)), "it is all JSON"
    return found


def test_the_document(tiny_folder: Path, tmp_path: Path) -> None:
    found = look(tiny_folder, write(tmp_path / "a.jsonl", pairs(400)))
    assert found["format"] == "prompt_completion"
    assert sum(found["splits"].values()) == 400
    assert found["made_splits"] == ["validation", "test"]
    example = found["example"]
    assert "".join(example["text"]) == "0 a:aa<end>"
    assert (
        "".join(t for t, on in zip(example["text"], example["learned"], strict=True) if on)
        == "aa<end>"
    )
    assert len(example["tokens"]) == len(example["learned"])
    assert sum(bar["rows"] for bar in found["lengths"]["histogram"]) == 400
    assert (found["lengths"]["longest"], found["untuned"]) == (9, None)
    assert found["metrics"] == ["accuracy", "macro_f1"]
    assert set(found["trivial"]) == {"writes", "accuracy", "macro_f1"}
    assert {"kind", "severity", "message"} == set(found["audit"][0])


def test_the_untuned_model_is_asked_where_it_is_at_hand(tiny_folder: Path, tmp_path: Path) -> None:
    found = look(tiny_folder, write(tmp_path / "a.jsonl", pairs(400)), with_model=True)
    assert found["untuned"]["rows"] == min(128, found["splits"]["validation"])
    kinds = {finding["kind"]: finding for finding in found["audit"]}
    assert f"loses {found['untuned']['validation_loss']:.2f} nats a token" in kinds["far"]["says"]
    severities = [finding["severity"] for finding in found["audit"]]
    assert severities == sorted(severities, key=["error", "warning", "note"].index), (
        "the worst first"
    )


def test_rows_that_do_not_fit_the_model_are_an_error_in_the_audit(
    tiny_folder: Path, tmp_path: Path
) -> None:
    data = write(tmp_path / "a.jsonl", [*pairs(400), {"prompt": "long " * 30, "completion": "x"}])
    found = look(tiny_folder, data, with_model=True)
    assert found["untuned"] is None
    assert found["audit"][0]["kind"] == "limits"
    assert found["audit"][0]["says"].startswith(
        "1 of 401 rows have more tokens than the model has positions, 128, and"
    )


def test_a_loss_that_is_small_is_no_word_against_another_language(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rung.commands.data.FAR", 99.0)
    data, said = write(tmp_path / "a.jsonl", pairs(400)), {}
    for foreign in (None, "It is in Hangul"):
        monkeypatch.setattr(
            "rung.data.audit.tokens.find_foreign_language",
            lambda rows, tokenizer, foreign=foreign: foreign,
        )
        found = look(tiny_folder, data, with_model=True)
        said[foreign] = {finding["kind"]: finding["says"] for finding in found["audit"]}
    assert "the output head (lm_head) can be left alone" in said[None]["near"]
    assert "language" not in said[None]
    assert said["It is in Hangul"]["near"].endswith("but see their language.")
    assert said["It is in Hangul"]["language"].startswith(
        "It is in Hangul. The output head (lm_head) may be worth"
    )


def test_letters_of_several_tokens_are_shown_whole(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [{"text": f"달 🌙 {i}"} for i in range(400)]
    found = look(tiny_folder, write(tmp_path / "a.jsonl", rows))
    assert (found["metrics"], found["trivial"]) == ([], None), "nothing is written after nothing"
    assert all(found["example"]["learned"])


@pytest.mark.slow
def test_letters_of_several_tokens_in_a_real_tokenizer(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}: 달 🌙", "completion": " 👩‍🚀 끝"} for i in range(400)]
    found = datasheet(Recipe(data=write(tmp_path / "a.jsonl", rows)), False, quiet)
    example = found["example"]
    assert "".join(example["text"]) == "0: 달 🌙 👩‍🚀 끝<|im_end|>"
    assert len(example["text"]) == len(example["tokens"])


@pytest.mark.parametrize("width", [80, 120])
def test_what_is_printed(tiny_folder: Path, tmp_path: Path, width: int) -> None:
    rows = [
        *pairs(380),
        *({"prompt": f"long{i} " * 20, "completion": "x"} for i in range(9)),
        {"prompt": "p"},
    ]
    data = write(tmp_path / "a.jsonl", rows)
    text = shown(look(tiny_folder, data, max_tokens=60, skip_bad_rows=True), width)
    assert "0 a:⟦aa<end>⟧" in text
    assert "validation (by a hash)" in text
    assert "Writing ends at <end>." in text
    assert "max_tokens is 60" in " ".join(text.split())
    assert "! 1 malformed row is left out" in text
    assert "! 9 of 389 rows (2.3%) are longer than max_tokens" in " ".join(text.split())
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width


def test_a_very_long_row_is_shown_by_its_ends(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "x" * 4000 + str(i), "completion": "yes"} for i in range(300)]
    text = shown(look(tiny_folder, write(tmp_path / "a.jsonl", rows), max_tokens=5000))
    assert "[…]" in text
    assert "⟦yes<end>⟧" in text
    assert len(text) < 4000


def test_numbers_are_read_as_the_column_or_the_user_says(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"{i} it:", "completion": f"{i % 9 + 1},{100 + i % 37}"} for i in range(400)]
    path = write(tmp_path / "a.jsonl", rows)
    assumed = look(tiny_folder, path)
    assert assumed["numbers"] == {
        "decimal": "point",
        "spaced": False,
        "negative": False,
        "short": False,
    }
    assert "--numbers point or --numbers comma" in " ".join(shown(assumed).split())
    said = look(tiny_folder, path, numbers="comma")
    assert said["metrics"][0] == assumed["metrics"][0] == "mean_absolute_error"
    assert said["numbers"]["decimal"] == "comma"
    assert (
        float(said["trivial"]["writes"].replace(",", "."))
        < 10
        < float(assumed["trivial"]["writes"])
    )


def test_held_out_numbers_that_are_written_otherwise(tiny_folder: Path, tmp_path: Path) -> None:
    def part(name: str, mark: str, first: int) -> str:
        texts = [f"{i % 50}{mark}{i % 9}1" for i in range(first, first + 150)]
        return write(
            tmp_path / name,
            [{"prompt": f"{name} {i}:", "completion": text} for i, text in enumerate(texts)],
        )

    files: dict[str, Any] = {
        "data": part("a.jsonl", ",", 0),
        "validation": part("b.jsonl", ",", 7),
        "test": part("c.jsonl", ".", 3),
    }
    found = look(tiny_folder, **files)
    assert "mean_absolute_error" not in found["metrics"]
    says = [finding["says"] for finding in found["audit"] if finding["kind"] == "numbers"]
    assert "150 of 300 held-out completions are no such number, such as '3.31'" in says[0]
    with pytest.raises(
        MetricError, match="the test completions, such as '3.31', have no numbers as the training"
    ):
        look(tiny_folder, metrics=["rmsle"], **files)
