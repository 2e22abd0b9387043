"""Runs vLLM with the plug-in and prints what tests/test_vllm.py asserts, as one JSON document on stdout.

    .venv-vllm/bin/python tests/vllm_checks.py MODEL MEMORY OTHER_MEMORY SESSIONS

One process, eager, fp32. First an engine as it is without the plug-in; then the plug-in is registered and a second engine
runs everything else, small enough that prompts are chunked and requests preempted. With CHECK_SECOND_RUNNER in the
environment vLLM's second model runner runs it, and a third engine with drafts.
"""

import contextlib
import json
import os
import pathlib
import sys

os.environ.update(OMP_NUM_THREADS="1", VLLM_CPU_OMP_THREADS_BIND="1", VLLM_CPU_KVCACHE_SPACE="1", VLLM_NO_USAGE_STATS="1",
                  HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_LOGGING_LEVEL="WARNING")
SECOND_RUNNER = "CHECK_SECOND_RUNNER" in os.environ
if SECOND_RUNNER:
    import vllm_second_runner  # noqa: F401

import numpy as np
import torch
from vllm import LLM, SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import BeamSearchParams

NEW = 12  # tokens a request generates
MODEL, MEMORY, OTHER, SESSIONS = sys.argv[1:5]
END_OF_TEXT = 0
ALLOWED = list(range(END_OF_TEXT + 1, json.loads(pathlib.Path(MODEL, "config.json").read_text())["vocab_size"]))


def engine(**options):
    return LLM(MODEL, dtype="float32", max_model_len=128, enforce_eager=True, distributed_executor_backend="uni", block_size=32,
               seed=0, **options)


def params(new=NEW, prompt=False, **asked):
    """Greedy, the end of the text forbidden, so that a random model says something."""
    return SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, allowed_token_ids=ALLOWED, logprobs=5,
                          prompt_logprobs=0 if prompt else None, extra_args=asked or None)


def said(output):
    """Of one request: tokens and the logprobs of them, exactly."""
    choice = output.outputs[0]
    return {"tokens": list(choice.token_ids), "cached": output.num_cached_tokens,
            "logprobs": [step[token].logprob for token, step in zip(choice.token_ids, choice.logprobs)],
            "prompt": [next(iter(step.values())).logprob for step in (output.prompt_logprobs or [])[1:]]}


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
        return self.model(torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)

    def follow(self, ids, tokens, memory=None, strength=1.0, session=None):
        """Teacher-forced along `tokens`: what it would have said at each place, and the logprob of what was said."""
        every = self.logprobs(ids + tokens[:-1], memory, strength, session)[len(ids) - 1:]
        allowed = every.clone()
        allowed[:, END_OF_TEXT] -= 100.0
        best = allowed.topk(2)
        return {"tokens": best.indices[:, 0].tolist(), "logprobs": [every[i, token].item() for i, token in enumerate(tokens)],
                "margins": (best.values[:, 0] - best.values[:, 1]).tolist()}


def count_calls(module, owner, name):
    import importlib

    owner, calls = getattr(importlib.import_module(module), owner), [0]
    original = getattr(owner, name)

    def counting(*args, **kwargs):
        calls[0] += 1
        return original(*args, **kwargs)

    setattr(owner, name, counting)
    return calls


def count_rewinds():
    """Of bound requests whose next row is below one that was routed before."""
    from pointsman.vllm.worker import Steps

    original, rewinds = Steps.begin, [0]

    def begin(self, parts, *others):
        rewinds[0] += sum(part.request in self._live and part.position < self._live[part.request].length for part in parts)
        return original(self, parts, *others)

    Steps.begin = begin
    return rewinds


def settings():
    """Those that the engine's entry holds."""
    from vllm.v1.request import Request

    return next(cell.cell_contents for cell in Request.__init__.__closure__ if hasattr(cell.cell_contents, "memories"))


@contextlib.contextmanager
def unsalted():
    """As if the plug-in knew nothing of prefix caching."""
    from pointsman.vllm.settings import Binding

    salt, Binding.salt = Binding.salt, ""
    yield
    Binding.salt = salt


