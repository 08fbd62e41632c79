"""Train a pack and score a pack.

Both run `losses_of_tile`: token ids (B, T), repeated for the K candidates to (K·B, T), go through
the frozen model's decoder, and from there only the completion tokens go through the output head.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rung.data.batches import Batch, PackedBatch, by_length, collate, side_by_side
from rung.data.example import Example
from rung.engine.activation_checkpointing import checkpoint_activations
from rung.engine.attention import AttentionKinds, register_attention
from rung.engine.frozen_model import FrozenModel, freeze
from rung.engine.loss import Head, HeadAdapter, completion_loss
from rung.engine.pack import Pack
from rung.engine.probe_model import check_head, find_attention_kinds, translate_model_errors
from rung.engine.process_memory import free_bytes
from rung.engine.tiling import Tile, TokenLimit, run_in_tiles
from rung.errors import ModelError
from rung.model.load import Base
from rung.model.positions import max_positions
from rung.model.targets import decoder_of
from rung.types import Scores, shared_sources

SCORING_BATCH_SIZE = 128
"""Rows that are scored in one pass, counted over all candidates."""


class Trainer:
    """A base that is ready for packs: frozen, and checked to be a model whose loss Rung computes.

    Args:
        base: the model; its linear layers are replaced.
        attention: the kinds of attention for short and for long rows. With them no pass is run, for
            a base that has no numbers.

    Attributes:
        positions: the most tokens that a row may have, or None without a limit.
        vocabulary: how many tokens the model knows.
        training_limit, scoring_limit: how many tokens one pass may have; they shrink by themselves
            when memory runs out.
        memory: what the process may hold in all, in bytes, where that is less than what is free.
        activation_checkpointing: training recomputes the activations of each block.

    Raises:
        ModelError: the model has no decoder, no output head or no linear layers, or it changes its
            logits in a way that Rung does not know.
    """

    def __init__(self, base: Base, attention: tuple[str, str] | None = None) -> None:
        self.base = base
        self.model: Any = base.model
        self.decoder, self.frozen, self.head = _freeze_parts(base)
        self.positions = max_positions(self.model.config.get_text_config())
        embedded: int = self.model.get_input_embeddings().weight.shape[0]
        self.vocabulary = min(embedded, self.head.layer.out_features)
        self.training_limit, self.scoring_limit = TokenLimit(), TokenLimit()
        self.memory: int | None = None
        self.activation_checkpointing = False
        register_attention()
        if attention:
            self.attention_kinds = AttentionKinds(*attention)
            return
        with translate_model_errors(base.source):
            outputs = self.head.layer.out_features
            self.attention_kinds = find_attention_kinds(base, self.decoder, outputs)
            self.attention_kinds.set_on(self.decoder, row_tokens=1)
            check_head(base, self.decoder, self.head)

    def step(
        self, pack: Pack, batch: Batch | Sequence[Batch], rate_factors: float | Sequence[float]
    ) -> Tensor:
        """One training step of every candidate, on the mean loss of its completion tokens.

        Args:
            batch: one batch for all candidates, which is faster, or one for each candidate in the
                pack's order.
            rate_factors: the factor of each candidate's learning rate, or one factor for all.

        Returns:
            (K,) float64: each candidate's loss before the update. Those that have diverged are in
            `pack.diverged`.

        Raises:
            TrainingError: memory ran out with one row of one candidate.
        """
        losses = self.gradients(pack, batch)
        if isinstance(rate_factors, float | int):
            rate_factors = [rate_factors] * len(pack)
        norms = pack.update(rate_factors)
        # Twice the loss of a model that knows nothing about its vocabulary.
        limit = 2 * math.log(self.head.layer.out_features)
        pack.check_divergence(losses.tolist(), norms.tolist(), limit)
        return losses

    def gradients(self, pack: Pack, batch: Batch | Sequence[Batch]) -> Tensor:
        """Compute each candidate's gradient, in the pack's groups, and its loss (K,) float64.

        Raises:
            TrainingError: memory ran out with one row of one candidate.
        """
        device = self.base.device
        batches = [batch] * len(pack) if isinstance(batch, Batch) else list(batch)
        losses = torch.zeros(len(pack), dtype=torch.float64, device=device)
        # Each loss is divided by the tokens of the whole batch, so no result depends on how the
        # batch is split; candidates are summed, so no gradient depends on their number.
        counts = torch.tensor([len(b.labels) for b in batches], dtype=torch.float64)
        token_weights = 1 / counts.to(device)
        loss_scales = torch.tensor(pack.optimizer.loss_scales, dtype=torch.float64).to(device)

        def start_over() -> None:
            pack.zero_gradients()
            losses.zero_()

        def run(tile: Tile) -> None:
            own = slice(tile.start, tile.stop)
            rows = _rows_of(batches[own], tile)
            if not rows.ids.numel():  # only other candidates have these rows
                return
            weights = rows.counted * token_weights[own, None]
            token_losses, total = self.losses_of_tile(
                rows, pack, tile, weights * loss_scales[own, None]
            )
            losses[own] += (token_losses * weights).sum(dim=1)
            total.backward()  # type: ignore[no-untyped-call]

        with pack.running_pass(training=True):
            run_in_tiles(
                self.training_limit,
                (len(pack), *_largest_shape(batches)),
                start_over,
                run,
                free_first=self.frozen.release_dense,
                free_last=self.enable_activation_checkpointing,
            )
        return losses

    @torch.no_grad()
    def score(
        self,
        examples: Sequence[Example],
        pack: Pack | None = None,
        batch_size: int = SCORING_BATCH_SIZE,
    ) -> list[Scores]:
        """The loss of each row for each candidate of the pack, or for the untuned model.

        Args:
            batch_size: rows of one pass, counted over all candidates.

        Raises:
            TrainingError: memory ran out with one row of one candidate.
        """
        width = len(pack) if pack else 1
        totals = torch.zeros(width, len(examples), dtype=torch.float64)
        lengths = [len(example.ids) for example in examples]
        for rows in by_length(lengths, max(1, batch_size // width)):
            batch = collate([examples[row] for row in rows], self.base.device)
            totals[:, rows] = self.row_losses(pack, batch).cpu()
        tokens = tuple(example.loss_tokens for example in examples)
        sources = shared_sources([example.source for example in examples])
        return [Scores(tuple(losses), tokens, sources) for losses in totals.tolist()]

    @torch.no_grad()
    def row_losses(self, pack: Pack | None, batch: Batch) -> Tensor:
        """The summed loss of each row for each candidate, or for the untuned model.

        Returns:
            (K, B) float64, in nats.
        """
        width = len(pack) if pack else 1
        sums = torch.zeros(width, batch.ids.shape[0], dtype=torch.float64, device=self.base.device)

        def run(tile: Tile) -> None:
            part = batch.part(tile.first, tile.last)
            rows = side_by_side([part] * tile.width)
            token_losses, _ = self.losses_of_tile(rows, pack, tile, rows.counted.double())
            own = sums[tile.start : tile.stop, tile.first : tile.last]
            own.zero_().index_add_(1, part.rows, token_losses.double())

        with pack.running_pass() if pack else contextlib.nullcontext():
            run_in_tiles(
                self.scoring_limit,
                (width, *_largest_shape([batch])),
                lambda: None,
                run,
                free_first=self.frozen.release_dense,
                free_last=lambda: False,
            )
        return sums

    def losses_of_tile(
        self, rows: PackedBatch, pack: Pack | None, tile: Tile, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The losses (K, M) of a tile's candidates, and the sum to differentiate.

        See `completion_loss`.
        """
        count, length = rows.ids.shape[0] // tile.width, rows.ids.shape[1]
        adapters: list[HeadAdapter | None] = [None] * tile.width
        if pack:
            context = pack.context
            context.start, context.stop = tile.start, tile.stop
            # The last batch of a pass may have fewer rows than the tile.
            context.rows = range(tile.first, tile.first + count)
            context.tokens, context.shared_rows = rows.ids.numel(), rows.alike
            adapters = _head_adapters(pack, self.frozen.head, rows)
        self.attention_kinds.set_on(self.decoder, length)
        states = self.decoder(input_ids=rows.ids, use_cache=False).last_hidden_state
        offsets = torch.arange(tile.width, device=rows.ids.device)[:, None] * (count * length)
        hidden = states.reshape(rows.ids.numel(), -1)[(rows.places + offsets).flatten()]
        anchor = pack.context.anchor if pack and any(adapters) else None
        return completion_loss(hidden, rows.labels, weights, self.head, adapters, anchor)

    def enable_activation_checkpointing(self) -> bool:
        """From now on, training saves only the blocks' inputs and recomputes the rest.

        Returns:
            False where it is enabled already.
        """
        if self.activation_checkpointing:
            return False
        self.activation_checkpointing = True
        checkpoint_activations(self.decoder)
        return True

    def free_memory(self) -> int:
        """How many bytes more this process may hold."""
        return free_bytes(self.base.device, self.memory)


