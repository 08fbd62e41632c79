"""Which servers load an adapter, and what they need for it."""

from __future__ import annotations

import pytest

from rung.model.serving import server_support
from rung.types import Setting

PLAIN = Setting(16, 32, "attention", 1e-3)


@pytest.mark.parametrize(
    ("setting", "model_type", "on_head", "tied", "server", "accepts", "message"),
    [
        (PLAIN, "llama", False, False, "vLLM", True, "loads it as it is."),
        (Setting(17, 34, "mlp", 1e-3), "llama", False, False, "vLLM", True, "--max-lora-rank 32"),
        (Setting(513, 16, "mlp", 1e-3), "llama", False, False, "vLLM", False, "rank over 512"),
        (PLAIN, "llama", True, False, "vLLM", True, "merge the adapter"),
        (PLAIN, "llama", True, False, "llama.cpp", True, "if that supports LlamaForCausalLM"),
        (PLAIN, "llama", True, True, "llama.cpp", False, "merge an adapter that is on lm_head"),
        (PLAIN, "llama", False, False, "Ollama", True, "ADAPTER <folder> in a Modelfile"),
        (PLAIN, "qwen2", False, False, "Ollama", True, "converts no qwen2 adapter by itself"),
        (Setting(16, 24.5, "mlp", 1e-3), "llama", False, False, "Ollama", False, "whole numbers"),
    ],
)
def test_what_a_server_does_with_an_adapter(
    setting: Setting,
    model_type: str,
    on_head: bool,
    tied: bool,
    server: str,
    accepts: bool,
    message: str,
) -> None:
    servers = server_support(setting, model_type, "LlamaForCausalLM", on_head, tied)
    assert [support.server for support in servers] == ["vLLM", "llama.cpp", "Ollama"]
    (support,) = (support for support in servers if support.server == server)
    assert support.accepts == accepts
    assert message in support.message


def test_rslora_is_written_as_the_alpha_with_the_same_scale() -> None:
    setting = Setting(16, 16, "attention", 1e-3, use_rslora=True)
    _, llama_cpp, ollama = server_support(setting, "llama", "LlamaForCausalLM", False, False)
    for support in (llama_cpp, ollama):
        assert not support.accepts
        assert "write lora_alpha 64 into adapter_config.json" in support.message
    assert 64 / setting.rank == setting.scale