def main():
    found: dict = {}
    generator = np.random.default_rng(3)
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    text = "".join(path.read_text(errors="replace") for path in sorted(pathlib.Path(os.environ["CHECK_TEXT"]).rglob("*.h"))[:8])
    ids = tokenizer(text).input_ids
    prompts = [ids[start:start + length] for start, length in
               ((2000, 1), (3000, 7), (4000, 23), (5000, 40), (6000, 64), (7000, 71), (8000, 90), (9000, 47), (2500, 100))]

    found["prompts"] = prompts
    # -- without the plug-in -------------------------------------------------------------------------------------------
    llm = engine()
    found["plain"] = run(llm, [(ids, params(prompt=True)) for ids in prompts])
    del llm

    # -- with it -------------------------------------------------------------------------------------------------------
    os.environ.update(POINTSMAN_MEMORIES=f"one={MEMORY},two={OTHER}", POINTSMAN_SESSIONS=SESSIONS)
    import pointsman
    import pointsman.vllm

    pointsman.vllm.register()
    if SECOND_RUNNER:
        settings().untested = False
        try:
            engine()
        except RuntimeError as error:
            found["refused runner"] = str(error)
        settings().untested = True
    llm = engine()
    counters = lambda: llm.collective_rpc("pointsman_counters")[0]
    found["frozen"] = run(llm, [(ids, params(prompt=True)) for ids in prompts])
    found["strength 0"] = run(llm, [(ids, params(prompt=True, memory="one", strength=0.0)) for ids in prompts])
    found["shadow"] = run(llm, [(ids, params(prompt=True, memory="one", shadow=1)) for ids in prompts])
    found["counters before"] = counters()
    found["memory alone"] = run(llm, [(ids, params(prompt=True, memory="one")) for ids in prompts])
    found["counters after"] = counters()

    # -- the prefix cache ------------------------------------------------------------------------------------------------
    # Engine `llm` keeps what all requests above computed of these prompts. A prompt of its own for each experiment.
    def in_turn(prompt, *asked, salts=None):
        return [run(llm, [(prompt, params(2, **each))], salts and [salts[i]])[0] for i, each in enumerate(asked)]

    one, half = dict(memory="one"), dict(memory="one", strength=0.5)
    found["salted"] = in_turn(ids[1000:1100], {}, one, one, {}, half, half, one | dict(session="ada"), one | dict(shadow=1))
    found["salted alone"] = [in_turn(ids[1000:1100], each, salts=[f"alone {i}"])[0]
                             for i, each in enumerate(({}, one, half, one | dict(session="ada")))]
    with unsalted():
        found["unsalted"] = in_turn(ids[1200:1300], {}, one)
    found["unsalted alone"] = in_turn(ids[1200:1300], one, salts=["alone"])
    found["own salts"] = in_turn(ids[1400:1500], one, one, one, {}, salts=["a", "a", "b", "a"])

    # -- what a request may not ask --------------------------------------------------------------------------------------
    found["refused"] = {}
    for asked in ({"memory": "three"}, {"memory": MEMORY}, {"memory": "one", "strength": 2}, {"memory": "one", "strength": "x"},
                  {"memory": "one", "shadow": "maybe"}, {"memory": "one", "session": "eve"}, {"memory": "one", "session": "../ada"}):
        try:
            run(llm, [(prompts[1], params(**asked))])
            found["refused"][json.dumps(asked)] = None
        except VLLMValidationError as error:
            found["refused"][json.dumps(asked)] = str(error)
    found["forged"] = run(llm, [(prompts[5], params(pointsman={"memory": "/etc", "digest": ""}))])[0]
    del llm

    # -- chunked prefill, preemption, mixed bindings ---------------------------------------------------------------------
    preempted = count_calls("vllm.v1.core.sched.scheduler", "Scheduler", "_preempt_request")
    llm = engine(max_num_batched_tokens=40, max_num_seqs=6, num_gpu_blocks_override=10)
    session = {int(name[6:]): value for name, value in np.load(pathlib.Path(SESSIONS) / "ada.npz").items()}
    bindings = [dict(memory="one"), {}, dict(memory="two", strength=0.5), dict(memory="one", session="ada"), dict(session="ada")]
    mixed = [(prompts[generator.integers(len(prompts))], bindings[i % len(bindings)]) for i in range(25)]
    reference = Transformers()
    memories = {"one": pointsman.Memory.open(MEMORY), "two": pointsman.Memory.open(OTHER)}

    def followed(mixed):
        outputs = run(llm, [(ids, params(**asked)) for ids, asked in mixed])
        return [output | {"reference": reference.follow(ids, output["tokens"], memories.get(asked.get("memory")),
                                                        asked.get("strength", 1.0),
                                                        session if "session" in asked else None),
                          "asked": asked} for (ids, asked), output in zip(mixed, outputs)]

    found["mixed"] = followed(mixed)
    found["preempted"] = preempted[0]
    in_turn(ids[:9], {})  # the worker hears of the last requests' ends
    found["counters mixed"] = counters()

    # -- beams, which carry no request's arguments: by the default memory ------------------------------------------------
    settings().memories["default"] = os.path.abspath(MEMORY)
    beams = llm.beam_search([{"prompt_token_ids": ids[1600:1670]}], BeamSearchParams(beam_width=3, max_tokens=6, ignore_eos=True))[0]
    settings().memories.pop("default")
    found["beams"] = []
    for beam in beams.sequences:
        new = beam.tokens[70:]
        by = {name: sum(reference.follow(ids[1600:1670], new, memory)["logprobs"])
              for name, memory in (("one", memories["one"]), ("frozen", None))}
        found["beams"].append(by | {"said": beam.cum_logprob, "tokens": len(new)})

    # -- drafts, many of them rejected -----------------------------------------------------------------------------------
    if SECOND_RUNNER:  # of the first tests/vllm_families.py has them
        del llm
        rewinds = count_rewinds()
        llm = engine(max_num_batched_tokens=40, max_num_seqs=6, speculative_config={
            "method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 2, "prompt_lookup_min": 1})
        found["drafts"] = followed(mixed[:10])
        found["rewinds"] = rewinds[0]

    # -- an error inside ---------------------------------------------------------------------------------------------------
    before = in_turn(ids[1800:1880], one, {})
    original = pointsman.Router.route
    calls = [0]

    def broken(*args, **kwargs):
        calls[0] += 1
        if calls[0] == 6:  # in the middle of a pass
            raise RuntimeError("sabotaged by the test")
        return original(*args, **kwargs)

    pointsman.Router.route = broken
    run(llm, [(ids[1850 + i:1900 + i], params(**one)) for i in range(4)])
    pointsman.Router.route = original
    found["after error"] = {"before": before, "after": in_turn(ids[1800:1880], {}), "counters": counters(), "calls": calls[0]}
    try:
        in_turn(ids[1800:1880], one)
    except VLLMValidationError as error:
        found["after error"]["refused"] = str(error)

    json.dump(found, sys.stdout)


main()
