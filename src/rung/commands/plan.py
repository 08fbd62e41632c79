"""What a climb will take, before it is paid for: the climb itself, run on paper.

`here` a few real steps say what steps cost, and the untuned model's losses what the validation rows can show. For a
named device a rehearsal and its data sheet do, which is an estimate and says so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rung.costs.devices import HERE, Device, device
from rung.costs.memory_model import MEMORY_HEADROOM, need
from rung.costs.probes import (
    ARITHMETIC_EFFICIENCY,
    BANDWIDTH_EFFICIENCY,
    DeviceCosts,
    measured,
    rehearsed,
)
from rung.data.languages import another_language
from rung.data.limits import check_rows
from rung.data.prepare import Data, prepare
from rung.engine.loss import CHUNK
from rung.engine.process_memory import keep_freed_memory, memory_limit
from rung.engine.trainer import Trainer
from rung.errors import ModelError, TargetError
from rung.formats.amounts import parse_budget, parse_bytes
from rung.model.anatomy import Anatomy, anatomy
from rung.model.load import end_tokens, load_base, load_tokenizer
from rung.recipe import Recipe
from rung.runner.estimate import EstimateRunner
from rung.runner.local import GENERATED_ROWS
from rung.search.effort import Effort, choose_race_fraction
from rung.search.power import detectable_gain_of_climb
from rung.search.strategy import Stage
from rung.tuning.loop import (
    Observer,
    check_budget,
    distinct_targets,
    make_space,
    make_strategy,
    resolve,
)
from rung.types import Candidate, LeverSpace, Measurement, Scores, Setting

CHARACTERS = 4
"""Of a token, where there is no tokenizer to ask: what is usual for English."""


IN_A_PACK = 4.5 / 8
"""What one of eight candidates takes that write together, in what it takes alone (docs/log.md, 2026-11-25)."""


@dataclass(frozen=True)
class _Ground:
    """What a plan stands on."""

    recipe: Recipe
    costs: DeviceCosts
    memory: float
    vocabulary: int
    data: Data
    baseline: Scores | None
    loading: float
    head: bool
    notes: list[str]


def plan(recipe: Recipe, where: str, price: float | None, observer: Observer) -> dict[str, Any]:
    """The document of `rung plan`.

    Args:
        recipe: the study's.
        where: `here`, or a name of `rung.costs.devices`.
        price: of an hour, in any currency.
        observer: hears what is being done.

    Raises:
        InputError: the recipe, the data, the model or the device cannot be used.
    """
    tell, pinned = observer.note, recipe.learning_rates is not None
    ground = _here(recipe, tell) if where == HERE else _elsewhere(recipe, device(where), tell)
    recipe, costs = ground.recipe, ground.costs
    named = "targets" in recipe.model_fields_set
    space = distinct_targets(
        make_space(recipe, pinned, ground.head), costs.frozen.targets, named, observer
    )
    runner = EstimateRunner(costs, recipe, ground.data.train, ground.data.validation, ground.memory)
    budget = _budget(recipe, runner)
    race_fraction = choose_race_fraction(runner.steps)
    strategy = make_strategy(recipe, space, budget, race_fraction, observer)
    history: list[Measurement] = []
    # What the untuned model loses may ask for the output head, as the data may.
    baseline = ground.baseline or runner.baseline()
    while (decision := strategy.decide(baseline, history)).stage is not None:
        history += runner.run(decision.stage, lambda _: None)
    around = _around(runner, ground, decision.recommended)
    seconds = ground.loading + around + sum(stage.seconds for stage in runner.stages)
    tokens = sum(stage.tokens for stage in runner.stages)
    chosen = (
        Effort(race_fraction) if budget is None else Effort.within(space, budget, race_fraction)
    )
    return {
        "schema": 1,
        "model": recipe.model,
        "data": recipe.data,
        "device": _device(where, ground),
        "steps": runner.steps,
        "candidate_tokens": runner.full_tokens,
        "heats": [asdict(stage) for stage in runner.stages],
        "cost": {
            "seconds": round(seconds, 1),
            "around_seconds": round(ground.loading + around, 1),
            "candidate_tokens": tokens,
            "full_trainings": round(tokens / runner.full_tokens, 2),
            "rung_seconds": round(runner.stages[-1].seconds / runner.stages[-1].settings, 1),
            "single_run_seconds": round(_one_run(runner, space), 1),
            "price_per_hour": price,
            "price": None if price is None else round(price * seconds / 3600, 2),
        },
        "memory": _memory(ground, runner),
        "fits": _fits(ground, runner, space),
        "rows": _rows(ground, chosen),
        "notes": ground.notes,
    }


def _here(recipe: Recipe, tell: Callable[[str], None]) -> _Ground:
    begun = time.perf_counter()
    tokenizer = load_tokenizer(recipe.model)
    data = prepare(recipe, tokenizer, tell, end_tokens(recipe.model, tokenizer))
    tell(f"loading {recipe.model}")
    base = load_base(recipe.model, recipe.quantization, recipe.precision)
    loading = time.perf_counter() - begun
    if base.device.type == "cpu":
        keep_freed_memory()
    trainer = Trainer(base)
    check_rows(data, trainer.positions, trainer.vocabulary, base.tokenizer)
    recipe = resolve(recipe, base.model.config.get_text_config().hidden_size, base.dtype)
    tell("scoring the untuned model")
    baseline = trainer.score(data.validation)[0]
    tell("taking a few steps")
    costs = measured(
        trainer, _widest(recipe, lambda c: len(trainer.frozen.targets(c.setting))), data.train
    )
    memory = parse_bytes(recipe.memory) if recipe.memory else memory_limit(base.device)
    vocabulary, head = (
        trainer.head.layer.out_features,
        another_language(data.train, tokenizer) is not None,
    )
    return _Ground(recipe, costs, memory, vocabulary, data, baseline, loading, head, [])


def _elsewhere(recipe: Recipe, where: Device, tell: Callable[[str], None]) -> _Ground:
    model = anatomy(recipe.model)
    precision = where.precision if recipe.precision == "auto" else recipe.precision
    recipe = resolve(recipe, model.config.hidden_size, precision)
    notes = [
        f"An estimate for the {where.title}: memory from a rehearsal by shapes, time from its peaks ({where.source}), "
        f"of which {ARITHMETIC_EFFICIENCY:.0%} of the arithmetic and {BANDWIDTH_EFFICIENCY:.0%} of the bandwidth are taken to be reached. "
        "Nothing was measured there.",
        "What the validation rows can show takes the model itself: --device here.",
    ]
    try:
        tokenizer = load_tokenizer(recipe.model)
    except ModelError:
        notes.append(f"There is no tokenizer, so a token is taken for {CHARACTERS} characters.")
        data, head = prepare(recipe, _Characters(), tell), False
    else:
        data = prepare(recipe, tokenizer, tell, end_tokens(recipe.model, tokenizer))
        head = another_language(data.train, tokenizer) is not None
    memory = min(where.memory_gb * 1e9, parse_bytes(recipe.memory) if recipe.memory else math.inf)
    tell(f"rehearsing a few steps of {model.architecture}")
    widest = _widest(recipe, lambda candidate: len(model.adapter(candidate).shares))
    costs = _rehearsed(recipe, model, precision, widest, data, where, checkpointing=False)
    longest = max(data.train.lengths)
    if not costs.memory.room([need(costs.frozen, widest, costs.dtype)], longest, memory):
        costs = _rehearsed(recipe, model, precision, widest, data, where, checkpointing=True)
        notes.append(
            "Not one row would fit, so the blocks keep their inputs alone and compute the rest again."
        )
        if not costs.memory.room([need(costs.frozen, widest, costs.dtype)], longest, memory):
            notes.append(
                "It does not fit even then: take a smaller model, shorter rows, or a device with more memory."
            )
    return _Ground(recipe, costs, memory, model.config.vocab_size, data, None, 0.0, head, notes)


def _rehearsed(
    recipe: Recipe,
    model: Anatomy,
    precision: str,
    widest: Candidate,
    data: Data,
    where: Device,
    checkpointing: bool,
) -> DeviceCosts:
    quantization = "nf4" if recipe.quantization == "nf4-single" else recipe.quantization
    return rehearsed(
        model.model.config, quantization, precision, widest, data.train, where, checkpointing
    )


class _Characters:
    """In the place of a tokenizer: as many tokens as a text of that length usually has."""

    eos_token, eos_token_id, chat_template = "", 0, "none"

    def __repr__(self) -> str:
        return f"{CHARACTERS} characters a token"

    def __call__(self, texts: list[str], **_: object) -> dict[str, list[list[int]]]:
        return {"input_ids": [[0] * math.ceil(len(text) / CHARACTERS) for text in texts]}

    def apply_chat_template(self, chat: list[dict[str, str]], **_: object) -> str:
        return "\n".join(message["content"] for message in chat)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self.eos_token] * len(ids)


def _widest(recipe: Recipe, layers: Callable[[Candidate], int]) -> Candidate:
    """A candidate of the target modules with the most layers; of those that the model has, if the user named none.

    Raises:
        TargetError: the model has no such modules.
    """
    found = []
    for targets in recipe.targets:
        candidate = Candidate(Setting(8, 16, targets, 1e-3))
        try:
            found.append((layers(candidate), candidate))
        except TargetError:
            if "targets" in recipe.model_fields_set or targets == recipe.targets[-1]:
                raise
    return max(found, key=lambda one: one[0])[1]


def _budget(recipe: Recipe, runner: EstimateRunner) -> float | None:
    """The recipe's budget in full budgets of one candidate."""
    if recipe.budget is None:
        return None
    amount, unit = parse_budget(recipe.budget)
    tokens = amount * (runner.speed() if unit == "seconds" else 1)
    check_budget(tokens, runner.full_tokens)
    return tokens / runner.full_tokens


