"""What the children of `pointsman bench hosts` share: their options, their clock, and a measurement as the report has it."""

import argparse
import statistics
import sys
import time
from typing import Any, Callable


def parser_of(doc: str, *, layers: int, memory: str) -> argparse.ArgumentParser:
    """OLMoE-1B-7B's shape unless told otherwise."""
    parser = argparse.ArgumentParser(description=doc.split("\n\n")[0])
    parser.add_argument("--memory", required=True, help=memory)
    parser.add_argument("--layers", type=int, default=layers)
    for name, value in (("hidden", 2048), ("inner", 1024), ("heads", 16), ("experts", 64), ("top-k", 8), ("vocabulary", 50304)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--batch", default="1,8,32")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each sequence")
    parser.add_argument("--rounds", type=int, default=7, help="pairs of passes; medians are compared")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    return parser


def clock_of(threads: int) -> Callable[[], float]:
    """The processor time where one thread computes: what an idle machine's wall time is, whatever others do (bench_clock.h)."""
    return time.process_time if threads == 1 else time.perf_counter


def run_of(host: str, phase: str, batch: int, prompt: int, plain: list[float], routed: list[float], routing: list[float]) -> dict[str, Any]:
    """Seconds of passes without and with the memory, and of the routing in the latter -> a run of bench_hosts.schema.json, by medians;
    told on stderr, too."""
    frozen, adapted = statistics.median(plain), statistics.median(routed)
    tokens = batch * (prompt if phase == "prefill" else 1)
    run = {"host": host, "phase": phase, "batch": batch, "prompt": prompt, "frozen_tokens_per_s": tokens / frozen,
           "memory_tokens_per_s": tokens / adapted, "overhead": adapted / frozen - 1, "routing": statistics.median(routing) / frozen}
    print(f"{host}: {phase} batch {batch}: {run['frozen_tokens_per_s']:.2f} tokens/s frozen, {run['overhead']:+.1%} time with the memory",
          file=sys.stderr, flush=True)
    return run
