"""Writes a small Mixture-of-Experts checkpoint in the hub's format as a GGUF file.

    python hosts/llamacpp/gguf_from_hf.py MODEL_DIR OUT.gguf [--type f32|f16|bf16|q8_0|q4_0]
    python hosts/llamacpp/gguf_from_hf.py --random-layers N OUT.gguf      random fp16 layers of OLMoE-1B-7B's widths, to time

For the reference model and the tests' models, whose tokenizers llama.cpp's own converter does not know: it asks for a
byte-level BPE with GPT-2's pattern and takes the vocabulary as it stands. Published models are converted by llama.cpp's
convert_hf_to_gguf.py. Refuses what llama.cpp's graph of the architecture does not compute (clip_qkv, for OLMoE
renormalised weights), so that a file that it writes gives transformers' logits. Needs gguf-py (tools/setup llamacpp).
"""

import argparse
import json
import os
import pathlib
import re
import sys

import numpy as np

FOLDER = pathlib.Path(os.environ.get("POINTSMAN_LLAMACPP") or pathlib.Path(
    os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache", "pointsman/llamacpp-0.3.36"))
# transformers' model_type: GGUF's architecture, and whether llama.cpp renormalises the chosen experts' weights.
ARCHITECTURES = {"olmoe": ("OLMOE", False), "qwen2_moe": ("QWEN2MOE", False), "qwen3_moe": ("QWEN3MOE", True)}
EXPERT = re.compile(r"(model\.layers\.\d+\.mlp\.experts)\.(\d+)\.(\w+)\.weight")


def import_gguf():
    try:
        import gguf
    except ImportError:
        sys.path.insert(0, str(FOLDER / "gguf-py"))
        try:
            import gguf
        except ImportError as error:
            sys.exit(f"gguf_from_hf: {error}: gguf-py is neither installed nor in {FOLDER}; run tools/setup llamacpp")
    return gguf


def load_tensors(folder):
    """Every tensor as fp32, experts stacked as GGUF has them: {hub name: array}."""
    import torch
    from safetensors.torch import load_file

    tensors, experts = {}, {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(path).items():
            array = tensor.to(torch.float32).numpy()
            match = EXPERT.fullmatch(name)
            if match:
                experts.setdefault(f"{match[1]}.{match[3]}.weight", {})[int(match[2])] = array
            elif name.endswith("experts.gate_up_proj"):
                gate, up = np.split(array, 2, axis=1)
                prefix = name.removesuffix("gate_up_proj")
                tensors[prefix + "gate_proj.weight"], tensors[prefix + "up_proj.weight"] = gate, up
            elif name.endswith("experts.down_proj"):
                tensors[name + ".weight"] = array
            else:
                tensors[name] = array
    for name, by_number in experts.items():
        tensors[name] = np.stack([by_number[i] for i in range(len(by_number))])
    if not tensors:
        sys.exit(f"gguf_from_hf: {folder}: no *.safetensors with weights")
    tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
    return tensors


def check(config):
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        sys.exit(f"gguf_from_hf: model_type {kind!r} is not one of {', '.join(ARCHITECTURES)}; use llama.cpp's converter")
    renormalised = ARCHITECTURES[kind][1]
    if bool(config.get("norm_topk_prob", False)) != renormalised:
        sys.exit(f"gguf_from_hf: norm_topk_prob is {not renormalised}; llama.cpp's {kind} computes {renormalised} only")
    if config.get("clip_qkv") is not None:
        sys.exit("gguf_from_hf: clip_qkv is set; llama.cpp's graph does not clip")
    return kind


def write_parameters(writer, config, kind):
    heads = config["num_attention_heads"]
    writer.add_name(kind)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads", heads))
    rope = config.get("rope_parameters") or {}
    writer.add_rope_freq_base(float(rope.get("rope_theta", config.get("rope_theta", 10000.0))))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_expert_count(config.get("num_experts") or config["num_local_experts"])  # transformers 4 or 5
    writer.add_expert_used_count(config["num_experts_per_tok"])
    if kind != "olmoe":
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if kind == "qwen2_moe":
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
    if kind == "qwen3_moe":
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])


def write_tokenizer(writer, gguf, folder, size):
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model, added = tokenizer["model"], {token["content"]: token for token in tokenizer.get("added_tokens") or []}
    if model["type"] != "BPE":
        sys.exit(f"gguf_from_hf: {folder}/tokenizer.json: {model['type']} is not byte-level BPE")
    if not model["merges"]:
        sys.exit(f"gguf_from_hf: {folder}/tokenizer.json: no merges; llama.cpp loads no byte-level BPE without one")
    names = {number: text for text, number in model["vocab"].items()} | {t["id"]: text for text, t in added.items()}
    texts, kinds = [], []
    for number in range(size):
        text = names.get(number)
        special = text in added and added[text]["special"]
        texts.append(text if text is not None else f"[unused{number}]")
        kinds.append(gguf.TokenType.UNUSED if text is None else gguf.TokenType.CONTROL if special else gguf.TokenType.NORMAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    writer.add_add_bos_token(False)


def convert(folder, out, kind="f32"):
    gguf = import_gguf()
    folder, out = pathlib.Path(folder), pathlib.Path(out)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    family = check(config)
    name, _ = ARCHITECTURES[family]
    writer = gguf.GGUFWriter(str(out), gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH[name]])
    write_parameters(writer, config, family)
    write_tokenizer(writer, gguf, folder, config["vocab_size"])
    ends = config.get("eos_token_id")
    for end in [ends] if isinstance(ends, int) else (ends or [])[:1]:
        writer.add_eos_token_id(end)
    wanted = gguf.GGMLQuantizationType[kind.upper()]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[name], config["num_hidden_layers"])
    for source, array in load_tensors(folder).items():
        target = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if target is None:
            sys.exit(f"gguf_from_hf: {source}: no tensor of GGUF's {name}")
        # As llama.cpp's converter has it: norms and routers stay in fp32.
        stays = array.ndim == 1 or "ffn_gate_inp" in target or wanted == gguf.GGMLQuantizationType.F32
        if target.endswith("ffn_gate_inp_shexp.weight"):
            array = array.reshape(-1)
        if stays:
            writer.add_tensor(target, np.ascontiguousarray(array, dtype=np.float32))
        else:
            writer.add_tensor(target, gguf.quants.quantize(array, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_random(out, layers):
    """0.8 GB a layer. Every expert of a layer has the same weights: they are read from different places all the same."""
    gguf = import_gguf()
    random = np.random.default_rng(0)
    hidden, inner, experts, vocabulary = 2048, 1024, 64, 4096
    config = {"num_attention_heads": 16, "max_position_embeddings": 4096, "hidden_size": hidden, "num_hidden_layers": layers,
              "intermediate_size": inner, "rms_norm_eps": 1e-5, "num_experts": experts, "num_experts_per_tok": 8}
    writer = gguf.GGUFWriter(str(out), "olmoe", use_temp_file=False)
    write_parameters(writer, config, "olmoe")
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(vocabulary)

    def add(name, *shape, kind=np.float16):
        values = random.standard_normal(shape[-2:], dtype=np.float32) / shape[-1] ** 0.5
        writer.add_tensor(name + ".weight", np.broadcast_to(values.astype(kind), shape))

    add("token_embd", vocabulary, hidden)
    add("output", vocabulary, hidden)
    norms = ["output_norm"]
    for layer in range(layers):
        block = f"blk.{layer}."
        norms += [block + name for name in ("attn_norm", "attn_q_norm", "attn_k_norm", "ffn_norm")]
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(block + name, hidden, hidden)
        add(block + "ffn_gate_inp", experts, hidden, kind=np.float32)
        add(block + "ffn_gate_exps", experts, inner, hidden)
        add(block + "ffn_up_exps", experts, inner, hidden)
        add(block + "ffn_down_exps", experts, hidden, inner)
    for name in norms:
        writer.add_tensor(name + ".weight", np.ones(hidden, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=pathlib.Path, nargs="?", help="a folder with config.json, tokenizer.json and *.safetensors")
    parser.add_argument("out", type=pathlib.Path, help="the file to write")
    parser.add_argument("--type", choices=("f32", "f16", "bf16", "q8_0", "q4_0"), default="f32", help="of matrices (default: f32)")
    parser.add_argument("--random-layers", type=int, help="no model: random weights of OLMoE-1B-7B's widths")
    given = parser.parse_args()
    if (given.model is None) == (given.random_layers is None):
        parser.error("give a model or --random-layers, one of the two")
    if given.random_layers:
        return write_random(given.out, given.random_layers)
    convert(given.model, given.out, given.type)


if __name__ == "__main__":
    main()
