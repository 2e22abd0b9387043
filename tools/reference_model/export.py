"""Writes the trained reference model as a Hugging Face directory that transformers and Pointsman load unchanged.

    OMP_NUM_THREADS=1 python tools/reference_model/export.py --data build/reference_model --out models/reference --check

Reads checkpoint.pt and tokenizer.json from --data. Writes config.json, generation_config.json, model.safetensors
(bf16, one tensor per expert and projection as on the hub; the output layer is the tied embedding), tokenizer.json and
tokenizer_config.json to --out. `--check` loads --out with transformers and compares its held-out loss with the
training model's; it exits with 1 when they differ by more than bf16 rounding explains.
"""

import argparse
import json
import pathlib
import shutil
import sys
import tempfile

import numpy as np
import safetensors.torch
import tokenizers
import torch

from model import Config, Olmoe

END_OF_TEXT = "<|endoftext|>"
SIZE_LIMIT = 25_000_000  # bytes of the whole directory: it lives in the repository
LOSS_TOLERANCE = 0.005  # nats; the training model multiplies in bf16, which moves a few tokens between experts


def read_checkpoint(path: pathlib.Path) -> dict:
    """The checkpoint, from a private copy: a training that is still running replaces the file at any time."""
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(path, folder)
        return torch.load(copy, map_location="cpu", mmap=False)


def hub_tensors(state: dict, config: Config) -> dict:
    """Training parameters under the hub's names: q, k, v apart, and each expert's projections apart."""
    tensors = {"model.embed_tokens.weight": state["embed_tokens"], "model.norm.weight": state["norm.weight"]}
    for i in range(config.num_hidden_layers):
        source, target = f"layers.{i}.", f"model.layers.{i}."
        for name, weight in zip("qkv", state[source + "qkv"].chunk(3)):
            tensors[f"{target}self_attn.{name}_proj.weight"] = weight
        tensors[target + "self_attn.o_proj.weight"] = state[source + "o_proj"]
        for name in ("q_norm", "k_norm"):
            tensors[f"{target}self_attn.{name}.weight"] = state[f"{source}{name}.weight"]
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{target}{name}.weight"] = state[f"{source}{name}.weight"]
        tensors[target + "mlp.gate.weight"] = state[source + "mlp.gate"]
        for expert in range(config.num_experts):
            gate, up = state[source + "mlp.gate_up_proj"][expert].chunk(2)
            prefix = f"{target}mlp.experts.{expert}."
            tensors[prefix + "gate_proj.weight"], tensors[prefix + "up_proj.weight"] = gate, up
            tensors[prefix + "down_proj.weight"] = state[source + "mlp.down_proj"][expert]
    return {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}


def hub_config(config: Config, end: int) -> dict:
    return {
        "architectures": ["OlmoeForCausalLM"],
        "model_type": "olmoe",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_attention_heads,
        "num_experts": config.num_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
        "norm_topk_prob": False,
        "hidden_act": "silu",
        "clip_qkv": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "tie_word_embeddings": True,
        "eos_token_id": end,
        "pad_token_id": end,
        "bos_token_id": None,
        "torch_dtype": "bfloat16",
    }


def write_model(state: dict, config: Config, tokenizer: pathlib.Path, out: pathlib.Path):
    out.mkdir(parents=True, exist_ok=True)
    end = tokenizers.Tokenizer.from_file(str(tokenizer)).token_to_id(END_OF_TEXT)
    safetensors.torch.save_file(hub_tensors(state, config), out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # safetensors leaves it readable by its writer alone
    shutil.copy(tokenizer, out / "tokenizer.json")
    documents = {
        "config.json": hub_config(config, end),
        "generation_config.json": {"eos_token_id": end, "pad_token_id": end},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END_OF_TEXT,
            "pad_token": END_OF_TEXT,
            "model_max_length": config.max_position_embeddings,
            "clean_up_tokenization_spaces": False,
        },
    }
    for name, document in documents.items():
        (out / name).write_text(json.dumps(document, indent=2) + "\n")


@torch.no_grad()
def check(state: dict, config: Config, out: pathlib.Path, heldout: pathlib.Path, windows: int) -> bool:
    import transformers  # only the check needs it

    model, info = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
    problems = {key: value for key, value in info.items() if value}
    tokens = np.load(heldout, mmap_mode="r")
    length = config.max_position_embeddings
    starts = np.linspace(0, len(tokens) - length - 1, windows).astype(int)
    rows = torch.from_numpy(np.stack([tokens[s : s + length + 1] for s in starts]).astype(np.int64))
    trained = Olmoe(config)
    trained.load_state_dict(state)
    sums = np.zeros(2)
    for row in rows.split(8):
        ids, targets = row[:, :-1], row[:, 1:]
        logits = model(ids).logits
        hub = torch.nn.functional.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))
        sums += len(row) * np.array([trained(ids, targets).item(), hub.item()])
    ours, hubs = sums / len(rows)
    encoded = transformers.AutoTokenizer.from_pretrained(out)("The kernel's page cache")["input_ids"]
    size = sum(path.stat().st_size for path in out.iterdir())
    print(json.dumps({"trained": ours, "exported": hubs, "windows": len(rows), "loading": str(problems), "bytes": size,
                      "encoded": encoded}))
    return abs(ours - hubs) < LOSS_TOLERANCE and not problems and size <= SIZE_LIMIT


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--check", action="store_true", help="compare with the training model on heldout.npy")
    parser.add_argument("--windows", type=int, default=32, help="held-out windows of the check")
    args = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint, config = read_checkpoint(args.data / "checkpoint.pt"), Config()
    write_model(checkpoint["model"], config, args.data / "tokenizer.json", args.out)
    print(f"wrote {args.out} from step {checkpoint['step']}", file=sys.stderr)
    if args.check and not check(checkpoint["model"], config, args.out, args.data / "heldout.npy", args.windows):
        sys.exit(1)


if __name__ == "__main__":
    main()
