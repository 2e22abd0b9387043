"""Runs vLLM with the plug-in on small random models of several families and prints, as JSON, how its greedy tokens compare
with transformers' under the same session vectors (no memory is built for these families here).

    .venv-vllm/bin/python tests/vllm_families.py FOLDER [FAMILY|drafts...]
"""

import json
import os
import pathlib
import sys

os.environ.update(OMP_NUM_THREADS="1", VLLM_CPU_OMP_THREADS_BIND="1", VLLM_CPU_KVCACHE_SPACE="1", VLLM_NO_USAGE_STATS="1",
                  HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_LOGGING_LEVEL="WARNING")

import numpy as np
import torch
import transformers
from vllm import LLM, SamplingParams

FOLDER = pathlib.Path(sys.argv[1])
EXPERTS, NEW = 8, 12
COMMON = dict(vocab_size=320, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
              max_position_embeddings=128, tie_word_embeddings=False, initializer_range=0.2,
              bos_token_id=None, eos_token_id=0, pad_token_id=None)
FAMILIES = {
    "olmoe": (transformers.OlmoeConfig, dict(num_experts=EXPERTS, num_experts_per_tok=2)),
    "qwen2_moe": (transformers.Qwen2MoeConfig, dict(num_experts=EXPERTS, num_experts_per_tok=2, moe_intermediate_size=32,
                                                    shared_expert_intermediate_size=32)),
    "qwen3_moe": (transformers.Qwen3MoeConfig, dict(num_experts=EXPERTS, num_experts_per_tok=2, moe_intermediate_size=32, head_dim=32)),
    "mixtral": (transformers.MixtralConfig, dict(num_local_experts=EXPERTS, num_experts_per_tok=2)),
    "gpt_oss": (transformers.GptOssConfig, dict(num_local_experts=EXPERTS, num_experts_per_tok=2, head_dim=32, sliding_window=128,
                                                layer_types=["full_attention", "sliding_attention"])),
}


def make(family):
    config, more = FAMILIES[family]
    torch.manual_seed(7)
    folder = FOLDER / family
    model = transformers.AutoModelForCausalLM.from_config(config(**(COMMON | more))).to(torch.float32)
    model.save_pretrained(folder)
    return folder, model.eval()


def routers(model):
    found = {}
    for name, part in model.named_modules():
        if name.endswith((".mlp.gate", ".mlp.router", ".block_sparse_moe.gate")):
            found[int(name.split(".")[2])] = part
    return [found[layer] for layer in sorted(found)]


@torch.no_grad()
def greedy(model, prompt, vectors):
    """Every token computed anew; the routers' logits get the session's vectors where they are computed."""
    linear = torch.nn.functional.linear
    by_weight = {id(router.weight): torch.from_numpy(vectors[layer]) for layer, router in enumerate(routers(model)) if layer in vectors}

    def changed(x, weight, bias=None):
        out = linear(x, weight, bias)
        return out + by_weight[id(weight)] if id(weight) in by_weight else out

    torch.nn.functional.linear = changed
    try:
        ids = list(prompt)
        for _ in range(NEW):
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    finally:
        torch.nn.functional.linear = linear
    return ids[len(prompt):]


def main():
    generator = np.random.default_rng(1)
    sessions = FOLDER / "sessions"
    sessions.mkdir(exist_ok=True)
    vectors = {1: (2 * generator.standard_normal(EXPERTS)).astype(np.float32)}
    np.savez(sessions / "ada.npz", **{"layer.1": vectors[1]})
    os.environ["POINTSMAN_SESSIONS"] = str(sessions)
    prompts = [generator.integers(1, 320, length).tolist() for length in (1, 7, 23, 40, 47)]
    found = {}
    # Drafts last: after them this version of vLLM makes no second engine in a process.
    drafts = {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 2, "prompt_lookup_min": 1}}
    for name in sys.argv[2:] or [*FAMILIES, "drafts"]:
        family, options = ("olmoe", drafts) if name == "drafts" else (name, {})
        folder, model = make(family)
        llm = LLM(str(folder), dtype="float32", max_model_len=128, enforce_eager=True, distributed_executor_backend="uni", block_size=32,
                  skip_tokenizer_init=True, seed=0, **options)
        said = {}
        for kind, asked in (("frozen", None), ("session", {"session": "ada"})):
            greedily = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True, detokenize=False, extra_args=asked)
            outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], greedily, use_tqdm=False)
            said[kind] = [list(output.outputs[0].token_ids) for output in outputs]
        wanted = {kind: [greedy(model, prompt, added) for prompt in prompts] for kind, added in (("frozen", {}), ("session", vectors))}
        found[name] = {kind: sum(a == b for a, b in zip(said[kind], wanted[kind])) for kind in said}
        found[name] |= {"differ": sum(a != b for a, b in zip(wanted["frozen"], wanted["session"])), "prompts": len(prompts),
                        "counters": llm.collective_rpc("pointsman_counters")[0]}
        print(name, found[name], file=sys.stderr, flush=True)
        del llm
    print("\n" + json.dumps(found))


main()
