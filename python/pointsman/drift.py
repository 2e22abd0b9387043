"""What a memory does in a host against what it did in our runtime, on the same tokens: the children of `pointsman verify --host` share
this. Imports no host.

    python -m pointsman.HOST.verify --work DIR --model DIR --memory MEM [--dtype bfloat16]     reads the text in a host, and compares
    python -m pointsman.drift --work DIR --memory MEM                                          compares what a host has left in DIR

DIR holds what the runtime wrote: work.json (windows of token ids, layers, k, experts) and for each layer arrays over all tokens,
neighbours [T, k] int64, written [T] uint8, before and after [T, E] float32. A host that is not
Python (hosts/llamacpp/pointsman_llama_verify.cc) adds host.json and host_hidden [T, H], host_before and host_after [T, E] of each layer.
A child prints one JSON document, `host` of schemas/verify.schema.json without what the runtime knows."""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from dataclasses import dataclass, field
from typing import Any, Optional, Sequence

import numpy as np

from .memory import Memory

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

    def _read(self, layer: int, name: str, kind: Any = np.float32) -> np.ndarray:
        return np.fromfile(self._folder / f"layer_{layer}.{name}", kind)

    def _ours(self, layer: int, k: int) -> dict[str, np.ndarray]:
        ours = {"neighbours": self._read(layer, "neighbours", np.int64).reshape(-1, k), "written": self._read(layer, "written", np.uint8)}
        return ours | {name: self._read(layer, name).reshape(-1, self._experts) for name in ("before", "after")}

    def left_by_the_host(self) -> tuple[Seen, dict[str, str]]:
        """What a host that is not Python has seen, and its name, version and dtype."""
        told = json.loads((self._folder / "host.json").read_text())
        seen = Seen(told.pop("frozen"), told.pop("memory"), told.pop("silent_is_identical"))
        for layer in (described["layer"] for described in self._layers):
            logits = {name: self._read(layer, "host_" + name).reshape(-1, self._experts) for name in ("before", "after")}
            seen.keep(layer, hidden=self._read(layer, "host_hidden").reshape(len(logits["before"]), -1), **logits)
        return seen, told

    def answer(self, memory: Memory, seen: Seen, host: str, version: str, dtype: str) -> dict[str, Any]:
        """`memory` is searched with the host's router inputs."""
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


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="pointsman.drift", description="a child of pointsman verify --host: compares what a host left")
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--memory", required=True)
    options = parser.parse_args(arguments)
    work = Work(options.work)
    seen, told = work.left_by_the_host()
    json.dump(work.answer(Memory.open(options.memory, allow_rejected=True), seen, **told), sys.stdout)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
