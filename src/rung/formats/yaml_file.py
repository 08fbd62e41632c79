"""A recipe's YAML file: `key: value` lines, with every value as the text in the file.

YAML 1.1 turns `on` into true, `1:30` into 90, `2026-01-02` into a date, `015` into 13 and leaves
`1e-4` a text. Here every value stays the text that is written, and nothing (`null`, `~`, or no
value) is None; the recipe makes numbers of the texts. So no YAML type is ever constructed: tags are
refused, and so are values nested deeper than a list in a list.
"""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import TypeAlias, Union

import yaml

from rung.errors import RecipeError

MAX_BYTES = 1_000_000
"""A larger file is not a recipe, and is not read."""
MAX_DEPTH = 2
_NULL = "tag:yaml.org,2002:null"
_IMPLICIT_TAGS = {
    f"tag:yaml.org,2002:{kind}"
    for kind in ("bool", "float", "int", "map", "null", "seq", "str", "timestamp")
}
_IMPLICIT_TAGS |= {
    "tag:yaml.org,2002:merge",  # a key or value that is `<<`
    "tag:yaml.org,2002:value",  # one that is `=`
}


Value: TypeAlias = Union[str, "list[Value]", "dict[str, Value]", None]
"""A value of the file."""


def read_yaml(path: Path) -> tuple[dict[str, Value], dict[str, int]]:
    """The mapping in the file, and the line number of each of its keys.

    Raises:
        RecipeError: The file cannot be read, is not YAML or not a mapping, or has a key twice, a
            tag, or a value that is nested too deep.
    """
    text = _read_text(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(
            f"{path}, line {line}: there is a character that YAML does not allow; remove it."
        ) from None
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(path, error) from None
    except RecursionError:
        raise RecipeError(
            f"{path}: this is nested too deep for a recipe; write 'key: value' lines."
        ) from None
    if node is None or node.tag == _NULL:
        return {}, {}
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(
            f"{path}: this is not a list of 'key: value' lines, so it is not a recipe; give data "
            "with --data."
        )
    return _Reader(path).mapping(node), {key.value: _line(key) for key, _ in node.value}


def _not_yaml(path: Path, error: yaml.MarkedYAMLError) -> RecipeError:
    mark = error.problem_mark or error.context_mark
    where = f", line {mark.line + 1}" if mark else ""
    remedy = "write 'key: value' lines"
    if "\\t" in str(error.problem):
        remedy = "indent with spaces, not with tabs"
    if path.suffix not in (".yaml", ".yml", ".json"):
        remedy += ", and give data with --data"
    problem = ", ".join(filter(None, (error.context, error.problem)))
    return RecipeError(f"{path}{where}: this is not YAML ({problem}); {remedy}.")


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # a name with a NUL in it raises ValueError
        why = getattr(error, "strerror", None) or error
        raise RecipeError(
            f"The recipe {path} cannot be read ({why}); give the path of a YAML file."
        ) from None
    if len(data) > MAX_BYTES:
        raise RecipeError(
            f"{path} has more than {MAX_BYTES:,} bytes, so it is not a recipe; give data with "
            "--data."
        )
    is_utf_16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if is_utf_16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"{path}, line {line}: this is not UTF-8; save the recipe as a text file in UTF-8."
        ) from None


class _Reader:
    """Turns YAML nodes into texts, lists and mappings; its errors name the lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: set[int] = set()

    def mapping(self, node: yaml.MappingNode, depth: int = 0) -> dict[str, Value]:
        mapping: dict[str, Value] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in _IMPLICIT_TAGS:
                raise self._error(key, "this key is not one word, such as 'ranks'; write one word")
            if (name := self._text(key)) in mapping:
                raise self._error(
                    key,
                    f"the key '{name}' is given twice, in line {lines[name]} too; remove one of "
                    "them",
                )
            mapping[name], lines[name] = self._value(value, depth), _line(key)
        return mapping

    def _value(self, node: yaml.Node, depth: int) -> Value:
        if node.tag not in _IMPLICIT_TAGS:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise self._error(node, f"the tag {tag} is not read; write the value without a tag")
        if isinstance(node, yaml.ScalarNode):
            return None if node.tag == _NULL else self._text(node)
        # A list that is named once (`&a`) may be used so often (`*a`) that it fills the memory.
        if depth == MAX_DEPTH or id(node) in self._seen:
            raise self._error(
                node,
                "a value is a text, a number or a list of them, and this one is nested deeper or "
                "used twice; write it out",
            )
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, depth + 1)
        return [self._value(item, depth + 1) for item in node.value]

    def _text(self, node: yaml.ScalarNode) -> str:
        """The text of a scalar. JSON writes a character beyond 16 bits as two surrogates."""
        try:
            return str(node.value).encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise self._error(
                node, "there is half a character, such as \\ud83d; write the whole character"
            ) from None

    def _error(self, node: yaml.Node, problem: str) -> RecipeError:
        return RecipeError(f"{self.path}, line {_line(node)}: {problem}.")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
