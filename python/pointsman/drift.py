"""What a memory does in a host against what it did in our runtime, on the same tokens: the children of `pointsman verify --host` share
this. Imports no host.

    python -m pointsman.HOST.verify --work DIR --model DIR --memory MEM [--dtype bfloat16]

DIR holds what the runtime wrote: work.json (windows of token ids, layers, k, experts) and for each layer arrays over all tokens,
neighbours [T, k] int64, written [T] uint8, before and after [T, E] float32. A child prints one JSON document, `host` of
schemas/verify.schema.json without what the runtime knows."""

from __future__ import annotations

import argparse
import json
import pathlib
from dataclasses import dataclass, field
from typing import Any, Optional, Sequence

import numpy as np

Window = dict[str, list[int]]  # inputs, and the targets that follow them: -100 is not counted


def options_of(host: str, arguments: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"pointsman.{host}.verify", description=f"a child of pointsman verify --host {host}")
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--memory", required=True)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    return parser.parse_args(arguments)


@dataclass
class Seen:
    """What the host did over all windows: summed nats, and what its routers were given and gave with the memory."""

    frozen: float = 0.0
    memory: float = 0.0
    silent_is_identical: bool = True
    rows: dict[int, dict[str, list[np.ndarray]]] = field(default_factory=dict)  # by layer, parts in the order of the text

    def keep(self, layer: int, **parts: np.ndarray) -> None:
        """hidden [T, H], before and after [T, E] of the next rows, float32 and nobody else's."""
        kept = self.rows.setdefault(layer, {"hidden": [], "before": [], "after": []})
        for name, part in parts.items():
            kept[name].append(part)

    def of(self, layer: int) -> dict[str, np.ndarray]:
        return {name: np.concatenate(parts) for name, parts in self.rows[layer].items()}


class Work:
    """What the runtime wrote."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        work = json.loads((folder / "work.json").read_text())
        self.windows: list[Window] = work["windows"]
        self._layers, self._experts, self._top_k = work["layers"], work["experts"], work["top_k"]

    def _ours(self, layer: int, k: int) -> dict[str, np.ndarray]:
        read = lambda name, kind: np.fromfile(self._folder / f"layer_{layer}.{name}", kind)
        ours = {"neighbours": read("neighbours", np.int64).reshape(-1, k), "written": read("written", np.uint8)}
        return ours | {name: read(name, np.float32).reshape(-1, self._experts) for name in ("before", "after")}

    def answer(self, memory: Any, seen: Seen, host: str, version: str, dtype: str) -> dict[str, Any]:
        """`memory`: a pointsman.Memory, which is searched with the host's router inputs."""
        layers = []
        for described in self._layers:
            layer, k = described["layer"], described["k"]
            theirs = seen.of(layer)
            _, found = memory.search(layer, theirs["hidden"], k)
            layers.append({"layer": layer} | compare(self._ours(layer, k), theirs, found.astype(np.int64), self._top_k))
        tokens = sum(target >= 0 for window in self.windows for target in window["targets"])
        return {"host": host, "version": version, "dtype": dtype, "layers": layers, "silent_is_identical": seen.silent_is_identical,
                "frozen_nll": seen.frozen / tokens, "gain": (seen.memory - seen.frozen) / tokens}


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
