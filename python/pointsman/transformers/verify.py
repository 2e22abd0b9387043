"""What a memory does in transformers against what it did in our runtime, on the same tokens: a child of `pointsman verify --host`.

    python -m pointsman.transformers.verify --work DIR --model DIR --memory MEM [--dtype bfloat16]

DIR holds what the runtime wrote: work.json (windows of token ids, layers, k, experts) and for each layer arrays over all tokens,
neighbours [T, k] int64, written [T] uint8, before and after [T, E] float32. Prints one JSON document, `host` of
schemas/verify.schema.json."""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from typing import Any, Sequence

import numpy as np
import torch
import transformers

import pointsman

from . import Binding, attach


@torch.no_grad()
def losses(model: Any, window: dict[str, list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits [T, V], summed nats) of one window."""
    logits = model(input_ids=torch.tensor([window["inputs"]]), use_cache=False).logits[0]
    wanted = torch.tensor(window["targets"])
    return logits, torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="none").double().sum()  # -100: not counted


def record(model: Any, memory: Any, windows: Sequence[dict[str, list[int]]]) -> tuple[dict[int, dict[str, np.ndarray]], dict[str, Any]]:
    """By layer: hidden, before, after of all rows; and what the text cost, frozen, silent and with the memory."""
    rows: dict[int, dict[str, list[np.ndarray]]] = {}
    totals, bits = {"frozen": 0.0, "memory": 0.0}, True
    for window in windows:
        frozen, loss = losses(model, window)
        totals["frozen"] += float(loss)
        with attach(model, memory) as adapted:
            with adapted.bind(Binding(memory, shadow=True)):
                silent, _ = losses(model, window)
            bits = bits and torch.equal(frozen, silent)
            route = adapted.engine.route

            def recorded(step: Any, layer: int, hidden: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
                new = route(step, layer, hidden, logits)
                kept = rows.setdefault(layer, {"hidden": [], "before": [], "after": []})
                for name, value in (("hidden", hidden), ("before", logits), ("after", new)):
                    kept[name].append(value.float().numpy().copy())
                return new

            adapted.engine.route = recorded  # type: ignore[method-assign]
            totals["memory"] += float(losses(model, window)[1])
    return ({layer: {name: np.concatenate(parts) for name, parts in kept.items()} for layer, kept in rows.items()},
            totals | {"silent_is_identical": bits})


def experts(logits: np.ndarray, top_k: int) -> np.ndarray:
    return np.sort(np.argsort(-logits, axis=1, kind="stable")[:, :top_k], axis=1)


def compare(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], found: np.ndarray, top_k: int) -> dict[str, float]:
    """Shares of rows; `found` [T, k]: the neighbours of the host's router inputs."""
    searched = ours["neighbours"][:, 0] >= 0
    mine, other = ours["neighbours"][searched], found[searched]
    kept = np.array([np.isin(a, b).mean() for a, b in zip(mine, other)]) if searched.any() else np.ones(1)
    written = (theirs["before"] != theirs["after"]).any(1)
    difference = np.abs(ours["before"] - theirs["before"]).max(1)
    return {
        "rows": len(searched), "searched": float(searched.mean()),
        "nearest_changed": float((mine[:, 0] != other[:, 0]).mean()) if searched.any() else 0.0,
        "neighbours_changed": float(1 - kept.mean()),
        "fallback_changed": float((written != ours["written"].astype(bool)).mean()),
        "experts_changed": float((experts(ours["after"], top_k) != experts(theirs["after"], top_k)).any(1).mean()),
        "logits_median": float(np.median(difference)), "logits_max": float(difference.max())}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="pointsman.transformers.verify", description=__doc__.split("\n\n")[0])
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--memory", required=True)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    options = parser.parse_args(arguments)

    work = json.loads((options.work / "work.json").read_text())
    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype)).eval()
    memory = pointsman.Memory.open(options.memory, allow_rejected=True)
    rows, totals = record(model, memory, work["windows"])
    layers = []
    for described in work["layers"]:
        layer, k = described["layer"], described["k"]
        read = lambda name, kind: np.fromfile(options.work / f"layer_{layer}.{name}", kind)
        ours = {"neighbours": read("neighbours", np.int64).reshape(-1, k), "written": read("written", np.uint8)}
        ours |= {name: read(name, np.float32).reshape(-1, work["experts"]) for name in ("before", "after")}
        _, found = memory.search(layer, rows[layer]["hidden"], k)
        layers.append({"layer": layer} | compare(ours, rows[layer], found.astype(np.int64), work["top_k"]))
    tokens = sum(target >= 0 for window in work["windows"] for target in window["targets"])
    json.dump({"host": "transformers", "version": transformers.__version__, "dtype": options.dtype, "layers": layers,
               "silent_is_identical": totals["silent_is_identical"], "frozen_nll": totals["frozen"] / tokens,
               "gain": (totals["memory"] - totals["frozen"]) / tokens}, sys.stdout)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
