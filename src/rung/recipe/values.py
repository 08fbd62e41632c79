"""How the values of a recipe are read and checked.

The `as_…` functions turn what stands in YAML or was typed into the value of a field. The others
check a value. Each raises a ValueError with one sentence that says what to write instead.
"""

from __future__ import annotations

import itertools
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import ValidationInfo

from rung.formats.amounts import Budget, parse_budget, parse_bytes
from rung.types import ALPHA_RANGE, MIN_LEARNING_RATE, read_alpha

FIELD_NAMES = (
    "prompt",
    "completion",
    "messages",
    "conversations",
    "text",
    "instruction",
    "input",
    "output",
    "source",
)
"""What the fields of a row are called in Rung, whatever they are called in the user's file."""


def as_path(path: Any) -> Any:
    """A path, or what may be one, with the home folder in the place of `~`."""
    if isinstance(path, os.PathLike):
        path = os.fspath(path)
    if not isinstance(path, str):
        return path
    if not path.strip() or any(unicodedata.category(c) in ("Cc", "Cs") for c in path):
        raise ValueError("write a name, without control characters")
    path = os.path.expanduser(path)
    if path.startswith("~"):
        raise ValueError("there is no such home folder, so write the path in full")
    return path


def as_paths(names: Any) -> Any:
    """Names of metrics, or of functions in files; one name is a list too."""
    return tuple(as_path(name) for name in (names if isinstance(names, list | tuple) else [names]))


def as_list(values: Any) -> Any:
    """The values of a list; it may be one value, or a text with commas."""
    if isinstance(values, str):
        return tuple(value.strip() for value in values.split(","))
    if isinstance(values, Iterable) and not isinstance(values, Mapping):
        return tuple(values)
    return (values,)


def as_texts(values: Any) -> Any:
    """A list of texts; numbers among them become texts."""
    return tuple(str(v) if isinstance(v, int | float) else v for v in as_list(values))


def as_numbers(example: str) -> Callable[[Any], Any]:
    """Make a reader of a list of numbers; `example` is how such a list is typed."""

    def read(values: Any) -> Any:
        numbers = as_list(values)
        for number in numbers:
            if isinstance(number, str) and not _is_number(number):
                raise ValueError(
                    f"{number!r} is not a list of numbers; write them with commas, such as "
                    f"{example}"
                )
        return numbers

    return read


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def as_lists_of_modules(sets: Any) -> Any:
    """Sets of target modules. A set is a text, joined by plus signs or commas, or a list."""
    several = sets if isinstance(sets, list | tuple) else (sets,)
    return tuple(
        "+".join(map(str, one)) if isinstance(one, list | tuple) else one for one in several
    )


def as_field_names(fields: Any) -> Any:
    """`prompt=question,completion=answer` ─▶ a mapping."""
    if not isinstance(fields, str):
        return fields
    pairs = [[part.strip() for part in pair.partition("=")] for pair in fields.split(",")]
    if not all(map(all, pairs)) or len({name for name, *_ in pairs}) < len(pairs):
        raise ValueError(
            f"{fields!r} is not a list of names; write prompt=question,completion=answer"
        )
    return {name: field for name, _, field in pairs}


def as_budget(budget: Any) -> Any:
    """`300k` ─▶ tokens; `30min` ─▶ seconds. A number alone is a number of tokens."""
    if isinstance(budget, int | float) and not isinstance(budget, bool):
        budget = str(budget)
    if isinstance(budget, str):
        return parse_budget(budget)
    if budget is None or isinstance(budget, Budget):
        return budget
    raise ValueError("write a number of tokens such as 300k, or a time such as 30min")


def as_bytes(memory: Any) -> Any:
    """`8GB` ─▶ bytes. A number alone is a number of bytes."""
    if isinstance(memory, int) and not isinstance(memory, bool):
        memory = str(memory)
    if isinstance(memory, str):
        return parse_bytes(memory)
    if memory is None:
        return memory
    raise ValueError("write a size such as 8GB or 512MB")


def without_duplicates(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def targets_are_named(sets: tuple[str, ...]) -> tuple[str, ...]:
    """Each set as names joined by plus signs, each name and each set once."""
    joined = []
    for one in sets:
        names = [name.strip() for name in re.split("[,+]", one)]
        if not all(names):
            raise ValueError(
                "write a set of target modules as names joined by plus signs, such as q_proj+v_proj"
            )
        joined.append("+".join(dict.fromkeys(names)))
    return tuple(dict.fromkeys(joined))


def ranks_ascend(ranks: tuple[int, ...]) -> tuple[int, ...]:
    if list(ranks) != sorted(set(ranks)):
        raise ValueError("write the ranks from small to large, each once, such as [8, 16, 32]")
    return ranks


def rates_ascend(rates: tuple[float, ...]) -> tuple[float, ...]:
    if list(rates) != sorted(set(rates)) or not all(0 < rate < 1 for rate in rates):
        raise ValueError(
            "write learning rates between 0 and 1 from small to large, each once, such as "
            "[5e-4, 1e-3]"
        )
    if rates[0] < MIN_LEARNING_RATE:
        raise ValueError(
            f"nothing is learned at a learning rate below {MIN_LEARNING_RATE:g}; write higher ones"
        )
    return rates


def alphas_are_valid(alphas: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    """Each alpha once, and in the range that Rung takes at every rank of the recipe."""
    # At two ranks 2r and 16 differ; at one rank alone they may be the same.
    values = {alpha: (read_alpha(alpha, 1), read_alpha(alpha, 2)) for alpha in alphas}
    if len(set(values.values())) < len(alphas):
        raise ValueError("write each alpha once, such as [2r, r, rslora]")
    low, high = ALPHA_RANGE
    for alpha, rank in itertools.product(alphas, info.data.get("ranks", ())):
        if not low <= read_alpha(alpha, rank)[0] <= high:
            raise ValueError(
                f"write alphas from {low:g} to {high:,.0f}, which {alpha:.20} at rank {rank} is not"
            )
    return alphas


def fields_are_known(fields: dict[str, str]) -> dict[str, str]:
    for name in fields:
        if name not in FIELD_NAMES:
            raise ValueError(f"write name=field, where a name is one of {', '.join(FIELD_NAMES)}")
    return fields
