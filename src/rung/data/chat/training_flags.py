"""Fields in which a message says whether to train on it.

OpenAI, Axolotl, ms-swift and others each use their own names.
"""

from __future__ import annotations

from typing import Any

from rung.data.row_errors import InvalidRowError

_WEIGHTS = ("weight", "loss_weight")
_TRAIN_FLAGS = (
    *(*_WEIGHTS, "train", "training", "trainable", "is_trainable", "train_on_turn", "learn"),
    *("loss", "loss_mask", "calculate_loss", "compute_loss", "has_loss"),
)
_IGNORE_FLAGS = ("masked", "is_masked", "ignore", "ignored", "ignore_loss")
FLAGS = {*_TRAIN_FLAGS, *_IGNORE_FLAGS, "mask", "sample_weight"}
"""All such fields, with the two that may mean either."""
_TRUTH_WORDS = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False}


def take_training_flags(message: dict[str, Any], location: str) -> bool | None:
    """Whether to train on a message, by its own flags, which are removed from it.

    Returns:
        None if it has no flag, or only one that says that it is not masked, which is the default.

    Raises:
        InvalidRowError: A weight is neither 0 nor 1.
    """
    said: set[bool] = set()
    for field in (*_TRAIN_FLAGS, *_IGNORE_FLAGS):
        value = message.get(field)
        if (number := _as_number(value)) in (0, 1):
            is_trained = bool(number) != (field in _IGNORE_FLAGS)
            del message[field]
            if field in _TRAIN_FLAGS or not is_trained:
                said.add(is_trained)
        elif field in _WEIGHTS and number is not None:
            raise InvalidRowError(
                f"{location} has the {field} {value}, but Rung trains on a turn or does not; write "
                "1 or 0"
            )
    return False not in said if said else None


def _as_number(value: Any) -> float | None:
    """A flag as 1 or 0, or another number; None if it is neither a truth value nor a number."""
    if isinstance(value, str):
        value = _TRUTH_WORDS.get(value.strip().lower(), value)
    try:
        return float(value) if isinstance(value, bool | int | float | str) else None
    except (ValueError, OverflowError):
        return None
