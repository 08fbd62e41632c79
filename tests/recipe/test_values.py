"""The values of a recipe, as people write them."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from tests.recipe.recipe_file import write

from rung.errors import RecipeError
from rung.formats.amounts import Budget
from rung.recipe import Recipe, read_kept, read_recipe, with_options


def test_a_rate_may_be_written_as_people_write_it(tmp_path: Path) -> None:
    path = write(tmp_path, "learning_rates: [1e-4, 5E-4, 1.5e-3]\n")
    assert read_recipe(path).learning_rates == (1e-4, 5e-4, 1.5e-3)


def test_numbers_are_read_as_they_are_written(tmp_path: Path) -> None:
    recipe = read_recipe(
        write(tmp_path, "ranks: ['015']\nmargin: '1e-2'\nskip_bad_rows: on\nbudget: 1_000_000\n")
    )
    assert (recipe.ranks, recipe.margin, recipe.skip_bad_rows) == ((15,), 0.01, True)
    assert recipe.budget == Budget(1_000_000, "tokens")


def test_a_text_that_yaml_could_read_as_a_date_or_a_boolean_stays_a_text(tmp_path: Path) -> None:
    recipe = read_recipe(
        write(tmp_path, "data: 2026-01-02\nfields: {prompt: yes, completion: 1}\njudge: off\n")
    )
    assert (recipe.data, recipe.judge) == ("2026-01-02", "off")
    assert recipe.fields == {"prompt": "yes", "completion": "1"}


@pytest.mark.parametrize(
    ("key", "text", "found"),
    [
        ("ranks", "16", (16,)),
        ("ranks", "8, 16", (8, 16)),
        ("learning_rates", "1e-3", (1e-3,)),
        ("levers", "rank", ("rank",)),
        ("levers", "rank,alpha", ("rank", "alpha")),
        ("alphas", "2r, 16, 2r rslora", ("2r", "16", "2r rslora")),
        ("targets", "q_proj, v_proj", ("q_proj+v_proj",)),
        ("targets", "v_proj+v_proj+q_proj", ("v_proj+q_proj",)),
        ("targets", "[attention, mlp, attention]", ("attention", "mlp")),
        ("targets", "[[q_proj, v_proj], attention]", ("q_proj+v_proj", "attention")),
        ("targets", "[[q_proj], [v_proj]]", ("q_proj", "v_proj")),
        ("metrics", "rouge_l", ("rouge_l",)),
        ("metrics", "[rouge_l, rouge_l]", ("rouge_l",)),
    ],
)
def test_a_list_may_be_one_value_or_several_with_commas(
    tmp_path: Path, key: str, text: str, found: object
) -> None:
    assert getattr(read_recipe(write(tmp_path, f"{key}: {text}\n")), key) == found
    if not text.startswith("["):
        assert getattr(read_recipe(None, **{key: text}), key) == found


def test_one_set_of_modules_or_one_alpha_needs_no_list(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, "targets: attention+lm_head\nalphas: 16\n"))
    assert (recipe.targets, recipe.alphas) == (("attention+lm_head",), ("16",))


def test_a_list_of_module_names_is_ambiguous_and_the_user_is_asked(tmp_path: Path) -> None:
    says = re.escape(
        "write q_proj+v_proj for one set of them all, or [[q_proj], [v_proj]] for a set of each"
    )
    with pytest.raises(RecipeError, match=r"recipe.yaml, line 1, 'targets': .*" + says):
        read_recipe(write(tmp_path, "targets: [q_proj, v_proj]\n"))
    with pytest.raises(RecipeError, match="--targets: .*" + says):
        read_recipe(None, targets=("q_proj", "v_proj"))
    kept = read_recipe(None, targets=[["q_proj"], ["v_proj"]])
    assert kept.targets == ("q_proj", "v_proj")
    assert with_options(kept, passes=2).targets == kept.targets
    assert read_kept(write(tmp_path, kept.as_yaml())) == kept


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("passes", "inf", "finite"),
        ("passes", ".inf", "valid number"),
        ("passes", "nan", "finite"),
        ("passes", "1e400", "finite"),
        ("passes", str(10**30), "less than or equal to 1000"),
        ("passes", "0", "greater than 0"),
        ("passes", "-1", "greater than 0"),
        ("margin", "1", "less than 1"),
        ("margin", "nan", "finite"),
        ("ranks", str(10**9), "less than or equal to 65536"),
        ("ranks", "0", "greater than 0"),
        ("learning_rates", "1", "between 0 and 1"),
        ("learning_rates", "nan", "finite"),
        ("learning_rates", "1e-12", "nothing is learned at a learning rate below 1e-09"),
        ("alphas", "0.0001", "alphas from 0.001 to 1,000,000"),
        ("alphas", "100000r", "which 100000r at rank 16 is not"),
        ("alphas", "9" * 400, "alphas from 0.001 to 1,000,000"),
        ("seed", str(2**32), "less than 4294967296"),
        ("seed", "9" * 5000, "exceeded maximum size"),
        ("seed", "-1", "greater than or equal to 0"),
        ("max_tokens", str(10**30), "less than or equal to 10000000"),
        ("weight_decay", "inf", "finite"),
        ("clip_norm", "inf", "finite"),
        ("dropout", "1", "less than 1"),
        ("warmup", "1", "less than 1"),
        ("budget", "1e400", "such as 300k"),
        ("budget", "inf", "such as 300k"),
        ("budget", "-5k", "such as 300k"),
        ("budget", "1e308k", "that is more than 1e+15 tokens"),
        ("budget", "1e308h", "that is more than 1e+15 seconds"),
        ("budget", "0", "that is nothing"),
        ("memory", "9" * 400 + "GB", "such as 8GB"),
        ("memory", "9" * 300 + "TB", "that is more than 1,000 TB"),
        ("memory", "2000TB", "that is more than 1,000 TB"),
    ],
)
def test_a_number_out_of_bounds_is_one_sentence_in_a_file_and_as_an_option(
    tmp_path: Path, key: str, value: str, says: str
) -> None:
    with pytest.raises(RecipeError, match=f"recipe.yaml, line 1, '{key}': ") as from_file:
        read_recipe(write(tmp_path, f"{key}: {value}\n"))
    with pytest.raises(RecipeError, match=f"^--{key.replace('_', '-')}: ") as as_option:
        read_recipe(None, **{key: value})
    for error in (from_file, as_option):
        assert says in str(error.value)
        assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "key", ["ranks", "alphas", "learning_rates", "budget", "memory", "passes", "seed", "study"]
)
def test_a_number_too_long_to_be_written_out_is_one_sentence(key: str) -> None:
    for value in (10**5000, [8, -(10**5000)], [[10**5000]]):
        with pytest.raises(
            RecipeError,
            match=f"--{key.replace('_', '-')}: a number has thousands of digits",
        ):
            read_recipe(None, **{key: value})


ODD = [
    None,
    [],
    [[]],
    [["a"]],
    [None],
    {},
    {"a": 1},
    "",
    " ",
    "\0",
    "\udcff",
    b"\xff",
    math.nan,
    -math.inf,
    10**400,
]


@pytest.mark.parametrize("key", Recipe.model_fields)
@pytest.mark.parametrize("value", [*ODD, max], ids=lambda value: repr(value)[:12])
def test_no_value_of_any_key_is_a_traceback(key: str, value: object) -> None:
    said = []
    for values in (value, [value, value]):
        try:
            recipe = read_recipe(None, **{key: values})
        except RecipeError as error:
            said.append(str(error))
        else:
            assert Recipe(**recipe.model_dump()) == recipe
    option = "--metric" if key == "metrics" else f"--{key.replace('_', '-')}"
    assert all(text.startswith(f"{option}: ") and "\n" not in text for text in said)
