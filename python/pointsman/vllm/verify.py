"""What a memory does in vLLM: a child of `pointsman verify --host vllm` (pointsman/drift.py has its contract).

One eager process with the plug-in. Each window of text is one request, alone and in one pass, three times: frozen, in shadow mode
and with the memory. vLLM gives no logits but the logprobs of the text, so that shadow mode "keeps the bits" if it keeps theirs.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Optional, Sequence

from .. import drift

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the routers run in this process, where they are recorded
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # a window as long as the context, and the token after it, which is not read
    "VLLM_USE_V2_MODEL_RUNNER": "0", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
}
# Of whoever does not say otherwise. 2 GiB hold the 4,096 tokens of OLMoE-1B-7B's context in fp32; where it is short, vLLM names it.
DEFAULTS = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_LOGGING_LEVEL": "ERROR"}


def engine_of(options: Any, longest: int) -> Any:
    """vLLM's LLM for windows of up to `longest` tokens, the memory being that of every request that does not decline it."""
    for name in [name for name in os.environ if name.startswith("POINTSMAN_")]:
        del os.environ[name]  # what the user serves with
    os.environ.update(ENVIRONMENT | {name: os.environ.get(name, value) for name, value in DEFAULTS.items()})
    os.environ.update(POINTSMAN_MEMORY=options.memory, POINTSMAN_ALLOW_REJECTED="1")
    import vllm

    from . import register

    register()
    llm = vllm.LLM(options.model, dtype=options.dtype, enforce_eager=True, distributed_executor_backend="uni", skip_tokenizer_init=True,
                   enable_prefix_caching=False, max_num_seqs=1, max_model_len=longest + 1, max_num_batched_tokens=longest + 1,
                   use_tqdm_on_load=False, seed=0)
    if llm.apply_model(tie_output_layer)[0]:
        print("pointsman: verify has tied the output layer in this process, so that the memory can be compared; a server needs the remedy "
              "above", file=sys.stderr)
    return llm


def tie_output_layer(model: Any) -> bool:
    """Whether it was needed: see loses_its_output_layer."""
    from .loading import embeddings_of, loses_its_output_layer

    if not loses_its_output_layer(model, getattr(model, "config", None)):
        return False
    head = model.lm_head.tie_weights(embeddings_of(model))
    head.quant_method.process_weights_after_loading(head)  # which packs a copy of the weights for the CPU
    return True


def logprobs(llm: Any, window: drift.Window, **asked: Any) -> list[float]:
    """Of the targets that count, in order. All but the last are tokens of the prompt; the last is the only one allowed to follow it."""
    import vllm

    inputs, targets = window["inputs"], window["targets"]
    last = targets[-1]
    params = vllm.SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, detokenize=False, prompt_logprobs=0, logprobs=0,
                                 allowed_token_ids=[last] if last >= 0 else None, extra_args=asked or None)
    output = llm.generate([{"prompt_token_ids": inputs}], params, use_tqdm=False)[0]
    steps = [*output.prompt_logprobs[1:], output.outputs[0].logprobs[0]]
    return [step[target].logprob for step, target in zip(steps, targets, strict=True) if target >= 0]


def record(llm: Any, windows: Sequence[drift.Window]) -> drift.Seen:
    from .worker import Step

    seen = drift.Seen()
    route = Step.route

    def recorded(step: Step, layer: int, hidden: Any, logits: Any) -> None:
        before = logits.float().numpy().copy()
        route(step, layer, hidden, logits)
        seen.keep(layer, hidden=hidden.float().numpy().copy(), before=before, after=logits.float().numpy().copy())

    for window in windows:
        frozen = logprobs(llm, window, memory="none")
        seen.silent_is_identical &= logprobs(llm, window, shadow=1) == frozen
        Step.route = recorded  # type: ignore[method-assign]
        try:
            seen.memory -= sum(logprobs(llm, window))
        finally:
            Step.route = route  # type: ignore[method-assign]
        seen.frozen -= sum(frozen)
    if llm.collective_rpc("pointsman_counters")[0]["errors"]:
        raise RuntimeError("pointsman: an error turned the memory off; it is logged above")
    return seen


def main(arguments: Optional[Sequence[str]] = None) -> int:
    options = drift.options_of("vllm", arguments)
    work = drift.Work(options.work)
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM logs to stdout
    llm = engine_of(options, max(len(window["inputs"]) for window in work.windows))
    seen = record(llm, work.windows)
    import pointsman

    from .versions import installed

    memory = pointsman.Memory.open(options.memory, allow_rejected=True)
    with answer:
        json.dump(work.answer(memory, seen, "vllm", installed() or "", options.dtype), answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
