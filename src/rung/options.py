"""The options of the command line, made from the fields of the recipe.

A command that takes a recipe is decorated with `takes_recipe`: it gets an argument for the file and
an option for every field of `Recipe`, with the field's help text and default, and receives the
finished recipe. So `rung tune`, `rung plan` and `rung data` take the same words.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from rung.recipe import Recipe, read_recipe

_METAVARS = {int: "N", float: "X"}


def takes_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the recipe's options.

    Args:
        command: its first parameter is the recipe; the others are its own, for typer.
    """
    fields = Recipe.model_fields

    def run(**given: Any) -> None:
        options = {name: _value(name, given.pop(name)) for name in fields}
        command(read_recipe(given.pop("recipe_file"), **options), **given)

    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    parameters = [_recipe_file(), *(_parameter(name) for name in fields), *own]
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [parameter.replace(kind=keyword) for parameter in parameters]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def option_names(field: str) -> list[str]:
    """The names of a field's option, the usual one first."""
    names: list[str] = _extra(field)["names"]
    return names or [f"--{field.replace('_', '-')}"]


def _extra(field: str) -> dict[str, Any]:
    extra = Recipe.model_fields[field].json_schema_extra
    assert isinstance(extra, dict)
    return extra


def _recipe_file() -> inspect.Parameter:
    argument = typer.Argument(
        metavar="RECIPE",
        help="A recipe in YAML with any of the options below as its keys. Files that it names are "
        "looked for beside it. Without one Rung tunes its built-in example.",
        show_default=False,
    )
    return inspect.Parameter(
        "recipe_file",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[Path | None, argument],
    )


def _parameter(field: str) -> inspect.Parameter:
    """The option of a field; without it the recipe's own value stands."""
    extra, plain = _extra(field), _plain_type(Recipe.model_fields[field].annotation)
    is_flag = plain is bool
    default = _default(field)
    option = typer.Option(
        *option_names(field),
        help=f"{Recipe.model_fields[field].description}{default and f' (default: {default})'}",
        metavar=" " if is_flag else extra["metavar"] or _METAVARS.get(plain, "TEXT"),
        rich_help_panel=extra["group"],
        show_default=False,
    )
    kind: Any = bool if is_flag else list[str] if extra["repeated"] else str
    return inspect.Parameter(
        field,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def _default(field: str) -> str:
    """The default as it would be typed."""
    default = Recipe.model_fields[field].default
    if shown := _extra(field)["shown"]:
        return str(shown)
    if isinstance(default, bool) or default in (None, ()):
        return ""
    if isinstance(default, tuple):
        return (", " if _extra(field)["repeated"] else ",").join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def _plain_type(annotation: Any) -> Any:
    """int, float, bool or str for a field of one value; else the annotation."""
    while typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
        return _plain_type(kinds[0])
    return annotation


def _value(field: str, given: Any) -> Any:
    """What was typed, as the recipe reads it; None where nothing was."""
    if given is None or given == []:
        return None
    # A list in a recipe may be meant as one set of modules; on the command line it is not.
    return [[one] for one in given] if field == "targets" else given
