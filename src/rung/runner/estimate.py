"""The estimate runner: it trains nothing, and notes what training would take.

A strategy cannot tell it from a real runner. So a plan is the climb itself, with the packs that the
engine would make. Only the losses are made up.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from rung.costs.memory_model import CandidateMemory, candidate_memory
from rung.costs.memory_policy import MemoryRules
from rung.costs.probes import DeviceCosts
from rung.costs.time_model import Workload, adapter_parameters
from rung.data.batches import BatchOrder, by_length
from rung.data.example import Example
from rung.engine.trainer import SCORING_BATCH_SIZE
from rung.recipe import Recipe
from rung.runner.packing import (
    USUAL_SETTING,
    PlannedPack,
    SavedProgress,
    StageSchedules,
    judging_rows,
    plan_packs,
)
from rung.runner.protocol import OnStep
from rung.search.strategy import Stage
from rung.types import Candidate, Measurement, Scores

LOSS = 1.5
"""The made-up loss of an adapter with one parameter, in nats a token."""
GAIN_PER_DOUBLING = 0.02
"""By how much twice as many parameters lower it. So the finalists are the most expensive settings,
and a plan errs on that side."""
SPREAD = 0.002
"""By how much chance raises it, at the most."""
GENERATION_BATCH = 200
"""Rows that are generated at once."""


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage as it would run.

    Attributes:
        settings, seeds: its candidates are their product.
        widths: of its packs.
        tokens: trained over all candidates.
        seconds: of training and scoring.
        peak: the most bytes held.
    """

    phase: str
    fraction: float
    settings: int
    seeds: int
    widths: tuple[int, ...]
    tokens: int
    seconds: float
    peak: int


