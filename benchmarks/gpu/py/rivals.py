"""The rivals of a pack, on the same base: PEFT in a bare loop, and TRL's SFTTrainer."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import common
import torch
from common import LEARNING_RATE, MODULES, spread, timed


def time_peft(
    base: Any, device: torch.device, targets: str, batch: int, length: int
) -> dict[str, Any]:
    """PEFT in a bare loop, with logits at completion tokens only."""
    import peft

    from rung.data.batches import collate

    rows = itertools.cycle(_rows(base, length, batch, seed) for seed in range(4))
    with _restored(base):
        model = peft.get_peft_model(base.model, _lora(targets)).train()
        inner = model.get_base_model()
        optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE, fused=True
        )

        def step() -> None:
            made = collate(next(rows), device)
            with torch.autocast(device.type, torch.bfloat16):
                states = inner.model(input_ids=made.ids, use_cache=False).last_hidden_state
                logits = inner.lm_head(states.flatten(0, 1)[made.positions])
            torch.nn.functional.cross_entropy(logits.float(), made.labels).backward()
            optimizer.step()
            optimizer.zero_grad()

        try:
            return spread("step", timed(step, device), 6)
        finally:
            model.unload()


def time_trl(
    base: Any, device: torch.device, targets: str, batch: int, length: int
) -> dict[str, Any]:
    """TRL's SFTTrainer as it is, but without gradient checkpointing (its default, and slower)."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    warm_up, segments = 4, 3
    max_steps = warm_up + 20 * segments
    rows = _rows(base, length, batch * max_steps)
    data = Dataset.from_dict(
        {
            "input_ids": [list(row.ids) for row in rows],
            "labels": common.labels_of(rows),
        }
    )
    seconds: list[float] = []

    class Timer(TrainerCallback):
        """Times segments of as many steps as fit in 0.4 s; stops after the last."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            step = state.global_step
            if step < warm_up - 1:
                return
            if step <= warm_up or (step - warm_up) % self.count == 0:
                common.wait(device)
                now = time.perf_counter()
                if step == warm_up:
                    self.count = max(1, min(20, int(0.4 / (now - self.started))))
                elif step > warm_up:
                    seconds.append((now - self.started) / self.count)
                self.started = now
                control.should_training_stop = len(seconds) == segments

    config = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        max_steps=max_steps,
        per_device_train_batch_size=batch,
        learning_rate=LEARNING_RATE,
        bf16=True,
        use_cpu=device.type != "cuda",
        gradient_checkpointing=False,
        max_length=None,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    with _restored(base), contextlib.redirect_stdout(None):
        trainer = SFTTrainer(
            model=base.model,
            args=config,
            train_dataset=data,
            processing_class=base.tokenizer,
            peft_config=_lora(targets),
            callbacks=[Timer()],
        )
        model = trainer.model
        try:
            trainer.train()
        finally:
            model.unload()
    adapters = trainer.optimizer.param_groups[0]["params"]
    dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in adapters})
    return {**spread("step", seconds, 6), "note": f"adapters in {','.join(dtypes)}"}


def _rows(base: Any, length: int, count: int, seed: int = 0) -> list[Any]:
    return common.rows_of(length, count, base.model.config.vocab_size, seed)


def _lora(targets: str) -> Any:
    from rung.engine.checkpoint import peft_config

    config = peft_config(common.candidates_of(1, targets)[0].setting, MODULES[targets])
    config.inference_mode = False
    return config


@contextlib.contextmanager
def _restored(base: Any) -> Iterator[None]:
    """Keep bitsandbytes from repacking the weights; afterwards the base is as it was.

    On some CPUs bitsandbytes repacks weights, and trains wrongly from then on; see
    rung.engine.lora.
    """
    import bitsandbytes

    model = base.model
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
    try:
        yield
    finally:
        if hasattr(model, "peft_config"):
            del model.peft_config
        model.requires_grad_(False)
        model.eval()
        assert not [name for name, _ in model.named_modules() if "lora" in name]
