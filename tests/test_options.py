"""The options of the command line: the recipe's fields, the same for every command that has one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.command_line import CommandLine
from typer.main import get_command

from rung.cli import app
from rung.options import option_names
from rung.recipe import GROUPS, Recipe, read_recipe

WITH_RECIPE = ("tune", "plan", "data")
"""The commands that take a recipe."""
API = {"tune": "tune", "plan": "plan", "data": "audit"}
"""The function of `rung.api` that each of them calls."""

VALUES: dict[str, tuple[list[str], str]] = {
    "model": (["--model", "org/model"], "org/model"),
    "quantization": (["--quantization", "int8"], "int8"),
    "precision": (["--precision", "bf16"], "bf16"),
    "data": (["--data", "rows.jsonl"], "rows.jsonl"),
    "validation": (["--validation", "v.csv"], "v.csv"),
    "test": (["--test", "t.csv"], "t.csv"),
    "fields": (["--fields", "prompt=question,completion=1"], "{prompt: question, completion: 1}"),
    "learn": (["--learn", "all"], "all"),
    "template": (["--template", "plain"], "plain"),
    "max_tokens": (["--max-tokens", "64"], "64"),
    "long_rows": (["--long-rows", "cut"], "cut"),
    "max_long_rows": (["--max-long-rows", "0.5"], "0.5"),
    "skip_bad_rows": (["--skip-bad-rows"], "true"),
    "allow_leakage": (["--allow-leakage"], "true"),
    "levers": (["--levers", "rank,alpha"], "[rank, alpha]"),
    "ranks": (["--ranks", "2, 4,8"], "[2, 4, 8]"),
    "alphas": (["--alphas", "2r,16,rslora"], "[2r, 16, rslora]"),
    "targets": (
        ["--targets", "attention", "--target-modules", "q_proj,v_proj", "--targets", "o_proj"],
        "[attention, [q_proj, v_proj], [o_proj]]",
    ),
    "learning_rates": (["--lr", "5e-4,1e-3"], "[5e-4, 1e-3]"),
    "dropout": (["--dropout", "0.1"], "0.1"),
    "passes": (["--passes", "2.5"], "2.5"),
    "batch_size": (["--batch-size", "16"], "16"),
    "weight_decay": (["--weight-decay", "1e-3"], "1e-3"),
    "warmup": (["--warmup", "0"], "0"),
    "cooldown": (["--cooldown", "1"], "1"),
    "clip_norm": (["--clip-norm", "1e0"], "1e0"),
    "strategy": (["--strategy", "grid"], "grid"),
    "budget": (["--budget", "1.5h"], "1.5h"),
    "margin": (["--margin", ".02"], ".02"),
    "metrics": (["--metric", "rouge_l", "--metric", "own.py:score"], "[rouge_l, own.py:score]"),
    "numbers": (["--numbers", "comma"], "comma"),
    "judge": (["--judge", "rouge_l"], "rouge_l"),
    "memory": (["--memory", "8GB"], "8GB"),
    "pack_width": (["--pack-width", "4"], "4"),
    "seed": (["--seed", "7"], "7"),
}
"""For each field a value as it is typed, and as it is written in YAML."""

Received = Callable[..., Recipe]


@pytest.fixture
def rung(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> CommandLine:
    return CommandLine(monkeypatch, capsys, tmp_path)


@pytest.fixture
def received(rung: CommandLine, monkeypatch: pytest.MonkeyPatch) -> Received:
    """Runs a command, and gives the recipe that it hands on."""
    recipes: list[Recipe] = []

    def keep(recipe: Recipe, **_: Any) -> Any:
        recipes.append(recipe)
        return SimpleNamespace(to_json=dict)

    for name in API.values():
        monkeypatch.setattr(f"rung.api.{name}", keep)

    def run(*args: str | Path) -> Recipe:
        ended = rung(*args, "--json")
        assert (ended.code, json.loads(ended.out)) == (0, {}), ended.err
        return recipes.pop()

    return run


def test_every_field_of_the_recipe_has_a_value_here() -> None:
    assert set(VALUES) == set(Recipe.model_fields)


@pytest.mark.parametrize("field", Recipe.model_fields)
def test_a_value_that_is_typed_equals_the_same_value_in_yaml(
    received: Received, tmp_path: Path, field: str
) -> None:
    typed, in_yaml = VALUES[field]
    (tmp_path / "recipe.yaml").write_text(f"{field}: {in_yaml}\n")
    recipe = received("tune", *typed)
    assert recipe == received("tune", "recipe.yaml") == read_recipe(tmp_path / "recipe.yaml")
    assert recipe.model_fields_set == {field}
    assert getattr(recipe, field) != getattr(Recipe(), field)


@pytest.mark.parametrize("command", WITH_RECIPE)
def test_every_field_is_an_option_of_every_command_with_a_recipe(
    received: Received, tmp_path: Path, command: str
) -> None:
    words = [word for typed, _ in VALUES.values() for word in typed]
    recipe = received(command, *words)
    assert recipe.model_fields_set == set(Recipe.model_fields)
    lines = [f"{field}: {in_yaml}" for field, (_, in_yaml) in VALUES.items()]
    (tmp_path / "recipe.yaml").write_text("\n".join(lines))
    assert recipe == read_recipe(tmp_path / "recipe.yaml")


def test_options_are_laid_over_the_recipe(received: Received, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("passes: 2\nmargin: 0.05\n")
    recipe = received("tune", "recipe.yaml", "--passes", "3")
    assert (recipe.passes, recipe.margin) == (3, 0.05)


def test_without_a_recipe_or_options_it_is_the_built_in_example(received: Received) -> None:
    assert received("tune") == Recipe()
    assert received("tune").model_fields_set == set()


def parameters(command: str) -> dict[str, Any]:
    """The parameters of a command by their names."""
    commands: Any = get_command(app)
    return {parameter.name: parameter for parameter in commands.commands[command].params}


@pytest.mark.parametrize("command", ["plan", "data"])
def test_plan_and_data_take_every_option_of_tune(command: str) -> None:
    own = parameters(command)
    for name, parameter in parameters("tune").items():
        assert own[name].opts == parameter.opts
        assert getattr(own[name], "help", None) == getattr(parameter, "help", None)


@pytest.mark.parametrize("field", Recipe.model_fields)
def test_an_option_is_named_after_its_field_or_as_it_says(field: str) -> None:
    own = parameters("tune")[field]
    assert own.opts == option_names(field)
    assert own.rich_help_panel in GROUPS


# The help.


@pytest.fixture(params=[*WITH_RECIPE, "inspect", ""])
def help_page(request: pytest.FixtureRequest, rung: CommandLine) -> str:
    ended = rung(*filter(None, [request.param]), "--help")
    assert ended.code == 0
    assert ended.err == ""
    return ended.out


def test_no_line_of_the_help_is_wider_than_80_columns_or_cut_off(help_page: str) -> None:
    assert max(map(len, help_page.splitlines())) <= 80
    assert "…" not in help_page
    assert "..." not in help_page.replace("[ARGS]...", "")


def flowing(text: str) -> str:
    """The help as running text, without the frames."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def shown_default(text: str, field: str) -> str | None:
    """What the help says of a field's default; None where it says nothing."""
    description = str(Recipe.model_fields[field].description)
    _, found, rest = text.partition(flowing(description))
    assert found, field
    match = re.match(r" \(default: ([^()]*|[^()]*\([^()]*\)[^()]*)\)", rest)
    return match[1] if match else None


@pytest.mark.parametrize("command", WITH_RECIPE)
def test_the_text_of_every_option_ends_with_its_default(rung: CommandLine, command: str) -> None:
    text = flowing(rung(command, "--help").out)
    for field, info in Recipe.model_fields.items():
        shown = shown_default(text, field)
        if isinstance(info.default, bool):
            assert shown is None, "a flag is off without it"
            continue
        assert shown, field
        extra: Any = info.json_schema_extra
        if extra["shown"]:
            assert shown == extra["shown"]
            continue
        values = [[one] for one in shown.split(", ")] if extra["repeated"] else shown
        assert read_recipe(None, **{field: values}) == Recipe(), "the default as it is typed"


def test_options_with_a_default_that_the_recipe_does_not_have_say_it_too(rung: CommandLine) -> None:
    text = flowing(rung("plan", "--help").out)
    for default in ("here", "made of data and model", "studies"):
        assert f"(default: {default})" in text
