"""Train a pack, score a pack, let a pack write.

Everything runs through `_losses`: token ids of (B, T), repeated for the K candidates to (K·B, T), through the frozen
model's decoder, and from there only the completion's tokens through the head.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rung.data.batches import Batch, Rows, by_length, collate, left_padded, side_by_side
from rung.data.example import Example
from rung.data.limits import room_to_write
from rung.engine.activation_checkpointing import checkpoint_blocks
from rung.engine.attention import NAME, SHORT, register
from rung.engine.loss import Head, HeadAdapter, completion_loss
from rung.engine.memory import (
    Tile,
    TokenLimit,
    is_out_of_memory,
    memory_limit,
    resident_bytes,
    tiles,
)
from rung.engine.pack import FrozenModel, Pack, freeze
from rung.errors import ModelError, TrainingError
from rung.model.load import Base
from rung.model.positions import max_positions
from rung.model.targets import decoder_of
from rung.types import Scores, shared_sources

FACTORS = ("logit_scale", "lm_head_multiplier")
CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""What configurations call that which is done to logits."""
LARGE = 50.0
"""A logit at which a cap shows."""
SCORED_ROWS = 128
"""Rows that are scored in one pass, over all candidates."""


class Trainer:
    """A base made ready for packs: frozen, and checked to be a model whose loss Rung computes rightly.

    `training_room` and `scoring_room` say how much one pass may hold; they shrink by themselves when memory runs out.
    `memory` is what the process may hold in all, in bytes, where that is less than what is free. `positions` is how
    many tokens a row may have, if there is a limit, and `vocabulary` how many tokens it knows.
    With `attention`, the kinds for short and for long rows, nothing is tried out: for a base that has no numbers.

    Raises:
        ModelError: the model has no head, or does more to its logits than Rung knows of.
    """

    def __init__(self, base: Base, attention: tuple[str, str] | None = None) -> None:
        self.base = base
        self.model: Any = base.model
        decoder = decoder_of(self.model)
        if self.model.get_output_embeddings() is None or decoder is None:
            raise ModelError(
                f"The model {base.source} is no causal language model with a decoder and an output head."
            )
        self.decoder: Any = decoder
        self.frozen: FrozenModel = freeze(self.model)
        if self.frozen.head is None or len(self.frozen.layers) < 2:
            raise ModelError(
                f"The model {base.source} has no linear layers, so LoRA cannot adapt it."
            )
        config = self.model.config.get_text_config()
        self.positions = max_positions(config)
        self.head = Head(
            self.frozen.layers[self.frozen.head],
            factor=_first(config, FACTORS) or 1 / (getattr(config, "logits_scaling", None) or 1),
            cap=_first(config, CAPS),
        )
        embedded: int = self.model.get_input_embeddings().weight.shape[0]
        self.vocabulary = min(embedded, self.head.layer.out_features)
        register()
        self.training_room, self.scoring_room = TokenLimit(), TokenLimit()
        self.memory: int | None = None
        self.checkpointing = False
        self._kinds = attention or ("eager", "eager")
        if attention is None:
            with runs(base.source):
                self._kinds = self._attention_kinds()
                self._check_head()

    def step(
        self, pack: Pack, batch: Batch | Sequence[Batch], shares: float | Sequence[float]
    ) -> Tensor:
        """One step of every candidate in the pack: the mean loss of its batch's completion tokens, backwards, AdamW.

        Args:
            pack: in the model.
            batch: the rows; one for all, which is faster, or one for each candidate, in the pack's order.
            shares: of each candidate's learning rate, or one for all.

        Returns:
            (K,) float64: each candidate's loss before the step. Those that have diverged are in `pack.lost`.

        Raises:
            TrainingError: memory ran out with one row of one candidate.
        """
        losses = self.gradients(pack, batch)
        norms = pack.update([shares] * len(pack) if isinstance(shares, float | int) else shares)
        # Twice what a model loses that knows nothing of its vocabulary.
        pack.watch(
            losses.tolist(), norms.tolist(), limit=2 * math.log(self.head.layer.out_features)
        )
        return losses

    def gradients(self, pack: Pack, batch: Batch | Sequence[Batch]) -> Tensor:
        """Each candidate's loss (K,), with its gradient in the pack's groups."""
        device = self.base.device
        batches = [batch] * len(pack) if isinstance(batch, Batch) else list(batch)
        losses = torch.zeros(len(pack), dtype=torch.float64, device=device)
        # Divided by the whole batch's tokens, so that nothing depends on how it is split; and a sum over the
        # candidates, so that no one's gradient knows how many others there are.
        shares = 1 / torch.tensor([len(b.labels) for b in batches], dtype=torch.float64).to(device)
        scales = torch.tensor(pack.loss_scales, dtype=torch.float64).to(device)

        def begin() -> None:
            pack.begin()
            losses.zero_()

        def work(tile: Tile) -> None:
            own = slice(tile.start, tile.stop)
            rows = _rows_of(batches[own], tile)
            if not rows.ids.numel():  # rows that only other candidates have
                return
            weights = rows.counted * shares[own, None]
            found, total = self._losses(rows, pack, tile, weights * scales[own, None])
            losses[own] += (found * weights).sum(dim=1)
            total.backward()  # type: ignore[no-untyped-call]

        with self._turn(pack, training=True):
            self._in_tiles(self.training_room, len(pack), _shape(batches), begin, work)
        return losses

    @torch.no_grad()
    def score(
        self, examples: Sequence[Example], pack: Pack | None = None, batch_size: int = SCORED_ROWS
    ) -> list[Scores]:
        """The loss of each row for each candidate of the pack, or for the untuned model.

        `batch_size` counts rows over all candidates.
        """
        width = len(pack) if pack else 1
        totals = torch.zeros(width, len(examples), dtype=torch.float64)
        for rows in by_length(
            [len(example.ids) for example in examples], max(1, batch_size // width)
        ):
            batch = collate([examples[row] for row in rows], self.base.device)
            totals[:, rows] = self.losses(pack, batch).cpu()
        tokens, sources = (
            tuple(example.loss_tokens for example in examples),
            shared_sources([example.source for example in examples]),
        )
        return [Scores(tuple(row), tokens, sources) for row in totals.tolist()]

    @torch.no_grad()
    def losses(self, pack: Pack | None, batch: Batch) -> Tensor:
        """The summed loss of each row for each candidate, or for the untuned model: (K, B) float64."""
        width = len(pack) if pack else 1
        sums = torch.zeros(width, batch.ids.shape[0], dtype=torch.float64, device=self.base.device)

        def work(tile: Tile) -> None:
            part = batch.part(tile.first, tile.last)
            rows = side_by_side([part] * (tile.stop - tile.start))
            found, _ = self._losses(rows, pack, tile, rows.counted.double())
            own = sums[tile.start : tile.stop, tile.first : tile.last]
            own.zero_().index_add_(1, part.rows, found.double())

        with self._turn(pack, training=False):
            self._in_tiles(self.scoring_room, width, _shape([batch]), lambda: None, work)
        return sums

    @torch.no_grad()
    def write(
        self,
        examples: Sequence[Example],
        pack: Pack | None = None,
        ends: Sequence[int] = (),
        batch_size: int = 200,
    ) -> list[list[str]]:
        """What each candidate of the pack, or the untuned model, writes after each prompt; greedily.

        All of them write in one batch with one cache of keys and values. Each may write a quarter more tokens than the
        longest completion has, as far as the model's positions go, and stops at one of the tokens `ends`, by default
        the tokenizer's end token. `batch_size` counts rows over all candidates; they are fewer where the memory asks
        for it.

        Returns:
            For each candidate, the text of each example.

        Raises:
            TrainingError: memory ran out with one row of each candidate.
        """
        limit, width = room_to_write(examples), len(pack) if pack else 1
        lengths = [len(example.prompt_ids) for example in examples]
        rooms = [
            min(limit, self.positions - length) if self.positions else limit for length in lengths
        ]
        texts = [[""] * len(examples) for _ in range(width)]
        self._attention(SHORT)
        with self._turn(pack, training=False), self.dense_where_room():
            most = min(batch_size, self._writable(max(lengths) + limit))
            waiting = by_length(lengths, max(1, most // width), rooms)
            while waiting:
                rows = waiting.pop(0)
                written: list[str] | None = None
                if (room := rooms[rows[0]]) < 1:
                    continue
                try:
                    written = self._written(
                        [examples[row].prompt_ids for row in rows], width, room, ends
                    )
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                if written is None:
                    if self.frozen.holds_dense:
                        self.frozen.hold_dense(None)
                        waiting.insert(0, rows)
                        continue
                    if len(rows) == 1:
                        raise TrainingError(
                            f"Memory ran out with one text of {limit} tokens for each of {width}; give shorter rows "
                            "with --max-tokens, or a smaller model."
                        )
                    half = len(rows) // 2
                    waiting[:0] = [rows[:half], rows[half:]]
                    continue
                for place, text in enumerate(written):
                    texts[place // len(rows)][rows[place % len(rows)]] = text
        return texts

    def _written(
        self, prompts: Sequence[Sequence[int]], width: int, limit: int, ends: Sequence[int]
    ) -> list[str]:
        """The texts of all candidates after some prompts, one candidate after the other."""
        tokenizer, (ids, mask) = self.base.tokenizer, left_padded(prompts)
        out = self.model.generate(
            ids.repeat(width, 1).to(self.base.device),
            attention_mask=mask.repeat(width, 1).to(self.base.device),
            max_new_tokens=limit,
            do_sample=False,
            pad_token_id=tokenizer.eos_token_id,
            eos_token_id=list(ends) or tokenizer.eos_token_id,
        )
        written = out[:, ids.shape[1] :]
        # Cleaning up would take the spaces before marks away that the model has written.
        texts: list[str] = tokenizer.batch_decode(
            written, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return texts

    def _writable(self, tokens: int) -> int:
        """How many rows of so many tokens half of the free memory has room for: their keys and values, and logits."""
        config = self.model.config.get_text_config()
        heads = (
            getattr(config, "num_attention_heads", None) or 1
        )  # without attention, more than is kept
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        kept = (
            2
            * config.num_hidden_layers
            * (getattr(config, "num_key_value_heads", None) or heads)
            * size
        )
        # The cache grows by being copied, a layer at a time; logits are there in the dtype and in float32.
        row = kept * tokens * self.base.dtype.itemsize + 3 * 4 * self.head.layer.out_features
        return max(1, int(self._free() / 2 / row))

    def _free(self) -> float:
        """What this process may still take, by what it is allowed to hold."""
        device = self.base.device
        held = torch.cuda.memory_allocated(device) if device.type == "cuda" else resident_bytes()
        return max(0.0, (self.memory or memory_limit(device)) - held)

    def _losses(
        self, rows: Rows, pack: Pack | None, tile: Tile, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `completion_loss`: (K, M) for the K candidates of the tile, and the sum to differentiate."""
        width = tile.stop - tile.start
        count, length = rows.ids.shape[0] // width, rows.ids.shape[1]
        adapters: list[HeadAdapter | None] = [None] * width
        if pack:
            pack.turn.start, pack.turn.stop = tile.start, tile.stop
            # The last batch of a pass may have fewer rows than the tile.
            pack.turn.rows, pack.turn.tokens = (
                range(tile.first, tile.first + count),
                rows.ids.numel(),
            )
            pack.turn.alike = rows.alike
            adapters = self._head_adapters(pack, rows)
        self._attention(length)
        states = self.decoder(input_ids=rows.ids, use_cache=False).last_hidden_state
        offsets = torch.arange(width, device=rows.ids.device)[:, None] * (count * length)
        hidden = states.reshape(rows.ids.numel(), -1)[(rows.places + offsets).flatten()]
        anchor = pack.turn.anchor if pack and any(adapters) else None
        return completion_loss(hidden, rows.labels, weights, self.head, adapters, anchor)

    def _head_adapters(self, pack: Pack, rows: Rows) -> list[HeadAdapter | None]:
        """The adapters of the output head, for the candidates of the pack's turn that have one."""
        turn, layer = pack.turn, pack.layers.get(self.frozen.head or "")
        found: list[HeadAdapter | None] = [None] * turn.width
        for part in layer.active() if layer else []:
            for index in range(part.start, part.stop):
                keep = None
                if part.dropout and turn.training:
                    assert part.keeps is not None
                    mask = part.keeps(index, index + 1, turn.rows, rows.ids.shape[1])
                    keep = mask.flatten(0, 2)[rows.places[index - turn.start]]
                found[index - turn.start] = HeadAdapter(part.cut(index, index + 1), keep)
        return found

    def _in_tiles(
        self,
        room: TokenLimit,
        width: int,
        shape: tuple[int, int],
        begin: Callable[[], None],
        work: Callable[[Tile], None],
    ) -> None:
        """Do batches of at most so many rows, and tokens of a row, in as few passes as the room allows; where memory
        runs out, do it again in smaller ones.

        Raises:
            TrainingError: one row of one candidate does not fit.
        """
        rows, length = shape
        while True:
            begin()
            tried = 0
            try:
                for tile in tiles(width, rows, length, room.tokens):
                    tried = tile.tokens(length)
                    work(tile)
                room.worked()
                return
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the handler, where the error no longer holds on to the pass that failed.
            if self.frozen.holds_dense:
                self.frozen.hold_dense(None)
            elif tried > length:
                room.shrink(tried)
            elif room is self.training_room and not self.checkpointing:
                self.checkpoint()
            else:
                raise TrainingError(
                    f"Memory ran out with one row of {length} tokens; give shorter rows with --max-tokens, or a "
                    "smaller model."
                )

    def checkpoint(self) -> None:
        """From now on, keep no more of a training pass than the blocks' inputs."""
        assert not self.checkpointing, "once is enough"
        self.checkpointing = True
        checkpoint_blocks(self.decoder)

    @contextlib.contextmanager
    def _turn(self, pack: Pack | None, training: bool) -> Iterator[None]:
        """The pack's layers serve a pass of all its candidates, in training or not."""
        if pack is None:
            yield
            return
        pack.turn.start, pack.turn.stop = 0, len(pack)
        pack.turn.rows, pack.turn.tokens, pack.turn.training = (), None, training
        try:
            yield
        finally:
            pack.turn.start, pack.turn.stop = 0, len(pack)
            pack.turn.rows, pack.turn.tokens, pack.turn.training = (), None, False

    @contextlib.contextmanager
    def dense_where_room(self) -> Iterator[None]:
        """Hold the dense weights, where half of the free memory is enough: for writing, which multiplies every weight
        once for each token, by a few rows, and for what else does few products with each.
        """
        held = self.frozen.holds_dense
        if not held and self.frozen.dense_bytes(self.base.dtype) <= self._free() / 2:
            self.frozen.hold_dense(self.base.dtype)
        try:
            yield
        finally:
            if not held:
                self.frozen.hold_dense(None)

    def _attention(self, tokens: int) -> None:
        """Choose the attention that is fast for rows of so many tokens; the function is the same."""
        short, long = self._kinds
        kind = short if tokens <= SHORT else long
        if self.decoder.config._attn_implementation != kind:
            self.decoder.set_attn_implementation(kind)

    @torch.no_grad()
    def _attention_kinds(self) -> tuple[str, str]:
        """The attention for short rows and the one for long rows: the fastest that are what the model asks for.

        A model may do more in its attention than softmax(q kᵀ) v: cap the scores, add a sink. So each kind is held to
        the plain one on a few tokens, and where it gives something else the plain one stays.
        """
        ids = torch.arange(8, device=self.base.device)[None] % self.head.layer.out_features

        def states(kind: str) -> Tensor:
            self.decoder.set_attn_implementation(kind)
            found: Tensor = self.decoder(input_ids=ids, use_cache=False).last_hidden_state
            return found

        try:
            plain = states("eager")
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            if is_out_of_memory(error):
                raise
            why = (str(error).strip() or type(error).__name__).splitlines()[0].strip('".')
            raise ModelError(
                f"The model {self.base.source} cannot be run on a few tokens over its frozen layers ({why}); give "
                "another --quantization, or another model."
            ) from error
        kept = []
        for kind in (NAME if self.base.device.type == "cpu" else "sdpa", "sdpa"):
            try:
                same = bool((states(kind) - plain).abs().max() <= 0.05 * plain.abs().max())
            except (
                ValueError,
                TypeError,
            ):  # a kind that the model refuses, or that refuses what the model asks
                same = False
            kept.append(kind if same else "eager")
        return kept[0], kept[1]

    @torch.no_grad()
    def _check_head(self) -> None:
        """Some models change their logits in a way that Rung does not know of; its loss would be wrong for them."""
        ids = torch.arange(4, device=self.base.device)[None]
        self._attention(4)
        states = self.decoder(input_ids=ids, use_cache=False).last_hidden_state[0]
        product = states @ self.head.layer.dense(states.dtype).T
        # A small model's logits are too small for a cap to show, so they are made large too.
        for scale in (1.0, LARGE / max(1e-3, float(product.abs().max()))):
            with _scaled(self.head.layer, scale):
                theirs = self.model(input_ids=ids, use_cache=False).logits[0].float()
            ours = self.head.logits_(scale * product.float())
            if (theirs - ours).abs().max() > 0.01 * ours.abs().max():
                raise ModelError(
                    f"The model {self.base.source} changes its logits after the output head, which Rung cannot train "
                    "yet."
                )


def _first(config: Any, names: Sequence[str]) -> float | None:
    """The first of the values that the configuration has, and that is not zero."""
    return next((value for name in names if (value := getattr(config, name, None))), None)


@contextlib.contextmanager
def _scaled(layer: nn.Module, scale: float) -> Iterator[None]:
    """The layer's product, so many times."""
    hook = layer.register_forward_pre_hook(lambda _, inputs: (inputs[0] * scale,))
    try:
        yield
    finally:
        hook.remove()


@contextlib.contextmanager
def runs(source: str) -> Iterator[None]:
    """A first pass through a model: one that wants more than tokens and linear layers breaks in any way.

    Raises:
        ModelError: it does, with what it said.
    """
    try:
        yield
    except (
        RuntimeError,
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
        AssertionError,
    ) as error:
        if is_out_of_memory(error):
            raise
        why = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ModelError(
            f"The model {source} cannot be trained over frozen layers ({why}); give another, or try --quantization "
            "bf16."
        ) from error


def _shape(batches: Sequence[Batch]) -> tuple[int, int]:
    """The most rows, and the most tokens of one."""
    return max(batch.ids.shape[0] for batch in batches), max(
        batch.ids.shape[1] for batch in batches
    )


def _rows_of(batches: Sequence[Batch], tile: Tile) -> Rows:
    """The tile's rows of some candidates' batches; those that share a batch share its part."""
    parts = {id(batch): batch.part(tile.first, tile.last) for batch in batches}
    return side_by_side([parts[id(batch)] for batch in batches])
