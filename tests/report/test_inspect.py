"""What `rung inspect` shows, and what it teaches."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from tests.architectures import ARCHITECTURES
from tests.model.test_anatomy import EIGHT, THREE

from rung.commands.inspect import inspection
from rung.model.anatomy import Anatomy
from rung.report.explain import lessons
from rung.report.inspect import structure
from rung.types import Setting


def found(config: dict[str, Any], *levers: Any, **more: Any) -> dict[str, Any]:
    setting = Setting(*(levers or (32, 64, "attention")), 1e-3, **more)
    return inspection(Anatomy(config, "the-model"), setting)


def printed(document: dict[str, Any], explain: bool = False) -> str:
    console = Console(width=80, file=io.StringIO())
    console.print(structure(document, explain))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    "config", [EIGHT, THREE, *(make().to_dict() for make in ARCHITECTURES.values())]
)
def test_it_fits_80_columns(config: dict[str, Any]) -> None:
    text = printed(found(config), explain=True)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "…" not in text, "nothing is cut off"


def test_the_tree_is_folded_and_has_shapes_and_counts() -> None:
    text = printed(found(EIGHT))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "│ ├─ layers 32 ×" in lines
    assert "│ │ │ ├─ k_proj 4,096 → 1,024 134,217,728" in lines
    assert text.count("q_proj") == 4, "in the tree, the arithmetic and two groups"


def test_the_arithmetic_is_written_out() -> None:
    text = printed(found(EIGHT))
    assert "32 × (4096·32 + 32·1024)   5,242,880" in text
    assert "109.1 MB in float32, 54.5 MB in bfloat16" in text
    assert "scale 64 / 32 = 2" in text
    assert "scale 16 / √16 = 4" in printed(found(EIGHT, 16, 16, "mlp", use_rslora=True))


def test_what_cannot_be_adapted_or_quantised_is_said() -> None:
    assert "No adapter goes on them" in " ".join(
        found(ARCHITECTURES["mixtral"]().to_dict())["notes"]
    )
    assert "quantised by gptq already" in " ".join(
        found(EIGHT | {"quantization_config": {"quant_method": "gptq"}})["notes"]
    )
    tied = printed(found(THREE))
    assert "lm_head is tied" in tied
    assert [line.split()[-1] for line in tied.splitlines() if "└─ lm_head" in line] == ["tied"]


def test_full_names_are_folded_where_last_names_do_not_do() -> None:
    assert "mlp: transformer.h.*.mlp.c_fc, transformer.h.*.mlp.c_proj\n" in printed(
        found(ARCHITECTURES["gpt2"]().to_dict())
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
    one = next(one for one in found(config, *levers, **more)["servers"] if one["server"] == server)
    assert one["accepts"] == accepts
    assert says in one["message"]


def test_the_lessons_have_this_models_numbers_and_correct_what_people_get_wrong() -> None:
    taught = dict(lessons(found(EIGHT)))
    assert "27,262,976 numbers, 0.34 % of the model's" in taught["Rank"]
    assert "491 MB" in taught["Rank"]
    assert "saves 368 MB" in taught["A lower rank does not cure out-of-memory"]
    assert "64 / 32 = 2, and not by alpha" in taught["Alpha"]
    assert "attention 19 %, mlp 81 %" in taught["Target modules"]
    assert "4,540,600,320 where the model has 8,030,261,248" in taught["Counting in 4 bits"]
    assert "head of its own" not in taught["Target modules"]
    assert "head of its own" in dict(lessons(found(THREE)))["Target modules"]


def test_the_memory_of_a_rank_is_what_a_pack_takes() -> None:
    """18 bytes a number, as `rung.costs.memory_model.candidate_memory` has it for two-byte products."""
    import torch
    from tests.tiny import tiny_llama

    from rung.costs.memory_model import candidate_memory
    from rung.engine.frozen_model import freeze
    from rung.report.explain import STATE_BYTES

    frozen, setting = freeze(tiny_llama()), Setting(8, 16, "attention", 1e-3)
    own = candidate_memory(frozen, setting, torch.bfloat16)
    assert own.state == STATE_BYTES * frozen.parameters(setting)
