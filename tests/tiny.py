"""A tiny random Llama, its tokenizer of single characters, and rows that it can learn."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ALPHABET = ["<unk>", "<end>", *map(chr, range(32, 127)), "\n"]


def tiny_llama(seed: int = 0, layers: int = 2) -> LlamaForCausalLM:
    """A Llama with every kind of layer: hidden size 64, two heads with one key head, untied."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(ALPHABET),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        # With the usual 0.02 a model this small has gradients near AdamW's epsilon, where rounding
        # decides the sign of a step, and no two implementations agree.
        initializer_range=0.2,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=1,
    )
    return LlamaForCausalLM(config)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(
        models.WordLevel({c: i for i, c in enumerate(ALPHABET)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>", pad_token="<end>"
    )


def write_rows(path: Path) -> Path:
    """120 rows that two layers can learn: the completion is the prompt's letter, twice."""
    letters = [chr(97 + i % 5) for i in range(120)]
    rows = [
        {"prompt": f"{i}{i % 97} {letter}:", "completion": letter * 2}
        for i, letter in enumerate(letters)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path
