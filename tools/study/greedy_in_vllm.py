"""Runs one model of any family in vLLM with a memory that was built for it, and in transformers with the same memory attached;
prints, as JSON, how their greedy tokens compare, and whether shadow mode keeps vLLM's own tokens and logprobs.

    .venv-vllm/bin/python tools/study/greedy_in_vllm.py MODEL MEMORY TEXT

A child of hosts_table and of tests/test_vllm.py, with the package on PYTHONPATH.
"""

import json
import os
import pathlib
import sys

os.environ.update(OMP_NUM_THREADS="1", VLLM_CPU_OMP_THREADS_BIND="1", VLLM_CPU_KVCACHE_SPACE="1", VLLM_NO_USAGE_STATS="1",
                  HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_LOGGING_LEVEL="WARNING")
MODEL, MEMORY, TEXT = sys.argv[1:4]
os.environ.update(POINTSMAN_MEMORIES=f"one={MEMORY}", POINTSMAN_ALLOW_REJECTED="1")

import pointsman
import tokenizers
import torch
import transformers
from pointsman.vllm import register
from pointsman.vllm.versions import installed
from vllm import LLM, SamplingParams

NEW = 12
ASKED = {"frozen": None, "shadow": {"memory": "one", "shadow": 1}, "memory": {"memory": "one"}}


@torch.no_grad()
def follow(model, prompt, said):
    """Along what the other engine said, each token computed anew: its own choice, and how far it is ahead of the second."""
    steps = []
    for count in range(len(said)):
        best = model(torch.tensor([prompt + said[:count]]), use_cache=False).logits[0, -1].float().topk(2)
        steps.append((int(best.indices[0]), float(best.values[0] - best.values[1])))
    return steps


def main():
    ids = tokenizers.Tokenizer.from_file(f"{MODEL}/tokenizer.json").encode(pathlib.Path(TEXT).read_text()).ids
    prompts = [ids[start:start + length] for start, length in ((0, 1), (100, 7), (200, 23), (300, 40), (400, 64), (500, 90))]
    register()
    # Without a prefix cache: a prompt that is half cached is computed in other pieces, and need not keep its last bits.
    llm = LLM(MODEL, dtype="float32", max_model_len=128, enforce_eager=True, distributed_executor_backend="uni", block_size=32,
              skip_tokenizer_init=True, enable_prefix_caching=False, seed=0)
    said, logprobs = {}, {}
    for kind, asked in ASKED.items():
        greedily = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True, detokenize=False, logprobs=5, extra_args=asked)
        outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], greedily, use_tqdm=False)
        said[kind] = [list(output.outputs[0].token_ids) for output in outputs]
        logprobs[kind] = [[{token: entry.logprob for token, entry in step.items()} for step in output.outputs[0].logprobs]
                          for output in outputs]
    found = {"counters": llm.collective_rpc("pointsman_counters")[0], "tokens": NEW * len(prompts),
             "differ": sum(a != b for mine, other in zip(said["frozen"], said["memory"]) for a, b in zip(mine, other)),
             "silent_is_identical": said["shadow"] == said["frozen"] and logprobs["shadow"] == logprobs["frozen"],
             "version": installed(), "transformers": transformers.__version__}
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    memory = pointsman.Memory.open(MEMORY, allow_rejected=True)
    for kind in ("frozen", "memory"):
        steps = []
        for prompt, tokens in zip(prompts, said[kind]):
            if kind == "frozen":
                steps += zip(tokens, follow(model, prompt, tokens))
            else:
                with pointsman.attach(model, memory):
                    steps += zip(tokens, follow(model, prompt, tokens))
        found[kind] = {"equal": sum(token == best for token, (best, _) in steps),
                       "widest margin lost": max((margin for token, (best, margin) in steps if token != best), default=0.0)}
    print("\n" + json.dumps(found))


main()
