"""Tokens per second of vLLM with and without a memory, prefill and decode: a child of `pointsman bench hosts`, run by vLLM's Python.

    .venv-vllm/bin/python tools/bench/hosts_vllm.py --memory DIR [--layers 2] [--batch 1,8,32] [--threads N]

OLMoE-1B-7B's widths with random weights, written as a checkpoint into a temporary directory. vLLM cannot share weights between
layers, so that it gets few of them. The plug-in is on, the CPU computes, eager, in this process; the prefix cache is off.
Requests with the memory and requests that decline it take turns, with the same new prompts: the engine's first step reads all of
them, each further one decodes a token of each. A step is timed whole, scheduler and sampler included; medians are compared.
Prints one JSON document: {"runs": [..], "vllm": {..}} as in schemas/bench_hosts.schema.json; of the time that the memory adds,
`routing` is what the plug-in's routers took, as a share of a frozen step.
"""

import argparse
import json
import os
import pathlib
import random
import resource
import sys
import tempfile
import time
from typing import Any

from hosts_runs import clock_of, parser_of, run_of

STEPS = 8  # decode steps of a turn
BLOCK = 32  # tokens of a block of the KV cache; the CPU takes no fewer
NAME = "bench"  # of the memory, to requests


def write_model(folder: pathlib.Path, shape: argparse.Namespace) -> None:
    """A checkpoint in bf16, half of what fp32 takes on the disk; one file a layer, so that one is in RAM at a time."""
    import torch
    from safetensors.torch import save_file

    config = {"architectures": ["OlmoeForCausalLM"], "model_type": "olmoe", "vocab_size": shape.vocabulary, "hidden_size": shape.hidden,
              "intermediate_size": shape.inner, "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
              "num_key_value_heads": shape.heads, "num_experts": shape.experts, "num_experts_per_tok": shape.top_k,
              "max_position_embeddings": max(4096, shape.prompt + STEPS + 1), "tie_word_embeddings": False, "norm_topk_prob": False,
              "hidden_act": "silu", "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 1,
              "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    width, inner, index = shape.hidden, shape.inner, {}

    def matrix(rows: int, columns: int) -> Any:
        return torch.empty(rows, columns).uniform_(-1, 1, generator=generator).mul_((3 / columns) ** 0.5).bfloat16()

    def save(name: str, tensors: dict[str, Any]) -> None:
        save_file(tensors, str(folder / name))
        index.update(dict.fromkeys(tensors, name))

    ones = lambda: torch.ones(width, dtype=torch.bfloat16)
    for layer in range(shape.layers):
        tensors = {f"{norm}.weight": ones() for norm in ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm")}
        tensors |= {f"self_attn.{name}_proj.weight": matrix(width, width) for name in "qkvo"}
        tensors["mlp.gate.weight"] = matrix(shape.experts, width)
        for expert in range(shape.experts):
            for name, rows, columns in (("gate", inner, width), ("up", inner, width), ("down", width, inner)):
                tensors[f"mlp.experts.{expert}.{name}_proj.weight"] = matrix(rows, columns)
        save(f"layer{layer}.safetensors", {f"model.layers.{layer}.{name}": tensor for name, tensor in tensors.items()})
    save("ends.safetensors", {"model.embed_tokens.weight": matrix(shape.vocabulary, width), "model.norm.weight": ones(),
                              "lm_head.weight": matrix(shape.vocabulary, width)})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def kv_bytes(shape: argparse.Namespace, batch: int) -> int:
    blocks = batch * -(-(shape.prompt + STEPS + 1) // BLOCK) + 1  # vLLM keeps one to itself
    return blocks * BLOCK * shape.layers * 2 * shape.hidden * (4 if shape.dtype == "float32" else 2)


def engine_of(model: str, shape: argparse.Namespace, batch: int) -> Any:
    """vLLM's LLM for batches of up to `batch`; its memory is asked for by name."""
    from pointsman.vllm.verify import ENVIRONMENT

    for name in [name for name in os.environ if name.startswith("POINTSMAN_")]:
        del os.environ[name]  # what the user serves with
    os.environ.update(ENVIRONMENT | {"OMP_NUM_THREADS": str(shape.threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"})
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ["POINTSMAN_MEMORIES"] = f"{NAME}={shape.memory}"
    import torch
    import vllm

    from pointsman.vllm import register

    torch.set_num_threads(shape.threads)
    register()
    return vllm.LLM(model, dtype=shape.dtype, enforce_eager=True, distributed_executor_backend="uni", skip_tokenizer_init=True,
                    enable_prefix_caching=False, async_scheduling=False, block_size=BLOCK, max_num_seqs=batch,
                    max_model_len=shape.prompt + STEPS + 1, max_num_batched_tokens=max(batch * shape.prompt, shape.prompt + STEPS + 1),
                    kv_cache_memory_bytes=kv_bytes(shape, batch), use_tqdm_on_load=False, seed=0)


now = time.perf_counter  # main() chooses


class Clock:
    """Adds up the time that the plug-in's routers take."""

    def __init__(self) -> None:
        from pointsman.vllm.worker import Step

        self.seconds, self._route = 0.0, Step.route
        Step.route = lambda *arguments: self.route(*arguments)  # type: ignore[method-assign]

    def route(self, *arguments: Any) -> None:
        begin = now()
        self._route(*arguments)
        self.seconds += now() - begin


class Turns:
    """Runs batches of requests, step by step."""

    def __init__(self, llm: Any, clock: Clock) -> None:
        self.engine, self.clock, self.requests = llm.llm_engine, clock, 0

    def turn(self, prompts: list[list[int]], memory: str) -> list[tuple[float, float]]:
        """(seconds, of them routing) of the prefill and of each decode step."""
        import vllm

        params = vllm.SamplingParams(temperature=0, max_tokens=STEPS + 1, ignore_eos=True, detokenize=False, extra_args={"memory": memory})
        for prompt in prompts:
            self.engine.add_request(str(self.requests), {"prompt_token_ids": prompt}, params)
            self.requests += 1
        steps = []
        while self.engine.has_unfinished_requests():
            self.clock.seconds, begin = 0.0, now()
            outputs = self.engine.step()
            steps.append((now() - begin, self.clock.seconds))
            if [len(output.outputs[0].token_ids) for output in outputs] != [len(steps)] * len(prompts):
                raise RuntimeError(f"vLLM did not take the {len(prompts)} requests together in step {len(steps)}; use a smaller batch")
        return steps


def measure(turns: Turns, shape: argparse.Namespace, batch: int) -> list[dict[str, Any]]:
    words = random.Random(batch)
    seen: dict[tuple[str, str], list[tuple[float, float]]] = {(phase, memory): [] for phase in ("decode", "prefill") for memory in ("none", NAME)}
    for round_ in range(-1, shape.rounds):  # the first is not counted
        prompts = [[words.randrange(2, shape.vocabulary) for _ in range(shape.prompt)] for _ in range(batch)]
        for memory in (("none", NAME) if round_ % 2 == 0 else (NAME, "none")):
            prefill, *decode = turns.turn(prompts, memory)
            if round_ >= 0:
                seen["prefill", memory].append(prefill)
                seen["decode", memory] += decode
    runs = []
    for phase in ("decode", "prefill"):
        plain, (routed, routing) = [seconds for seconds, _ in seen[phase, "none"]], zip(*seen[phase, NAME])
        runs.append(run_of("vllm", phase, batch, shape.prompt, plain, routed, routing))
    return runs


def options_of() -> argparse.Namespace:
    parser = parser_of(__doc__, layers=2, memory="a memory of this shape")
    parser.add_argument("--kv-mib", type=int, default=1024, help="batches whose KV needs more are left out")
    return parser.parse_args()


def main() -> int:
    options = options_of()
    options.heads = min(options.heads, options.hidden // 32)  # vLLM has no attention of narrower heads on the CPU
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM logs to stdout
    global now
    now = clock_of(options.threads)
    batches = [int(batch) for batch in options.batch.split(",")]
    skipped = [batch for batch in batches if kv_bytes(options, batch) > options.kv_mib << 20]
    for batch in skipped:
        print(f"vllm: batch {batch} is left out: its KV takes {kv_bytes(options, batch) >> 20} MiB, more than --kv-mib {options.kv_mib}",
              file=sys.stderr)
    batches = [batch for batch in batches if batch not in skipped]
    if not batches:
        print("vllm: no batch is left; use a smaller --batch or --prompt-tokens", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="pointsman-vllm-model-") as folder:
        write_model(pathlib.Path(folder), options)
        llm = engine_of(folder, options, max(batches))
    turns = Turns(llm, Clock())
    runs = []
    for batch in batches:
        runs += measure(turns, options, batch)
    counters = llm.collective_rpc("pointsman_counters")[0]
    if counters["errors"] or counters["written"] != counters["rows"] or not counters["rows"]:
        raise RuntimeError(f"vllm: not every row was searched and changed: {counters}")
    from pointsman.vllm.versions import installed

    with answer:
        json.dump({"runs": runs, "vllm": {"version": installed(), "layers": options.layers, "skipped_batches": skipped,
                                          "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}}, answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
