"""The tokens and masks are those of TRL's SFTTrainer: its own preprocessing is run, and compared."""

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
    """The real one."""
    return load_tokenizer("smollm2-135m-instruct")


def byte_level() -> Any:
    """Byte pairs with a first token of its own and Llama 3's template: turns end with another token than texts."""
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
    """Unigram pieces as Gemma has them, with a first token, Gemma's template, and no token to pad with."""
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


def of_trl(
    tokenizer: Any, rows: list[dict[str, Any]], folder: Path, **options: Any
) -> list[tuple[list[int], list[int]]]:
    """The tokens of each row, and which of them TRL's trainer takes the loss over."""
    model = tiny_llama(layers=1)
    model.resize_token_embeddings(len(tokenizer))
    settings = trl.SFTConfig(
        str(folder), max_length=None, report_to=[], use_cpu=True, bf16=False, **options
    )
    trainer = trl.SFTTrainer(
        model, settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    prepared: Any = trainer.train_dataset
    return [(row["input_ids"], [int(label != -100) for label in row["labels"]]) for row in prepared]


def of_rung(
    tokenizer: Any, rows: list[dict[str, Any]], **options: Any
) -> list[tuple[list[int], list[int]]]:
    reader = RecordReader()
    found = RowTokenizer(tokenizer, **options).tokenize(
        [reader.row(row, f"row {i}") for i, row in enumerate(rows)]
    )
    assert all(isinstance(example, Example) for example in found)
    return [(list(example.ids), example.mask) for example in found if isinstance(example, Example)]


@pytest.mark.slow
@pytest.mark.parametrize("rows", [prompts_and_completions, chats, texts])
@pytest.mark.parametrize("make", TOKENIZERS)
def test_every_token_and_every_mask(
    make: Callable[[], Any], rows: Callable[[], list[dict[str, Any]]], tmp_path: Path
) -> None:
    tokenizer = make()
    assert of_rung(tokenizer, rows()) == of_trl(tokenizer, rows(), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("make", TOKENIZERS)
def test_conversations_learnt_whole(make: Callable[[], Any], tmp_path: Path) -> None:
    tokenizer = make()
    assert of_rung(tokenizer, messages(), learn="all") == of_trl(tokenizer, messages(), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("make", TOKENIZERS)
def test_of_conversations_the_assistants_turns(make: Callable[[], Any], tmp_path: Path) -> None:
    """TRL needs a template that marks them; the tokens are the same."""
    tokenizer = make()
    found = of_rung(tokenizer, messages())
    plain = str(tokenizer.chat_template)
    tokenizer.chat_template = marked(plain)
    assert tokenizer.chat_template != plain
    assert found == of_trl(tokenizer, messages(), tmp_path, assistant_only_loss=True)


def marked(template: str) -> str:
    """The template with TRL's marks around what the assistant says: its own of that name, or by hand."""
    for known in ("llama3", "gemma"):
        if template == (TEMPLATES / f"{known}.jinja").read_text():
            return (TEMPLATES / f"{known}_training.jinja").read_text()
    said = "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    assert said in template
    answer = "{{'<|im_start|>assistant\n'}}{% generation %}{{message['content'] + '<|im_end|>' + '\n'}}{% endgeneration %}"
    return template.replace(
        said,
        "{% if message['role'] == 'assistant' %}" + answer + "{% else %}" + said + "{% endif %}",
    )


@pytest.mark.slow
def test_what_is_too_long_is_cut_as_trl_cuts_it(tmp_path: Path) -> None:
    tokenizer = smollm()
    settings = {"max_length": 6}
    rows = prompts_and_completions()
    reader = RecordReader()
    found = RowTokenizer(tokenizer).tokenize([reader.row(row, "") for row in rows])
    cut = [example.truncate(6) for example in found if isinstance(example, Example)]
    model = tiny_llama(layers=1)
    model.resize_token_embeddings(len(tokenizer))
    args = trl.SFTConfig(str(tmp_path), report_to=[], use_cpu=True, bf16=False, **settings)
    trainer = trl.SFTTrainer(
        model, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    prepared: Any = trainer.train_dataset
    wanted = [
        (tuple(row["input_ids"]), [int(label != -100) for label in row["labels"]])
        for row in prepared
    ]
    assert [(example.ids, example.mask) for example in cut if any(example.mask)] == wanted


def test_the_tiny_tokenizer_of_the_other_tests_ends_its_rows() -> None:
    tokenizer = tiny_tokenizer()
    ((ids, mask),) = of_rung(tokenizer, [{"prompt": "ab", "completion": "cd"}])
    assert (ids[-1], mask) == (tokenizer.eos_token_id, [0, 0, 1, 1, 1])
