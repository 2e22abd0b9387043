"""When a model has been loaded: every memory that requests may use is opened and held against it.

What does not fit is a RuntimeError, so that the engine does not start: a memory that is silently not asked, or asked by
another model, is worse than none.
"""

from __future__ import annotations

import logging
import os
from typing import Any, Iterable, Iterator, Optional

import torch

from . import gates
from .settings import UNTESTED, Settings
from .worker import Steps

log = logging.getLogger("vllm.pointsman")


def prepare(settings: Settings, config: Any, model: torch.nn.Module, device: torch.device) -> Steps:
    """What worker.py asks at each step."""
    name = config.model_config.model
    check_place(settings, config, device.type)
    found = gates.find(model)
    first, last = config.model_config.get_layers_start_end_indices(config.parallel_config)
    steps = Steps(settings, found)
    fingerprint = fingerprint_of(name) if settings.memories else None
    for memory_name, directory in settings.memories.items():
        memory = steps.open(directory)
        check_layers(found, memory_name, memory, [layer for layer in memory.layers if first <= layer < last], name)
        check_fingerprint(memory_name, memory.manifest["fingerprint"], fingerprint, name)
        verdict = (memory.manifest.get("verdict") or {}).get("verdict", "absent")
        if verdict != "adopt":
            log.warning("pointsman: the verdict of memory %r is %s", memory_name, verdict)
    if loses_its_output_layer(model, config.model_config.hf_config):
        log.error("pointsman: %s ties its output layer to its embeddings, and vLLM's %s does not: its answers are noise, with a memory or "
                  "without. Serve it with --model-impl transformers, or add lm_head.weight to the checkpoint", name, type(model).__name__)
    log.info("pointsman: %d routers of %s ask %s", len(found), name, ", ".join(settings.memories) or "sessions")
    return steps


def check_place(settings: Settings, config: Any, device: str) -> None:
    """The CPU with the first model runner, and what POINTSMAN_VLLM_UNTESTED=1 lets be tried."""
    if device != "cpu" and not settings.untested:
        raise RuntimeError(f"pointsman: {config.model_config.model} runs on {device}, where the plug-in never ran: serve it on the CPU, "
                           f"or set {UNTESTED}=1 to try it")
    if device != "cpu" or config.use_v2_model_runner:
        for what, remedy in unfollowed(config):
            raise RuntimeError(f"pointsman: {what}, which the plug-in does not follow on {device} with "
                               f"{'the second' if config.use_v2_model_runner else 'the first'} model runner: {remedy}")


def unfollowed(config: Any) -> Iterator[tuple[str, str]]:
    """What of vLLM's configuration has no tested path off the CPU or with the second model runner: (it, the remedy)."""
    mode, parallel, model = config.compilation_config.cudagraph_mode, config.parallel_config, config.model_config
    if mode:  # full and piecewise ones alike: the routers are inside the captured pieces, and a replay runs no Python
        yield f"the CUDA graphs ({mode}) leave the memory out", "serve with -cc.cudagraph_mode=none or --enforce-eager"
    if parallel.world_size_across_dp > 1:
        yield f"the model runs on {parallel.world_size_across_dp} devices", "serve it on one"
    if parallel.use_ubatching:
        yield "passes are split into micro-batches", "leave out --enable-dbo and --ubatch-size"
    if config.speculative_config is not None and config.speculative_config.method != "ngram":
        yield f"drafts come from {config.speculative_config.method}", "take ngram, or leave out --speculative-config"
    if model.enable_prompt_embeds:
        yield "prompts may be embeddings", "leave out --enable-prompt-embeds"
    if model.supports_multimodal_inputs:
        yield "prompts may be images or sound", "serve with --language-model-only, or a model of text"


def check_layers(gates: dict[int, tuple[int, int]], name: str, memory: Any, layers: Iterable[int], model: str) -> None:
    """Each of `layers` has a gate (layer -> (hidden size, experts)) of the memory's shape."""
    missing = [layer for layer in layers if layer not in gates]
    if missing:
        raise RuntimeError(f"pointsman: memory {name!r} has layers whose router is out of reach in {model}: "
                           f"{', '.join(map(str, missing))} (found: {', '.join(map(str, sorted(gates))) or 'none'}). "
                           "Serve this model without "
                           "a memory, or with vLLM's own implementation of it instead of --model-impl transformers")
    for layer in layers:
        if gates[layer] != (memory.hidden_size, memory.experts):
            raise RuntimeError(f"pointsman: memory {name!r} is for {memory.hidden_size} hidden units "
                               f"and {memory.experts} experts, layer {layer} "
                               f"of {model} has {gates[layer][0]} and {gates[layer][1]}: build a memory for this model")


def fingerprint_of(model: str) -> Optional[dict[str, str]]:
    """None, and a warning, where no fingerprint of this family is defined or no checkpoint is found that can be read."""
    import pointsman
    from pointsman import fingerprint

    try:
        directory = model
        if not os.path.isdir(directory):
            from huggingface_hub import snapshot_download

            directory = snapshot_download(model, local_files_only=True)
        try:
            return pointsman.model_fingerprint(directory)
        except pointsman.UnsupportedError:
            return fingerprint.of_files(directory)
    except Exception as error:  # noqa: BLE001
        log.warning("pointsman: %s cannot be held against the memory's fingerprint: %s", model, error)
        return None


def check_fingerprint(memory: str, wanted: dict[str, str], found: Optional[dict[str, str]], model: str) -> None:
    wrong = [f"{field} is {found[field]}, the memory has {wanted[field]}"
             for field in ("architecture", "config_sha256", "router_sha256", "tokenizer_sha256") if found and found[field] != wanted[field]]
    if wrong:
        raise RuntimeError(f"pointsman: {model} is not the model that memory {memory!r} was built for: "
                           f"{'; '.join(wrong)}; name a memory that was built for this model, or build one with "
                           "`pointsman build --model`")


def embeddings_of(model: torch.nn.Module) -> Any:
    """Of the input tokens; None where they have another name. gpt_oss has one of its own."""
    inner = getattr(model, "model", None)
    return getattr(inner, "embed_tokens", getattr(inner, "embedding", None))


def loses_its_output_layer(model: torch.nn.Module, config: Any) -> bool:
    """vLLM's OLMoE and gpt_oss make an output layer of their own and find no weights for it in a checkpoint that ties it."""
    output, embeddings = getattr(model, "lm_head", None), embeddings_of(model)
    if not getattr(config, "tie_word_embeddings", False) or output is None or embeddings is None:
        return False
    output, embeddings = getattr(output, "weight", None), getattr(embeddings, "weight", None)
    return output is not None and embeddings is not None and output.shape == embeddings.shape and not torch.equal(output, embeddings)
