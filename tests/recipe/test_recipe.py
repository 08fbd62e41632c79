from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.errors import RecipeError
from rung.formats.amounts import Budget, parse_budget, parse_bytes
from rung.recipe import Recipe, read_kept, read_recipe, with_options


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
def test_an_endless_or_a_huge_number_is_one_sentence_in_a_file_and_as_an_option(
    tmp_path: Path, key: str, value: str, says: str
) -> None:
    with pytest.raises(RecipeError, match=f"recipe.yaml, line 1, '{key}': ") as from_file:
        read_recipe(write(tmp_path, f"{key}: {value}\n"))
    with pytest.raises(RecipeError, match=f"^--{key.replace('_', '-')}: ") as as_option:
        read_recipe(None, **{key: value})
    for error in (from_file, as_option):
        assert says in str(error.value)
        assert len(str(error.value)) < 400


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


def test_numbers_are_read_as_they_are_written(tmp_path: Path) -> None:
    recipe = read_recipe(
        write(tmp_path, "ranks: ['015']\nmargin: '1e-2'\nskip_bad_rows: on\nbudget: 1_000_000\n")
    )
    assert (recipe.ranks, recipe.margin, recipe.skip_bad_rows) == ((15,), 0.01, True)
    assert recipe.budget == Budget(1_000_000, "tokens")


def test_what_could_be_read_as_something_else_is_the_text_that_it_is(tmp_path: Path) -> None:
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


def test_a_list_of_names_may_be_meant_as_one_set_and_is_asked_about(tmp_path: Path) -> None:
    says = r"write q_proj\+v_proj for one set of them all, or \[\[q_proj\], \[v_proj\]\] for a set of each"
    with pytest.raises(RecipeError, match=r"recipe.yaml, line 1, 'targets': .*" + says):
        read_recipe(write(tmp_path, "targets: [q_proj, v_proj]\n"))
    with pytest.raises(RecipeError, match="--targets: .*" + says):
        read_recipe(None, targets=("q_proj", "v_proj"))
    kept = read_recipe(None, targets=[["q_proj"], ["v_proj"]])
    assert kept.targets == ("q_proj", "v_proj")
    assert with_options(kept, passes=2).targets == kept.targets
    assert read_kept(write(tmp_path, kept.as_yaml())) == kept


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


def test_what_is_built_in_is_meant_by_its_word(tmp_path: Path) -> None:
    for name in ("price", "plain"):
        (tmp_path / name).mkdir()
    recipe = read_recipe(write(tmp_path, "data: price\ntemplate: plain\n"))
    assert (recipe.data, recipe.template) == ("price", "plain")


def test_a_recipe_may_be_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "passes: 2\n")
    assert read_recipe("~/recipe.yaml").passes == 2


def test_a_kept_recipe_is_read_as_it_is_whatever_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "scores").mkdir()
    recipe = Recipe(data="scores")
    assert read_kept(write(tmp_path, recipe.as_yaml())).data == "scores"
    assert read_recipe(write(tmp_path, "data: scores\n")).data == str(tmp_path / "scores")


def test_a_wrong_option_is_named_as_it_was_typed() -> None:
    with pytest.raises(
        RecipeError, match="--batch-size: input should be greater than 0, but it says -1"
    ):
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
        learning_rates=st.none()
        | st.sets(st.floats(1e-9, 0.99), min_size=1).map(lambda rates: tuple(sorted(rates))),
        seed=st.integers(0, 2**31),
    )
)
def test_what_is_written_down_reads_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, recipe: Recipe
) -> None:
    assert read_kept(write(tmp_path_factory.mktemp("kept"), recipe.as_yaml())) == recipe


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "pronounce-smollm2-135m-instruct"),
        ({"data": "/a/My Rows.jsonl", "model": "org/Big_Model-1.5B"}, "my-rows-big-model-1.5b"),
        ({"data": "数据.jsonl", "model": "模型"}, "数据-模型"),
        ({"data": "été.jsonl", "model": "m"}, "été-m"),
        ({"data": "e\u0301te\u0301.jsonl", "model": "m"}, "été-m"),
        ({"data": "हिन्दी.jsonl", "model": "m"}, "हिन्दी-m"),
        ({"data": "🙂.jsonl", "model": "m"}, "🙂-m"),
        ({"data": "../..", "model": "m"}, "m"),
        ({"data": "？.jsonl", "model": "—"}, "study"),
        ({"data": "a/b:c", "model": "m"}, "b-c-m"),
    ],
)
def test_a_study_is_named_after_its_data_and_model(options: dict[str, str], name: str) -> None:
    assert read_recipe(None, **options).default_study == name


def test_one_set_of_modules_or_one_alpha_needs_no_list(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, "targets: attention+lm_head\nalphas: 16\n"))
    assert (recipe.targets, recipe.alphas) == (("attention+lm_head",), ("16",))


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


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("300k", (300_000, "tokens")),
        ("1e15", (10**15, "tokens")),
        ("2M tokens", (2_000_000, "tokens")),
        ("5000", (5000, "tokens")),
        ("30min", (1800, "seconds")),
        ("1.5 h", (5400, "seconds")),
        ("90 s", (90, "seconds")),
        ("90M", (90_000_000, "tokens")),
        ("90 m tokens", (90_000_000, "tokens")),
        ("1e6", (1_000_000, "tokens")),
        ("90 mins", (5400, "seconds")),
        ("2 hrs", (7200, "seconds")),
    ],
)
def test_a_budget_is_tokens_or_a_time(text: str, found: tuple[float, str]) -> None:
    assert parse_budget(text) == found


def test_a_size_is_bytes() -> None:
    assert [parse_bytes(text) for text in ("8GB", "512 MB", "6GiB", "1000T")] == [
        8e9,
        512e6,
        6 * 2**30,
        10**15,
    ]


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


def test_a_long_name_of_data_gives_a_name_that_fits_and_is_its_own() -> None:
    names = [
        read_recipe(None, data=f"{'数' * 300}{end}.jsonl", model="m").default_study for end in "ab"
    ]
    assert len(set(names)) == 2
    assert all(len(name.encode()) <= 100 for name in names)
