"""The machine and its ceilings: versions, products, copies, launches, dequantising, attention."""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import common
import torch
from common import Clock, Report, arguments, gemm_rate, place, timed

PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "trl",
    "datasets",
    "optuna",
    "huggingface_hub",
    "tokenizers",
    "safetensors",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "psutil",
    "pydantic",
    "typer",
    "rich",
)


def main() -> None:
    options = arguments(__doc__).parse_args()
    device, report, clock = place(options), Report(options.out), Clock(options.seconds)
    cuda = device.type == "cuda"

    def say(what: str, value: Any) -> None:
        report.add(part="facts", what=what, value=value)
        print(f"{what}: {value}", flush=True)

    say("python", platform.python_version())
    say("versions", {name: _version(name) for name in PACKAGES})
    say(
        "processor",
        next(
            (
                line.partition(":")[2].strip()
                for line in open("/proc/cpuinfo")
                if line.startswith("model name")
            ),
            "?",
        ),
    )
    say("cores", torch.get_num_threads())
    if cuda:
        query = (
            "name,driver_version,memory.total,memory.used,clocks.sm,clocks.max.sm,clocks.mem,"
            "power.draw,power.limit,temperature.gpu,pcie.link.gen.current,pcie.link.width.current"
        )
        say(
            "nvidia-smi",
            subprocess.run(
                ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
                capture_output=True,
                text=True,
            ).stdout.strip(),
        )
        props = torch.cuda.get_device_properties(device)
        say(
            "device",
            [
                props.name,
                props.multi_processor_count,
                props.total_memory,
                props.major,
                props.minor,
                getattr(props, "L2_cache_size", None),
            ],
        )
        say("bf16 without emulation", torch.cuda.is_bf16_supported(including_emulation=False))
        import bitsandbytes.cextension as native

        say("bitsandbytes runs", [type(native.lib).__name__, str(native.lib._lib)])
    import tests

    say("tests", list(tests.__path__))
    say("python loop, ns a turn", _python_loop())
    for side in (8192, 4096, 2048, 1024) if cuda else (256,):
        say(f"bf16 product {side}, TFLOP/s", round(gemm_rate(device, side) / 1e12, 1))
    for rows, inner, outer in (
        ((2048, 4096, 14336), (256, 4096, 14336), (2048, 576, 1536), (2048, 2048, 8192))
        if cuda
        else ((16, 64, 64),)
    ):
        x, w = (
            torch.randn(rows, inner, device=device, dtype=torch.bfloat16),
            torch.randn(outer, inner, device=device, dtype=torch.bfloat16),
        )
        seconds = statistics.median(timed(lambda x=x, w=w: x @ w.T, device, segment_seconds=0.03))
        say(
            f"bf16 product {rows}x{inner}x{outer}, TFLOP/s",
            round(2 * rows * inner * outer / seconds / 1e12, 1),
        )
    size = (1 << 31) if cuda else (1 << 22)
    a, b = (
        torch.empty(size, dtype=torch.uint8, device=device).random_(),
        torch.empty(size, dtype=torch.uint8, device=device),
    )
    say(
        "copy on the device, GB/s read and written",
        round(
            2
            * size
            / statistics.median(timed(lambda: b.copy_(a), device, segment_seconds=0.05))
            / 1e9
        ),
    )
    del a, b
    small = torch.zeros(8, device=device)
    big = torch.zeros(64, 64, device=device, dtype=torch.bfloat16)
    say(
        "add_ of 8 numbers, us each, as issued",
        round(1e6 * _issued(lambda: small.add_(1), device), 2),
    )
    say(
        "product of 64x64, us each, as issued",
        round(1e6 * _issued(lambda: torch.mm(big, big), device), 2),
    )
    say(
        "an autograd function of two adds and its way back, us",
        round(1e6 * _issued(_function(device), device, 300), 2),
    )
    host = torch.arange(64)
    say(
        "to(device) of 64 numbers, us",
        round(1e6 * _issued(lambda: host.to(device), device, 300), 2),
    )
    say("tolist() of 8 numbers, us", round(1e6 * _issued(lambda: small.tolist(), device, 300), 2))
    if cuda:
        _dequantising(device, say)
        _attention(device, say)
        _fused(device, say)
    say("seconds", round(clock.gone, 1))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"


