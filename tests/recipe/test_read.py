"""How a recipe is read from a file and from options, and how a wrong one is answered."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.recipe.recipe_file import write

from rung.errors import RecipeError
from rung.formats.amounts import Budget
from rung.recipe import Recipe, read_kept, read_recipe, with_options


def test_options_are_laid_over_the_file_and_none_changes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, "passes: 2\nmargin: 0.05\n")
    recipe = read_recipe(path, passes=3, margin=None)
    assert (recipe.passes, recipe.margin) == (3, 0.05)


def test_data_files_are_found_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    assert read_recipe(write(tmp_path, "data: rows.jsonl\n")).data == str(tmp_path / "rows.jsonl")


def test_a_built_in_name_is_never_a_file_beside_the_recipe(tmp_path: Path) -> None:
    for name in ("price", "plain"):
        (tmp_path / name).mkdir()
    recipe = read_recipe(write(tmp_path, "data: price\ntemplate: plain\n"))
    assert (recipe.data, recipe.template) == ("price", "plain")


def test_the_home_folder_is_found_in_every_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    text = "".join(f"{key}: ~/a\n" for key in ("data", "model", "validation", "test", "template"))
    recipe = read_recipe(write(tmp_path, text + "metrics: ~/own.py:score\n"))
    assert (
        recipe.data
        == recipe.model
        == recipe.validation
        == recipe.test
        == recipe.template
        == f"{tmp_path}/a"
    )
    assert recipe.metrics == (f"{tmp_path}/own.py:score",)
    assert read_recipe(None, data=Path("~/a"), metrics=("~/own.py:score",)).data == f"{tmp_path}/a"
    assert read_recipe(None, metrics=("~/own.py:score",)).metrics == recipe.metrics


def test_a_recipe_may_be_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "passes: 2\n")
    assert read_recipe("~/recipe.yaml").passes == 2


def test_the_recipe_of_a_study_is_read_as_it_is_whatever_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "scores").mkdir()
    recipe = Recipe(data="scores")
    assert read_kept(write(tmp_path, recipe.as_yaml())).data == "scores"
    assert read_recipe(write(tmp_path, "data: scores\n")).data == str(tmp_path / "scores")


def test_a_recipe_that_is_missing_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        read_recipe(tmp_path / "none.yaml")


def test_a_wrong_option_is_named_as_it_was_typed() -> None:
    with pytest.raises(
        RecipeError, match="--batch-size: input should be greater than 0, but it says -1"
    ):
        read_recipe(None, batch_size=-1)


def test_a_wrong_value_is_shown_as_it_was_typed() -> None:
    with pytest.raises(RecipeError, match="such as q_proj[+]v_proj, but it says a,,b"):
        read_recipe(None, targets=[["a,,b"]])
    with pytest.raises(RecipeError, match="without control characters, but it says ''"):
        read_recipe(None, metrics=[""])


def test_an_option_may_be_a_number_of_python(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match="--passes: input should be a finite number, but it says inf"
    ):
        read_recipe(None, passes=float("inf"))
    with pytest.raises(RecipeError, match=r"--rnak: .*did you mean ranks\?"):
        read_recipe(None, rnak=8)
    with pytest.raises(RecipeError, match="--budget: 'm' may be minutes"):
        with_options(Recipe(), budget="90m")
    assert read_recipe(None, budget=90_000, seed=2**32 - 1).budget == Budget(90_000, "tokens")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("budget: 1\nrnak: 8\n", "line 2, 'rnak': there is no such key; the keys are model, "),
        ("\npasses: soon\n", "line 2, 'passes': input should be a valid number"),
        (
            "budget: soon\n",
            "line 1, 'budget': write a number of tokens such as 300k, or a time such as 30min",
        ),
        ("alphas: [2r, twice]\n", "'twice' is no alpha; write a multiple of the rank such as 2r"),
        (
            "levers: [rank, width]\n",
            "line 1, 'levers': input should be 'learning_rate', 'targets', 'rank' or",
        ),
        ("margin: 2\n", "line 1, 'margin': input should be less than 1, but it says 2"),
        ("ranks: [16, 8]\n", "write the ranks from small to large"),
        ("learning_rates: [2]\n", "write learning rates between 0 and 1"),
        ("- a\n", "this is not a list of 'key: value' lines"),
        ("on: true\n", "line 1, 'on': there is no such key"),
        ("margin: 0.1\n8: x\n", "line 2, '8': there is no such key"),
        ("rnak: 8\n", "seed (did you mean ranks?)."),
        ("learning-rates: 1e-3\n", "(did you mean learning_rates?)"),
        ("lora_alpha: 16\n", "(did you mean alphas?)"),
        ("num_train_epochs: 3\n", "(did you mean passes?)"),
        ("quantization: NF4\n", "'bf16' or 'fp32', but it says NF4 (did you mean nf4?)"),
        ("strategy: gird\n", "(did you mean grid?)"),
        ("levers: [rnak]\n", "(did you mean rank?)"),
        ("margin:\n", "'margin': input should be a valid number, but it says nothing"),
        ("margin: 0,05\n", "unable to parse string as a number, but it says 0,05"),
        ("ranks: []\n", "'ranks': it is empty; write one value or more"),
        (
            "ranks: [8, eight]\n",
            "'eight' is not a list of numbers; write them with commas, such as 8,16,32",
        ),
        ("ranks: [8, null]\n", "input should be a valid integer, but it says nothing"),
        ("ranks: 8.5\n", "input should be a valid integer"),
        ("ranks: [8, 8]\n", "each once"),
        ("learning_rates: [1e-3, 0.001]\n", "each once"),
        ("alphas: [2r, 2.0r]\n", "write each alpha once"),
        ("skip_bad_rows: maybe\n", "input should be a valid boolean"),
        ("fields: {prompt: a, prompt: b}\n", "the key 'prompt' is given twice"),
        ("fields: {8: x}\n", "write name=field, where a name is one of prompt, "),
        (
            "fields: prompt\n",
            "'prompt' is not a list of names; write prompt=question,completion=answer.",
        ),
        ("fields: prompt=a,prompt=b\n", "is not a list of names"),
        ("data: ''\n", "write a name, without control characters, but it says ''"),
        ('data: "a\\0b"\n', "write a name, without control characters"),
        ("data: ~nobody-of-that-name/x\n", "there is no such home folder"),
        (
            "budget: 90m\n",
            "'m' may be minutes or millions; write 90min, or 90M tokens, but it says 90m",
        ),
        ("budget: 1:30\n", "or a time such as 30min, but it says 1:30"),
        ("memory: 8\n", "that is 8 bytes; write a size such as 8GB"),
        ("targets: [q_proj+]\n", "write a set of target modules as names joined by plus signs"),
        ("a: [\n", "this is not YAML"),
    ],
)
def test_a_wrong_recipe_is_answered_with_its_line_and_the_remedy(
    tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(RecipeError) as error:
        read_recipe(write(tmp_path, text))
    assert says in str(error.value)
    assert "recipe.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_options_keep_which_fields_the_user_set() -> None:
    """Some defaults give way to the model, but what the user names does not."""
    recipe = with_options(Recipe(targets=("attention",), model="m"), passes=2, margin=None)
    assert recipe.model_fields_set == {"targets", "model", "passes"}
    assert recipe.passes == 2
    assert with_options(recipe).model_fields_set == recipe.model_fields_set


def test_a_wrong_option_over_a_recipe_is_one_sentence() -> None:
    with pytest.raises(RecipeError, match="--ranks: write the ranks from small to large"):
        with_options(Recipe(), ranks=(8, 4))
    with pytest.raises(RecipeError, match=r"--rnak: .*did you mean ranks\?"):
        with_options(Recipe(), rnak=8)
