"""Let the candidates of a pack, or the untuned model, generate text after prompts, greedily."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch

from rung.data.batches import by_length, left_padded
from rung.data.example import Example
from rung.data.model_limits import max_new_tokens
from rung.engine.pack import Pack
from rung.engine.process_memory import is_out_of_memory
from rung.engine.trainer import Trainer
from rung.errors import TrainingError

GENERATION_BATCH_SIZE = 200
"""The most rows of a batch, counted over all candidates."""


@torch.no_grad()
def generate(
    trainer: Trainer,
    examples: Sequence[Example],
    pack: Pack | None = None,
    ends: Sequence[int] = (),
    batch_size: int = GENERATION_BATCH_SIZE,
) -> list[list[str]]:
    """The text that each candidate of the pack, or the untuned model, generates after each prompt.

    All candidates generate in one batch with one cache of keys and values. Each text may have a
    quarter more tokens than the longest completion, as far as the model's positions allow.

    Args:
        ends: the tokens that end a text; by default the tokenizer's end token.
        batch_size: the most rows of a batch, counted over all candidates. Where memory is short,
            there are fewer.

    Returns:
        For each candidate, the text of each example.

    Raises:
        TrainingError: memory ran out with one row of each candidate.
    """
    limit, width = max_new_tokens(examples), len(pack) if pack else 1
    lengths = [len(example.prompt_ids) for example in examples]
    limits = [limit] * len(examples)
    if trainer.positions:
        limits = [min(limit, trainer.positions - length) for length in lengths]
    texts = [[""] * len(examples) for _ in range(width)]
    trainer.attention_kinds.set_on(trainer.decoder, row_tokens=1)
    whole_pass = pack.running_pass() if pack else contextlib.nullcontext()
    dense = trainer.frozen.dense_if_it_fits(trainer.base.dtype, trainer.free_memory())
    with whole_pass, dense:
        rows_at_once = min(batch_size, max_generation_rows(trainer, max(lengths) + limit))
        waiting = by_length(lengths, max(1, rows_at_once // width), limits)
        while waiting:
            rows = waiting.pop(0)
            tokens = limits[rows[0]]
            if tokens < 1:
                continue
            prompts = [examples[row].prompt_ids for row in rows]
            generated = _try_batch(trainer, prompts, width, tokens, ends)
            if generated is None:
                if trainer.frozen.release_dense():
                    waiting.insert(0, rows)
                    continue
                if len(rows) == 1:
                    raise TrainingError(
                        f"Memory ran out with one text of {limit} tokens for each of {width}; give "
                        "shorter rows with --max-tokens, or a smaller model."
                    )
                half = len(rows) // 2
                waiting[:0] = [rows[:half], rows[half:]]
                continue
            for place, text in enumerate(generated):
                texts[place // len(rows)][rows[place % len(rows)]] = text
    return texts


def max_generation_rows(trainer: Trainer, tokens: int) -> int:
    """How many rows of so many tokens fit into half of the free memory; at least one.

    A row needs its keys and values, and its logits.
    """
    config = trainer.model.config.get_text_config()
    # A model without attention is counted as if it had one head.
    heads = getattr(config, "num_attention_heads", None) or 1
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    cached = 2 * config.num_hidden_layers * key_heads * head_size
    # The cache grows by being copied, one layer at a time. Logits exist in the dtype and in
    # float32.
    logits = 3 * 4 * trainer.head.layer.out_features
    row_bytes = cached * tokens * trainer.base.dtype.itemsize + logits
    return max(1, int(trainer.free_memory() / 2 / row_bytes))


def _try_batch(
    trainer: Trainer, prompts: Sequence[Sequence[int]], width: int, limit: int, ends: Sequence[int]
) -> list[str] | None:
    """The texts of one batch, or None where memory ran out."""
    try:
        return _generate_batch(trainer, prompts, width, limit, ends)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return None


def _generate_batch(
    trainer: Trainer, prompts: Sequence[Sequence[int]], width: int, limit: int, ends: Sequence[int]
) -> list[str]:
    """The texts of all candidates after some prompts, one candidate after another."""
    tokenizer, (ids, mask) = trainer.base.tokenizer, left_padded(prompts)
    output = trainer.model.generate(
        ids.repeat(width, 1).to(trainer.base.device),
        attention_mask=mask.repeat(width, 1).to(trainer.base.device),
        max_new_tokens=limit,
        do_sample=False,
        pad_token_id=tokenizer.eos_token_id,
        eos_token_id=list(ends) or tokenizer.eos_token_id,
    )
    # Cleaning up would remove spaces before punctuation that the model has generated.
    texts: list[str] = tokenizer.batch_decode(
        output[:, ids.shape[1] :], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return texts
