"""Whether the completions are in another language than the prompts, judged by their letters.

If they are, the last layers have the most to learn: which tokens to generate at all. The untuned
model's loss does not show it, since the single bytes of a foreign script are easy to predict. The
letters show it: scripts that neither the prompts nor the model's vocabulary have, and Latin letters
that the prompts lack, such as `ế` and `ß` for prompts in English. A language that is written in the
letters of the prompts is not noticed, nor is one that some of the prompts are in.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rung.data.arrow_store import Examples
from rung.data.example import Example

MIN_SHARE = 0.25
"""The completions are in another language if at least this share of them is."""
KNOWN_SCRIPT_SHARE = 0.05
"""The prompts know a script if at least this share of them has it."""
KNOWN_LETTER_SHARE = 0.01
"""They know a letter if at least this share has it. Names and loanwords bring single letters in."""
OWN_SCRIPT_SHARE = 0.1
"""A script is the model's own if at least this share of the words of its vocabulary is in it."""
MIN_DISTINCT_LETTERS = 8
"""Fewer letters than this are labels, units or symbols, and no language."""
FRAME_SHARE = 0.5
"""A word in at least this share of the prompts is part of their frame. It says nothing about their
language."""
_SAMPLED_ROWS = 2_000
_SAMPLED_TOKENS = 5_000
_NAMED = 3
"""How many scripts or letters are named."""
_SCRIPT_NAMES = {"CJK": "Han"}


@dataclass(frozen=True, slots=True)
class ForeignLanguage:
    """What the completions are written in and the prompts are not.

    Attributes:
        scripts: the scripts that the prompts lack, the commonest first. It is empty if the script
            is that of the prompts, with letters that they lack.
        letters: the letters that the prompts lack, the commonest first.
        share: the share of the rows whose completion is in it.
        new_tokens: the share of the tokens of these completions that are in no prompt.
        letter_pieces: the share of their tokens that are parts of letters, for which the
            vocabulary has no token.
    """

    scripts: tuple[str, ...]
    letters: tuple[str, ...]
    share: float
    new_tokens: float
    letter_pieces: float

    def __str__(self) -> str:
        if self.scripts:
            where = (
                "in a script that neither the prompts nor the vocabulary's words have, "
                f"{_join(self.scripts)}"
            )
        else:
            where = f"in letters that the prompts lack, such as {_join(self.letters)}"
        tokens = f"{self.new_tokens:.0%} of its tokens are in no prompt"
        if self.letter_pieces:
            tokens += (
                f", and {self.letter_pieces:.0%} are parts of letters that have no token in the "
                "vocabulary"
            )
        return (
            f"In {self.share:.0%} of the training rows the completion is in another language: it "
            f"is {where}. {tokens}"
        )


