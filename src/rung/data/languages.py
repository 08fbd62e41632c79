"""Whether the completions are in another language than the prompts, by their letters.

Where they are, the last layers have the most to learn: which tokens to write at all. The untuned model's loss does not
show it, since the bytes of a foreign script surprise little one by one. The letters do: scripts that neither the
prompts nor the model's vocabulary have, and Latin letters that the prompts lack, as `ế` and `ß` beside English. A
language in the letters of the prompts is not seen, nor one that the prompts are in too: there the loss alone speaks.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rung.data.arrow_store import Examples
from rung.data.tokenize import Example

SHARE = 0.25
"""The completions are in another language where so large a share of them is."""
MIN_NOISE_FREEDOM = 0.05
"""The prompts know a script where so large a share of them has it."""
KNOWN_LETTER = 0.01
"""And a letter: names and loanwords bring single ones in."""
OWN = 0.1
"""A script is the model's own where so large a share of the words of its vocabulary is in it."""
FEWEST_LETTERS = 8
"""Fewer letters than this are labels, units or symbols, and no language."""
FRAME = 0.5
"""A word that so large a share of the prompts has is part of their frame, and says nothing of their language."""
_SAMPLED = 2_000
_VOCABULARY = 5_000
_NAMES = {"CJK": "Han"}


@dataclass(frozen=True, slots=True)
class Foreign:
    """What the completions are written in and the prompts are not.

    `scripts` has the commonest first; it is empty where the script is that of the prompts, and has `letters` that they
    lack. `share` is the share of the rows. Of the tokens of those completions the share `new` is in no prompt, and the
    share `pieces` is parts of letters, for which the vocabulary has no token.
    """

    scripts: tuple[str, ...]
    letters: tuple[str, ...]
    share: float
    new: float
    pieces: float

    def __str__(self) -> str:
        if self.scripts:
            what = f"is in a script that neither the prompts nor the vocabulary's words have, {_and(self.scripts)}"
        else:
            what = f"has letters that the prompts lack, such as {_and(self.letters)}"
        tokens = f"{self.new:.0%} of its tokens stand in no prompt"
        if self.pieces:
            tokens += (
                f", and {self.pieces:.0%} are parts of letters that the vocabulary has no token for"
            )
        return f"In {self.share:.0%} of the training rows the completion {what}: another language. {tokens}"


def another_language(examples: Examples, tokenizer: Any) -> Foreign | None:
    """What the completions are written in where prompts and model are not, by a sample spread over all rows; None where
    that is not so.
    """
    rows = [
        _parts(examples[row]) for row in range(0, len(examples), max(1, len(examples) // _SAMPLED))
    ]
    prompts = _without_frame([_folded(tokenizer, given) for given, _ in rows])
    completions = [Counter(filter(str.isalpha, _folded(tokenizer, written))) for _, written in rows]
    letters = _frequent(prompts, KNOWN_LETTER)
    known = _frequent(
        [{script(letter) for letter in prompt} for prompt in prompts], MIN_NOISE_FREEDOM
    ) | own_scripts(tokenizer)
    in_script = [
        Counter({a: n for a, n in own.items() if script(a) not in known}) for own in completions
    ]
    accented = {a for own in completions for a in own if letters and _is_accented(a)} - letters
    in_letters = [Counter({a: n for a, n in own.items() if a in accented}) for own in completions]
    for found, least in ((in_script, 0.5), (in_letters, 0.0)):
        chosen = [
            row for row, own in enumerate(found) if own.total() > least * completions[row].total()
        ]
        counts = sum((found[row] for row in chosen), Counter[str]())
        if len(chosen) >= SHARE * len(rows) and len(counts) >= FEWEST_LETTERS:
            scripts = (
                Counter(script(letter) for letter in counts.elements())
                if found is in_script
                else Counter[str]()
            )
            new, pieces = _of_tokens(
                [rows[row][1] for row in chosen], [given for given, _ in rows], tokenizer
            )
            return Foreign(
                _commonest(scripts), _commonest(counts), len(chosen) / len(rows), new, pieces
            )
    return None


@lru_cache(maxsize=8192)
def script(letter: str) -> str:
    """The script that a letter is of, by the first word of its name in Unicode."""
    word = unicodedata.name(letter, "UNKNOWN").split()[0].split("-")[0]
    return _NAMES.get(word, word.capitalize())


def own_scripts(tokenizer: Any) -> set[str]:
    """The scripts that the words of the vocabulary are in: what the model itself mostly writes."""
    numbers = range(0, len(tokenizer), max(1, len(tokenizer) // _VOCABULARY))
    words = [_letters(tokenizer.decode([number], skip_special_tokens=True)) for number in numbers]
    return _frequent([{script(letter) for letter in word} for word in words if word], OWN)


def _is_accented(letter: str) -> bool:
    """A Latin letter that English does not have. Of other scripts a few short prompts need not have every letter."""
    return not letter.isascii() and script(letter) == "Latin"


def _letters(text: str) -> set[str]:
    return {letter for letter in text if letter.isalpha()}


def _folded(tokenizer: Any, ids: Sequence[int]) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return unicodedata.normalize("NFKC", text).casefold()


def _parts(example: Example) -> tuple[list[int], list[int]]:
    """The tokens that are given and those that are to be written; where all are learnt, those of the last turn."""
    spans = example.learned if example.learned[0][0] else ((example.prompt, len(example.ids)),)
    places = [place for first, end in spans for place in range(first, end)]
    written = set(places)
    given = [token for place, token in enumerate(example.ids) if place not in written]
    return given, [example.ids[place] for place in places]


def _without_frame(prompts: Sequence[str]) -> list[set[str]]:
    """The letters of each prompt without the words that many of them have, where anything else is left."""
    words = [prompt.split() for prompt in prompts]
    counts = Counter(word for own in words for word in set(own))
    rest = [
        _letters("".join(word for word in own if counts[word] < FRAME * len(prompts)))
        for own in words
    ]
    return [own or _letters(prompt) for own, prompt in zip(rest, prompts, strict=True)]


def _frequent(sets: Sequence[Collection[str]], share: float) -> set[str]:
    """What so large a share of the sets has."""
    counts = Counter(one for own in sets for one in own)
    return {one for one, count in counts.items() if count >= share * len(sets)}


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _commonest(counts: Counter[str]) -> tuple[str, ...]:
    return tuple(one for one, _ in counts.most_common(3))


def _of_tokens(
    completions: Iterable[Sequence[int]], prompts: Iterable[Sequence[int]], tokenizer: Any
) -> tuple[float, float]:
    """The share of the completions' tokens that no prompt has, and of those that are parts of letters."""
    counts = Counter(token for completion in completions for token in completion)
    new = counts.keys() - {token for prompt in prompts for token in prompt}
    pieces = {token for token in counts if "\ufffd" in tokenizer.decode([token])}
    return sum(map(counts.__getitem__, new)) / counts.total(), sum(
        map(counts.__getitem__, pieces)
    ) / counts.total()
