"""The fingerprint of a transformers model, equal to models/fingerprint.h: what ties a memory to its model.

    of_model(model)              architecture, config_sha256, router_sha256, dtype of a loaded model
    of_checkpoint(model, dir)    the same, of what it was loaded from
    of_files(dir)                the same of a directory of which nothing is loaded, its tokenizer included
    tokenizer_sha256(directory)  of its tokenizer.json

Router weights are hashed widened to fp32, so bf16 weights that were widened in loading hash alike. Weights that were
rounded in loading (an fp32 checkpoint as bf16) do not: then the checkpoint's own routers are read, and the loaded ones
must be their rounding. Expert weights are not hashed here: the memory records them for `pointsman verify`.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import re
from typing import Any, Callable, Iterator, Optional, Union

import torch
from torch import Tensor, nn

from .errors import MismatchError, UnsupportedError

Path = Union[str, pathlib.Path]
REFUSED = ("architecture", "config_sha256", "router_sha256", "tokenizer_sha256")  # a mismatch of these is an error


def _text_of(value: Any) -> str:
    """As fmt writes it: the shortest text that reads back as the same double, no .0."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or isinstance(value, (list, dict)):
        return json.dumps(value, sort_keys=True)
    return re.sub(r"\.0$", "", repr(value)) if isinstance(value, float) else str(value)


def _olmoe(config: Any) -> dict[str, Any]:
    rope = getattr(config, "rope_parameters", None) or {"rope_theta": getattr(config, "rope_theta", 10000.0)}
    heads = config.num_attention_heads
    return {
        "model_type": config.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_layers": config.num_hidden_layers,
        "num_heads": heads,
        "num_kv_heads": config.num_key_value_heads or heads,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // heads,
        "num_experts": config.num_experts,
        "experts_per_token": config.num_experts_per_tok,
        "rope_theta": float(rope["rope_theta"]),
        "rms_norm_eps": float(config.rms_norm_eps),
        "clip_qkv": float(config.clip_qkv or 0),
        "norm_topk_prob": bool(config.norm_topk_prob),
        "tie_word_embeddings": bool(config.tie_word_embeddings),
        "attention_bias": bool(config.attention_bias),
    }


def _rope(config: Any) -> dict[str, Any]:
    """In the spelling of transformers 5, whichever is installed."""
    rope = dict(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {})
    rope.setdefault("rope_theta", getattr(config, "rope_theta", 10000.0))
    rope["rope_type"] = rope.pop("type", None) or rope.get("rope_type", "default")
    return {name: float(value) if isinstance(value, int) and not isinstance(value, bool) else value for name, value in rope.items()}


def _sliding_window(config: Any) -> Optional[int]:
    return config.sliding_window if getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None) else None


def _hosted(*own: str) -> Callable[[Any], dict[str, Any]]:
    """A family that only hosts compute: what all have, then the fields of its `own`."""

    def fields(config: Any) -> dict[str, Any]:
        heads = config.num_attention_heads
        return {
            "model_type": config.model_type,
            "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size,
            "num_layers": config.num_hidden_layers,
            "num_heads": heads,
            "num_kv_heads": config.num_key_value_heads or heads,
            "experts_per_token": config.num_experts_per_tok,
            "hidden_act": config.hidden_act,
            "rope": _rope(config),
            "rms_norm_eps": float(config.rms_norm_eps),
            "tie_word_embeddings": bool(config.tie_word_embeddings),
            "sliding_window": _sliding_window(config),
        } | {name: getattr(config, name, None) for name in own}

    return fields


# The fields that define the function a family computes: olmoe's in models/config.cc's order, those that our runtime does
# not have in none but this one, as no C++ reads them.
CANONICAL = {
    "olmoe": _olmoe,
    "mixtral": _hosted("intermediate_size", "num_local_experts", "head_dim"),
    "qwen2_moe": _hosted("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size", "num_experts", "norm_topk_prob",
                         "decoder_sparse_step", "mlp_only_layers"),
    "qwen3_moe": _hosted("intermediate_size", "moe_intermediate_size", "num_experts", "norm_topk_prob", "decoder_sparse_step",
                         "mlp_only_layers", "head_dim", "attention_bias"),
    "gpt_oss": _hosted("intermediate_size", "num_local_experts", "head_dim", "layer_types", "attention_bias"),
    "deepseek_v2": _hosted("intermediate_size", "moe_intermediate_size", "n_routed_experts", "n_shared_experts", "first_k_dense_replace",
                           "kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "n_group", "topk_group",
                           "topk_method", "norm_topk_prob", "routed_scaling_factor", "attention_bias"),
}


