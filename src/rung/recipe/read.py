"""Read a recipe from a file and options. A wrong key or value is answered with its line.

The answer is one sentence: where the value stands, what is wrong, and what to write.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rung.defaults import DEFAULT_DATA, DEFAULT_MODEL
from rung.errors import RecipeError
from rung.formats.yaml_file import read_yaml
from rung.recipe.recipe import Recipe
from rung.types import TARGET_GROUPS

MAX_BITS = 10_000
"""Of a whole number; Python prints no more than about 14,000."""
BUILT_IN = {DEFAULT_MODEL, DEFAULT_DATA, "price", "auto", "plain"}
"""Values of `model`, `data` and `template` that are never files."""
FILE_FIELDS = ("data", "validation", "test", "model", "template", "metrics")
OTHER_TOOLS_KEYS = {
    "r": "ranks",
    "lora_r": "ranks",
    "lora_rank": "ranks",
    "lora_alpha": "alphas",
    "use_rslora": "alphas",
    "target_modules": "targets",
    "lora_target": "targets",
    "lora_dropout": "dropout",
    "lr": "learning_rates",
    "epochs": "passes",
    "num_epochs": "passes",
    "num_train_epochs": "passes",
    "max_length": "max_tokens",
    "max_seq_length": "max_tokens",
    "cutoff_len": "max_tokens",
    "base_model": "model",
    "model_name_or_path": "model",
    "dataset": "data",
    "datasets": "data",
    "micro_batch_size": "batch_size",
    "per_device_train_batch_size": "batch_size",
    "max_grad_norm": "clip_norm",
    "warmup_ratio": "warmup",
    "load_in_4bit": "quantization",
}
"""What other tools call a key, where the spelling alone would not tell."""


def read_recipe(path: Path | str | None = None, /, **options: Any) -> Recipe:
    """The recipe in a file, with the `options` that are not None laid over it.

    Files that the recipe names are looked for beside it, then in the current folder; files given
    as options are looked for in the current folder. `~` is the home folder everywhere.

    Raises:
        RecipeError: the file is missing, is not a mapping, or has a wrong key or value.
    """
    if not isinstance(path, str | Path | None):
        raise RecipeError(
            f"The recipe is a {type(path).__name__}; give a file's path or a rung.Recipe, and its "
            "fields as options."
        )
    path = None if path is None else Path(os.path.expanduser(path))
    written, lines = read_yaml(path) if path else ({}, {})
    for field in FILE_FIELDS:
        value = written.get(field)
        if path and value:
            several = value if isinstance(value, list) else [value]
            beside = [_beside(path, one) for one in several]
            written[field] = beside if isinstance(value, list) else beside[0]
    given = {key: value for key, value in options.items() if value is not None}
    values = {**written, **given}

    def place_of(key: str) -> str:
        if key in given or not path:
            return _option(key)
        return f"{path}, line {lines.get(key, 1)}, '{key}'"

    _check_targets(values, place_of)
    return _validated(values, place_of)


def read_kept(path: Path) -> Recipe:
    """A recipe that `Recipe.as_yaml` wrote. Its paths are taken as they are.

    Raises:
        RecipeError: the file cannot be read any more.
    """
    written, lines = read_yaml(path)
    return _validated(written, lambda key: f"{path}, line {lines.get(key, 1)}, '{key}'")


def with_options(recipe: Recipe, /, **options: Any) -> Recipe:
    """The recipe with the `options` that are not None laid over it.

    Raises:
        RecipeError: an option is wrong.
    """
    given = {key: value for key, value in options.items() if value is not None}
    _check_targets(given, _option)
    kept = {name: getattr(recipe, name) for name in recipe.model_fields_set}
    return _validated({**kept, **given}, _option)


def _option(key: str) -> str:
    """The option of a field, for messages."""
    names = _field_names(key)
    return names[0] if names else f"--{key.replace('_', '-')}"


def _field_names(key: str) -> list[str]:
    field = Recipe.model_fields.get(key)
    extra = field.json_schema_extra if field else None
    names = extra.get("names") if isinstance(extra, dict) else None
    return [str(name) for name in names] if isinstance(names, list) else []


def _validated(values: Mapping[str, Any], place_of: Callable[[str], str]) -> Recipe:
    for key, value in values.items():
        if any(isinstance(v, int) and v.bit_length() > MAX_BITS for v in _flat(value)):
            raise RecipeError(
                f"{place_of(str(key))}: a number has thousands of digits; write a smaller one."
            )
    try:
        return Recipe(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        raise RecipeError(f"{place_of(key)}: {_remedy(first, key)}.") from None


def _flat(value: Any, depth: int = 2) -> Iterator[Any]:
    """The value, or the values in a list of lists."""
    if isinstance(value, list | tuple) and depth:
        for one in value:
            yield from _flat(one, depth - 1)
    else:
        yield value


def _check_targets(values: Mapping[str, Any], place_of: Callable[[str], str]) -> None:
    if names := _plain_module_names(values.get("targets")):
        each = ", ".join(f"[{name}]" for name in names)
        raise RecipeError(
            f"{place_of('targets')}: a list holds sets to be tried one after the other, and "
            f"[{', '.join(names)}] may be meant as one; write {'+'.join(names)} for one set of "
            f"them all, or [{each}] for a set of each."
        )


def _plain_module_names(targets: Any) -> list[str]:
    """The names in a list that holds nothing but names of modules.

    PEFT would take such a list for one set, and Rung for several.
    """
    several = list(targets) if isinstance(targets, list | tuple) else []
    names = [
        one
        for one in several
        if isinstance(one, str) and one not in TARGET_GROUPS and not re.search("[+,]", one)
    ]
    return names if len(names) == len(several) > 1 else []


def _beside(recipe: Path, value: Any) -> Any:
    """The path of a file beside the recipe, where one of that name exists.

    A metric names a function in a file: `file.py:function`.
    """
    if not isinstance(value, str) or value in BUILT_IN:
        return value
    file, colon, _ = value.partition(".py:")
    name = f"{file}.py" if colon else value
    try:
        return str(recipe.parent / value) if (recipe.parent / name).exists() else value
    except (OSError, ValueError):  # a name that no file can have
        return value


def _remedy(error: Any, key: str) -> str:
    """What is wrong with a value, and what to write."""
    if error["type"] == "extra_forbidden":
        keys = list(Recipe.model_fields)
        similar = OTHER_TOOLS_KEYS.get(key) or _closest(key, keys)
        hint = f" (did you mean {similar}?)" if similar else ""
        return f"there is no such key; the keys are {', '.join(keys)}{hint}"
    message, given = str(error["msg"]).removeprefix("Value error, "), error["input"]
    if error["type"] == "too_short":
        return "it is empty; write one value or more"
    expected = re.findall("'([^']*)'", error.get("ctx", {}).get("expected", ""))
    similar = _closest(str(given), expected)
    hint = f" (did you mean {similar}?)" if similar else ""
    told = "" if repr(given) in message else f", but it says {_shown(given)}{hint}"
    return f"{message[0].lower()}{message[1:]}{told}"


def _shown(given: Any) -> str:
    """A wrong value for a message, in one line of at most about 100 characters."""
    if given is None:
        return "nothing"
    if isinstance(given, tuple | list):
        text = ", ".join(map(_shown, given))
    elif isinstance(given, str) and not (given.isprintable() and given.strip()):
        text = repr(given)
    else:
        text = str(given) if isinstance(given, str) else repr(given)
    text = " ".join(text.split())
    return text if len(text) <= 100 else f"{text[:100]}…"


def _closest(word: str, known: Sequence[str]) -> str:
    """The known word that this one is most like; empty where it is like none."""
    matches = difflib.get_close_matches(word.lower().replace("-", "_"), known, 1)
    return matches[0] if matches else ""