def _around(runner: EstimateRunner, ground: _Ground, chosen: Candidate | None) -> float:
    """Seconds of what is not training: the untuned model, the test split, what the finalists write to the validation
    rows, and the adapter cut down to lower ranks.
    """
    lower = [rank for rank in ground.recipe.ranks if chosen and rank < chosen.rank]
    most: Mapping[str, int] = GENERATED_ROWS if ground.recipe.judge == "loss" else {}
    test, held = ground.data.test, ground.data.validation
    spent = sum(runner.scoring_seconds(who, test) for who in (None, chosen))
    spent += (1 + len(lower)) * runner.scoring_seconds(None, held)
    if ground.data.facts.shape != "text":
        writers = sum(
            stage.settings * stage.seeds for stage in runner.stages if stage.fraction == 1
        )
        spent += sum(
            runner.writing_seconds(who, test[: most.get("test")]) for who in (None, chosen)
        )
        spent += (
            writers * IN_A_PACK * runner.writing_seconds(chosen, held[: most.get("validation")])
        )
    return spent


def _one_run(runner: EstimateRunner, space: LeverSpace) -> float:
    """Seconds of one candidate in full, trained alone."""
    alone = EstimateRunner(
        runner.costs, runner.recipe, runner.train, runner.validation, runner.memory
    )
    alone.run(
        Stage("alone", (space.setting(space.ranks[0], space.learning_rates[0]),), 1.0),
        lambda _: None,
    )
    return alone.stages[0].seconds


