"""The recipe: its defaults, the study's name, and how it is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.recipe.recipe_file import write

from rung.recipe import Recipe, read_kept, read_recipe


def test_an_empty_recipe_is_the_embedded_default(tmp_path: Path) -> None:
    assert read_recipe() == read_recipe(write(tmp_path, "")) == Recipe()


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
def test_a_recipe_written_as_yaml_reads_back_the_same(
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


def test_a_long_name_of_data_is_shortened_and_stays_distinct() -> None:
    names = [
        read_recipe(None, data=f"{'数' * 300}{end}.jsonl", model="m").default_study for end in "ab"
    ]
    assert len(set(names)) == 2
    assert all(len(name.encode()) <= 100 for name in names)