class EstimateRunner:
    """A runner of stages that trains nothing. See the module.

    Args:
        costs: of the device.
        recipe: as resolved.
        train, validation: the rows. Their tokens do not matter; how many there are does.
        limit: bytes that the process may hold in all.

    Attributes:
        stages: what has been run.
        rules: what a pack may do there.
    """

    def __init__(
        self,
        costs: DeviceCosts,
        recipe: Recipe,
        train: Sequence[Example],
        validation: Sequence[Example],
        limit: float,
    ) -> None:
        self.costs, self.recipe = costs, recipe
        self.train, self.validation = train, validation
        lengths = [len(example.ids) for example in train]
        self.batches = BatchOrder(lengths, recipe.batch_size, recipe.passes, recipe.seed)
        self.rules = MemoryRules(costs.memory, limit, recipe.batch_size, max(lengths))
        self.schedules = StageSchedules(self.steps, recipe.warmup, recipe.cooldown)
        self.stages: list[PlannedStage] = []
        self._cooldown_starts: dict[Candidate, int] = {}

    @property
    def steps(self) -> int:
        """The steps of a candidate's full budget."""
        return self.batches.count

    @property
    def full_tokens(self) -> int:
        """The training tokens of one candidate's full budget."""
        return sum(self.batches.tokens(0))

    def candidate_memory(self, candidates: Sequence[Candidate]) -> list[CandidateMemory]:
        """What each candidate adds to a pack."""
        frozen, dtype = self.costs.frozen, self.costs.dtype
        return [candidate_memory(frozen, candidate.setting, dtype) for candidate in candidates]

    def pack_width(self, candidates: Sequence[Candidate]) -> int:
        """How many of these candidates, from the first, fit in a pack: at least one."""
        return self.rules.pack_width(self.candidate_memory(candidates))

    def peak(self, candidates: Sequence[Candidate]) -> int:
        """The most bytes that a pack of these holds. See `MemoryRules.peak`."""
        return self.rules.peak(self.candidate_memory(candidates))

    def tokens_per_second(self) -> float:
        """Tokens that a climb's usual pack trains in a second, scoring included."""
        pack = [Candidate(USUAL_SETTING, seed) for seed in range(self.recipe.pack_width)]
        pack = pack[: self.pack_width(pack)]
        seconds = self._training_seconds(pack, 0, self.steps) + self._judging_seconds(pack, 1.0)
        return len(pack) * self.full_tokens / seconds

    def baseline(self) -> Scores:
        """Made-up scores of the untuned model."""
        tokens = tuple(example.loss_tokens for example in self.validation)
        return Scores(tuple(2 * LOSS * count for count in tokens), tokens)

    def scoring_seconds(self, candidate: Candidate | None, rows: Sequence[Example]) -> float:
        """How long it takes to score these rows once, with a candidate or the untuned model."""
        return self.costs.scoring.seconds(self._scoring(self._parameters(candidate), rows))

    def generation_seconds(self, candidate: Candidate | None, rows: Sequence[Example]) -> float:
        """How long it takes to generate a text after each prompt.

        The prompts take one pass, and each further token of all rows takes a pass.
        """
        longest = max(len(example.ids) - example.prompt_length for example in rows) * 1.25
        prompts, count = sum(example.prompt_length for example in rows), len(rows)
        work = self.costs.size.scoring(
            self._parameters(candidate), prompts + longest * count, longest * count
        )
        passes = longest * math.ceil(count / GENERATION_BATCH)
        return self.costs.scoring.seconds(Workload(passes, work.frozen, work.adapters))

    def run(self, stage: Stage, on_step: OnStep) -> list[Measurement]:
        """Note what the stage would take, and make up its measurements."""
        schedule = self.schedules.of(stage)
        progress = {c: self._progress(c) for c in stage.candidates}
        packs = plan_packs(progress, self.recipe.pack_width, self.pack_width)
        spent = {
            c: sum(self.batches.tokens(c.seed)[self._first_step(c) : schedule.stop])
            for c in stage.candidates
        }
        seconds = 0.0
        for pack in packs:
            seconds += self._seconds(pack, stage, schedule.stop)
        seeds = len({c.seed for c in stage.candidates})
        self.stages.append(
            PlannedStage(
                stage.phase,
                stage.fraction,
                len(stage.candidates) // seeds,
                seeds,
                tuple(len(pack.candidates) for pack in packs),
                sum(spent.values()),
                seconds,
                max((self.peak(pack.candidates) for pack in packs), default=0),
            )
        )
        self._cooldown_starts |= dict.fromkeys(stage.candidates, schedule.cooldown_start)
        return [
            self._measurement(candidate, stage.fraction, schedule.stop, spent[candidate])
            for candidate in stage.candidates
        ]

    def _first_step(self, candidate: Candidate) -> int:
        """The step that the candidate goes on from."""
        return self._cooldown_starts.get(candidate, 0)

    def _progress(self, candidate: Candidate) -> SavedProgress:
        first = self._first_step(candidate)
        return SavedProgress(frozenset({first} if first else ()))

    def _seconds(self, pack: PlannedPack, stage: Stage, stop: int) -> float:
        """How long a pack of a stage takes."""
        return self._training_seconds(
            pack.candidates, pack.first_step, stop
        ) + self._judging_seconds(pack.candidates, stage.fraction)

    def _training_seconds(self, pack: Sequence[Candidate], first: int, stop: int) -> float:
        adapters, work = adapter_parameters(self.costs.frozen, pack), Workload()
        seeds = sorted({candidate.seed for candidate in pack})
        for step in range(first, stop):
            # Seeds have batches of their own, side by side, and each is padded to the largest.
            batches = [self.batches.rows(seed)[step] for seed in seeds]
            longest = max(self.batches.lengths[row] for rows in batches for row in rows)
            padded = max(map(len, batches)) * longest
            completion = max(sum(self.train[row].loss_tokens for row in rows) for rows in batches)
            work += self.costs.size.training(adapters, padded, completion)
        return self.costs.training.seconds(work)

    def _judging_seconds(self, pack: Sequence[Candidate], fraction: float) -> float:
        rows = self.validation[: judging_rows(len(self.validation), fraction)]
        adapters = adapter_parameters(self.costs.frozen, pack)
        return self.costs.scoring.seconds(self._scoring(adapters, rows))

    def _scoring(self, adapters: Sequence[int], examples: Sequence[Example]) -> Workload:
        """The workload of scoring these rows."""
        work, lengths = Workload(), [len(example.ids) for example in examples]
        for rows in by_length(lengths, max(1, SCORING_BATCH_SIZE // len(adapters))):
            padded = len(rows) * max(lengths[row] for row in rows)
            completion = sum(examples[row].loss_tokens for row in rows)
            work += self.costs.size.scoring(adapters, padded, completion)
        return work

    def _parameters(self, candidate: Candidate | None) -> list[int]:
        return adapter_parameters(self.costs.frozen, [candidate]) if candidate else [0]

    def _measurement(
        self, candidate: Candidate, fraction: float, steps: int, spent: int
    ) -> Measurement:
        """A made-up measurement: the same candidate has the same losses in every plan."""
        draw = random.Random(f"{candidate.id}@{fraction}")
        parameters = self.costs.frozen.parameters(candidate.setting)
        loss = LOSS - GAIN_PER_DOUBLING * math.log2(parameters) + draw.uniform(0, SPREAD)
        counts = tuple(example.loss_tokens for example in self.validation)
        scores = Scores(tuple(count * (loss + draw.gauss(0, 0.1)) for count in counts), counts)
        tokens = sum(self.batches.tokens(candidate.seed)[:steps])
        return Measurement(
            candidate=candidate,
            fraction=fraction,
            steps=steps,
            tokens=tokens,
            spent=spent,
            status="trained",
            scores=scores,
            parameters=parameters,
            adapter_bytes=4 * parameters,
            peak_memory_bytes=0,
            seconds=0.0,
        )
