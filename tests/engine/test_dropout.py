from __future__ import annotations

import torch

from rung.engine.dropout import dropout_mask, stream_key

CPU = torch.device("cpu")
KEY = stream_key(0, 1)


def mask(
    key: str = KEY,
    layer: str = "q_proj",
    step: int = 3,
    rows: tuple[int, ...] = (0, 1),
    dropout: float = 0.3,
) -> torch.Tensor:
    return dropout_mask(key, layer, step, rows, (50, 64), dropout, CPU)


def test_a_mask_depends_on_the_seeds_the_layer_the_step_and_the_row() -> None:
    assert torch.equal(mask(), mask())
    others = [mask(stream_key(1, 1)), mask(stream_key(0, 2)), mask(layer="k_proj"), mask(step=4)]
    assert not any(torch.equal(mask(), other) for other in others)
    assert not torch.equal(mask()[0], mask()[1])


def test_a_row_has_the_same_mask_in_a_batch_that_is_split() -> None:
    whole = mask(rows=(0, 1, 2, 3))
    assert torch.equal(whole, torch.cat([mask(rows=(0, 1)), mask(rows=(2, 3))]))


def test_the_fraction_that_is_dropped_is_that_of_the_lever() -> None:
    for dropout in (0.1, 0.5, 0.9):
        dropped = 1 - float(mask(rows=tuple(range(10)), dropout=dropout).float().mean())
        # 32,000 independent draws: five standard deviations are at most 0.014.
        assert abs(dropped - dropout) < 0.014
    assert mask(dropout=0.0).all()
