"""What each lever does, in plain sentences with a model's own numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STATE_BYTES = 18
"""What training holds for each number of an adapter: its weight, gradient and two moments of AdamW in float32, and the
weight once more in two bytes."""


def lessons(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A title and a text for each lever, from the document of `rung inspect`."""
    adapter, products = found["adapter"], found["products"]
    rank, numbers = adapter["rank"], adapter["parameters"]
    each, more = numbers / rank, 2 * rank
    base = found["held_bytes"]["nf4"]
    by_targets = found["products_by_targets"]
    lower = max(1, rank // 4)
    groups = [
        f"{targets} {100 * share / products:.0f} %"
        for targets, share in by_targets.items()
        if targets != "lm_head"
    ]
    return [
        (
            "Rank",
            f"It is how many directions an adapter can move a layer in. Rank {rank} here is {numbers:,} numbers, "
            f"{100 * numbers / found['parameters']:.2g} % of the model's; rank {more} is twice that. In memory the "
            f"step from {rank} to {more} costs {_size(STATE_BYTES * each * rank)} ({STATE_BYTES} bytes a number: "
            f"weight, gradient, AdamW's two moments, a copy to compute with), beside {_size(base)} for the base in NF4 "
            f"and the activations, which hardly know the rank. In time it adds "
            f"{100 * 1.5 * each * rank / products:.2g} % to the arithmetic of a step.",
        ),
        (
            "A lower rank does not cure out-of-memory",
            f"From {rank} to {lower} saves {_size(STATE_BYTES * each * (rank - lower))}. What helps is fewer rows in a "
            "pass, shorter rows, and keeping the base in 4 bits. Rung splits passes by itself when memory is short, "
            "with the same result.",
        ),
        (
            "Alpha",
            f"The update is multiplied by alpha / rank: {adapter['alpha']:g} / {rank} = {adapter['alpha'] / rank:g}, "
            f"and not by alpha. So alpha {adapter['alpha']:g} is {adapter['alpha'] / more:g} at rank {more}. By the "
            "rule alpha = 2r the scale is 2 at every rank, and the best learning rate hardly moves when the rank "
            "does. With AdamW a larger scale does much of what a larger rate does, so one is worth nothing without "
            "the other: Rung tries both together. rsLoRA divides by √rank instead, for high ranks.",
        ),
        (
            "Target modules",
            f"Of the frozen weights that each token goes through, the groups hold: {', '.join(groups)}. Attention "
            "first is the rule of thumb. All linear layers often do better even with as many parameters "
            "(that is, at a lower rank), and the MLP alone often beats the attention alone. "
            + _head(found),
        ),
        (
            "Learning rate",
            "It is not LoRA's own, and outweighs its levers: a wrong one costs more than any rank gains. LoRA takes "
            "about ten times the rate of full fine-tuning, and less for wider models.",
        ),
        (
            "Counting in 4 bits",
            f"NF4 packs two weights into a byte, so a count of the loaded parameters says "
            f"{found['packed_parameters']:,} where the model has {found['parameters']:,}. Rung counts from the shapes.",
        ),
    ]


def _head(found: Mapping[str, Any]) -> str:
    head = found["head"]
    if not head["name"]:
        return "This model has no output head."
    tied = (
        " Here it is tied to the embedding, so an adapter on it makes the two differ: merged, the model gets a head of "
        "its own."
        if head["tied"]
        else ""
    )
    return (
        "The last layer, lm_head, is for output that is far from what the model writes: another language or "
        f"format.{tied}"
    )


def _size(count: float) -> str:
    return f"{count / 1e9:.2g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"
