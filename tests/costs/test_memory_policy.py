"""Every decision about memory: the pure rules, and what they do to a trainer."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rung.costs import memory_policy
from rung.costs.devices import device
from rung.costs.memory_model import Activations, CandidateMemory, MemoryModel
from rung.costs.memory_policy import (
    MEMORY_HEADROOM,
    MemoryPolicy,
    MemoryRules,
    device_limit,
    process_limit,
)
from rung.data.prepare import prepare
from rung.engine.process_memory import resident_bytes
from rung.engine.trainer import Trainer
from rung.model.load import Base
from rung.recipe import Recipe
from rung.types import Candidate, Setting

MODEL = MemoryModel(10**9, Activations(1e7, 1e6, 4e3), Activations(1e7, 1e5, 4e3))
ATTENTION = Candidate(Setting(4, 8, "attention", 1e-2))
ALL_LINEAR = Candidate(Setting(4, 8, "all-linear", 1e-2))
PLENTY = 10**11


@given(
    st.lists(
        st.builds(CandidateMemory, st.integers(10**6, 10**9), st.integers(0, 10**5)),
        min_size=1,
        max_size=9,
    ),
    st.integers(1, 8),
    st.integers(1, 512),
    st.floats(1e9, 1e11),
)
def test_a_pack_by_the_rules_keeps_within_the_memory(
    candidates: list[CandidateMemory], rows: int, length: int, limit: float
) -> None:
    rules = MemoryRules(MODEL, limit, rows, length)
    width = rules.pack_width(candidates)
    assert 1 <= width <= len(candidates)
    pack = candidates[:width]
    tokens = rules.training_tokens(pack)
    if width > 1:
        assert tokens >= rows * length, "the rows of one candidate fit"
    if tokens:
        states = sum(one.state for one in pack)
        activations = MODEL.training.bytes(tokens, length)
        own = tokens * max(one.per_token for one in pack)
        used = MODEL.held + states + activations + own
        assert used <= limit * (1 - MEMORY_HEADROOM) + 1
        assert rules.peak(pack) <= limit * (1 - MEMORY_HEADROOM) + 1


def test_more_memory_allows_a_wider_pack_and_larger_passes() -> None:
    candidates = [CandidateMemory(10**8, 1000)] * 8

    def rules(limit: float) -> MemoryRules:
        return MemoryRules(MODEL, limit, batch_size=4, longest=64)

    widths = [rules(limit).pack_width(candidates) for limit in (1e9, 1.9e9, 2.1e9, 1e10)]
    assert widths == sorted(set(widths)), "each is wider than the one before"
    assert (widths[0], widths[-1]) == (1, 8)
    assert rules(1e9).training_tokens(candidates) == 0, "not one row"
    passes = [rules(limit).training_tokens(candidates) for limit in (3e9, 6e9)]
    assert 0 < passes[0] < passes[1]
    scored = [rules(limit).scoring_tokens(candidates) for limit in (1e9, 3e9, 6e9)]
    assert scored[0] == 64, "one row at the least"
    assert scored[0] < scored[1] < scored[2]
    assert scored[1] > passes[0], "scoring keeps less"


def test_a_step_fits_in_one_pass_or_in_parts_or_not() -> None:
    candidates = [CandidateMemory(10**8, 1000)] * 2

    def fit(limit: float) -> str:
        return MemoryRules(MODEL, limit, batch_size=4, longest=64).fit(candidates)

    assert fit(1e10) == "in one pass"
    whole = MemoryRules(MODEL, 1e10, 4, 64).peak_in_one_pass(candidates)
    assert fit(whole / (1 - MEMORY_HEADROOM) + 1) == "in one pass"
    assert fit(whole / (1 - MEMORY_HEADROOM) - 1) == "in parts"
    assert fit(1.3e9) == "no"


def test_the_peak_of_a_step_in_parts_is_what_may_be_used() -> None:
    candidates = [CandidateMemory(10**8, 1000)] * 2
    roomy, tight = (MemoryRules(MODEL, limit, 4, 64) for limit in (1e10, 1.9e9))
    assert roomy.peak(candidates) == roomy.peak_in_one_pass(candidates)
    assert tight.peak(candidates) == int(tight.usable) < tight.peak_in_one_pass(candidates)


def test_the_limit_is_what_the_user_asks_for_or_what_there_is() -> None:
    cpu = torch.device("cpu")
    assert process_limit(123, cpu) == 123
    available = process_limit(None, cpu)
    assert resident_bytes() < available <= psutil.virtual_memory().total + resident_bytes()
    t4 = device("t4")
    assert device_limit(None, t4) == 16e9
    assert device_limit(10**9, t4) == 1e9
    assert device_limit(10**12, t4) == 16e9, "a device has no more than it has"


MakePolicy = Callable[..., MemoryPolicy]


@pytest.fixture
def make_policy(tiny_base: Base, rows_file: Path) -> MakePolicy:
    rows = str(rows_file)
    recipe = Recipe(data=rows, validation=rows, test=rows)
    data = prepare(recipe, tiny_base.tokenizer)
    trainer = Trainer(tiny_base)

    def make(limit: int | None, targets: tuple[str, ...] = ()) -> MemoryPolicy:
        return MemoryPolicy(trainer, data.train, 8, limit, targets)

    return make


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Setting]:
    """The settings that memory was measured for. A token takes a megabyte."""
    settings: list[Setting] = []

    def measure(trainer: Trainer, setting: Setting, rows: object) -> MemoryModel:
        settings.append(setting)
        return MemoryModel(0, Activations(0, 1e6, 0), Activations(0, 1e5, 0))

    monkeypatch.setattr(memory_policy, "measure_memory", measure)
    return settings


def test_plentiful_memory_is_not_measured_and_holds_the_dense_weights(
    make_policy: MakePolicy, measured: list[Setting]
) -> None:
    policy = make_policy(PLENTY)
    assert policy.pack_width([ATTENTION] * 9) == 9
    policy.prepare([ATTENTION])
    assert measured == []
    assert policy.trainer.training_limit.tokens == math.inf
    assert policy.trainer.scoring_limit.tokens == math.inf
    assert policy.trainer.frozen.holds_dense
    assert not policy.trainer.activation_checkpointing


def test_dense_weights_that_are_held_already_are_not_counted_twice(
    make_policy: MakePolicy, measured: list[Setting]
) -> None:
    policy = make_policy(PLENTY)
    for _ in range(2):
        policy.prepare([ATTENTION])
        assert policy.trainer.frozen.holds_dense


def test_tight_memory_limits_packs_and_passes_and_gives_the_dense_weights_back(
    make_policy: MakePolicy, measured: list[Setting]
) -> None:
    make_policy(PLENTY).prepare([ATTENTION])
    policy = make_policy(10**8)
    policy.prepare([ATTENTION])
    trainer = policy.trainer
    assert not trainer.frozen.holds_dense
    usable = 10**8 * (1 - MEMORY_HEADROOM)
    assert policy.longest < trainer.training_limit.tokens < usable / 1e6
    assert trainer.training_limit.tokens < trainer.scoring_limit.tokens < usable / 1e5
    assert policy.pack_width([ATTENTION] * 9) == 9, "the activations of one are enough"
    policy.limit = 8 * 10**7
    wide = Candidate(Setting(256, 512, "all-linear", 1e-2))
    assert 1 <= policy.pack_width([wide] * 9) < 9
    assert not trainer.activation_checkpointing


def test_activation_checkpointing_is_switched_on_where_not_one_row_fits(
    make_policy: MakePolicy, measured: list[Setting]
) -> None:
    policy = make_policy(10**6)
    policy.prepare([ATTENTION])
    assert policy.trainer.activation_checkpointing
    assert len(measured) == 2, "passes take other memory now"
    assert policy.trainer.training_limit.tokens == policy.longest, "one row is tried all the same"
    policy.prepare([ATTENTION])
    assert len(measured) == 2


def test_memory_is_measured_once_for_the_most_layers_that_are_to_be_tried(
    make_policy: MakePolicy, measured: list[Setting]
) -> None:
    policy = make_policy(10**8, ("attention", "no_such_layers", "all-linear"))
    policy.prepare([ATTENTION])
    policy.prepare([ALL_LINEAR])
    assert [setting.targets for setting in measured] == ["all-linear"]


def test_memory_is_measured_again_for_more_layers_than_were_named(
    make_policy: MakePolicy, measured: list[Setting]
) -> None:
    policy = make_policy(10**8)
    for candidate in (ATTENTION, ALL_LINEAR, ATTENTION):
        policy.prepare([candidate])
    assert [setting.targets for setting in measured] == ["attention", "all-linear"]


def test_generation_is_told_the_limit_that_the_user_set(make_policy: MakePolicy) -> None:
    assert make_policy(10**8).trainer.memory == 10**8
    assert make_policy(None).trainer.memory is None