def _python_loop() -> float:
    begun = time.perf_counter()
    total = 0
    for i in range(2_000_000):
        total += i & 3
    return round((time.perf_counter() - begun) / 2_000_000 * 1e9, 1)


def _issued(work: Any, device: torch.device, count: int = 2000) -> float:
    for _ in range(20):
        work()
    common.wait(device)
    begun = time.perf_counter()
    for _ in range(count):
        work()
    common.wait(device)
    return (time.perf_counter() - begun) / count


class _Two(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x + 1

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad + 1


def _function(device: torch.device) -> Any:
    x = torch.zeros(8, device=device, requires_grad=True)

    def work() -> None:
        y = _Two.apply(x)
        torch.autograd.grad(y.sum(), x)

    return work


def _dequantising(device: torch.device, say: Any) -> None:
    """The rate at which bytes are read and written, and the error."""
    import bitsandbytes.functional as F

    for out, inner in ((576, 576), (1536, 576), (8192, 2048), (4096, 4096), (14336, 4096)):
        weight = torch.randn(out, inner, device=device, dtype=torch.bfloat16)
        packed, state = F.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        host = torch.randn(64, 64, dtype=torch.float32)
        seconds = statistics.median(
            timed(lambda p=packed, s=state: F.dequantize_4bit(p, s), device, segment_seconds=0.03)
        )
        moved = out * inner * (0.5 + 1 / 64 + 2)
        off = float(
            (F.dequantize_4bit(packed, state).float() - weight.float()).norm()
            / weight.float().norm()
        )
        say(
            f"dequantising {out}x{inner}",
            {
                "us": round(1e6 * seconds, 1),
                "GB/s": round(moved / seconds / 1e9),
                "error": round(off, 4),
            },
        )
    one, one_state = F.quantize_4bit(host.to(device), quant_type="nf4", compress_statistics=True)
    other, other_state = F.quantize_4bit(host, quant_type="nf4", compress_statistics=True)
    off = (F.dequantize_4bit(one, one_state).cpu() - F.dequantize_4bit(other, other_state)).abs()
    say(
        "NF4 of the GPU against the CPU's: codes that differ, greatest difference",
        [int((one.cpu() != other).sum()), float(off.max())],
    )


def _attention(device: torch.device, say: Any) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    for heads, groups, size, length in ((9, 3, 64, 64), (32, 8, 128, 512)):
        q = torch.randn(
            32, heads, length, size, device=device, dtype=torch.bfloat16, requires_grad=True
        )
        k, v = (
            torch.randn(
                32, groups, length, size, device=device, dtype=torch.bfloat16, requires_grad=True
            )
            for _ in range(2)
        )
        found = {}
        for name in ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH"):

            def work() -> None:
                y = torch.nn.functional.scaled_dot_product_attention(
                    q, k, v, is_causal=True, enable_gqa=True
                )
                torch.autograd.grad(y.sum(), (q, k, v))

            try:
                with sdpa_kernel(getattr(SDPBackend, name)):
                    found[name] = round(
                        1e6 * statistics.median(timed(work, device, segment_seconds=0.02))
                    )
            except RuntimeError as error:
                found[name] = str(error).splitlines()[0][:60]
        say(f"attention there and back, us, 32x{heads}/{groups}x{length}x{size}", found)


def _fused(device: torch.device, say: Any) -> None:
    """The cost of the optimizer and of scaling B: eight candidates of five million numbers."""
    rows = [torch.randn(5_000_000, device=device, requires_grad=True) for _ in range(8)]
    for row in rows:
        row.grad = torch.randn_like(row)
    tool = torch.optim.AdamW([{"params": [row]} for row in rows], lr=1e-3, fused=True)
    say(
        "AdamW, fused, 8 groups of 5 M, us",
        round(1e6 * statistics.median(timed(tool.step, device, segment_seconds=0.05))),
    )
    wide, narrow = (
        torch.randn(8, 5_000_000, device=device),
        torch.empty(8, 5_000_000, device=device, dtype=torch.bfloat16),
    )
    scale = torch.ones(8, 1, device=device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    seconds = statistics.median(
        timed(lambda: torch.mul(wide, scale, out=narrow), device, segment_seconds=0.02)
    )
    say(
        "mul into bf16 at once, 8x5 M",
        {
            "us": round(1e6 * seconds),
            "MB besides": round((torch.cuda.max_memory_allocated(device) - before) / 1e6),
        },
    )


if __name__ == "__main__":
    main()
