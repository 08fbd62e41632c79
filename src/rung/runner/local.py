"""The runner for one machine: packs in this process, checkpoints in the study folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from rung.data.batches import collate, order, steps_per_pass
from rung.data.read import Splits
from rung.data.render import render_split
from rung.engine.checkpoint import load_checkpoint, save_adapter, save_checkpoint
from rung.engine.memory import keep_freed_memory, peak_bytes, reset_peak
from rung.engine.optimizer import schedule
from rung.engine.pack import AdapterState, Pack, fresh_state
from rung.engine.trainer import Trainer
from rung.levers import Candidate, Measurement, Scores
from rung.metrics import text_metrics
from rung.model.load import Base
from rung.recipe import Recipe
from rung.runner.protocol import Tick
from rung.search.strategy import Heat
from rung.study.files import StudyFolder


class LocalRunner:
    """See `Runner`. The base and the rows stay in memory; a candidate between two heats lies on the disk.

    Raises:
        ModelError, DataError: the model or a split cannot be used.
    """

    def __init__(self, base: Base, splits: Splits, recipe: Recipe, folder: StudyFolder) -> None:
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

    @property
    def full_tokens(self) -> int:
        return sum(self._tokens)

    def baseline(self) -> Scores:
        return self.trainer.score(self.validation)[0]

    def run(self, heat: Heat, tick: Callable[[Tick], None]) -> list[Measurement]:
        stop = max(1, round(heat.until * self.steps))
        states = {c: load_checkpoint(self.folder.checkpoint(c)) or self._fresh(c) for c in heat.candidates}
        packs: dict[int, list[Candidate]] = {}
        for candidate in heat.candidates:
            # A checkpoint from beyond this heat's end would be another training's; the ledger does not know it.
            if states[candidate].step > stop:
                states[candidate] = self._fresh(candidate)
            packs.setdefault(states[candidate].step, []).append(candidate)
        self._left = sum(sum(self._tokens[states[c].step : stop]) for c in heat.candidates)
        found: dict[Candidate, Measurement] = {}
        for members in packs.values():
            for start in range(0, len(members), self.recipe.pack_width):
                pack = members[start : start + self.recipe.pack_width]
                for measurement in self._run_pack(heat, pack, [states[c] for c in pack], stop, tick):
                    found[measurement.candidate] = measurement
        return [found[candidate] for candidate in heat.candidates]

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
        return {"loss": loss, **text_metrics(self.trainer.write(rows), wanted)}

    def _fresh(self, candidate: Candidate) -> AdapterState:
        return fresh_state(self.trainer.frozen, candidate, self.recipe.seed)

    def _run_pack(
        self, heat: Heat, members: list[Candidate], states: list[AdapterState], stop: int, tick: Callable[[Tick], None]
    ) -> list[Measurement]:
        recipe, begun = self.recipe, time.perf_counter()
        reset_peak(self.device)
        diverged: dict[Candidate, int] = {}
        first = states[0].step
        with Pack(self.trainer.frozen, members, states, recipe.weight_decay, recipe.clip_norm) as pack:
            for step in range(first, stop):
                if not len(pack):
                    break
                batch = collate([self.train[row] for row in self.order[step]], self.device)
                losses = self.trainer.step(pack, batch, schedule(step, self.steps, recipe.warmup))
                lost = torch.nonzero(~torch.isfinite(losses)).flatten().tolist()
                if lost:
                    diverged |= {pack.candidates[i]: step + 1 for i in lost}
                    pack.drop(lost)
                self._left -= batch.tokens * (len(pack) + len(lost)) + len(lost) * sum(self._tokens[step + 1 : stop])
                tick(Tick(batch.tokens * (len(pack) + len(lost)), len(pack), len(members), self._left))
            scores = self.trainer.score(self.validation, pack) if len(pack) else []
            ended = [(c, pack.state(i), s) for i, (c, s) in enumerate(zip(pack.candidates, scores, strict=True))]
        peak, seconds = peak_bytes(self.device), (time.perf_counter() - begun) / len(members)
        measurements = []
        for candidate, state, score in ended:
            if not math.isfinite(score.mean):  # the last step was one too many
                diverged[candidate] = stop
                continue
            save_checkpoint(self.folder.checkpoint(candidate), state)
            save_adapter(self.folder.adapter(candidate), candidate, state, self.trainer.base.source)
            measurements.append(self._measurement(candidate, heat.until, stop, score, peak, seconds))
        for candidate, step in diverged.items():
            measurements.append(self._measurement(candidate, heat.until, step, None, peak, seconds))
        return measurements

    def _measurement(
        self, candidate: Candidate, fraction: float, steps: int, scores: Scores | None, peak: int, seconds: float
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
        )
