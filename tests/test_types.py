"""Labels of settings and candidates, scores, and the space of the levers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.types import (
    Candidate,
    LeverSpace,
    Scores,
    Setting,
    distinct_settings,
    read_alpha,
    shared_sources,
)

settings = st.builds(
    Setting,
    rank=st.integers(1, 512),
    alpha=st.integers(1, 1024),
    targets=st.sampled_from(
        [
            "attention",
            "all-linear",
            "q_proj,v_proj",
            "q_proj+v_proj",
            "q_*",
            "q_x",
            "q_?",
            "L" * 300,
            "L" * 301,
        ]
    ),
    learning_rate=st.sampled_from([1e-4, 2e-4, 1.5e-4, 1e-3, 1.0000001e-3]),
    use_rslora=st.booleans(),
)
candidates = st.builds(Candidate, settings, seed=st.integers(0, 9))


@given(candidates, candidates)
def test_different_candidates_have_different_ids(a: Candidate, b: Candidate) -> None:
    assert (a.id == b.id) == (a == b)


@pytest.mark.parametrize(
    ("candidate", "name"),
    [
        (Candidate(Setting(8, 16, "attention", 1e-3)), "r8-a16-attention-lr0.001-s0"),
        (Candidate(Setting(8, 16, "all-linear", 2e-3)), "r8-a16-all-linear-lr0.002-s0"),
        (
            Candidate(Setting(16, 2.5, "attention+lm_head", 1e-5, True, 0.05), seed=3),
            "r16-a2.5-attention+lm_head-lr1e-05-rslora-d0.05-s3",
        ),
        (
            Candidate(Setting(8, 16, "model.layers.0.self_attn.q_proj", 2.5e-4)),
            "r8-a16-model.layers.0.self_attn.q_proj-lr0.00025-s0",
        ),
    ],
)
def test_an_ordinary_id_is_readable(candidate: Candidate, name: str) -> None:
    assert candidate.id == name


def test_an_id_is_the_same_in_every_process() -> None:
    assert Candidate(Setting(8, 16, "q_*", 1e-3)).id == "r8-a16-q_x~4e4bfa4de545-lr0.001-s0"


@pytest.mark.parametrize("part", ["model.layers.11.self_attn.q_proj", "*.q_proj", "달"])
def test_an_id_of_many_modules_fits_into_a_file_name(tmp_path: Path, part: str) -> None:
    candidate = Candidate(
        Setting(8, 16, "+".join(f"{part}{i}" for i in range(200)), 1e-3, True, 0.05), seed=3
    )
    for name in (
        f".{candidate.id}@0.062.parquet.4194304",
        f".validation-{candidate.id}.parquet.4194304",
    ):
        (tmp_path / name).touch()
    assert not set(candidate.id) & set('/\\<>:"|?*\0')


def test_the_scale_is_alpha_over_the_rank_or_over_its_root() -> None:
    assert Candidate(Setting(16, 32, "mlp", 1e-3)).scale == 2
    assert Candidate(Setting(16, 32, "mlp", 1e-3, use_rslora=True)).scale == 8


def test_a_loss_is_a_mean_over_tokens_and_not_over_rows() -> None:
    assert Scores((1.0, 8.0), (1, 2)).mean == 3


@pytest.mark.parametrize(("losses", "tokens"), [((), ()), ((1.0,), (1, 2))])
def test_scores_need_rows_and_equal_lengths(losses: tuple[float], tokens: tuple[int]) -> None:
    with pytest.raises(ValueError, match="rows"):
        Scores(losses, tokens)


def test_alpha_is_twice_the_rank_by_default() -> None:
    assert LeverSpace((8,), (1e-3,), ("mlp",)).setting(8, 1e-3).alpha == 16
    assert LeverSpace((8,), (1e-3,), ("mlp",), ("0.5r",)).setting(8, 1e-3).alpha == 4


def test_a_space_has_every_combination_once() -> None:
    space = LeverSpace((8, 16), (1e-3, 2e-3), ("mlp", "attention"), ("2r", "r", "rslora"))
    assert len(set(space.settings())) == len(space.settings()) == 24


def test_a_setting_with_two_names_is_in_a_space_once_by_the_first_name() -> None:
    space = LeverSpace((8, 16), (1e-3,), ("mlp",), ("2r", "16", "rslora"))
    # At rank 8 2r is 16; at rank 16 rslora, which is 16 / √16, is another scale than 2r and 16.
    assert [(c.rank, c.alpha, c.use_rslora) for c in space.settings()] == [
        (8, 16, False), (8, 16, True), (16, 32, False), (16, 16, False), (16, 16, True),
    ]  # fmt: skip
    assert space.combinations == 6
    # 16 / √64 is 128 / 64.
    assert len(LeverSpace((64,), (1e-3,), ("mlp",), ("2r", "rslora")).settings()) == 1


@pytest.mark.parametrize(
    ("text", "alpha"),
    [
        ("2r", (32, False)),
        ("r", (16, False)),
        ("0.5r", (8, False)),
        ("24", (24, False)),
        ("rslora", (16, True)),
        ("2r rslora", (32, True)),
        ("32rslora", (32, True)),
    ],
)
def test_an_alpha_is_a_multiple_of_the_rank_or_a_number(
    text: str, alpha: tuple[float, bool]
) -> None:
    assert read_alpha(text, 16) == alpha


@pytest.mark.parametrize("text", ["", "twice", "0", "0r", "r2", "-1", ".", "rsloras", "1e3"])
def test_other_texts_are_no_alpha(text: str) -> None:
    with pytest.raises(ValueError, match="is no alpha"):
        read_alpha(text, 16)


def test_rows_of_one_source_share_a_number_and_without_shared_sources_there_are_none() -> None:
    assert shared_sources(["a", "b", "a", "", ""]) == (0, 1, 0, 3, 4)
    assert shared_sources(["a", "b", "", ""]) == ()
    assert shared_sources(["1", "", "x", "x"]) == (0, 1, 2, 2), (
        "a source may look like the number of a row"
    )


def test_settings_of_one_scale_have_one_effect_however_their_alpha_is_written() -> None:
    plain, rslora = Setting(64, 128, "mlp", 1e-3), Setting(64, 16, "mlp", 1e-3, use_rslora=True)
    other_rate = Setting(64, 16, "mlp", 2e-3, use_rslora=True)
    assert plain.effect == rslora.effect == other_rate.effect
    assert plain.effect != Setting(64, 64, "mlp", 1e-3).effect
    assert distinct_settings([plain, rslora, other_rate]) == [plain, other_rate]
