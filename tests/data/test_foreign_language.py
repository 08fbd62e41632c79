"""Another language is noticed by its letters, and nothing else is taken for one."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.odd_tokenizers import byte_level
from tests.tiny import tiny_tokenizer

from rung.data.audit import audit, suggests_lm_head
from rung.data.foreign_language import ForeignLanguage, find_foreign_language, own_scripts, script
from rung.data.prepare import Data, prepare
from rung.recipe import Recipe

ALPHABETS = {
    "Hangul": [chr(0xAC00 + 7 * i) for i in range(200)],
    "Cyrillic": list("абвгдежзийклмнопрстуфхцчшщъыьэюя"),
    "Han": [chr(0x4E00 + 11 * i) for i in range(200)],
    "Arabic": list("ابتثجحخدذرزسشصضطظعغفقكلمنهوي"),
}
ROWS = 300


def make_names(letters: Sequence[str], seed: int) -> list[str]:
    draw = random.Random(f"{letters[0]}:{seed}")
    return ["".join(draw.choices(letters, k=draw.randint(4, 9))) for _ in range(ROWS)]


LATIN = list("abcdefghijklmnopqrstuvwxyz")
ENGLISH, OTHER_ENGLISH = make_names(LATIN, 1), make_names(LATIN, 2)
KOREAN, OTHER_KOREAN = make_names(ALPHABETS["Hangul"], 1), make_names(ALPHABETS["Hangul"], 2)
ACCENTED = "ếđồảàộịạêô"
VIETNAMESE, OTHER_VIETNAMESE = (make_names([*LATIN, *ACCENTED], seed) for seed in (1, 2))


def prepare_rows(tmp_path: Path, rows: list[Any], tokenizer: Any) -> Data:
    files = {}
    for name in ("train", "validation", "test"):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(
            "\n".join(json.dumps(row) for row in (rows if name == "train" else rows[:30]))
        )
        files[name] = str(path)
    recipe = Recipe(
        data=files["train"], validation=files["validation"], test=files["test"], template="plain"
    )
    return prepare(recipe, tokenizer)


def find(
    tmp_path: Path, prompts: Sequence[str], completions: Sequence[str]
) -> ForeignLanguage | None:
    tokenizer = byte_level()
    rows = [{"prompt": p, "completion": f" {c}"} for p, c in zip(prompts, completions, strict=True)]
    return find_foreign_language(prepare_rows(tmp_path, rows, tokenizer).train, tokenizer)


@pytest.mark.parametrize("name", ALPHABETS)
def test_a_script_that_neither_prompts_nor_vocabulary_have_is_another_language(
    tmp_path: Path, name: str
) -> None:
    language = find(tmp_path, [f"{a} in it:" for a in ENGLISH], make_names(ALPHABETS[name], 3))
    assert language is not None
    assert language.scripts == (name,)
    assert language.share == 1
    assert language.new_tokens > 0.5
    assert language.letter_pieces > 0.5, "the vocabulary is of English bytes"


def test_several_scripts_of_one_language_are_named_together(tmp_path: Path) -> None:
    japanese = [
        "".join(pair)
        for pair in zip(
            make_names(list("あいうえおかきくけこ"), 1),
            make_names(list("アイウエオカキクケコ"), 1),
            strict=True,
        )
    ]
    language = find(tmp_path, ENGLISH, japanese)
    assert language is not None
    assert set(language.scripts) == {"Hiragana", "Katakana"}


def test_the_name_of_the_language_in_every_prompt_does_not_make_it_known(tmp_path: Path) -> None:
    language = find(tmp_path, [f"Write in 한국어 : {a}" for a in ENGLISH], KOREAN)
    assert language is not None
    assert language.scripts == ("Hangul",)


def test_in_the_script_of_the_prompts_new_letters_show_another_language(
    tmp_path: Path,
) -> None:
    language = find(tmp_path, [f"{a}:" for a in ENGLISH], VIETNAMESE)
    assert language is not None
    assert language.scripts == ()
    assert set(language.letters) <= set(ACCENTED)
    assert "it is in letters that the prompts lack, such as" in str(language)


def test_half_of_the_rows_is_enough_and_a_tenth_is_not(tmp_path: Path) -> None:
    for every, share in ((2, 0.5), (10, None)):
        completions = [
            ko if i % every == 0 else en
            for i, (ko, en) in enumerate(zip(KOREAN, OTHER_ENGLISH, strict=True))
        ]
        language = find(tmp_path, ENGLISH, completions)
        assert (language and language.share) == share


CODE = [f"def {name}(x):\n    return x['{name}']" for name in ENGLISH]
CONTROLS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "English from English": (ENGLISH, OTHER_ENGLISH),
    "capitals": (ENGLISH, [name.upper() for name in ENGLISH]),
    "Korean from Korean": (KOREAN, OTHER_KOREAN),
    "Korean from Korean in an English frame": (
        [f"### Question:\n{a}\n### Answer:\n" for a in KOREAN],
        OTHER_KOREAN,
    ),
    "Korean from short Korean prompts": ([f"이야기 {i}" for i in range(ROWS)], KOREAN),
    "English, which the vocabulary is in, from Korean": (KOREAN, ENGLISH),
    "both ways": ([*ENGLISH[:150], *KOREAN[:150]], [*KOREAN[150:], *ENGLISH[150:]]),
    "Vietnamese from Vietnamese": (VIETNAMESE, OTHER_VIETNAMESE),
    "a Korean word in an English sentence": (
        ENGLISH,
        [f"the name of {e} is {k[:3]}" for e, k in zip(ENGLISH, KOREAN, strict=True)],
    ),
    "code": (ENGLISH, CODE),
    "numbers": (ENGLISH, [f"{i},{i % 7}" for i in range(ROWS)]),
    "pictures": (ENGLISH, ["🌙🚀"[i % 2] * 3 for i in range(ROWS)]),
    "units": (ENGLISH, [f"{i} {'ΩµΔ'[i % 3]}" for i in range(ROWS)]),
    "formulas": (
        ENGLISH,
        [f"α + β = {i}, and so θ, λ, π, σ, φ, ω, δ are what was to be shown" for i in range(ROWS)],
    ),
    "labels": (ENGLISH, [("긍정", "부정")[i % 2] for i in range(ROWS)]),
    "a name with accents here and there": (
        ENGLISH,
        [("São Tomé", a)[i % 9 > 0] for i, a in enumerate(OTHER_ENGLISH)],
    ),
}


@pytest.mark.parametrize("control", CONTROLS)
def test_nothing_else_is_another_language(tmp_path: Path, control: str) -> None:
    assert find(tmp_path, *CONTROLS[control]) is None


@pytest.mark.parametrize("task", ["pronounce", "price"])
def test_the_built_in_tasks_are_not_in_another_language(task: str) -> None:
    tokenizer = byte_level()
    assert find_foreign_language(prepare(Recipe(data=task), tokenizer).train, tokenizer) is None


def test_earlier_answers_of_a_chat_do_not_count_as_prompts(tmp_path: Path) -> None:
    tokenizer = byte_level()
    chats = [
        {
            "messages": [
                {"role": r, "content": c}
                for r, c in zip(("user", "assistant") * 2, (a, b, a, b), strict=True)
            ]
        }
        for a, b in zip(ENGLISH, KOREAN, strict=True)
    ]
    language = find_foreign_language(prepare_rows(tmp_path, chats, tokenizer).train, tokenizer)
    assert language is not None
    assert language.scripts == ("Hangul",)


def test_texts_without_prompts_are_compared_with_the_vocabulary(tmp_path: Path) -> None:
    tokenizer = byte_level()
    for texts, scripts in ((KOREAN, ("Hangul",)), (ENGLISH, None)):
        language = find_foreign_language(
            prepare_rows(tmp_path, [{"text": text} for text in texts], tokenizer).train, tokenizer
        )
        assert (language and language.scripts) == scripts


def test_the_audit_names_the_script_the_share_and_the_output_head(tmp_path: Path) -> None:
    tokenizer = byte_level()
    rows = [
        {"prompt": f"{a}:", "completion": f" {b}"} for a, b in zip(ENGLISH, KOREAN, strict=True)
    ]
    findings = audit(prepare_rows(tmp_path, rows, tokenizer), tokenizer)
    (finding,) = [finding for finding in findings if finding.kind == "language"]
    assert finding.severity == "note"
    assert finding.message.startswith(
        "In 100% of the training rows the completion is in another language: it is in a script "
        "that neither the prompts nor the vocabulary's words have, Hangul. "
    )
    assert (
        "The output head (lm_head) may be worth adapting, and a climb over several sets"
        in finding.message
    )
    assert suggests_lm_head(findings)


def test_the_script_of_a_letter() -> None:
    assert [script(letter) for letter in "aéß한ж漢あア"] == ["Latin"] * 3 + [
        "Hangul",
        "Cyrillic",
        "Han",
        "Hiragana",
        "Katakana",
    ]
    assert own_scripts(tiny_tokenizer()) == {"Latin"}