def _freeze_parts(base: Base) -> tuple[Any, FrozenModel, Head]:
    """The base's decoder, its layers frozen in place, and its output head.

    Raises:
        ModelError: the model has no decoder, no output head or no linear layers.
    """
    decoder = decoder_of(base.model)
    if base.model.get_output_embeddings() is None or decoder is None:
        raise ModelError(
            f"The model {base.source} is not a causal language model with a decoder and an output "
            "head; give one that is."
        )
    frozen = freeze(base.model)
    if frozen.head is None or len(frozen.layers) < 2:
        raise ModelError(
            f"The model {base.source} has no linear layers, so LoRA cannot adapt it; give another "
            "model."
        )
    head = Head.of(frozen.layers[frozen.head], base.model.config.get_text_config())
    return decoder, frozen, head


def _head_adapters(pack: Pack, head: str | None, rows: PackedBatch) -> list[HeadAdapter | None]:
    """For each candidate in the running pass its adapter of the output head, or None."""
    context, layer = pack.context, pack.layers.get(head or "")
    adapters: list[HeadAdapter | None] = [None] * context.width
    for group in layer.active_groups() if layer else []:
        for index in range(group.start, group.stop):
            place, mask = index - context.start, None
            if group.dropout and context.training:
                assert group.dropout_mask is not None
                tokens = rows.ids.shape[1]
                every_token = group.dropout_mask(index, index + 1, context.rows, tokens)
                mask = every_token.flatten(0, 2)[rows.places[place]]
            adapters[place] = HeadAdapter(group.select(index, index + 1), mask)
    return adapters


def _largest_shape(batches: Sequence[Batch]) -> tuple[int, int]:
    """The most rows, and the most tokens of a row."""
    shapes = [batch.ids.shape for batch in batches]
    return max(rows for rows, _ in shapes), max(length for _, length in shapes)


def _rows_of(batches: Sequence[Batch], tile: Tile) -> PackedBatch:
    """The tile's rows of some candidates' batches; those that share a batch share its part."""
    parts = {id(batch): batch.part(tile.first, tile.last) for batch in batches}
    return side_by_side([parts[id(batch)] for batch in batches])
