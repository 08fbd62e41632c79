"""The tokens and masks are those of TRL's SFTTrainer. Its own preprocessing is run and compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trl
from datasets import Dataset
from tests.tiny import tiny_llama, tiny_tokenizer
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from rung.data.example import Example
from rung.data.schema import RecordReader
from rung.data.tokenize import RowTokenizer
from rung.model.load import load_tokenizer

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
CORPUS = [
    "How far is the moon? About 384,400 km.",
    "Wie weit ist der Mond?",
    "달까지 얼마나 멀어요?",
    "print('🌙')\n",
] * 9


def smollm() -> Any:
    """The real tokenizer, with ChatML."""
    return load_tokenizer("smollm2-135m-instruct")


def byte_level() -> Any:
    """Byte pairs with a first token and Llama 3's template.

    Its turns end with another token than its texts.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=alphabet),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        additional_special_tokens=special[2:],
    )
    made.chat_template = (TEMPLATES / "llama3.jinja").read_text()
    return made


def pieces() -> Any:
    """Unigram pieces like Gemma's, with a first token, Gemma's template and no padding token."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Replace("▁", " ")
    special = ["<unk>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
    tokenizer.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=180, special_tokens=special, unk_token="<unk>")
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        additional_special_tokens=special[3:],
    )
    made.chat_template = (TEMPLATES / "gemma.jinja").read_text()
    return made


TOKENIZERS = [smollm, byte_level, pieces]
TEXTS = [
    "How far is the moon?",
    " spaces  and\ttabs ",
    "384,400 km",
    "달까지 얼마나 멀어요?",
    "🌙👩‍🚀",
    "line\nline\r\n",
    "a",
]


def prompts_and_completions() -> list[dict[str, Any]]:
    return [{"prompt": one, "completion": other} for one in TEXTS for other in TEXTS]


def chats() -> list[dict[str, Any]]:
    return [
        {"prompt": [user(one)], "completion": [assistant(other)]}
        for one, other in zip(TEXTS, reversed(TEXTS), strict=True)
    ]


def messages() -> list[dict[str, Any]]:
    short = [
        {"messages": [user(one), assistant(two)]}
        for one, two in zip(TEXTS, reversed(TEXTS), strict=True)
    ]
    return [*short, {"messages": [make(text) for text in TEXTS[:3] for make in (user, assistant)]}]


def texts() -> list[dict[str, Any]]:
    return [{"text": text} for text in TEXTS]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def by_trl(
    tokenizer: Any, rows: list[dict[str, Any]], folder: Path, **options: Any
) -> list[tuple[list[int], list[int]]]:
    """The tokens of each row, and which of them TRL's trainer takes the loss over."""
    model = tiny_llama(layers=1)
    model.resize_token_embeddings(len(tokenizer))
    options = {"max_length": None, **options}
    config = trl.SFTConfig(str(folder), report_to=[], use_cpu=True, bf16=False, **options)
    trainer = trl.SFTTrainer(
        model, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    prepared: Any = trainer.train_dataset
    return [(row["input_ids"], [int(label != -100) for label in row["labels"]]) for row in prepared]


def by_rung(
    tokenizer: Any, rows: list[dict[str, Any]], max_tokens: int | None = None, **options: Any
) -> list[tuple[list[int], list[int]]]:
    """The same, as Rung does it.

    A row of which nothing to train on is left in `max_tokens` is left out.
    """
    reader = RecordReader()
    examples = RowTokenizer(tokenizer, **options).tokenize(
        [reader.read(row, f"row {i}") for i, row in enumerate(rows)]
    )
    made = []
    for example in examples:
        assert isinstance(example, Example), example
        if max_tokens:
            example = example.truncate(max_tokens)
        if not max_tokens or any(example.mask):
            made.append((list(example.ids), example.mask))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("rows", [prompts_and_completions, chats, texts])
@pytest.mark.parametrize("make_tokenizer", TOKENIZERS)
def test_every_token_and_every_mask_is_trls(
    make_tokenizer: Callable[[], Any], rows: Callable[[], list[dict[str, Any]]], tmp_path: Path
) -> None:
    tokenizer = make_tokenizer()
    assert by_rung(tokenizer, rows()) == by_trl(tokenizer, rows(), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("make_tokenizer", TOKENIZERS)
def test_so_are_those_of_conversations_that_are_trained_on_whole(
    make_tokenizer: Callable[[], Any], tmp_path: Path
) -> None:
    tokenizer = make_tokenizer()
    of_rung = by_rung(tokenizer, messages(), learn="all")
    assert of_rung == by_trl(tokenizer, messages(), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("make_tokenizer", TOKENIZERS)
def test_so_are_those_of_the_assistants_turns(
    make_tokenizer: Callable[[], Any], tmp_path: Path
) -> None:
    """TRL needs a template that marks these turns. The tokens are the same."""
    tokenizer = make_tokenizer()
    of_rung = by_rung(tokenizer, messages())
    plain = str(tokenizer.chat_template)
    tokenizer.chat_template = marked(plain)
    assert tokenizer.chat_template != plain
    assert of_rung == by_trl(tokenizer, messages(), tmp_path, assistant_only_loss=True)


def marked(template: str) -> str:
    """The template with TRL's marks around what the assistant says.

    For some templates TRL has such a one; SmolLM2's is marked here.
    """
    for known in ("llama3", "gemma"):
        if template == (TEMPLATES / f"{known}.jinja").read_text():
            return (TEMPLATES / f"{known}_training.jinja").read_text()
    said = "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    assert said in template
    answer = (
        "{{'<|im_start|>assistant\n'}}{% generation %}"
        "{{message['content'] + '<|im_end|>' + '\n'}}{% endgeneration %}"
    )
    return template.replace(
        said,
        "{% if message['role'] == 'assistant' %}" + answer + "{% else %}" + said + "{% endif %}",
    )


@pytest.mark.slow
def test_rows_that_are_too_long_are_truncated_as_trl_does_it(tmp_path: Path) -> None:
    tokenizer, rows = smollm(), prompts_and_completions()
    truncated = by_rung(tokenizer, rows, max_tokens=6)
    assert truncated == by_trl(tokenizer, rows, tmp_path, max_length=6)
    assert max(len(ids) for ids, _ in truncated) == 6, "some rows are longer"


def test_the_tiny_tokenizer_of_the_other_tests_ends_its_rows_too() -> None:
    tokenizer = tiny_tokenizer()
    ((ids, mask),) = by_rung(tokenizer, [{"prompt": "ab", "completion": "cd"}])
    assert (ids[-1], mask) == (tokenizer.eos_token_id, [0, 0, 1, 1, 1])
