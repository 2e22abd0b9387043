"""What a call costs beyond the C++ router: microseconds a route() call, by caller and by kind of array.

    PYTHONPATH=build/release/python .venv/bin/python tools/bench/python_core.py [--memory MEM]

`binding`: a layer without memory, where the router only sees whether the row is finite. With --memory also a layer that has one, so that the
share is seen. The best of 200 short rounds: what other processes take does not count. Add --json for one JSON document.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any, Callable

import numpy as np

import pointsman

ROUNDS, CALLS = 200, 200
ABSENT_LAYER = 4095


def microseconds(call: Callable[[], Any], calls: int = CALLS) -> float:
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        rounds.append((time.perf_counter() - start) / calls * 1e6)
    return min(rounds)


def arrays(rows: int, hidden: int, experts: int) -> dict[str, tuple[Any, Any]]:
    random = np.random.default_rng(0)
    made = {"numpy float32": (random.normal(size=(rows, hidden)).astype(np.float32),
                              random.normal(size=(rows, experts)).astype(np.float32))}
    try:
        import torch
    except ImportError:
        return made
    tensors = tuple(torch.from_numpy(array) for array in made["numpy float32"])
    made["torch float32"] = tensors
    made["torch bfloat16"] = tuple(tensor.bfloat16() for tensor in tensors)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", help="a memory directory, to route with it, too")
    parser.add_argument("--rows", type=int, default=1, help="tokens of a step (default: 1, decoding)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    memory = pointsman.Memory.open(options.memory, allow_rejected=True) if options.memory else None
    hidden, experts = (memory.hidden_size, memory.experts) if memory else (2048, 64)
    router = pointsman.Router()
    slot = router.add_slot(memory)
    slots, positions = np.full(options.rows, slot, np.uint32), np.arange(options.rows, dtype=np.uint32)
    tokens = np.zeros(options.rows, np.int32)
    runs = [{"call": "begin_step", "array": "numpy", "microseconds": microseconds(lambda: router.begin_step(slots, positions, tokens))}]
    step = router.begin_step(slots, positions, tokens)
    step.gate[:] = 1
    for name, (rows, logits) in arrays(options.rows, hidden, experts).items():
        runs.append({"call": "route, binding", "array": name,
                     "microseconds": microseconds(lambda: router.route(step, ABSENT_LAYER, rows, logits))})
        if memory:
            runs.append({"call": f"route, layer {memory.layers[0]}", "array": name,
                         "microseconds": microseconds(lambda: router.route(step, memory.layers[0], rows, logits), 20)})
    if options.json:
        print(json.dumps({"rows": options.rows, "hidden": hidden, "experts": experts, "runs": runs}))
        return
    print(f"{options.rows} rows, hidden size {hidden}, {experts} experts")
    for run in runs:
        print(f"{run['call']:<16} {run['array']:<15} {run['microseconds']:8.2f} us")


if __name__ == "__main__":
    main()
