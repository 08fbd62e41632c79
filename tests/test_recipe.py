from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.errors import RecipeError
from rung.recipe import Recipe, parse_budget, read_kept, read_recipe


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_an_empty_recipe_is_the_embedded_default(tmp_path: Path) -> None:
    assert read_recipe() == read_recipe(write(tmp_path, "")) == Recipe()


def test_options_lie_over_the_file_and_none_leaves_it_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "passes: 2\nmargin: 0.05\n")
    recipe = read_recipe(path, passes=3, margin=None)
    assert (recipe.passes, recipe.margin) == (3, 0.05)


def test_a_rate_may_be_written_as_people_write_it(tmp_path: Path) -> None:
    path = write(tmp_path, "learning_rates: [1e-4, 5E-4, 1.5e-3]\n")
    assert read_recipe(path).learning_rates == (1e-4, 5e-4, 1.5e-3)


def test_data_files_are_found_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    assert read_recipe(write(tmp_path, "data: rows.jsonl\n")).data == str(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("budget: 1\nrnak: 8\n", "line 2, 'rnak': there is no such key; the keys are model, "),
        ("\npasses: soon\n", "line 2, 'passes': input should be a valid number"),
        ("budget: soon\n", "line 1, 'budget': write a number of tokens such as 300k, or a time such as 30min"),
        ("alphas: [2r, twice]\n", "'twice' is no alpha; write a multiple of the rank such as 2r"),
        ("levers: [rank, width]\n", "line 1, 'levers': input should be 'learning_rate', 'target_modules', 'rank' or"),
        ("margin: 2\n", "line 1, 'margin': input should be less than 1, but it says 2"),
        ("ranks: [16, 8]\n", "write the ranks from small to large"),
        ("learning_rates: [2]\n", "write learning rates between 0 and 1"),
        ("- a\n", "a recipe is a list of 'key: value' lines"),
        ("a: [\n", "this is not YAML"),
    ],
)
def test_a_wrong_recipe_is_answered_with_its_line_and_the_remedy(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(RecipeError) as error:
        read_recipe(write(tmp_path, text))
    assert says in str(error.value)
    assert "recipe.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_option_is_named_as_it_was_typed() -> None:
    with pytest.raises(RecipeError, match="--batch-size: input should be greater than 0, but it says -1"):
        read_recipe(None, batch_size=-1)


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        read_recipe(tmp_path / "none.yaml")


@given(
    st.builds(
        Recipe,
        passes=st.floats(0.01, 100),
        budget=st.sampled_from([None, "300k", "30min"]),
        alphas=st.sampled_from([("2r",), ("r", "16", "rslora")]),
        margin=st.floats(1e-6, 0.99),
        ranks=st.sets(st.integers(1, 512), min_size=1).map(lambda ranks: tuple(sorted(ranks))),
        learning_rates=st.none() | st.sets(st.floats(1e-9, 0.99), min_size=1).map(lambda rates: tuple(sorted(rates))),
        seed=st.integers(0, 2**31),
    )
)
def test_what_is_written_down_reads_back_the_same(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> None:
    assert read_kept(write(tmp_path_factory.mktemp("kept"), recipe.as_yaml())) == recipe


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "pronounce-smollm2-135m-instruct"),
        ({"data": "/a/My Rows.jsonl", "model": "org/Big_Model-1.5B"}, "my-rows-big-model-1.5b"),
    ],
)
def test_a_study_is_named_after_its_data_and_model(options: dict[str, str], name: str) -> None:
    assert read_recipe(None, **options).default_study == name


def test_one_set_of_modules_or_one_alpha_needs_no_list(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, "targets: attention+lm_head\nalphas: 16\n"))
    assert (recipe.targets, recipe.alphas) == (("attention+lm_head",), ("16",))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("300k", (300_000, "tokens")),
        ("2M tokens", (2_000_000, "tokens")),
        ("5000", (5000, "tokens")),
        ("30min", (1800, "seconds")),
        ("1.5 h", (5400, "seconds")),
        ("90 s", (90, "seconds")),
    ],
)
def test_a_budget_is_tokens_or_a_time(text: str, found: tuple[float, str]) -> None:
    assert parse_budget(text) == found
