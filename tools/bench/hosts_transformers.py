"""Tokens per second of a transformers model with and without a memory, prefill and decode: a child of `pointsman bench hosts`.

    python tools/bench/hosts_transformers.py --memory DIR [--layers 16] [--batch 1,8,32] [--engine auto] [--threads N]

OLMoE-1B-7B's widths with random weights; the layers share one layer's expert and attention weights, so that the model fits a
small machine (their routers are their own). The memory may be any of that shape, `pointsman bench hosts` makes a random one
whose gate is always open; `--memory none` makes one in RAM for the torch engine. Passes with and without the memory take
turns, the medians of both are compared. Prints one JSON document: {"runs": [..]} as in schemas/bench_hosts.schema.json; of the
time that the memory adds, `routing` is what the engine took, as a share of a frozen pass.
"""

import argparse
import copy
import json
import sys
import time
from typing import Any, Callable

import numpy as np
import torch
import transformers
from hosts_runs import clock_of, parser_of, run_of

from pointsman.transformers import Adapted, Binding, attach


def shared_layers_model(shape: argparse.Namespace, dtype: torch.dtype) -> Any:
    config = transformers.OlmoeConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.inner, num_hidden_layers=1,
        num_attention_heads=shape.heads, num_key_value_heads=shape.heads, num_experts=shape.experts, num_experts_per_tok=shape.top_k, max_position_embeddings=4096, tie_word_embeddings=True, eos_token_id=None, pad_token_id=1)
    with torch.device("meta"):
        model = transformers.OlmoeForCausalLM(config)
    model = model.to(dtype).to_empty(device="cpu")
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    model.tie_weights()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(1) if weight.dim() == 1 else weight.uniform_(-1, 1, generator=generator).mul_((3 / weight.shape[-1]) ** 0.5)
    first = model.model.layers[0]
    for index in range(1, shape.layers):
        layer = copy.deepcopy(first, {id(weight): weight for weight in first.parameters()})
        layer.self_attn.layer_idx = index
        layer.mlp.gate.weight = torch.nn.Parameter(torch.randn(shape.experts, shape.hidden, generator=generator).mul_(shape.hidden**-0.5).to(dtype))
        model.model.layers.append(layer)
    config.num_hidden_layers = shape.layers
    return model.eval()


class RandomMemory:
    """Entries in RAM, always open, for the torch engine."""

    def __init__(self, layers: int, entries: int) -> None:
        random = np.random.default_rng(1)
        self.layers, self.hidden_size, self.experts, self.top_k, self.value_kind = list(range(layers)), 2048, 64, 0, "delta"
        self.manifest, self.gate = {"value_kind": "delta"}, {"enabled": False}
        codes = random.integers(-127, 128, (entries, 64), dtype=np.int8)
        self._tables = {
            "mean": random.uniform(-0.1, 0.1, 2048).astype(np.float32), "projection": random.uniform(-1, 1, (64, 2048)).astype(np.float32),
            "codes": codes, "code_scales": (1 / np.linalg.norm(codes.astype(np.float32), axis=1)).astype(np.float32),
            "values": random.integers(-127, 128, (entries, 64), dtype=np.int8), "value_scales": np.full(entries, 0.01, np.float32),
            "k": 32, "tau": 0.5, "tau2": 0.5, "scale": 1.0, "confidence": "mean_similarity"}

    def tables(self, layer: int) -> dict[str, Any]:
        return self._tables


now = time.perf_counter  # main() chooses


class Clock:
    """Adds up the time that an engine routes."""

    def __init__(self, adapted: Adapted) -> None:
        self.seconds, self._route = 0.0, adapted.engine.route
        adapted.engine.route = self.route  # type: ignore[method-assign]

    def route(self, *arguments: Any) -> Any:
        begin = now()
        try:
            return self._route(*arguments)
        finally:
            self.seconds += now() - begin


def timed(work: Callable[[], Any]) -> float:
    begin = now()
    work()
    return now() - begin


@torch.no_grad()
def measure(model: Any, memory: Any, engine: str, batch: int, prompt: int, rounds: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(batch)
    ids = torch.randint(2, model.config.vocab_size, (batch, prompt), generator=generator)
    seconds: dict[tuple[str, bool], list[float]] = {(phase, on): [] for phase in ("prefill", "decode") for on in (False, True)}
    routing: dict[str, list[float]] = {"prefill": [], "decode": []}
    binding = dict(check_fingerprint=False, engine=engine)
    caches = {}
    for on in (False, True):  # a cache of each kind of text so far, and the first pass of everything
        with attach(model, memory, **binding) as adapted, adapted.bind(Binding(memory) if on else None):
            caches[on] = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
    for round_ in range(rounds):
        # The same for both: how many experts a batch reads depends on its tokens.
        token = torch.randint(2, model.config.vocab_size, (batch, 1), generator=generator)
        for on in ((False, True) if round_ % 2 == 0 else (True, False)):
            adapted = attach(model, memory, **binding) if on else None
            clock = Clock(adapted) if adapted else None
            for phase, work in (("decode", lambda: model(input_ids=token, past_key_values=caches[on], logits_to_keep=1)),
                                ("prefill", lambda: model(input_ids=ids, use_cache=True, logits_to_keep=1))):
                if phase == "decode":
                    work()  # untimed: what was attached anew makes its slots and its tables, and both sides follow a decode pass
                    caches[on].crop(-1)
                if clock:
                    clock.seconds = 0.0
                seconds[phase, on].append(timed(work))
                if clock:
                    routing[phase].append(clock.seconds)
            caches[on].crop(-1)
            if adapted:
                adapted.detach()
    return [run_of("transformers", phase, batch, prompt, seconds[phase, False], seconds[phase, True], routing[phase])
            for phase in ("decode", "prefill")]


def main() -> int:
    parser = parser_of(__doc__, layers=16, memory="a memory of OLMoE-1B-7B's shape, or none")
    parser.add_argument("--entries", type=int, default=100_000, help="a layer, with --memory none")
    parser.add_argument("--engine", default="auto", choices=("auto", "core", "torch"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    global now
    now = clock_of(options.threads)
    if options.memory == "none":
        memory: Any = RandomMemory(options.layers, options.entries)
    else:
        from pointsman import Memory

        memory = Memory.open(options.memory)
    model = shared_layers_model(options, getattr(torch, options.dtype))
    runs = []
    for batch in map(int, options.batch.split(",")):
        runs += measure(model, memory, options.engine, batch, options.prompt, options.rounds)
    tables = memory.tables(memory.layers[0])
    json.dump({"runs": runs, "layers": options.layers, "entries_per_layer": int(np.shape(tables["codes"])[0]), "threads": options.threads,
               "dtype": options.dtype, "engine": options.engine, "transformers": transformers.__version__}, sys.stdout)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
