"""The C++ forward pass against transformers' OlmoeForCausalLM, live, on files that save_pretrained wrote.

Needs build/release/pointsman_logits. Also compares the shipped reference model (models/reference, or the directory in
POINTSMAN_REFERENCE_MODEL) where there is one.
"""

import json
import os
import pathlib
import subprocess

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM, OlmoeConfig

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = pathlib.Path(os.environ.get("POINTSMAN_BUILD_DIR", ROOT / "build/release")) / "pointsman_logits"
REFERENCE = pathlib.Path(os.environ.get("POINTSMAN_REFERENCE_MODEL", ROOT / "models/reference"))
LOGIT_TOLERANCE = 1e-4
NEAR_TIE = 1e-3  # two best logits this close may swap under another order of summation
GREEDY_TOKENS = 40
PLAIN_LOOP = dict(experts_implementation="eager")  # the default's grouped product refuses odd sizes

BASE = dict(
    vocab_size=300,
    hidden_size=32,
    intermediate_size=16,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    num_experts=8,
    num_experts_per_tok=2,
    max_position_embeddings=128,
    tie_word_embeddings=False,
    pad_token_id=0,
    eos_token_id=299,
)
VARIANTS = {
    "plain": {},
    "renormalized": dict(norm_topk_prob=True),
    "tied": dict(tie_word_embeddings=True),
    "grouped_queries": dict(num_key_value_heads=2),
    "one_key_head": dict(num_key_value_heads=1, norm_topk_prob=True),
    "clipped": dict(clip_qkv=0.4),
    "top_1": dict(num_experts_per_tok=1),
    "top_all": dict(num_experts_per_tok=8),
    "odd_sizes": dict(vocab_size=301, hidden_size=42, num_attention_heads=3, num_key_value_heads=3, intermediate_size=7,
                      num_experts=5, num_experts_per_tok=3),
    "one_layer": dict(num_hidden_layers=1),
    "other_rope": dict(rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
    "other_epsilon": dict(rms_norm_eps=1e-3),
}

pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM} is not built")


def write_byte_tokenizer(path):
    """A byte-level tokenizer without merges: the model's directory must hold one, its ids are not used here."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(path / "tokenizer.json"))


def random_model(seed=0, **changes):
    """Weights far from their initialisation, so that routing, norms and clipping all matter."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(OlmoeConfig(**{**BASE, **changes}), **PLAIN_LOOP).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.copy_(1 + 0.3 * torch.randn_like(weight))
            else:
                weight.normal_(std=weight.shape[-1] ** -0.5)
    return model


def fuse_experts(folder):
    """Rewrites model.safetensors with one gate_up_proj and one down_proj a layer, as transformers 5 holds them."""
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    config = json.loads((folder / "config.json").read_text())
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}.mlp.experts."
        if prefix + "gate_up_proj" in tensors:
            continue
        take = lambda expert, name: tensors.pop(f"{prefix}{expert}.{name}_proj.weight")
        experts = range(config["num_experts"])
        gate_up = [torch.cat([take(e, "gate"), take(e, "up")]) for e in experts]
        tensors[prefix + "gate_up_proj"] = torch.stack(gate_up)
        tensors[prefix + "down_proj"] = torch.stack([take(e, "down") for e in experts])
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def run_program(folder, sequences, vocabulary, tmp_path, greedy=0):
    ids, logits = tmp_path / "ids.txt", tmp_path / "logits.bin"
    ids.write_text("".join(" ".join(map(str, sequence)) + "\n" for sequence in sequences))
    done = subprocess.run([PROGRAM, folder, ids, logits, str(greedy)], capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
    assert done.returncode == 0, done.stderr
    flat = torch.from_numpy(np.fromfile(logits, dtype=np.float32)).view(-1, vocabulary)
    continuations = [list(map(int, line.split())) for line in done.stdout.splitlines()]
    return flat.split([len(sequence) for sequence in sequences]), continuations


@torch.no_grad()
def greedy_from_transformers(model, prompt, count):
    """Greedy ids, and for each the gap between its logit and the runner-up's."""
    ids, cache, tokens, gaps = torch.tensor([prompt]), None, [], []
    ends = model.config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    while len(tokens) < count:
        output = model(ids, past_key_values=cache, use_cache=True)
        best = output.logits[0, -1].topk(2)
        if best.indices[0].item() in ends:
            break
        tokens.append(best.indices[0].item())
        gaps.append((best.values[0] - best.values[1]).item())
        ids, cache = best.indices[:1].view(1, 1), output.past_key_values
    return tokens, gaps


def compare(model, folder, tmp_path, lengths=(1, 2, 37, 80)):
    """Logits of several sequences, and greedy continuations; one may part at a near-tie, which is counted."""
    random = np.random.default_rng(0)
    vocabulary = model.config.vocab_size
    sequences = [random.integers(0, vocabulary - 1, length).tolist() for length in lengths]
    ours, continuations = run_program(folder, sequences, vocabulary, tmp_path, GREEDY_TOKENS)
    worst, ties = 0.0, 0
    for sequence, logits, tokens in zip(sequences, ours, continuations):
        with torch.no_grad():
            theirs = model(torch.tensor([sequence])).logits[0]
        worst = max(worst, (logits - theirs).abs().max().item())
        expected, gaps = greedy_from_transformers(model, sequence, GREEDY_TOKENS)
        if tokens != expected:
            parting = next(i for i in range(GREEDY_TOKENS) if tokens[i : i + 1] != expected[i : i + 1])
            assert gaps[parting] < NEAR_TIE, f"token {parting}: {tokens} instead of {expected}"
            ties += 1
    print(f"largest difference {worst:.2e}, continuations that parted at a near-tie {ties} of {len(sequences)}")
    assert worst < LOGIT_TOLERANCE


@pytest.mark.parametrize("variant", VARIANTS)
def test_variant_agrees(variant, tmp_path):
    model = random_model(**VARIANTS[variant])
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    write_byte_tokenizer(folder)
    compare(model, folder, tmp_path)


def test_sharded_files_agree(tmp_path):
    model = random_model(seed=1)
    folder = tmp_path / "model"
    model.save_pretrained(folder, max_shard_size="50KB")
    assert (folder / "model.safetensors.index.json").exists()
    write_byte_tokenizer(folder)
    compare(model, folder, tmp_path)


def test_fused_experts_agree(tmp_path):
    model = random_model(seed=2)
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    fuse_experts(folder)
    write_byte_tokenizer(folder)
    compare(model, folder, tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_files_are_widened(dtype, tmp_path):
    folder = tmp_path / "model"
    random_model(seed=3).to(dtype).save_pretrained(folder)
    write_byte_tokenizer(folder)
    compare(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **PLAIN_LOOP), folder, tmp_path)


@pytest.mark.skipif(not (REFERENCE / "config.json").exists(), reason="no reference model")
def test_reference_model_agrees(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(REFERENCE, dtype=torch.float32, **PLAIN_LOOP)
    compare(model, REFERENCE, tmp_path, lengths=(3, 100, 200))
