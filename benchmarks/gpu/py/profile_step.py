"""Where the time of a step goes: on the CPU that issues it, and on the device, by kernel.

It is done for each base with a pack of 8x4x64 (rank 16 on all linear layers), with the twelve
candidates of a race, and with one candidate in a bare PEFT loop:

- *issued*: how long Python takes to hand out a piece of work without waiting; *waited*: how long
  the device still works after that. Almost no waiting means that the CPU is the bottleneck.
- Kernels, launches, copies and waits of a step, and the fraction of the time that the device is
  busy, by torch.profiler.
- `graph`: forward and backward captured in a CUDA graph and replayed: a step without launches.
"""

from __future__ import annotations

import collections
import statistics
import time
from pathlib import Path
from typing import Any

import bases
import common
import torch
from common import MODULES, Clock, Report, arguments, place, timed


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--bases", default="135m,1b,8b")
    parser.add_argument(
        "--table", type=Path, help="a file for the whole tables of kernels and operations"
    )
    parser.add_argument("--cell", default="8x4x64")
    parser.add_argument("--no-graph", action="store_true")
    options = parser.parse_args()
    device, report, clock = place(options), Report(options.out), Clock(options.seconds)
    count, batch, length = (4, 2, 16) if options.tiny else (int(n) for n in options.cell.split("x"))
    for name in options.bases.split(","):
        if not clock.left(10):
            break
        base = bases.random_base("tiny" if options.tiny else name, device)
        _peft(name, base, batch, length, device, report, options)
        from rung.engine.trainer import Trainer

        trainer = Trainer(base)
        packs = [("pack", common.candidates_of(count, "all-linear")), ("race", common.race_pack())]
        for what, candidates in packs:
            for dense in (False, True) if what == "pack" else (name == "135m",):
                if clock.left(8):
                    _pack(
                        name,
                        what,
                        trainer,
                        candidates,
                        batch,
                        length,
                        dense,
                        device,
                        report,
                        options,
                    )
        if not options.no_graph and device.type == "cuda" and clock.left(10):
            _graph(
                name,
                trainer,
                common.candidates_of(count, "all-linear"),
                batch,
                length,
                device,
                report,
            )
        del base, trainer
        common.clear(device)


def _pack(
    name: str,
    what: str,
    trainer: Any,
    candidates: list[Any],
    batch: int,
    length: int,
    dense: bool,
    device: torch.device,
    report: Report,
    options: Any,
) -> None:
    from rung.data.batches import collate
    from rung.engine.adapter_state import fresh_state
    from rung.engine.pack import Pack

    frozen = trainer.frozen
    frozen.hold_dense(trainer.base.dtype if dense else None)
    states = (
        [fresh_state(frozen, candidates[0], 0)] * len(candidates)
        if what == "pack"
        else [fresh_state(frozen, c, 0) for c in candidates]
    )
    rows = common.rows_of(length, batch, trainer.model.config.vocab_size)
    with Pack(frozen, candidates, states) as pack:

        def step() -> None:
            trainer.step(pack, collate(rows, device), 1.0)

        whole = statistics.median(timed(step, device))
        pieces: dict[str, list[float]] = collections.defaultdict(list)
        for _ in range(5):

            def piece(key: str, work: Any) -> Any:
                common.wait(device)
                begun = time.perf_counter()
                found = work()
                issued = time.perf_counter()
                common.wait(device)
                pieces[f"{key} issued"].append(issued - begun)
                pieces[f"{key} waited"].append(time.perf_counter() - issued)
                return found

            made = piece("collate", lambda: collate(rows, device))
            losses = piece("gradients", lambda made=made: trainer.gradients(pack, made))
            norms = piece("update", lambda: pack.update([1.0] * len(pack)))
            piece(
                "watch",
                lambda losses=losses, norms=norms: pack.check_divergence(
                    losses.tolist(), norms.tolist(), limit=1e9
                ),
            )
        shown = {key: round(1e3 * statistics.median(values), 2) for key, values in pieces.items()}
        label = f"{name} {what} {len(candidates)}x{batch}x{length} held={dense}"
        print(f"\n{label}: step {1e3 * whole:.1f} ms", flush=True)
        print("  " + ", ".join(f"{key} {value}" for key, value in shown.items()), flush=True)
        counted = _kernels(label, step, whole, device, options)
        report.add(
            part="profile",
            base=name,
            what=what,
            held=dense,
            step=whole,
            pieces_ms=shown,
            groups=len(pack.groups),
            **counted,
        )
    frozen.hold_dense(None)


def _peft(
    name: str,
    base: Any,
    batch: int,
    length: int,
    device: torch.device,
    report: Report,
    options: Any,
) -> None:
    import peft

    from rung.data.batches import collate
    from rung.engine.checkpoint import peft_config

    config = peft_config(common.candidates_of(1, "all-linear")[0].setting, MODULES["all-linear"])
    config.inference_mode = False
    model = peft.get_peft_model(base.model, config).train()
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-3, fused=True
    )
    rows, inner = (
        common.rows_of(length, batch, base.model.config.vocab_size),
        model.get_base_model(),
    )

    def forward() -> torch.Tensor:
        made = collate(rows, device)
        with torch.autocast(device.type, torch.bfloat16):
            states = inner.model(input_ids=made.ids, use_cache=False).last_hidden_state
            logits = inner.lm_head(states.flatten(0, 1)[made.positions])
        return torch.nn.functional.cross_entropy(logits.float(), made.labels)

    def step() -> None:
        forward().backward()
        optimizer.step()
        optimizer.zero_grad()

    whole = statistics.median(timed(step, device))
    begun = time.perf_counter()
    step()
    issued = time.perf_counter() - begun
    common.wait(device)
    label = f"{name} PEFT 1x{batch}x{length}"
    print(f"\n{label}: step {1e3 * whole:.1f} ms, issued in {1e3 * issued:.1f}", flush=True)
    counted = _kernels(label, step, whole, device, options)
    report.add(part="profile", base=name, what="peft", step=whole, issued=issued, **counted)
    model.unload()
    if hasattr(base.model, "peft_config"):
        del base.model.peft_config
    base.model.requires_grad_(False)
    base.model.eval()


