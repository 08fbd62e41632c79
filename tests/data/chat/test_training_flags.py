from __future__ import annotations

from typing import Any

import pytest

from rung.data.chat.training_flags import take_training_flags
from rung.data.row_errors import InvalidRowError


@pytest.mark.parametrize(
    ("flags", "is_trained"),
    [
        ({}, None),
        ({"weight": 0}, False),
        ({"weight": 1.0}, True),
        ({"train": False}, False),
        ({"loss": "false"}, False),
        ({"training": True}, True),
        ({"masked": True}, False),
        ({"masked": False}, None),
        ({"weight": 1, "train": False}, False),
        ({"weight": "0.0"}, False),
        ({"train": "no"}, False),
        ({"train": " Yes "}, True),
        ({"is_masked": 1}, False),
        ({"calculate_loss": 0}, False),
    ],
)
def test_flags_of_every_form_are_read_and_removed(
    flags: dict[str, Any], is_trained: bool | None
) -> None:
    message = {"name": "Ida", **flags}
    assert take_training_flags(message, "message 1") == is_trained
    assert message == {"name": "Ida"}


@pytest.mark.parametrize("field", [{"loss": 2.31}, {"train": "later"}, {"loss": float("nan")}])
def test_a_value_that_is_no_flag_stays_in_the_message(field: dict[str, Any]) -> None:
    """A loss may have been measured; and what Rung does not know is reported as not shown."""
    message = dict(field)
    assert take_training_flags(message, "message 1") is None
    assert message == field


@pytest.mark.parametrize("weight", [0.5, "0.5"])
def test_a_weight_between_0_and_1_is_an_error(weight: Any) -> None:
    with pytest.raises(
        InvalidRowError,
        match=r"message 1 has the weight 0\.5, but Rung trains on a turn or does not; write 1 or 0",
    ):
        take_training_flags({"weight": weight}, "message 1")
