"""The runner on paper: it trains nothing, and writes down what training would take.

A strategy cannot tell it from a real one, so a plan is the climb itself, with its packs as the engine would make them.
Only the losses are made up.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rung.costs.memory_model import MEMORY_HEADROOM, CandidateMemory, need
from rung.costs.probes import DeviceCosts
from rung.costs.time_model import Load, adapter_numbers
from rung.data.batches import Steps, by_length
from rung.data.tokenize import Example
from rung.engine.optimizer import Schedule
from rung.engine.trainer import SCORING_BATCH_SIZE
from rung.recipe import Recipe
from rung.runner.local import judging_rows
from rung.runner.protocol import StepProgress
from rung.search.strategy import Stage
from rung.types import Candidate, Measurement, Scores, Setting

LOSS, LARGER, SPREAD = 1.5, 0.02, 0.002
"""The made-up losses, in nats a token: by how much twice as many parameters lower them, and what chance adds. So the
finalists are the dearest settings, and a plan errs on the dear side.
"""


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A heat as it would run: the widths of its packs, the tokens of all candidates, seconds, and the peak in bytes."""

    phase: str
    fraction: float
    settings: int
    seeds: int
    widths: tuple[int, ...]
    tokens: int
    seconds: float
    peak: int


class EstimateRunner:
    """See the module. `heats` grows with each heat that is asked for.

    Args:
        costs: of the device.
        recipe: as resolved.
        train, validation: the rows; tokens do not matter, their numbers do.
        memory: bytes that may be held in all.
    """

    def __init__(
        self,
        costs: DeviceCosts,
        recipe: Recipe,
        train: Sequence[Example],
        validation: Sequence[Example],
        memory: float,
    ) -> None:
        self.costs, self.recipe, self.memory = costs, recipe, memory
        self.train, self.validation = train, validation
        self._steps = Steps(
            [len(e.ids) for e in train], recipe.batch_size, recipe.passes, recipe.seed
        )
        self.longest = max(self._steps.lengths)
        self._at: dict[Candidate, int] = {}
        self.stages: list[PlannedStage] = []

    @property
    def steps(self) -> int:
        return self._steps.count

    @property
    def full_tokens(self) -> int:
        return sum(self._steps.tokens(0))

    def needs(self, candidates: Sequence[Candidate]) -> list[CandidateMemory]:
        return [
            need(self.costs.frozen, candidate.setting, self.costs.dtype) for candidate in candidates
        ]

    def peak(self, candidates: Sequence[Candidate]) -> int:
        """The most that a pack of these holds, when a step is done in one pass where that fits."""
        needs, memory = self.needs(candidates), self.costs.memory
        whole = memory.peak(needs, self.recipe.batch_size, self.longest)
        states = memory.held + sum(one.state for one in needs)
        rows = max(one.per_token for one in needs) * self.longest
        least = int(states + rows + memory.training.bytes(self.longest, self.longest))
        return min(whole, max(least, int(self.memory * (1 - MEMORY_HEADROOM))))

    def speed(self) -> float:
        """Tokens a second of a climb's usual pack, scoring included."""
        pack = [
            Candidate(Setting(16, 32, "all-linear", 1e-3), seed=seed)
            for seed in range(self.recipe.pack_width)
        ]
        width = self._width(pack)
        seconds = self._training(pack[:width], 0, self.steps) + self._scoring(pack[:width], 1.0)
        return width * self.full_tokens / seconds

    def baseline(self) -> Scores:
        tokens = tuple(example.completion for example in self.validation)
        return Scores(tuple(2 * LOSS * count for count in tokens), tokens)

    def scoring_seconds(self, candidate: Candidate | None, rows: Sequence[Example]) -> float:
        """Of the loss of each row, once."""
        numbers = adapter_numbers(self.costs.frozen, [candidate]) if candidate else [0]
        return self.costs.scoring.seconds(self._scored(numbers, rows))

    def writing_seconds(self, candidate: Candidate | None, rows: Sequence[Example]) -> float:
        """Of a text after each prompt: the prompts at once, and then a token of each row in each pass."""
        numbers = adapter_numbers(self.costs.frozen, [candidate]) if candidate else [0]
        sizes, limit = (
            self.costs.sizes,
            max(len(example.ids) - example.prompt for example in rows) * 1.25,
        )
        prompts, count = sum(example.prompt for example in rows), len(rows)
        load = sizes.scoring(numbers, prompts + limit * count, limit * count)
        return self.costs.scoring.seconds(
            Load(limit * math.ceil(count / 200), load.frozen, load.adapters)
        )

    def run(self, stage: Stage, tick: Callable[[StepProgress], None]) -> list[Measurement]:
        stop = max(1, round(stage.fraction * self.steps))
        schedule = Schedule.ending_at(stop, self.steps, self.recipe.warmup, self.recipe.cooldown)
        widths, seconds, peak, rest = [], 0.0, 0, list(stage.candidates)
        spent = {
            c: sum(self._steps.tokens(c.seed)[self._at.get(c, 0) : stop]) for c in stage.candidates
        }
        while rest:
            width = self._width(rest[: self.recipe.pack_width])
            width = math.ceil(len(rest) / math.ceil(len(rest) / width))
            pack, rest = rest[:width], rest[width:]
            widths.append(width)
            seconds += self._training(pack, self._at.get(pack[0], 0), stop) + self._scoring(
                pack, stage.fraction
            )
            peak = max(peak, self.peak(pack))
        self._at |= dict.fromkeys(stage.candidates, schedule.cooldown_start)
        seeds = len({c.seed for c in stage.candidates})
        settings = len(stage.candidates) // seeds
        tokens = sum(spent.values())
        self.stages.append(
            PlannedStage(
                stage.phase, stage.fraction, settings, seeds, tuple(widths), tokens, seconds, peak
            )
        )
        return [
            self._measurement(candidate, stage.fraction, stop, spent[candidate])
            for candidate in stage.candidates
        ]

    def _width(self, candidates: Sequence[Candidate]) -> int:
        needs = self.needs(candidates)
        return self.costs.memory.width(needs, self.recipe.batch_size, self.longest, self.memory)

    def _training(self, pack: Sequence[Candidate], first: int, stop: int) -> float:
        numbers, load = adapter_numbers(self.costs.frozen, pack), Load()
        seeds = sorted({candidate.seed for candidate in pack})
        for step in range(first, stop):
            # Seeds have batches of their own, side by side, and each is padded to the largest.
            batches = [self._steps.rows(seed)[step] for seed in seeds]
            longest = max(self._steps.lengths[row] for rows in batches for row in rows)
            padded = max(map(len, batches)) * longest
            completion = max(sum(self.train[row].completion for row in rows) for rows in batches)
            load += self.costs.sizes.training(numbers, padded, completion)
        return self.costs.training.seconds(load)

    def _scoring(self, pack: Sequence[Candidate], fraction: float) -> float:
        count = judging_rows(len(self.validation), fraction)
        numbers = adapter_numbers(self.costs.frozen, pack)
        return self.costs.scoring.seconds(self._scored(numbers, self.validation[:count]))

    def _scored(self, numbers: Sequence[int], examples: Sequence[Example]) -> Load:
        load, lengths = Load(), [len(example.ids) for example in examples]
        for rows in by_length(lengths, max(1, SCORING_BATCH_SIZE // len(numbers))):
            padded = len(rows) * max(lengths[row] for row in rows)
            load += self.costs.sizes.scoring(
                numbers, padded, sum(examples[row].completion for row in rows)
            )
        return load

    def _measurement(
        self, candidate: Candidate, fraction: float, steps: int, spent: int
    ) -> Measurement:
        draw = random.Random(f"{candidate.id}@{fraction}")
        loss = (
            LOSS
            - LARGER * math.log2(self.costs.frozen.parameters(candidate.setting))
            + draw.uniform(0, SPREAD)
        )
        counts = tuple(example.completion for example in self.validation)
        scores = Scores(tuple(count * (loss + draw.gauss(0, 0.1)) for count in counts), counts)
        tokens, numbers = (
            sum(self._steps.tokens(candidate.seed)[:steps]),
            self.costs.frozen.parameters(candidate.setting),
        )
        return Measurement(
            candidate,
            fraction,
            steps,
            tokens,
            spent,
            "trained",
            scores,
            numbers,
            4 * numbers,
            0,
            0.0,
        )
