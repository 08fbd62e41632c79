"""One row as tokens: what the model trains on, is scored on, and is asked to go on from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from rung.data.remarks import Remark

Ids = tuple[int, ...]
Spans = tuple[tuple[int, int], ...]
"""Places of tokens, each as (first, last + 1)."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row as tokens.

    Attributes:
        ids: all tokens of the row.
        prompt_length: how many tokens come before the last answer.
        source: rows that share one are not independent, see `rung.data.schema.Row`.
        spans: the tokens that are trained on, if they are not just those from `prompt_length` on.
        separate_prompt: what the model generates after, if that is not `ids[:prompt_length]`. This
            happens where the prompt's last token merges with the completion.
        remarks: what the row says and these tokens do not. They are counted when the data are read,
            and not stored.
    """

    ids: Ids
    prompt_length: int
    source: str = ""
    spans: Spans = ()
    separate_prompt: Ids = ()
    remarks: tuple[Remark, ...] = field(default=(), compare=False)

    @property
    def learned_spans(self) -> Spans:
        """The places of the tokens that are trained on."""
        return self.spans or ((self.prompt_length, len(self.ids)),)

    @property
    def mask(self) -> list[int]:
        """1 for each token that is trained on, 0 for the others."""
        mask = [0] * len(self.ids)
        for first, end in self.learned_spans:
            mask[first:end] = [1] * (end - first)
        return mask

    @property
    def loss_tokens(self) -> int:
        """How many tokens the loss is taken over.

        They are those that are trained on, except the row's first token: nothing predicts it.
        """
        return sum(end - max(1, first) for first, end in self.learned_spans)

    @property
    def prompt_ids(self) -> Ids:
        """The tokens that the model generates after. Empty if there is no prompt."""
        return self.separate_prompt or self.ids[: self.prompt_length]

    def truncate(self, length: int) -> Example:
        """The first `length` tokens of the example."""
        spans = tuple(
            (first, min(end, length)) for first, end in self.learned_spans if first < length
        )
        # An empty span says that nothing is trained on; no spans at all would mean the default.
        shorter = replace(self, ids=self.ids[:length], spans=spans or ((length, length),))
        if self.prompt_length < length:
            return shorter
        # Without its last answer there is nothing to generate.
        return replace(shorter, prompt_length=0, separate_prompt=())