def find_foreign_language(examples: Examples, tokenizer: Any) -> ForeignLanguage | None:
    """What the completions are written in and the prompts and the vocabulary are not.

    This looks at a sample that is spread over all rows.

    Returns:
        None if the completions are in no other language.
    """
    step = max(1, len(examples) // _SAMPLED_ROWS)
    rows = [_prompt_and_completion(examples[row]) for row in range(0, len(examples), step)]
    prompts = _letters_without_frame([_folded_text(tokenizer, prompt) for prompt, _ in rows])
    completions = [
        Counter(filter(str.isalpha, _folded_text(tokenizer, completion))) for _, completion in rows
    ]
    prompt_scripts = [{script(letter) for letter in prompt} for prompt in prompts]
    known_scripts = _frequent(prompt_scripts, KNOWN_SCRIPT_SHARE) | own_scripts(tokenizer)
    in_new_script = [
        Counter({letter: n for letter, n in counts.items() if script(letter) not in known_scripts})
        for counts in completions
    ]
    known_letters = _frequent(prompts, KNOWN_LETTER_SHARE)
    accented = {
        letter
        for counts in completions
        for letter in counts
        if known_letters and _is_accented(letter)
    }
    new_letters = accented - known_letters
    with_new_letters = [
        Counter({letter: n for letter, n in counts.items() if letter in new_letters})
        for counts in completions
    ]
    # A completion is in a new script if more than half of its letters are. One new letter is enough
    # in the script of the prompts, where most letters are shared.
    for foreign, min_share in ((in_new_script, 0.5), (with_new_letters, 0.0)):
        chosen = [
            row
            for row, counts in enumerate(foreign)
            if counts.total() > min_share * completions[row].total()
        ]
        letters = sum((foreign[row] for row in chosen), Counter[str]())
        if len(chosen) >= MIN_SHARE * len(rows) and len(letters) >= MIN_DISTINCT_LETTERS:
            scripts = Counter(map(script, letters.elements()))
            return ForeignLanguage(
                _commonest(scripts) if foreign is in_new_script else (),
                _commonest(letters),
                len(chosen) / len(rows),
                *_token_shares(
                    [rows[row][1] for row in chosen], [prompt for prompt, _ in rows], tokenizer
                ),
            )
    return None


@lru_cache(maxsize=8192)
def script(letter: str) -> str:
    """The script of a letter: the first word of its name in Unicode."""
    word = unicodedata.name(letter, "UNKNOWN").split()[0].split("-")[0]
    return _SCRIPT_NAMES.get(word, word.capitalize())


def own_scripts(tokenizer: Any) -> set[str]:
    """The scripts of the words of the vocabulary, which the model itself mostly generates."""
    tokens = range(0, len(tokenizer), max(1, len(tokenizer) // _SAMPLED_TOKENS))
    words = [_letters(tokenizer.decode([token], skip_special_tokens=True)) for token in tokens]
    return _frequent([set(map(script, word)) for word in words if word], OWN_SCRIPT_SHARE)


def _is_accented(letter: str) -> bool:
    """Whether it is a Latin letter that English does not have.

    A few short prompts need not have every letter of another script, so that would show nothing.
    """
    return not letter.isascii() and script(letter) == "Latin"


def _letters(text: str) -> set[str]:
    return {letter for letter in text if letter.isalpha()}


def _folded_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of the tokens, in small letters and without variants of letters."""
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return unicodedata.normalize("NFKC", text).casefold()


def _prompt_and_completion(example: Example) -> tuple[list[int], list[int]]:
    """The tokens that are given, and those that are generated.

    If all tokens are trained on, those of the last turn count as generated.
    """
    spans = example.learned_spans
    if not spans[0][0]:
        spans = ((example.prompt_length, len(example.ids)),)
    places = [place for first, end in spans for place in range(first, end)]
    generated = set(places)
    given = [token for place, token in enumerate(example.ids) if place not in generated]
    return given, [example.ids[place] for place in places]


def _letters_without_frame(prompts: Sequence[str]) -> list[set[str]]:
    """The letters of each prompt, without the words that many prompts have.

    If a prompt has no other words, all of its letters count.
    """
    words = [prompt.split() for prompt in prompts]
    counts = Counter(word for prompt_words in words for word in set(prompt_words))
    letters = [
        _letters(
            "".join(word for word in prompt_words if counts[word] < FRAME_SHARE * len(prompts))
        )
        for prompt_words in words
    ]
    return [own or _letters(prompt) for own, prompt in zip(letters, prompts, strict=True)]


def _frequent(sets: Sequence[Collection[str]], share: float) -> set[str]:
    """What is in at least this share of the sets."""
    counts = Counter(item for items in sets for item in items)
    return {item for item, count in counts.items() if count >= share * len(sets)}


def _join(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _commonest(counts: Counter[str]) -> tuple[str, ...]:
    return tuple(item for item, _ in counts.most_common(_NAMED))


def _token_shares(
    completions: Iterable[Sequence[int]], prompts: Iterable[Sequence[int]], tokenizer: Any
) -> tuple[float, float]:
    """The shares of the completions' tokens that no prompt has, and that are parts of letters."""
    counts = Counter(token for completion in completions for token in completion)
    new = counts.keys() - {token for prompt in prompts for token in prompt}
    pieces = {token for token in counts if "\ufffd" in tokenizer.decode([token])}
    total = counts.total()
    return sum(counts[token] for token in new) / total, sum(counts[t] for t in pieces) / total