def canonical_config(config: Any) -> str:
    """models/config.h, CanonicalConfig."""
    fields = CANONICAL.get(config.model_type)
    if fields is None:
        raise UnsupportedError(f"no fingerprint is defined for the model type {config.model_type!r}; known: {', '.join(CANONICAL)}")
    return "pointsman config 1\n" + "".join(f"{name}={_text_of(value)}\n" for name, value in fields(config).items())


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def router_weights(model: nn.Module) -> Iterator[Tensor]:
    """Of every MoE layer, ascending."""
    from .transformers.routers import router_modules

    for router in router_modules(model):
        yield router.weight
        if getattr(router, "bias", None) is not None:
            yield router.bias


def _hash_weights(weights: Iterator[Tensor]) -> str:
    digest = hashlib.sha256()
    for weight in weights:
        digest.update(weight.detach().to("cpu", torch.float32).contiguous().numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def of_model(model: nn.Module) -> dict[str, str]:
    """Of the configuration and the weights as they are loaded."""
    return {
        "architecture": model.config.model_type,
        "config_sha256": _sha256(canonical_config(model.config)),
        "router_sha256": _hash_weights(router_weights(model)),
        "dtype": str(next(router_weights(model)).dtype).removeprefix("torch."),
    }


def _checkpoint_routers(directory: pathlib.Path) -> Optional[list[Tensor]]:
    """The router weights that the checkpoint's safetensors hold, by layer; None without such files."""
    import safetensors

    found: dict[int, list[Tensor]] = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safetensors.safe_open(path, framework="pt") as file:
            for name in sorted(file.keys(), reverse=True):  # weight before bias
                match = re.search(r"layers\.(\d+)\.(?:mlp|block_sparse_moe)\.(?:gate|router)\.(?:weight|bias)$", name)
                if match:
                    found.setdefault(int(match[1]), []).append(file.get_tensor(name))
    return [weight for layer in sorted(found) for weight in found[layer]] or None


def _rounded_checkpoint_hash(model: nn.Module, checkpoint: Optional[Path]) -> Optional[str]:
    """The hash of the checkpoint's routers, if the loaded ones are nothing but their rounding."""
    directory = pathlib.Path(checkpoint or getattr(model, "name_or_path", "") or "")
    if not directory.is_dir() or not str(checkpoint or getattr(model, "name_or_path", "")):
        return None
    stored, loaded = _checkpoint_routers(directory), list(router_weights(model))
    if stored is None or len(stored) != len(loaded):
        return None
    if not all(a.shape == b.shape and torch.equal(a.to(b.dtype), b.detach().cpu()) for a, b in zip(stored, loaded)):
        return None
    return _hash_weights(iter(stored))


def of_checkpoint(model: nn.Module, directory: Path) -> dict[str, str]:
    """of_model, with the router weights that `directory` stores where loading has rounded them."""
    found = of_model(model)
    return found | {"router_sha256": _rounded_checkpoint_hash(model, directory) or found["router_sha256"]}


def of_files(directory: Path) -> dict[str, str]:
    """For families that only hosts compute; the core has its own for ours (pointsman.model_fingerprint)."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True).get_text_config()
    routers = _checkpoint_routers(pathlib.Path(directory))
    if not routers:
        raise UnsupportedError(f"{directory}: no router weights in its safetensors files")
    return {
        "architecture": config.model_type,
        "config_sha256": _sha256(canonical_config(config)),
        "router_sha256": _hash_weights(iter(routers)),
        "dtype": str(routers[0].dtype).removeprefix("torch."),
        "tokenizer_sha256": tokenizer_sha256(pathlib.Path(directory) / "tokenizer.json"),
    }


def check(model: nn.Module, memory: Any, checkpoint: Optional[Path] = None) -> None:
    """MismatchError with both values unless `memory` was built for `model` (and, with a `checkpoint` directory that holds
    a tokenizer.json, for its tokenizer)."""
    wanted = memory.manifest["fingerprint"]
    mine = of_model(model) if model.config.model_type == wanted["architecture"] else {"architecture": model.config.model_type}
    if mine.get("router_sha256") not in (None, wanted["router_sha256"]):
        mine["router_sha256"] = _rounded_checkpoint_hash(model, checkpoint) or mine["router_sha256"]
    tokenizer = pathlib.Path(checkpoint or getattr(model, "name_or_path", "") or "") / "tokenizer.json"
    if tokenizer.is_file():
        mine["tokenizer_sha256"] = tokenizer_sha256(tokenizer)
    wrong = [f"{name} is {mine[name]}, the memory has {wanted[name]}"
             for name in REFUSED if name in mine and mine[name] != wanted[name]]
    if wrong:
        raise MismatchError(f"{type(model).__name__} is not the model that the memory was built for: {'; '.join(wrong)}; attach a memory "
                            "that was built for this model, or build one with `pointsman build --model`")


# -- the tokenizer (models/tokenizer/tokenizer.h, CanonicalText) ----------------------------------------------------------


def _steps(spec: Optional[dict[str, Any]], inner: str) -> list[dict[str, Any]]:
    if spec is None:
        return []
    if spec.get("type") == "Sequence":
        return [step for part in spec.get(inner, []) for step in _steps(part, inner)]
    return [spec]


def _pre_tokenizer_line(step: dict[str, Any]) -> str:
    kind = step.get("type")
    if kind == "Digits":
        return f"digits {_text_of(bool(step.get('individual_digits', False)))}\n"
    if kind == "ByteLevel":
        return f"byte-level {_text_of(bool(step.get('add_prefix_space', True)))} {_text_of(bool(step.get('use_regex', True)))}\n"
    if kind == "Split":
        pattern = step["pattern"]
        text = pattern.get("Regex", pattern.get("String", ""))
        return (f"split {_text_of('Regex' in pattern)} {step['behavior']} {_text_of(bool(step.get('invert', False)))} "
                f"{len(text.encode())}:{text}\n")
    raise UnsupportedError(f"pre_tokenizer {kind!r}: no fingerprint is defined for it")


def tokenizer_sha256(tokenizer_json: Path) -> str:
    """Of the canonical vocabulary, merges and steps of a byte-level BPE."""
    path = pathlib.Path(tokenizer_json)
    root = json.loads(path.read_text(encoding="utf-8"))
    model = root["model"]
    if model.get("type", "BPE") != "BPE":
        raise UnsupportedError(f"{path}: model {model.get('type')!r}: no fingerprint is defined for it; byte-level BPE has one")
    added = sorted(root.get("added_tokens", []), key=lambda token: token["id"])
    ids = {index: content for content, index in model["vocab"].items()} | {token["id"]: token["content"] for token in added}
    digest = hashlib.sha256()
    write = lambda text: digest.update(text.encode())
    write("pointsman tokenizer 1\nnormalizer\n")
    write("".join(f"{step['type']}\n" for step in _steps(root.get("normalizer"), "normalizers")))
    write("pre_tokenizer\n" + "".join(map(_pre_tokenizer_line, _steps(root.get("pre_tokenizer"), "pretokenizers"))))
    write("vocabulary\n")
    for index in sorted(ids):
        write(f"{len(ids[index].encode())} {ids[index]}\n")
    write("added\n")
    for token in added:
        # The library's default: a token that is not special is matched after normalisation.
        flags = (token.get("normalized", not token.get("special", False)), token.get("lstrip", False), token.get("rstrip", False),
                 token.get("single_word", False))
        write(f"{token['id']} {' '.join(_text_of(bool(flag)) for flag in flags)}\n")
    write(f"merges\nignore_merges {_text_of(bool(model.get('ignore_merges', False)))}\n")
    for merge in model["merges"]:
        if isinstance(merge, str) and merge.startswith("#version"):
            continue
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        write(f"{model['vocab'][left]} {model['vocab'][right]}\n")
    return digest.hexdigest()
