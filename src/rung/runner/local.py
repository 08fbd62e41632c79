"""The runner for one machine: packs in this process, checkpoints in the study folder."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rung.costs.memory_model import (
    MEMORY_HEADROOM,
    CandidateMemory,
    MemoryModel,
    bound,
    measure,
    need,
)
from rung.data.batches import Batch, Steps, collate
from rung.data.limits import check_rows
from rung.data.prepare import Data
from rung.data.tokenize import Example
from rung.engine.adapter_state import AdapterState, fresh_state
from rung.engine.checkpoint import (
    adapter_is_saved,
    checkpoint_is_readable,
    load_checkpoint,
    save_adapter,
    save_checkpoint,
    saved_position,
    saved_steps,
)
from rung.engine.effective_rank import effective_rank, truncate_rank
from rung.engine.generate import generate
from rung.engine.optimizer import Schedule
from rung.engine.pack import Pack
from rung.engine.process_memory import keep_freed_memory, memory_limit, peak_bytes, reset_peak
from rung.engine.tiling import TokenLimit
from rung.engine.trainer import SCORING_BATCH_SIZE, Trainer
from rung.errors import StudyError, TargetError
from rung.formats.amounts import parse_bytes
from rung.model.load import Base
from rung.recipe import Recipe
from rung.runner.protocol import StepProgress
from rung.search.strategy import Stage
from rung.study.folder import StudyFolder
from rung.types import Candidate, Generation, Measurement, RankUse, Scores, Setting

SCORINGS = 1.5
"""How often a climb scores the validation rows for each full budget that it spends."""
MIN_RACE_ROWS = 64
"""The fewest validation rows that a look is judged by, if there are as many."""
GENERATED_ROWS = {"validation": 64, "test": 200}
"""The most rows of a split that are written to where a metric is shown and does not decide: writing is slow."""
SAVING = 0.05
"""The share of the time that checkpoints may take which are made for no more than a kill."""


def judging_rows(rows: int, fraction: float, least: int = MIN_RACE_ROWS) -> int:
    """How many of the validation rows judge a candidate at that share of its budget."""
    return min(rows, max(least, math.ceil(rows * fraction)))


Member = tuple[Candidate, int]
"""A candidate and the step that it goes on from."""


class LocalRunner:
    """See `Runner`. The base and the rows stay in memory; a candidate between two heats lies on the disk.

    A heat trains its candidates on to where they begin to cool down, and from there on a branch, which is judged. The
    next heat goes on from the fork. Every `checkpoint_seconds` by `clock` the candidates of the running pack are saved,
    or less often where that takes long.

    Raises:
        ModelError, DataError: the model or a split cannot be used.
    """

    def __init__(
        self,
        base: Base,
        data: Data,
        recipe: Recipe,
        folder: StudyFolder,
        clock: Callable[[], float] = time.perf_counter,
        checkpoint_seconds: float = 60.0,
        min_race_rows: int = MIN_RACE_ROWS,
    ) -> None:
        self.clock, self.checkpoint_seconds, self.min_race_rows = (
            clock,
            checkpoint_seconds,
            min_race_rows,
        )
        self.written_rows = GENERATED_ROWS if recipe.judge == "loss" else {}
        if base.device.type == "cpu":
            keep_freed_memory()
        self.trainer = Trainer(base)
        self.recipe, self.folder = recipe, folder
        self.device = base.device
        check_rows(data, self.trainer.positions, self.trainer.vocabulary, base.tokenizer)
        self.data, self.train, self.validation = data, data.train, data.validation
        lengths = data.train.lengths
        self._steps = Steps(lengths, recipe.batch_size, recipe.passes, recipe.seed)
        self._left = 0
        self._saving = 0.0  # seconds that the last checkpoint took
        self.memory = parse_bytes(recipe.memory) if recipe.memory else memory_limit(base.device)
        self.trainer.memory = self.memory if recipe.memory else None
        self._longest = max(lengths)
        self._measured: tuple[int, MemoryModel] | None = None

    @property
    def steps(self) -> int:
        """Of a candidate's full budget."""
        return self._steps.count

    @property
    def full_tokens(self) -> int:
        return sum(self._steps.tokens(0))

    def _schedule(self, stage: Stage) -> Schedule:
        stop = max(1, round(stage.fraction * self.steps))
        return Schedule.ending_at(stop, self.steps, self.recipe.warmup, self.recipe.cooldown)

    def speed(self) -> float:
        candidate = Candidate(Setting(16, 32, "all-linear", 1e-3))
        members = self._split([candidate] * self.recipe.pack_width)[0]
        self._make_room(members)
        states = [fresh_state(self.trainer.frozen, candidate, self.recipe.seed)] * len(members)
        seconds, tokens = [], []
        with Pack(self.trainer.frozen, members, states) as pack:
            for rows in self._steps.rows(0)[:3]:
                batch, begun = collate([self.train[row] for row in rows], self.device), self.clock()
                self.trainer.step(pack, batch, 0.0)
                seconds.append(self.clock() - begun)
                tokens.append(batch.tokens * len(members))
            some, begun = self.validation[: max(8, len(self.validation) // 8)], self.clock()
            self.trainer.score(some, pack)
            scoring = (self.clock() - begun) / len(members) * len(self.validation) / len(some)
        # The first step allocates.
        training = self.full_tokens * sum(seconds[-2:]) / sum(tokens[-2:])
        return self.full_tokens / (training + SCORINGS * scoring)

    def baseline(self) -> Scores:
        return self.trainer.score(self.validation)[0]

    def run(self, stage: Stage, tick: Callable[[StepProgress], None]) -> list[Measurement]:
        packs = self._packs(stage)
        stop = self._schedule(stage).stop
        self._left = sum(
            sum(self._steps.tokens(c.seed)[step:stop]) for pack in packs for c, step in pack
        )
        found = {m.candidate: m for pack in packs for m in self._run_pack(stage, pack, tick)}
        return [found[candidate] for candidate in stage.candidates]

    def _packs(self, stage: Stage) -> list[list[Member]]:
        """Who is trained together, and from which step.

        Candidates at the same step, in the heat's order, in packs as wide as may be. Those that were
        stopped within this very heat make the pack that they were in, at the last step that all of them have a
        checkpoint of: so the products have the same shapes as if nothing had happened, and the training ends at the
        same bits.
        """
        saved = {candidate: self._saved(stage, candidate) for candidate in stage.candidates}
        former: dict[Candidate, tuple[str, ...]] = {}
        for candidate, steps in saved.items():
            if steps:
                position = saved_position(steps[max(steps)], max(steps))
                if position["heat"] == [stage.phase, stage.fraction]:
                    former[candidate] = tuple(position["pack"])
        alike: dict[tuple[int, tuple[str, ...]], list[Candidate]] = {}
        for candidate in stage.candidates:
            own, pack = set(saved[candidate]), former.get(candidate, ())
            mates = [saved[mate] for mate in stage.candidates if pack and former.get(mate) == pack]
            step = max(own.intersection(*mates) or own or {0})
            alike.setdefault((step, pack), []).append(candidate)
        return [
            [(candidate, step) for candidate in pack]
            for (step, before), members in alike.items()
            for pack in ([members] if before else self._split(members))
        ]

    def _saved(self, stage: Stage, candidate: Candidate) -> dict[int, Path]:
        """The steps that the candidate can go on from in this heat, and the folder that has each."""
        schedule = self._schedule(stage)
        trunk, branch = (
            self.folder.checkpoint(candidate),
            self.folder.cooled(candidate, stage.fraction),
        )
        # Further steps would be another training's: the ledger does not know them.
        steps = {step: trunk for step in saved_steps(trunk) if step <= schedule.cooldown_start}
        steps |= {
            step: branch
            for step in saved_steps(branch)
            if schedule.cooldown_start < step <= schedule.stop
        }
        # One that is damaged gives way to the one before it, which trains to the same end.
        return {step: path for step, path in steps.items() if checkpoint_is_readable(path, step)}

    def _split(self, members: Sequence[Candidate]) -> list[list[Candidate]]:
        """Packs no wider than the recipe and the memory allow, and as even as can be."""
        packs, rest = [], list(members)
        while rest:
            at_most = rest[: self.recipe.pack_width]
            width = len(at_most)
            if not self._spare(at_most):
                model, needs = (
                    self._memory_model(at_most),
                    [self._need(candidate) for candidate in at_most],
                )
                width = model.width(needs, self.recipe.batch_size, self._longest, self.memory)
            width = math.ceil(len(rest) / math.ceil(len(rest) / width))
            packs.append(rest[:width])
            rest = rest[width:]
        return packs

    def _spare(self, members: Sequence[Candidate]) -> int:
        """Bytes that are left over for sure beside a pack of these; where there are any, nothing needs measuring."""
        trainer, needs = self.trainer, [self._need(candidate) for candidate in members]
        most = bound(trainer, needs, self.recipe.batch_size, SCORING_BATCH_SIZE, self._longest)
        most -= trainer.frozen.dense_bytes(trainer.base.dtype) if trainer.frozen.holds_dense else 0
        return max(0, int(self.memory * (1 - MEMORY_HEADROOM)) - most)

    def _memory_model(self, members: Sequence[Candidate]) -> MemoryModel:
        """What passes take, for the most layers that are to be adapted; measured once, and again where more are."""
        settings = [
            *self._planned(members[0].setting),
            *(candidate.setting for candidate in members),
        ]
        widest = max(settings, key=lambda setting: len(self.trainer.frozen.targets(setting)))
        layers = len(self.trainer.frozen.targets(widest))
        if self._measured is None or layers > self._measured[0]:
            self.trainer.frozen.hold_dense(None)
            self._measured = (layers, measure(self.trainer, widest, self.train))
        return self._measured[1]

    def _planned(self, one: Setting) -> Iterator[Setting]:
        """The setting with each of the recipe's sets of modules that this model has."""
        for targets in self.recipe.targets:
            with contextlib.suppress(TargetError):
                self.trainer.frozen.targets(found := replace(one, targets=targets))
                yield found

    def _make_room(self, members: Sequence[Candidate]) -> None:
        """How much a pass of these candidates may hold, in training and in scoring, by the plan; and, where that leaves
        enough, hold the dense weights.
        """
        trainer = self.trainer
        if spare := self._spare(members):
            trainer.training_limit, trainer.scoring_limit = TokenLimit(), TokenLimit()
            dtype = trainer.base.dtype
            trainer.frozen.hold_dense(dtype if spare > trainer.frozen.dense_bytes(dtype) else None)
            return
        trainer.frozen.hold_dense(None)
        needs = [self._need(candidate) for candidate in members]
        room = self._memory_model(members).room(needs, self._longest, self.memory)
        if not room and not trainer.activation_checkpointing:
            trainer.enable_activation_checkpointing()
            self._measured = None
            room = self._memory_model(members).room(needs, self._longest, self.memory)
        trainer.training_limit = TokenLimit(max(room, self._longest))
        trainer.scoring_limit = TokenLimit(
            self._memory_model(members).scoring_room(needs, self._longest, self.memory)
        )

    def _need(self, candidate: Candidate) -> CandidateMemory:
        return need(self.trainer.frozen, candidate.setting, self.trainer.base.dtype)

    def test(self, candidate: Candidate | None) -> Scores:
        with self._pack([candidate] if candidate else []) as pack:
            return self.trainer.score(self.data.test, pack)[0]

    def write(self, who: Sequence[Candidate | None], split: str) -> list[list[Generation]]:
        examples = self.data.splits[split]
        rows = [row for row in range(len(examples)) if examples[row].written_after]
        if not rows:
            return [[] for _ in who]
        count = min(len(rows), self.written_rows.get(split, len(rows)))
        rows = [rows[at * len(rows) // count] for at in range(count)]
        prompts, texts = [examples[row] for row in rows], [examples.texts(row) for row in rows]
        found: dict[Candidate | None, list[str]] = {}
        trained = [candidate for candidate in who if candidate]
        for members in [*([[]] if None in who else []), *self._split(trained)]:
            with self._pack(members) as pack:
                every = generate(self.trainer, prompts, pack, self.data.facts.ends)
                # A pack has its own order.
                writers: list[Candidate | None] = [*pack.candidates] if pack else [None]
            found |= dict(zip(writers, every, strict=True))
        return [
            [
                Generation(
                    text.answer_in(wrote), text.after, text.before, text.where, example.source
                )
                for wrote, text, example in zip(found[candidate], texts, prompts, strict=True)
            ]
            for candidate in who
        ]

    @contextlib.contextmanager
    def _pack(self, members: Sequence[Candidate]) -> Iterator[Pack | None]:
        """A pack of candidates that were trained to their end; nothing for the untuned model."""
        if not members:
            yield None
            return
        with Pack(
            self.trainer.frozen, members, [self._trained(candidate) for candidate in members]
        ) as pack:
            yield pack

    def rank_use(self, candidate: Candidate, ranks: Sequence[int]) -> RankUse:
        state = self._trained(candidate)
        if not ranks:
            return RankUse(effective_rank(state), {})
        members, states = zip(
            *(truncate_rank(candidate, state, rank) for rank in ranks), strict=True
        )
        with Pack(self.trainer.frozen, members, states) as pack:
            scores = self.trainer.score(self.validation, pack)
            losses = {
                member.rank: own.mean for member, own in zip(pack.candidates, scores, strict=True)
            }
        return RankUse(effective_rank(state), losses)

    def _trained(self, candidate: Candidate) -> AdapterState:
        """Where a candidate stood at its end.

        Raises:
            StudyError: its checkpoint is damaged, or gone.
        """
        path = self.folder.cooled(candidate, 1.0)
        with self.folder.reading(path):
            if (state := load_checkpoint(path, self.steps)) is None:
                raise FileNotFoundError("its last checkpoint is not there")
        return state

    def restore(self, candidate: Candidate) -> bool:
        folder = self.folder.adapter(candidate)
        try:
            state = self._trained(candidate)
        except StudyError:
            if adapter_is_saved(folder):
                return False
            raise
        if adapter_is_saved(folder, state):
            return False
        save_adapter(
            folder, candidate.setting, state, self.trainer.frozen, self.trainer.base.source
        )
        return True

    def _first(self, stage: Stage, candidate: Candidate, step: int) -> int:
        """The step at which this heat has begun, which now goes on from `step`."""
        position = saved_position(self._saved(stage, candidate)[step], step) if step else {}
        return (
            int(position["first"])
            if position.get("heat") == [stage.phase, stage.fraction]
            else step
        )

    def _state(self, stage: Stage, candidate: Candidate, step: int) -> AdapterState:
        """Where the candidate stands at that step."""
        saved = load_checkpoint(self._saved(stage, candidate)[step], step) if step else None
        return saved or fresh_state(self.trainer.frozen, candidate, self.recipe.seed)

    def _run_pack(
        self, stage: Stage, members: list[Member], tick: Callable[[StepProgress], None]
    ) -> list[Measurement]:
        recipe, begun, schedule = self.recipe, self.clock(), self._schedule(stage)
        saved = begun
        reset_peak(self.device)
        lost: dict[Candidate, tuple[int, str]] = {}
        candidates, (one, first) = [candidate for candidate, _ in members], members[0]
        self._make_room(candidates)
        states = [self._state(stage, candidate, first) for candidate in candidates]
        stage_first = self._first(stage, one, first)
        with Pack(
            self.trainer.frozen,
            candidates,
            states,
            recipe.weight_decay,
            recipe.clip_norm,
            recipe.seed,
        ) as pack:
            del states  # the pack has copies
            for step in range(first, schedule.stop):
                if not len(pack):
                    break
                batches = self._batches(pack, step)
                self.trainer.step(pack, batches, schedule.rate_factor(step))
                gone = {pack.candidates[i]: why for i, why in pack.diverged.items()}
                lost |= {candidate: (step + 1, why) for candidate, why in gone.items()}
                if pack.diverged:
                    pack.drop(list(pack.diverged))
                trained = sum(batch.tokens for batch in batches)
                self._left -= trained
                self._left -= sum(
                    sum(self._steps.tokens(c.seed)[step + 1 : schedule.stop]) for c in gone
                )
                tick(StepProgress(trained, len(pack), len(members), self._left))
                every = max(self.checkpoint_seconds, self._saving / SAVING)
                if step + 1 == schedule.cooldown_start or self.clock() - saved > every:
                    begun_saving = self.clock()
                    self._save(stage, pack, stage_first)
                    saved = self.clock()
                    self._saving = saved - begun_saving
            scores = self.trainer.score(self._judging(stage.fraction), pack) if len(pack) else []
            for candidate, score in zip(pack.candidates, scores, strict=True):
                if not math.isfinite(score.mean):
                    lost[candidate] = (schedule.stop, "the validation loss is not a number")
            self._save(stage, pack, stage_first)
            for index, candidate in enumerate(pack.candidates):
                if candidate not in lost:
                    folder = self.folder.adapter(candidate)
                    save_adapter(
                        folder,
                        candidate.setting,
                        pack.state(index),
                        self.trainer.frozen,
                        self.trainer.base.source,
                    )
            scored = dict(zip(pack.candidates, scores, strict=True))
        peak, seconds = peak_bytes(self.device), (self.clock() - begun) / len(members)
        measurements = []
        for candidate in candidates:
            step, why = lost.get(candidate, (schedule.stop, ""))
            own = None if why else scored[candidate]
            spent = sum(self._steps.tokens(candidate.seed)[stage_first:step])
            measurements.append(
                self._measurement(candidate, stage.fraction, step, spent, own, peak, seconds, why)
            )
        return measurements

    def _judging(self, fraction: float) -> list[Example]:
        """The validation rows that judge a candidate at that share of its budget, spread evenly over all of them."""
        rows = len(self.validation)
        count = judging_rows(rows, fraction, self.min_race_rows)
        return [self.validation[at * rows // count] for at in range(count)]

    def _batches(self, pack: Pack, step: int) -> list[Batch]:
        """What each candidate of the pack trains on in that step; one object for those of one seed."""
        seeds = {candidate.seed for candidate in pack.candidates}
        rows = {seed: [self.train[row] for row in self._steps.rows(seed)[step]] for seed in seeds}
        batches = {seed: collate(rows[seed], self.device) for seed in seeds}
        return [batches[candidate.seed] for candidate in pack.candidates]

    def _save(self, stage: Stage, pack: Pack, first: int) -> None:
        """A checkpoint of every candidate of the pack; `first` is the step at which the heat has begun for them."""
        position = {
            "heat": [stage.phase, stage.fraction],
            "first": first,
            "pack": [candidate.id for candidate in pack.candidates],
            "schedule": {"steps": self.steps, **asdict(self._schedule(stage))},
            "data": {"seed": self.recipe.seed, "batch_size": self.recipe.batch_size},
            "randomness": "a function of the study's seed, the candidate's seed and the step",
        }
        for index, candidate in enumerate(pack.candidates):
            cooling = pack.steps[index] > self._schedule(stage).cooldown_start
            branch = self.folder.cooled(candidate, stage.fraction)
            save_checkpoint(
                branch if cooling else self.folder.checkpoint(candidate),
                pack.state(index),
                position,
            )
            if cooling:
                # The branches of earlier heats have been judged.
                for other in set(branch.parent.glob("cooled@*")) - {branch}:
                    shutil.rmtree(other)

    def _measurement(
        self,
        candidate: Candidate,
        fraction: float,
        steps: int,
        spent: int,
        scores: Scores | None,
        peak: int,
        seconds: float,
        reason: str,
    ) -> Measurement:
        parameters = self.trainer.frozen.parameters(candidate.setting)
        return Measurement(
            candidate=candidate,
            fraction=fraction,
            steps=steps,
            tokens=sum(self._steps.tokens(candidate.seed)[:steps]),
            spent=spent,
            status="trained" if scores else "diverged",
            scores=scores,
            parameters=parameters,
            adapter_bytes=4 * parameters,
            peak_memory_bytes=peak,
            seconds=seconds,
            reason=reason,
        )
