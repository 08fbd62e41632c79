"""A YAML file of `key: value` lines, read as it is written.

YAML 1.1 makes a truth of `on`, 90 of `1:30`, a date of `2026-01-02`, 13 of `015` and a text of `1e-4`. Here every value
is the text that stands there, nothing (`null`, `~`, or no value) is None, and whoever asks for a number makes one. So
there is nothing to construct either: a tag is refused, and what lies deeper than a list in a list.
"""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import yaml

from rung.errors import RecipeError

LARGEST = 1_000_000
"""Bytes; what is larger is no recipe, and is not read."""
DEEPEST = 2
_NOTHING = "tag:yaml.org,2002:null"
_PLAIN = {
    f"tag:yaml.org,2002:{kind}"
    for kind in ("bool", "float", "int", "map", "null", "seq", "str", "timestamp")
}
_PLAIN |= {
    "tag:yaml.org,2002:merge",
    "tag:yaml.org,2002:value",
}  # `<<` and `=` where they stand alone


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The mapping in the file, and the line of each of its keys.

    Raises:
        RecipeError: the file cannot be read, is no YAML, no mapping, or has a key twice, a tag or too deep a value.
    """
    text = _text(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(
            f"{path}, line {line}: there is a character that no YAML may have; take it out."
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        remedy = (
            "indent with spaces, not with tabs"
            if "\\t" in str(error.problem)
            else "write 'key: value' lines"
        )
        remedy += "" if path.suffix in (".yaml", ".yml", ".json") else ", and give data with --data"
        what = ", ".join(filter(None, (error.context, error.problem)))
        raise RecipeError(f"{path}{where}: this is not YAML ({what}); {remedy}.") from None
    except RecursionError:
        raise RecipeError(
            f"{path}: this is nested too deep for a recipe; write 'key: value' lines."
        ) from None
    if node is None or node.tag == _NOTHING:
        return {}, {}
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(
            f"{path}: a recipe is a list of 'key: value' lines, and this is none; data are given with --data."
        )
    return _Reader(path).mapping(node), {key.value: _line(key) for key, _ in node.value}


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:  # a name with a NUL in it is a ValueError
        why = getattr(error, "strerror", None) or error
        raise RecipeError(
            f"The recipe {path} cannot be read ({why}); give the path of a YAML file."
        ) from None
    if len(data) > LARGEST:
        raise RecipeError(
            f"{path} has more than {LARGEST:,} bytes, so it is no recipe; data are given with --data."
        )
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"{path}, line {line}: this is not UTF-8; save the recipe as a text in UTF-8."
        ) from None


class _Reader:
    """Values of YAML nodes, and the errors that name their lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: set[int] = set()

    def mapping(self, node: yaml.MappingNode, depth: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in _PLAIN:
                raise self._error(key, "a key is one word, such as 'ranks', and this is none")
            if (name := self._text(key)) in found:
                raise self._error(
                    key,
                    f"'{name}' stands there twice, in line {lines[name]} too; take one of them out",
                )
            found[name], lines[name] = self._value(value, depth), _line(key)
        return found

    def _value(self, node: yaml.Node, depth: int) -> Any:
        if node.tag not in _PLAIN:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise self._error(node, f"the tag {tag} is not read; write the value without a tag")
        if isinstance(node, yaml.ScalarNode):
            return None if node.tag == _NOTHING else self._text(node)
        # A list that is named once and used again may be used so often that it fills the memory.
        if depth == DEEPEST or id(node) in self._seen:
            raise self._error(
                node,
                "a value is a text, a number or a list of them, and this is more; write it out",
            )
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, depth + 1)
        return [self._value(one, depth + 1) for one in node.value]

    def _text(self, node: yaml.ScalarNode) -> str:
        """What stands there. JSON writes a letter beyond 16 bits as two halves."""
        try:
            return str(node.value).encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise self._error(
                node, "there is half a character, such as \\ud83d; write it whole"
            ) from None

    def _error(self, node: yaml.Node, says: str) -> RecipeError:
        return RecipeError(f"{self.path}, line {_line(node)}: {says}.")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