def _device(where: str, ground: _Ground) -> dict[str, Any]:
    found = {"name": where, "measured": ground.costs.measured, "memory_bytes": int(ground.memory)}
    return found if where == HERE else {**found, **asdict(device(where))}


def _memory(ground: _Ground, runner: EstimateRunner) -> dict[str, int]:
    """The parts of the pack that holds the most, by the plan: of the widest one at the highest rank."""
    costs, recipe = ground.costs, ground.recipe
    widest = _widest(recipe, lambda candidate: costs.frozen.parameters(candidate.setting))
    pack = [
        Candidate(Setting(recipe.ranks[-1], 2.0 * recipe.ranks[-1], widest.targets, 1e-3), seed=0)
    ]
    pack *= costs.memory.width(
        runner.needs(pack * recipe.pack_width), recipe.batch_size, runner.longest, ground.memory
    )
    numbers = sum(costs.frozen.parameters(candidate.setting) for candidate in pack)
    parts = {
        "base": costs.memory.held,
        "adapters": numbers * (8 + costs.dtype.itemsize),
        "optimizer": numbers * 8,
        "logits": CHUNK * ground.vocabulary * (4 + costs.dtype.itemsize),
    }
    total = runner.peak(pack)
    parts["activations"] = max(0, total - sum(parts.values()))
    return {
        "width": len(pack),
        "rank": pack[0].rank,
        **parts,
        "total": total,
        "limit": int(ground.memory),
    }


def _fits(ground: _Ground, runner: EstimateRunner, space: LeverSpace) -> list[dict[str, Any]]:
    """The peak of packs in one pass, by rank and width, at the target modules that take the most."""
    costs, recipe = ground.costs, ground.recipe
    widest = _widest(recipe, lambda candidate: costs.frozen.parameters(candidate.setting))
    found = []
    for rank in space.ranks:
        for width in sorted({1, 2, 4, 8, recipe.pack_width}):
            pack = [
                Candidate(Setting(rank, 2.0 * rank, widest.targets, 1e-3), seed=seed)
                for seed in range(width)
            ]
            needs = runner.needs(pack)
            peak = costs.memory.peak(needs, recipe.batch_size, runner.longest)
            at_once = peak <= ground.memory * (1 - MEMORY_HEADROOM)
            possible = (
                costs.memory.width(needs, recipe.batch_size, runner.longest, ground.memory) == width
            )
            possible = possible and costs.memory.room(needs, runner.longest, ground.memory) > 0
            found.append(
                {
                    "rank": rank,
                    "targets": widest.targets,
                    "width": width,
                    "peak_bytes": peak,
                    "fits": "in one pass" if at_once else "in parts" if possible else "no",
                }
            )
    return found


def _rows(ground: _Ground, chosen: Effort) -> dict[str, Any] | None:
    if ground.baseline is None:
        return None
    margin = ground.recipe.margin
    seen = asdict(detectable_gain_of_climb(ground.baseline, margin, chosen))
    return {"margin": margin, "baseline_loss": ground.baseline.mean, **seen}
