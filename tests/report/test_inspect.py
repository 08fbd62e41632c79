"""What `rung inspect` shows, and what it teaches."""

from __future__ import annotations

from typing import Any

import pytest
from tests.architectures import ARCHITECTURES
from tests.model.test_anatomy import EIGHT, THREE
from tests.report.render import printed, words

from rung.commands.inspect import Inspection, inspect_model
from rung.model.anatomy import Anatomy
from rung.report.explain import lessons
from rung.report.inspect import inspection_page
from rung.types import Setting


def inspected(config: dict[str, Any], *levers: Any, **more: Any) -> Inspection:
    setting = Setting(*(levers or (32, 64, "attention")), 1e-3, **more)
    return inspect_model(Anatomy(config, "the-model"), setting)


def page(inspection: Inspection, explain: bool = False) -> str:
    return printed(inspection_page(inspection, explain))


@pytest.mark.parametrize(
    "config", [EIGHT, THREE, *(make().to_dict() for make in ARCHITECTURES.values())]
)
def test_it_fits_80_columns(config: dict[str, Any]) -> None:
    text = page(inspected(config), explain=True)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text, "nothing is cut off"


def test_the_tree_is_folded_and_has_shapes_and_counts() -> None:
    text = page(inspected(EIGHT))
    lines = [words(line) for line in text.splitlines()]
    assert "│ ├─ layers 32 ×" in lines
    assert "│ │ │ ├─ k_proj 4,096 → 1,024 134,217,728" in lines
    assert text.count("q_proj") == 4, "in the tree, the arithmetic and two groups"


def test_the_arithmetic_is_written_out() -> None:
    text = page(inspected(EIGHT))
    assert "32 × (4096·32 + 32·1024)   5,242,880" in text
    assert "109.1 MB in float32, 54.5 MB in bfloat16" in text
    assert "scale 64 / 32 = 2" in text
    assert "scale 16 / √16 = 4" in page(inspected(EIGHT, 16, 16, "mlp", use_rslora=True))


def test_what_cannot_be_adapted_or_quantised_is_said() -> None:
    assert "No adapter goes on them" in " ".join(
        inspected(ARCHITECTURES["mixtral"]().to_dict()).notes
    )
    assert "already quantised by gptq" in " ".join(
        inspected(EIGHT | {"quantization_config": {"quant_method": "gptq"}}).notes
    )
    tied = page(inspected(THREE))
    assert "lm_head is tied" in tied
    assert [line.split()[-1] for line in tied.splitlines() if "└─ lm_head" in line] == ["tied"]


def test_full_names_are_folded_where_last_names_do_not_do() -> None:
    assert "mlp: transformer.h.*.mlp.c_fc, transformer.h.*.mlp.c_proj\n" in page(
        inspected(ARCHITECTURES["gpt2"]().to_dict())
    )


@pytest.mark.parametrize(
    ("config", "levers", "more", "server", "accepts", "says"),
    [
        (EIGHT, (16, 32, "attention"), {}, "vLLM", True, "as it is"),
        (EIGHT, (24, 48, "attention"), {}, "vLLM", True, "--max-lora-rank 32"),
        (EIGHT, (513, 16, "attention"), {}, "vLLM", False, "rank over 512"),
        (EIGHT, (16, 32, "attention"), {}, "Ollama", True, "ADAPTER"),
        (EIGHT, (16, 24.5, "attention"), {}, "Ollama", False, "whole numbers"),
        (EIGHT, (16, 16, "attention"), {"use_rslora": True}, "llama.cpp", False, "lora_alpha 64"),
        (EIGHT, (16, 32, "lm_head"), {}, "llama.cpp", True, "convert_lora_to_gguf.py"),
        (THREE, (16, 32, "lm_head"), {}, "llama.cpp", False, "merge"),
        (
            ARCHITECTURES["qwen2"]().to_dict(),
            (16, 32, "mlp"),
            {},
            "Ollama",
            True,
            "no qwen2 adapter by itself",
        ),
    ],
)
def test_what_a_server_accepts(
    config: dict[str, Any],
    levers: tuple[Any, ...],
    more: dict[str, Any],
    server: str,
    accepts: bool,
    says: str,
) -> None:
    servers = inspected(config, *levers, **more).servers
    support = next(one for one in servers if one.server == server)
    assert support.accepts == accepts
    assert says in support.message
    assert says.split()[0] in page(inspected(config, *levers, **more))


def test_the_lessons_have_this_models_numbers_and_correct_what_people_get_wrong() -> None:
    taught = dict(lessons(inspected(EIGHT)))
    assert "27,262,976 numbers, 0.34 % of the model's" in taught["Rank"]
    assert "491 MB" in taught["Rank"]
    assert "saves 368 MB" in taught["A lower rank does not cure out-of-memory"]
    assert "64 / 32 = 2, and not by alpha" in taught["Alpha"]
    assert "attention 19 %, mlp 81 %" in taught["Target modules"]
    assert "4,540,600,320 where the model has 8,030,261,248" in taught["Counting in 4 bits"]
    assert "head of its own" not in taught["Target modules"]
    assert "head of its own" in dict(lessons(inspected(THREE)))["Target modules"]


def test_the_lessons_are_printed_where_they_are_asked_for() -> None:
    assert "A lower rank does not cure out-of-memory" in page(inspected(EIGHT), explain=True)
    assert "A lower rank does not cure out-of-memory" not in page(inspected(EIGHT))


def test_the_memory_of_a_rank_is_what_a_pack_takes() -> None:
    """18 bytes a number, as `rung.costs.memory_model` has it for products in two bytes."""
    import torch
    from tests.tiny import tiny_llama

    from rung.costs.memory_model import candidate_memory
    from rung.engine.frozen_model import freeze
    from rung.report.explain import STATE_BYTES

    frozen, setting = freeze(tiny_llama()), Setting(8, 16, "attention", 1e-3)
    own = candidate_memory(frozen, setting, torch.bfloat16)
    assert own.state == STATE_BYTES * frozen.parameters(setting)
