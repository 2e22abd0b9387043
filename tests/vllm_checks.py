"""Runs vLLM with the plug-in and prints what tests/test_vllm.py asserts, as one JSON document on stdout.

    .venv-vllm/bin/python tests/vllm_checks.py MODEL MEMORY OTHER_MEMORY SESSIONS

One process, eager, fp32. First an engine as it is without the plug-in; then the plug-in is registered and a second engine
runs everything else, small enough that prompts are chunked and requests preempted.
"""

import json
import os
import pathlib
import sys

os.environ.update(OMP_NUM_THREADS="1", VLLM_CPU_OMP_THREADS_BIND="1", VLLM_CPU_KVCACHE_SPACE="1", VLLM_NO_USAGE_STATS="1",
                  HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_LOGGING_LEVEL="WARNING")

import numpy as np
import torch
from vllm import LLM, SamplingParams
from vllm.sampling_params import BeamSearchParams

NEW = 12  # tokens a request generates
MODEL, MEMORY, OTHER, SESSIONS = sys.argv[1:5]
END_OF_TEXT = 0


def engine(**options):
    return LLM(MODEL, dtype="float32", max_model_len=128, enforce_eager=True, distributed_executor_backend="uni", block_size=32,
               seed=0, **options)


def params(new=NEW, prompt=False, **asked):
    """Greedy, the end of the text forbidden, so that a random model says something."""
    return SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, logit_bias={END_OF_TEXT: -100.0}, logprobs=5,
                          prompt_logprobs=0 if prompt else None, extra_args=asked or None)


def said(output):
    """Of one request: tokens and the logprobs of them, exactly."""
    choice = output.outputs[0]
    return {"tokens": list(choice.token_ids), "cached": output.num_cached_tokens,
            "logprobs": [step[token].logprob for token, step in zip(choice.token_ids, choice.logprobs)],
            "prompt": [next(iter(step.values())).logprob for step in (output.prompt_logprobs or [])[1:]],
            "ties": [sorted((x.logprob for x in step.values()), reverse=True)[:2] for step in choice.logprobs]}


def run(llm, requests, salts=None):
    prompts = [{"prompt_token_ids": ids} | ({"cache_salt": salts[i]} if salts else {}) for i, (ids, _) in enumerate(requests)]
    return [said(output) for output in llm.generate(prompts, [p for _, p in requests], use_tqdm=False)]


class Transformers:
    """The same model in transformers, its routers asking the core directly: every token computed anew in one pass."""

    def __init__(self):
        import transformers

        self.model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
        for index, layer in enumerate(self.model.model.layers):
            layer.mlp.gate.forward = self._forward(layer.mlp.gate, index)
        self.step = None

    def _forward(self, gate, layer):
        def forward(hidden):
            hidden = hidden.reshape(-1, gate.hidden_dim)
            logits = torch.nn.functional.linear(hidden, gate.weight)
            if self.step is not None:
                self.router.route(self.step, layer, hidden.numpy(), logits.numpy())
            weights, chosen = torch.topk(logits.softmax(-1), gate.top_k, dim=-1)
            if gate.norm_topk_prob:
                weights = weights / weights.sum(-1, keepdim=True)
            return logits, weights, chosen
        return forward

    @torch.no_grad()
    def logprobs(self, ids, memory, strength, session):
        import pointsman

        self.router = pointsman.Router()
        self.step = None
        if memory is not None or session is not None:
            slot = self.router.add_slot(memory, session=session, strength=strength)
            self.step = self.router.begin_step(np.full(len(ids), slot, np.uint32), np.arange(len(ids), dtype=np.uint32),
                                               np.array(ids, np.int32))
        logits = self.model(torch.tensor([ids]), use_cache=False).logits[0].float()
        logits[:, END_OF_TEXT] -= 100.0
        return logits.log_softmax(-1)

    def follow(self, ids, tokens, memory=None, strength=1.0, session=None):
        """Teacher-forced along `tokens`: what it would have said at each place, and the logprob of what was said."""
        every = self.logprobs(ids + tokens[:-1], memory, strength, session)[len(ids) - 1:]
        best = every.topk(2)
        return {"tokens": best.indices[:, 0].tolist(), "logprobs": [every[i, token].item() for i, token in enumerate(tokens)],
                "margins": (best.values[:, 0] - best.values[:, 1]).tolist()}


def main():
    found = {}
    generator = np.random.default_rng(3)
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    text = "".join(path.read_text(errors="replace") for path in sorted(pathlib.Path(os.environ["CHECK_TEXT"]).rglob("*.h"))[:8])
    ids = tokenizer(text).input_ids
    prompts = [ids[start:start + length] for start, length in
               ((2000, 1), (3000, 7), (4000, 23), (5000, 40), (6000, 64), (7000, 71), (8000, 90), (9000, 47), (2500, 100))]

    # -- without the plug-in -------------------------------------------------------------------------------------------
    llm = engine()
    found["plain"] = run(llm, [(ids, params(prompt=True)) for ids in prompts])
    del llm

    # -- with it -------------------------------------------------------------------------------------------------------
    os.environ.update(POINTSMAN_MEMORIES=f"one={MEMORY},two={OTHER}", POINTSMAN_SESSIONS=SESSIONS)
    import pointsman
    import pointsman.vllm

    pointsman.vllm.register()
    llm = engine()
    counters = lambda: llm.collective_rpc("pointsman_counters")[0]
    found["frozen"] = run(llm, [(ids, params(prompt=True)) for ids in prompts])
    found["strength 0"] = run(llm, [(ids, params(prompt=True, memory="one", strength=0.0)) for ids in prompts])
    found["shadow"] = run(llm, [(ids, params(prompt=True, memory="one", shadow=1)) for ids in prompts])
    found["counters before"] = counters()
    found["memory alone"] = run(llm, [(ids, params(prompt=True, memory="one")) for ids in prompts])
    found["counters after"] = counters()
    del llm

    # -- chunked prefill, preemption, mixed bindings --------------------------------------------------------------------
    small = engine(max_num_batched_tokens=40, max_num_seqs=6, num_gpu_blocks_override=10)
    llm = small
    session = {int(name[6:]): value for name, value in np.load(pathlib.Path(SESSIONS) / "ada.npz").items()}
    bindings = [dict(memory="one"), {}, dict(memory="two", strength=0.5), dict(memory="one", session="ada"), dict(session="ada")]
    mixed = [(prompts[generator.integers(len(prompts))], bindings[i % len(bindings)]) for i in range(25)]
    outputs = run(llm, [(ids, params(**asked)) for ids, asked in mixed])
    reference = Transformers()
    memories = {"one": pointsman.Memory.open(MEMORY), "two": pointsman.Memory.open(OTHER)}
    found["mixed"] = [output | {"reference": reference.follow(ids, output["tokens"], memories.get(asked.get("memory")),
                                                              asked.get("strength", 1.0), session if "session" in asked else None),
                                "asked": asked} for (ids, asked), output in zip(mixed, outputs)]
    found["counters mixed"] = counters()

    json.dump(found, sys.stdout)


main()
