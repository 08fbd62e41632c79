"""Train a pack, score a pack, let one candidate write.

Everything runs through `_losses`: token ids of (B, T), repeated for the K candidates to (K·B, T), through the frozen
model's decoder, and from there only the completion's tokens through the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rung.data.batches import Batch, by_length, collate
from rung.data.render import Example
from rung.engine.lora import FrozenLinear
from rung.engine.loss import completion_loss
from rung.engine.pack import Frozen, Pack, freeze
from rung.errors import ModelError
from rung.levers import Scores
from rung.model.load import Base

SHORT = 128
"""Rows of up to so many tokens take plain attention on a CPU: the fused kernel's backward pass is slower there."""


class Trainer:
    """A base made ready for packs: frozen, and checked to be a model whose loss Rung computes rightly.

    Raises:
        ModelError: the model has no head, or does more to its logits than multiply by it.
    """

    def __init__(self, base: Base) -> None:
        self.base = base
        self.model: Any = base.model
        head = self.model.get_output_embeddings()
        decoder = self.model.get_decoder() if hasattr(self.model, "get_decoder") else None
        if head is None or decoder is None or decoder is self.model:
            raise ModelError(f"The model {base.source} is no causal language model with a decoder and an output head.")
        self.decoder: Any = decoder
        self.head = FrozenLinear(head)
        self.model.set_output_embeddings(self.head)
        self.frozen: Frozen = freeze(self.model)
        if not self.frozen.layers:
            raise ModelError(
                f"The model {base.source} has no linear layers inside its blocks, so LoRA cannot adapt it."
            )
        self._check_head()

    def step(self, pack: Pack, batch: Batch, share: float) -> Tensor:
        """One step of every candidate in the pack: the mean loss of the batch's completion tokens, backwards, AdamW.

        Returns:
            (K,) float32: each candidate's loss; not finite where it or its gradient is not, which means that the
            candidate has diverged and is to be dropped.
        """
        losses = self._losses(batch, len(pack)).mean(dim=1)
        # A sum, so that no candidate's gradient knows how many others there are.
        losses.sum().backward()  # type: ignore[no-untyped-call]
        norms = pack.optimizer.step(share)
        return losses.detach() + norms * 0

    @torch.no_grad()
    def score(self, examples: Sequence[Example], pack: Pack | None = None, batch_size: int = 128) -> list[Scores]:
        """The loss of each row for each candidate of the pack, or for the untuned model.

        `batch_size` counts rows over all candidates.
        """
        width = len(pack) if pack else 1
        totals = torch.zeros(width, len(examples), dtype=torch.float64)
        for rows in by_length([len(example.ids) for example in examples], max(1, batch_size // width)):
            batch = collate([examples[row] for row in rows], self.base.device)
            losses = self._losses(batch, width).double()
            sums = losses.new_zeros(width, len(rows)).index_add_(1, batch.rows, losses)
            totals[:, rows] = sums.cpu()
        tokens = tuple(example.completion for example in examples)
        return [Scores(tuple(row), tokens) for row in totals.tolist()]

    @torch.no_grad()
    def write(self, examples: Sequence[Example], batch_size: int = 200) -> list[str]:
        """What the model, with the pack of one that is in it or untuned, writes after each prompt; greedily.

        It may write a quarter more tokens than the longest completion has, and stops at its end token.
        """
        tokenizer, limit = self.base.tokenizer, max(example.completion for example in examples)
        texts = [""] * len(examples)
        self._attention(SHORT)
        for rows in by_length([example.prompt for example in examples], batch_size):
            prompts = [examples[row].ids[: examples[row].prompt] for row in rows]
            width = max(map(len, prompts))
            ids = torch.full((len(rows), width), tokenizer.eos_token_id)
            mask = torch.zeros_like(ids)
            for i, prompt in enumerate(prompts):
                ids[i, width - len(prompt) :] = torch.tensor(prompt)
                mask[i, width - len(prompt) :] = 1
            out = self.model.generate(
                ids.to(self.base.device),
                attention_mask=mask.to(self.base.device),
                max_new_tokens=limit + limit // 4,
                do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
            for row, text in zip(rows, tokenizer.batch_decode(out[:, width:], skip_special_tokens=True), strict=True):
                texts[row] = text
        return texts

    def _losses(self, batch: Batch, width: int) -> Tensor:
        """(K, M) float32: the loss of each completion token for each of the K = `width` candidates."""
        size = batch.ids.numel()
        self._attention(batch.ids.shape[1])
        states = self.decoder(input_ids=batch.ids.repeat(width, 1), use_cache=False).last_hidden_state
        offsets = torch.arange(width, device=batch.ids.device)[:, None] * size
        places = (batch.positions + offsets).flatten()
        hidden = states.reshape(width * size, -1)[places]
        return completion_loss(hidden, batch.labels.repeat(width), self.head.dense(hidden.dtype)).view(width, -1)

    def _attention(self, tokens: int) -> None:
        """Choose the attention that is fast for rows of so many tokens; the function is the same."""
        kind = "eager" if self.base.device.type == "cpu" and tokens <= SHORT else "sdpa"
        if self.decoder.config._attn_implementation != kind:
            self.decoder.set_attn_implementation(kind)

    @torch.no_grad()
    def _check_head(self) -> None:
        """Some models cap or scale their logits (Gemma 2, Cohere, Granite); Rung's loss would be wrong for them."""
        ids = torch.arange(4, device=self.base.device)[None]
        logits = self.model(input_ids=ids, use_cache=False).logits
        states = self.decoder(input_ids=ids, use_cache=False).last_hidden_state
        plain = (states @ self.head.dense(states.dtype).T).float()
        off = (logits.float() - plain).abs().max() > 0.01 * plain.abs().max()
        # A cap is hard to see where the logits are small.
        if off or getattr(self.model.config, "final_logit_softcapping", None):
            raise ModelError(
                f"The model {self.base.source} changes its logits after the output head, which Rung cannot train yet."
            )