def _kernels(
    label: str, step: Any, whole: float, device: torch.device, options: Any
) -> dict[str, Any]:
    """Kernels and operations of a step, from two profiled ones."""
    from torch.profiler import ProfilerActivity, profile

    steps, cuda = 2, device.type == "cuda"
    with profile(
        activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    ) as seen:
        for _ in range(steps):
            step()
        common.wait(device)
    calls: collections.Counter[str] = collections.Counter()
    kernels: dict[str, list[float]] = collections.defaultdict(lambda: [0, 0.0])
    for event in seen.events():
        if str(getattr(event, "device_type", "")).endswith("CUDA"):
            if getattr(event, "is_user_annotation", False) or event.name.startswith(
                ("Optimizer.", "ProfilerStep")
            ):
                continue  # a span that some code has named; it is not a kernel
            took = event.time_range.elapsed_us()
            kernels[event.name][0] += 1
            kernels[event.name][1] += took
        elif event.name.startswith("cuda"):
            calls[event.name] += 1
    busy = sum(took for _, took in kernels.values()) / steps / 1e6
    averages = seen.key_averages()
    ops = sum(a.count for a in averages if a.key.startswith("aten::")) / steps
    top = sorted(kernels.items(), key=lambda item: -item[1][1])[:12]
    launched = sum(count for count, _ in kernels.values()) / steps
    print(
        f"  device busy {1e3 * busy:.1f} ms of {1e3 * whole:.1f} ({busy / whole:.0%}); "
        f"{launched:.0f} kernels, {ops:.0f} aten calls; "
        + ", ".join(f"{key} {count / steps:.0f}" for key, count in calls.most_common(6)),
        flush=True,
    )
    for key, (count, took) in top[: 8 if cuda else 0]:
        print(f"    {took / steps / 1e3:8.2f} ms {count / steps:6.0f} x  {key[:100]}", flush=True)
    if options.table:
        with options.table.open("a", encoding="utf-8") as file:
            file.write(f"\n\n=== {label}\n")
            for order in (
                ("self_device_time_total", "self_cpu_time_total")
                if cuda
                else ("self_cpu_time_total",)
            ):
                try:
                    file.write(
                        averages.table(sort_by=order, row_limit=30, max_name_column_width=70) + "\n"
                    )
                except Exception as error:
                    file.write(f"{order}: {error}\n")
    return {
        "busy": busy,
        "kernels": launched,
        "aten_calls": ops,
        "calls": {key: count / steps for key, count in calls.items()},
        "top": [
            [key[:120], count / steps, round(took / steps / 1e3, 4)] for key, (count, took) in top
        ],
    }


def _graph(
    name: str,
    trainer: Any,
    candidates: list[Any],
    batch: int,
    length: int,
    device: torch.device,
    report: Report,
) -> None:
    """Capture and replay forward and backward of one shape, without the optimizer."""
    import transformers.models.llama.modeling_llama as llama

    from rung.data.batches import collate, side_by_side
    from rung.engine.adapter_state import fresh_state
    from rung.engine.pack import Pack
    from rung.engine.tiling import Tile

    plain = llama.create_causal_mask
    # While a graph is captured, transformers makes a mask, which is another kernel. Here nothing
    # is padded.
    llama.create_causal_mask = lambda *_, **__: None
    try:
        for dense in (False, True):
            trainer.frozen.hold_dense(trainer.base.dtype if dense else None)
            with Pack(
                trainer.frozen,
                candidates,
                [fresh_state(trainer.frozen, candidates[0], 0)] * len(candidates),
            ) as pack:
                made = collate(
                    common.rows_of(length, batch, trainer.model.config.vocab_size), device
                )
                rows = side_by_side([made] * len(pack))
                weights = rows.counted.double() / rows.counted.shape[1]

                def work() -> None:
                    pack.zero_gradients()
                    _, total = trainer.losses_of_tile(
                        rows, pack, Tile(0, len(pack), 0, batch), weights
                    )
                    total.backward()

                with pack.running_pass(training=True):
                    side = torch.cuda.Stream()
                    side.wait_stream(torch.cuda.current_stream())
                    with torch.cuda.stream(side):
                        for _ in range(3):
                            work()
                    torch.cuda.current_stream().wait_stream(side)
                    eager = statistics.median(timed(work, device))
                    wanted = [group.gradients.clone() for group in pack.groups]
                    graph = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(graph):
                        work()
                    replayed = statistics.median(timed(graph.replay, device))
                    off = max(
                        float((g.gradients - w).norm() / w.norm())
                        for g, w in zip(pack.groups, wanted)
                    )
            print(
                f"  graph, held={dense}: forward and backward {1e3 * eager:.1f} ms as issued, "
                f"{1e3 * replayed:.2f} ms replayed; gradients off by {off:.1e}",
                flush=True,
            )
            report.add(
                part="profile",
                base=name,
                what="graph",
                held=dense,
                eager=eager,
                replayed=replayed,
                off=off,
            )
            del graph
            common.clear(device)
    except Exception as error:
        print(f"  graph: {type(error).__name__}: {str(error).splitlines()[0][:200]}", flush=True)
        report.add(part="profile", base=name, what="graph", error=str(error)[:1000])
    finally:
        llama.create_causal_mask = plain
        trainer.frozen.hold_dense(None)


if __name__ == "__main__":
    main()
