"""The runner for one machine: packs in this process, checkpoints in the study folder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

from rung.costs.memory_policy import MemoryPolicy
from rung.data.batches import BatchOrder, collate
from rung.data.model_limits import check_model_limits
from rung.data.prepare import Data
from rung.engine.adapter_state import fresh_state
from rung.engine.effective_rank import effective_rank, truncate_rank
from rung.engine.generate import generate
from rung.engine.pack import Pack
from rung.engine.process_memory import keep_freed_memory
from rung.engine.trainer import Trainer
from rung.model.load import Base
from rung.recipe import Recipe
from rung.runner.candidate_store import CandidateStore
from rung.runner.packing import (
    MIN_RACE_ROWS,
    USUAL_SETTING,
    StageSchedules,
    judging_rows,
    plan_packs,
    split_into_packs,
    spread_evenly,
)
from rung.runner.protocol import OnStep
from rung.runner.training import CheckpointTimer, PackTraining, ProgressReporter
from rung.search.strategy import Stage
from rung.study.folder import StudyFolder
from rung.types import Candidate, Generation, Measurement, RankUse, Scores

SCORINGS_PER_BUDGET = 1.5
"""How often a climb scores the validation rows for each full budget that it trains."""
GENERATED_ROWS = {"validation": 64, "test": 200}
"""The most rows of a split that are generated for where a metric is shown and does not judge:
generation is slow."""
CHECKPOINT_SECONDS = 60.0
"""Between two checkpoints of a running pack."""


class LocalRunner:
    """See `Runner`. The base and the rows stay in memory.

    Between two stages a candidate is on disk.

    Args:
        base: the model.
        data: its training, validation and test rows.
        recipe: as resolved for this model.
        folder: of the study.
        timer: its clock times the packs, and it says when a running pack is saved.
        min_race_rows: the fewest validation rows that measure a candidate in the race.

    Attributes:
        generated_rows: the most rows of a split that are generated for; all of those not named.

    Raises:
        ModelError, DataError: the model or a split cannot be used.
    """

    def __init__(
        self,
        base: Base,
        data: Data,
        recipe: Recipe,
        folder: StudyFolder,
        timer: CheckpointTimer | None = None,
        min_race_rows: int = MIN_RACE_ROWS,
    ) -> None:
        if base.device.type == "cpu":
            keep_freed_memory()
        self.trainer = Trainer(base)
        check_model_limits(data, self.trainer.positions, self.trainer.vocabulary, base.tokenizer)
        self.data, self.train, self.validation = data, data.train, data.validation
        self.pack_width, self.seed = recipe.pack_width, recipe.seed
        self.min_race_rows = min_race_rows
        self.generated_rows = GENERATED_ROWS if recipe.judge == "loss" else {}
        self.timer = timer or CheckpointTimer(time.perf_counter, CHECKPOINT_SECONDS)
        self.batches = BatchOrder(data.train.lengths, recipe.batch_size, recipe.passes, recipe.seed)
        self.memory = MemoryPolicy(
            self.trainer, data.train, recipe.batch_size, recipe.memory, recipe.targets
        )
        self.schedules = StageSchedules(self.steps, recipe.warmup, recipe.cooldown)
        self.store = CandidateStore(folder, self.trainer, self.batches, self.schedules)
        self.training = PackTraining(
            self.trainer,
            data.train,
            self.batches,
            self.store,
            self.memory,
            self.timer,
            recipe.weight_decay,
            recipe.clip_norm,
        )

    @property
    def steps(self) -> int:
        """The steps of a candidate's full budget."""
        return self.batches.count

    @property
    def full_tokens(self) -> int:
        return sum(self.batches.tokens(0))

    def tokens_per_second(self) -> float:
        clock, trainer = self.timer.clock, self.trainer
        candidate = Candidate(USUAL_SETTING)
        members = self._split([candidate] * self.pack_width)[0]
        self.memory.prepare(members)
        states = [fresh_state(trainer.frozen, candidate, self.seed)] * len(members)
        seconds, tokens = [], []
        with Pack(trainer.frozen, members, states) as pack:
            for rows in self.batches.rows(0)[:3]:
                batch = collate([self.train[row] for row in rows], trainer.base.device)
                begun = clock()
                trainer.step(pack, batch, 0.0)
                seconds.append(clock() - begun)
                tokens.append(batch.tokens * len(members))
            some = self.validation[: max(8, len(self.validation) // 8)]
            begun = clock()
            trainer.score(some, pack)
            scoring = (clock() - begun) / len(members) * len(self.validation) / len(some)
        # The first step allocates.
        training = self.full_tokens * sum(seconds[-2:]) / sum(tokens[-2:])
        return self.full_tokens / (training + SCORINGS_PER_BUDGET * scoring)

    def baseline(self) -> Scores:
        return self.trainer.score(self.validation)[0]

    def run(self, stage: Stage, on_step: OnStep) -> list[Measurement]:
        progress = {c: self.store.progress(stage, c) for c in stage.candidates}
        packs = plan_packs(progress, self.pack_width, self.memory.pack_width)
        stop = self.schedules.of(stage).stop
        count = judging_rows(len(self.validation), stage.fraction, self.min_race_rows)
        judging = [self.validation[row] for row in spread_evenly(len(self.validation), count)]
        tokens = sum(self.training.tokens(p.candidates, p.first_step, stop) for p in packs)
        reporter = ProgressReporter(tokens, on_step)
        measurements = {
            measurement.candidate: measurement
            for pack in packs
            for measurement in self.training.run(stage, pack, judging, reporter)
        }
        return [measurements[candidate] for candidate in stage.candidates]

    def test_scores(self, candidate: Candidate | None) -> Scores:
        with self._trained_pack([candidate] if candidate else []) as pack:
            return self.trainer.score(self.data.test, pack)[0]

    def repair_adapter(self, candidate: Candidate) -> bool:
        return self.store.repair_adapter(candidate)

    def generate(
        self, candidates: Sequence[Candidate | None], split: str
    ) -> list[list[Generation]]:
        examples = self.data.splits[split]
        rows = [row for row in range(len(examples)) if examples[row].prompt_ids]
        if not rows:
            return [[] for _ in candidates]
        count = min(len(rows), self.generated_rows.get(split, len(rows)))
        rows = [rows[at] for at in spread_evenly(len(rows), count)]
        prompts, texts = [examples[row] for row in rows], [examples.texts(row) for row in rows]
        answers: dict[Candidate | None, list[str]] = {}
        trained = [candidate for candidate in candidates if candidate]
        for members in [*([[]] if None in candidates else []), *self._split(trained)]:
            with self._trained_pack(members) as pack:
                generated = generate(self.trainer, prompts, pack, self.data.stats.end_tokens)
                # A pack orders its candidates itself.
                authors: list[Candidate | None] = [*pack.candidates] if pack else [None]
            answers |= dict(zip(authors, generated, strict=True))
        return [
            [
                Generation(
                    text.answer_in(answer), text.answer, text.prompt, text.location, example.source
                )
                for answer, text, example in zip(answers[candidate], texts, prompts, strict=True)
            ]
            for candidate in candidates
        ]

    def measure_rank_use(self, candidate: Candidate, ranks: Sequence[int]) -> RankUse:
        state = self.store.load_trained(candidate)
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

    def _split(self, candidates: Sequence[Candidate]) -> list[list[Candidate]]:
        return split_into_packs(candidates, self.pack_width, self.memory.pack_width)

    @contextlib.contextmanager
    def _trained_pack(self, candidates: Sequence[Candidate]) -> Iterator[Pack | None]:
        """A pack of fully trained candidates; None for the untuned model."""
        if not candidates:
            yield None
            return
        states = [self.store.load_trained(candidate) for candidate in candidates]
        with Pack(self.trainer.frozen, candidates, states) as pack:
            del states  # the pack has copies
            yield pack
