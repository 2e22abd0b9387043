"""What a memory does in transformers: a child of `pointsman verify --host transformers` (pointsman/drift.py has its contract)."""

from __future__ import annotations

import json
import sys
from typing import Any, Optional, Sequence

import torch
import transformers

import pointsman

from .. import drift
from . import Binding, attach


@torch.no_grad()
def losses(model: Any, window: drift.Window) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits [T, V], summed nats) of one window."""
    logits = model(input_ids=torch.tensor([window["inputs"]]), use_cache=False).logits[0]
    wanted = torch.tensor(window["targets"])
    return logits, torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="none").double().sum()  # -100: not counted


def record(model: Any, memory: Any, windows: Sequence[drift.Window]) -> drift.Seen:
    seen = drift.Seen()
    for window in windows:
        frozen, loss = losses(model, window)
        seen.frozen += float(loss)
        with attach(model, memory) as adapted:
            with adapted.bind(Binding(memory, shadow=True)):
                silent, _ = losses(model, window)
            seen.silent_is_identical &= torch.equal(frozen, silent)
            route = adapted.engine.route

            def recorded(step: Any, layer: int, hidden: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
                new = route(step, layer, hidden, logits)
                seen.keep(layer, **{name: value.float().numpy().copy()
                                    for name, value in (("hidden", hidden), ("before", logits), ("after", new))})
                return new

            adapted.engine.route = recorded  # type: ignore[method-assign]
            seen.memory += float(losses(model, window)[1])
    return seen


def main(arguments: Optional[Sequence[str]] = None) -> int:
    options = drift.options_of("transformers", arguments)
    work = drift.Work(options.work)
    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype)).eval()
    memory = pointsman.Memory.open(options.memory, allow_rejected=True)
    seen = record(model, memory, work.windows)
    json.dump(work.answer(memory, seen, "transformers", transformers.__version__, options.dtype), sys.stdout)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
