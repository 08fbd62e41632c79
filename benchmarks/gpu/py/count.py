"""Without a GPU: the launches of a step, and the time that a device would need for them.

The engine takes its step on fake tensors of the real shapes (rung.costs.trace.OperationTracer
sees every operation), and so does PEFT in a bare loop. For each it counts the operations that
start a kernel, and their time at given ceilings: each operation is limited by arithmetic, by
memory, or by the least time that a kernel takes. Dequantising counts as its three kernels for
each use.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import bases
import common
import torch
from common import MODULES

from rung.costs import trace

FLOPS, BYTES, LEAST = 600e12, 2.5e12, 2.5e-6


class NamingTracer(trace.OperationTracer):
    """Remembers what the operations are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = len(self._operations)
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if len(self._operations) > before:
            self.names.append(func.name().removesuffix(".default"))
        return out

    def trace(self, work: Any) -> Any:
        self.names = []
        return super().trace(work)

    def most(self, operations: Any, count: int = 24) -> list[list[Any]]:
        """Each name's launches, and its milliseconds on the device."""
        found: dict[str, list[float]] = {}
        for name, operation in zip(self.names, operations, strict=True):
            own = found.setdefault(name, [0, 0.0])
            own[0] += 1
            own[1] += 1e3 * seconds([operation])
        return sorted(
            ([name, int(n), round(ms, 2)] for name, (n, ms) in found.items()),
            key=lambda row: -row[1],
        )[:count]


def seconds(operations: Any) -> float:
    return sum(max(f / FLOPS, b / BYTES, LEAST) for f, b in operations)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bases", default="135m,1b,8b")
    parser.add_argument("--cells", nargs="*", default=["1x4x64", "8x4x64", "8x4x512"])
    parser.add_argument("--targets", default="all-linear")
    parser.add_argument("--sides", default="pack,race,peft")
    parser.add_argument("--names", action="store_true", help="and what the operations are")
    options = parser.parse_args()
    trace.OperationTracer = NamingTracer
    from rung.costs.trace import blank_state, fake_trainer
    from rung.data.batches import collate
    from rung.engine.pack import Pack

    cells = [tuple(int(n) for n in cell.split("x")) for cell in options.cells]
    for name in options.bases.split(","):
        config = bases.config_of(name)
        for what in [side for side in ("pack", "race") if side in options.sides]:
            with fake_trainer(config, "nf4", "bf16") as (trainer, tracer):
                for count, batch, length in (
                    cells if what == "pack" else [c for c in cells if c[0] == 8]
                ):
                    candidates = (
                        common.candidates_of(count, options.targets)
                        if what == "pack"
                        else common.race_pack()
                    )
                    rows = collate(common.rows_of(length, batch, config.vocab_size))
                    with Pack(
                        trainer.frozen,
                        candidates,
                        [blank_state(trainer.frozen, c) for c in candidates],
                    ) as pack:
                        seen = tracer.trace(lambda: trainer.gradients(pack, rows))
                        names = tracer.most(seen.operations) if options.names else []
                        update = tracer.trace(
                            lambda: [group.update_compute_weights() for group in pack.groups]
                        )
                        groups, numbers = (
                            len(pack.groups),
                            sum(trainer.frozen.parameters(c.setting) for c in candidates),
                        )
                    # AdamW: norm, clip, update of each candidate; zeroing, scaling of each group.
                    optimizer = 3 * len(candidates) + 2 * groups
                    moved = numbers * (28 + 4 + 4 + 8 + 6)
                    dequantised = sum(1 for _ in trainer.frozen.layers) - 1
                    # The tracer counts the operations of a dequantisation; see rung.costs.trace.
                    ops = list(seen.operations)
                    print(
                        json.dumps(
                            {
                                "base": name,
                                "side": what,
                                "cell": f"{len(candidates)}x{batch}x{length}",
                                "groups": groups,
                                "launches_gradients": len(ops),
                                "launches_refresh": len(update.operations),
                                "launches_optimizer": optimizer,
                                "tflop": round(sum(f for f, _ in ops) / 1e12, 3),
                                "gb": round(sum(b for _, b in ops) / 1e9, 2),
                                "device_ms": round(1e3 * (seconds(ops) + moved / BYTES), 2),
                                "of_it_arithmetic_ms": round(
                                    1e3 * sum(f for f, _ in ops) / FLOPS, 2
                                ),
                                "peak_gb": round(seen.peak / 1e9, 2),
                                "frozen_layers": dequantised,
                                **({"names": names} if names else {}),
                            }
                        ),
                        flush=True,
                    )
        if "peft" in options.sides:
            _peft(name, config, cells, options.targets, options.names)


def _peft(name: str, config: Any, cells: Any, targets: str, names: bool) -> None:
    """PEFT on dense weights in the place of dequantised ones.

    The dequantising is added: 3 launches forwards and 3 backwards.
    """
    import peft
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AutoModelForCausalLM

    from rung.data.batches import collate
    from rung.engine.checkpoint import peft_config

    with FakeTensorMode(allow_non_fake_inputs=True), NamingTracer() as tracer:
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation="sdpa"
        )
        model.requires_grad_(False)
        lora = peft_config(common.candidates_of(1, targets)[0].setting, MODULES[targets])
        lora.inference_mode = False
        # PEFT moves its adapters to their layer's device. Fake parameters cannot be moved.
        plain = torch.nn.Module._apply
        torch.nn.Module._apply = lambda module, *_, **__: module
        try:
            model = peft.get_peft_model(model, lora).train()
        finally:
            torch.nn.Module._apply = plain
        inner = model.get_base_model()
        linear = [m for n, m in model.named_modules() if n.endswith("base_layer")]
        weights = sum(m.weight.numel() for m in linear)
        for _, batch, length in dict.fromkeys((1, b, t) for _, b, t in cells):
            rows = collate(common.rows_of(length, batch, config.vocab_size))

            def step() -> None:
                with torch.autocast("cpu", torch.bfloat16):
                    states = inner.model(input_ids=rows.ids, use_cache=False).last_hidden_state
                    logits = inner.lm_head(states.flatten(0, 1)[rows.positions])
                torch.nn.functional.cross_entropy(logits.float(), rows.labels).backward()

            seen = tracer.trace(step)
            ops = list(seen.operations)
            extra = 2 * weights * (0.5 + 2) / BYTES
            numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
            print(
                json.dumps(
                    {
                        "base": name,
                        "side": "peft",
                        "cell": f"1x{batch}x{length}",
                        "launches_gradients": len(ops) + 6 * len(linear),
                        "tflop": round(sum(f for f, _ in ops) / 1e12, 3),
                        "gb": round(sum(b for _, b in ops) / 1e9, 2),
                        "device_ms": round(1e3 * (seconds(ops) + extra + 32 * numbers / BYTES), 2),
                        "of_it_arithmetic_ms": round(1e3 * sum(f for f, _ in ops) / FLOPS, 2),
                        **({"names": tracer.most(ops)} if names else {}),
                    }
                ),
                flush=True,
            )
            for parameter in model.parameters():
                parameter.grad = None


if __name__ == "__main__":
    main()
