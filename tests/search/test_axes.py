"""The levers as columns of a design matrix."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tests.search.worlds import SPACE

from rung.search.axes import Axes
from rung.types import Setting

POOL = SPACE.settings()
SETTING = Setting(16, 32, "attention", 2e-3)


def difference(before: Setting, after: Setting) -> np.ndarray:
    rows = Axes(POOL)([before, after])
    return rows[1] - rows[0]


def test_a_row_begins_with_one_and_does_not_depend_on_the_other_rows() -> None:
    matrix = Axes(POOL)(POOL)
    assert len(matrix) == len(POOL)
    assert (matrix[:, 0] == 1).all()
    for setting in POOL[::50]:
        assert (Axes(POOL)([setting]) == matrix[POOL.index(setting)]).all()


def test_a_unit_is_a_factor_of_four_of_rate_and_rank_and_a_doubling_of_the_scale() -> None:
    rate = difference(SETTING, replace(SETTING, learning_rate=8e-3))
    rank = difference(SETTING, replace(SETTING, rank=64, alpha=128))
    scale = difference(SETTING, replace(SETTING, alpha=64))
    for column, change in enumerate((rate, rank, scale), start=1):
        assert np.allclose(change[1:4], np.eye(3)[column - 1])


def test_settings_of_one_effect_have_the_same_row() -> None:
    plain, rslora = Setting(64, 128, "mlp", 1e-3), Setting(64, 16, "mlp", 1e-3, use_rslora=True)
    assert not difference(plain, rslora).any()


def test_target_modules_are_told_apart_by_each_of_their_names() -> None:
    axes = Axes([*POOL, replace(SETTING, targets="attention+lm_head")])
    plain, with_head, comma = axes(
        [
            SETTING,
            replace(SETTING, targets="attention+lm_head"),
            replace(SETTING, targets="attention,lm_head"),
        ]
    )
    assert (with_head != plain).any()
    assert (with_head == comma).all()
