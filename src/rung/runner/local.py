"""The runner for one machine: packs in this process, checkpoints in the study folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from rung.data.batches import collate, order, steps_per_pass
from rung.data.read import Splits
from rung.data.render import render_split
from rung.engine.checkpoint import load_checkpoint, save_adapter, save_checkpoint, saved_position, saved_steps
from rung.engine.memory import Room, keep_freed_memory, peak_bytes, reset_peak
from rung.engine.optimizer import schedule
from rung.engine.pack import AdapterState, Pack, fresh_state
from rung.engine.plan import MemoryModel, Need, measure, memory_limit, need
from rung.engine.trainer import Trainer
from rung.levers import Candidate, Measurement, Scores
from rung.metrics import text_metrics
from rung.model.load import Base
from rung.recipe import Recipe, parse_bytes
from rung.runner.protocol import Tick
from rung.search.strategy import Heat
from rung.study.files import StudyFolder

Member = tuple[Candidate, int]
"""A candidate and the step that it goes on from."""


class LocalRunner:
    """See `Runner`. The base and the rows stay in memory; a candidate between two heats lies on the disk.

    Every `checkpoint_seconds` by `clock` the candidates of the running pack are saved.

    Raises:
        ModelError, DataError: the model or a split cannot be used.
    """

    def __init__(
        self,
        base: Base,
        splits: Splits,
        recipe: Recipe,
        folder: StudyFolder,
        clock: Callable[[], float] = time.perf_counter,
        checkpoint_seconds: float = 60.0,
    ) -> None:
        self.clock, self.checkpoint_seconds = clock, checkpoint_seconds
        if base.device.type == "cpu":
            keep_freed_memory()
        self.trainer = Trainer(base)
        self.recipe, self.folder = recipe, folder
        self.device = base.device
        self.train = render_split(splits.train, base.tokenizer, recipe.max_tokens, "training")
        self.validation = render_split(splits.validation, base.tokenizer, recipe.max_tokens, "validation")
        # Rendered now, so that a split that cannot be used is found now; it is opened by `test`.
        self._test = render_split(splits.test, base.tokenizer, recipe.max_tokens, "test")
        rows = len(splits.train) + len(splits.validation) + len(splits.test)
        self.left_out = rows - len(self.train) - len(self.validation) - len(self._test)
        lengths = [len(example.ids) for example in self.train]
        per_pass = steps_per_pass(len(lengths), recipe.batch_size)
        self.steps = max(1, round(recipe.budget * per_pass))
        passes = range(-(-self.steps // per_pass))
        every = [rows for number in passes for rows in order(lengths, recipe.batch_size, recipe.seed, number)]
        self.order = every[: self.steps]
        # The training tokens of each step, for one candidate.
        self._tokens = [sum(lengths[row] for row in rows) for rows in self.order]
        self._left = 0
        self.memory = parse_bytes(recipe.memory) if recipe.memory else memory_limit(base.device)
        self._longest = max(lengths)
        self._measured: tuple[int, MemoryModel] | None = None

    @property
    def full_tokens(self) -> int:
        return sum(self._tokens)

    def baseline(self) -> Scores:
        return self.trainer.score(self.validation)[0]

    def run(self, heat: Heat, tick: Callable[[Tick], None]) -> list[Measurement]:
        stop = max(1, round(heat.until * self.steps))
        packs = self._packs(heat, stop)
        self._left = sum(sum(self._tokens[step:stop]) for pack in packs for _, step in pack)
        found = {m.candidate: m for pack in packs for m in self._run_pack(heat, pack, stop, tick)}
        return [found[candidate] for candidate in heat.candidates]

    def _packs(self, heat: Heat, stop: int) -> list[list[Member]]:
        """Who is trained together, and from which step.

        Candidates at the same step, in the heat's order, in packs as wide as may be. Those that were stopped within
        this very heat make the pack that they were in, at the last step that all of them have a checkpoint of: so the
        products have the same shapes as if nothing had happened, and the training ends at the same bits.
        """
        steps: dict[Candidate, list[int]] = {}
        former: dict[Candidate, tuple[str, ...]] = {}
        for candidate in heat.candidates:
            folder = self.folder.checkpoint(candidate)
            # A checkpoint from beyond this heat's end would be another training's; the ledger does not know it.
            steps[candidate] = [step for step in saved_steps(folder) if step <= stop]
            if steps[candidate]:
                position = saved_position(folder, steps[candidate][-1])
                if position["heat"] == [heat.phase, heat.until]:
                    former[candidate] = tuple(position["pack"])
        alike: dict[tuple[int, tuple[str, ...]], list[Candidate]] = {}
        for candidate in heat.candidates:
            own, pack = set(steps[candidate]), former.get(candidate, ())
            mates = [steps[mate] for mate in heat.candidates if pack and former.get(mate) == pack]
            step = max(own.intersection(*mates) or own or {0})
            alike.setdefault((step, pack), []).append(candidate)
        return [
            [(candidate, step) for candidate in pack]
            for (step, before), members in alike.items()
            for pack in ([members] if before else self._split(members))
        ]

    def _split(self, members: Sequence[Candidate]) -> list[list[Candidate]]:
        """Packs no wider than the recipe and the memory allow."""
        packs, rest = [], list(members)
        while rest:
            at_most = rest[: self.recipe.pack_width]
            model, needs = self._memory_model(at_most), [self._need(candidate) for candidate in at_most]
            width = model.width(needs, self.recipe.batch_size, self._longest, self.memory)
            packs.append(rest[:width])
            rest = rest[width:]
        return packs

    def _memory_model(self, members: Sequence[Candidate]) -> MemoryModel:
        """What passes take; measured once, and again when a candidate adapts more layers than any before."""
        widest = max(members, key=lambda candidate: len(self.trainer.frozen.targets(candidate)))
        layers = len(self.trainer.frozen.targets(widest))
        if self._measured is None or layers > self._measured[0]:
            self._measured = (layers, measure(self.trainer, widest, self.train))
        return self._measured[1]

    def _make_room(self, members: Sequence[Candidate]) -> None:
        """How much a pass of these candidates may hold, in training and in scoring, by the plan."""
        needs = [self._need(candidate) for candidate in members]
        trainer = self.trainer
        room = self._memory_model(members).room(needs, self._longest, self.memory)
        if not room and not trainer.checkpointing:
            trainer.checkpoint()
            self._measured = None
            room = self._memory_model(members).room(needs, self._longest, self.memory)
        trainer.training_room = Room(max(room, self._longest))
        trainer.scoring_room = Room(self._memory_model(members).scoring_room(needs, self._longest, self.memory))

    def _need(self, candidate: Candidate) -> Need:
        return need(self.trainer.frozen, candidate, self.trainer.base.dtype)

    def test(self, candidate: Candidate | None) -> dict[str, float]:
        if candidate is None:
            return self._tested(None)
        state = load_checkpoint(self.folder.checkpoint(candidate))
        assert state is not None, "a candidate is tested after it has been trained"
        with Pack(self.trainer.frozen, [candidate], [state]) as pack:
            return self._tested(pack)

    def _tested(self, pack: Pack | None) -> dict[str, float]:
        rows, tokenizer = self._test, self.trainer.base.tokenizer
        wanted = [tokenizer.decode(row.ids[row.prompt :], skip_special_tokens=True) for row in rows]
        loss = self.trainer.score(rows, pack)[0].mean
        return {"loss": loss, **text_metrics(self.trainer.write(rows, pack)[0], wanted)}

    def _state(self, candidate: Candidate, step: int) -> AdapterState:
        """Where the candidate stands at that step."""
        saved = load_checkpoint(self.folder.checkpoint(candidate), step) if step else None
        return saved or fresh_state(self.trainer.frozen, candidate, self.recipe.seed)

    def _run_pack(
        self, heat: Heat, members: list[Member], stop: int, tick: Callable[[Tick], None]
    ) -> list[Measurement]:
        recipe, begun = self.recipe, self.clock()
        saved = begun
        reset_peak(self.device)
        lost: dict[Candidate, tuple[int, str]] = {}
        candidates, first = [candidate for candidate, _ in members], members[0][1]
        self._make_room(candidates)
        states = [self._state(candidate, first) for candidate in candidates]
        with Pack(self.trainer.frozen, candidates, states, recipe.weight_decay, recipe.clip_norm, recipe.seed) as pack:
            del states  # the pack has copies
            for step in range(first, stop):
                if not len(pack):
                    break
                batch = collate([self.train[row] for row in self.order[step]], self.device)
                width = len(pack)
                self.trainer.step(pack, batch, schedule(step, self.steps, recipe.warmup))
                lost |= {pack.candidates[i]: (step + 1, why) for i, why in pack.lost.items()}
                if pack.lost:
                    pack.drop(list(pack.lost))
                gone = width - len(pack)
                self._left -= batch.tokens * width + gone * sum(self._tokens[step + 1 : stop])
                tick(Tick(batch.tokens * width, len(pack), len(members), self._left))
                if self.clock() - saved > self.checkpoint_seconds and step + 1 < stop:
                    self._save(heat, pack)
                    saved = self.clock()
            scores = self.trainer.score(self.validation, pack) if len(pack) else []
            for candidate, score in zip(pack.candidates, scores, strict=True):
                if not math.isfinite(score.mean):
                    lost[candidate] = (stop, "the validation loss is not a number")
            self._save(heat, pack)
            for index, candidate in enumerate(pack.candidates):
                if candidate not in lost:
                    folder = self.folder.adapter(candidate)
                    save_adapter(folder, candidate, pack.state(index), self.trainer.frozen, self.trainer.base.source)
            scored = dict(zip(pack.candidates, scores, strict=True))
        peak, seconds = peak_bytes(self.device), (self.clock() - begun) / len(members)
        measurements = []
        for candidate in candidates:
            step, why = lost.get(candidate, (stop, ""))
            own = None if why else scored[candidate]
            measurements.append(self._measurement(candidate, heat.until, step, own, peak, seconds, why))
        return measurements

    def _save(self, heat: Heat, pack: Pack) -> None:
        """A checkpoint of every candidate of the pack, at the step where all of them stand."""
        position = {
            "heat": [heat.phase, heat.until],
            "pack": [candidate.id for candidate in pack.candidates],
            "schedule": {"steps": self.steps, "warmup": self.recipe.warmup},
            "data": {"seed": self.recipe.seed, "batch_size": self.recipe.batch_size},
            "randomness": "a function of the study's seed, the candidate's seed and the step",
        }
        for index, candidate in enumerate(pack.candidates):
            save_checkpoint(self.folder.checkpoint(candidate), pack.state(index), position)

    def _measurement(
        self,
        candidate: Candidate,
        fraction: float,
        steps: int,
        scores: Scores | None,
        peak: int,
        seconds: float,
        reason: str,
    ) -> Measurement:
        parameters = self.trainer.frozen.parameters(candidate)
        return Measurement(
            candidate=candidate,
            fraction=fraction,
            steps=steps,
            tokens=sum(self._tokens[:steps]),
            status="trained" if scores else "diverged",
            scores=scores,
            parameters=parameters,
            adapter_bytes=4 * parameters,
            peak_memory_bytes=peak,
            seconds=seconds,
            reason=reason,
        )
