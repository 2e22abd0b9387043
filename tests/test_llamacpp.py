"""A memory inside llama.cpp: nothing changes where nothing should, and what changes is what our own runtime does.

Needs hosts/llamacpp, which is built where llama.cpp is (tools/setup llamacpp, then cmake --preset release and a build);
without it everything here is skipped.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import BINARY, ROOT, carries_exactly, fails

BUILD = pathlib.Path(os.environ.get("POINTSMAN_BUILD_DIR", ROOT / "build/release"))
PROBE, EXAMPLE, BENCH, OURS = (BUILD / name for name in (
    "pointsman_llama_probe", "pointsman_llama", "pointsman_llama_bench", "pointsman_logits"))
sys.path.insert(0, str(ROOT / "hosts/llamacpp"))
from probe import Texts, run, run_ok, same_bits  # noqa: E402

pytestmark = pytest.mark.skipif(
    not PROBE.exists(), reason="llama.cpp is not built: tools/setup llamacpp, then build pointsman_llama_probe")

NEAR_TIE = 5e-3  # two best logits this close may swap between two engines
SAME_GAIN = 0.002  # nats a token


def largest(a, b):
    return max(np.abs(x - y).max() for x, y in zip(a, b))


def held_out_texts(folder, model, count, length):
    """Windows of C++ headers that the corpus does not have."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    root = sorted(pathlib.Path("/usr/include/c++").iterdir())[-1]
    paths = [path for path in sorted(root.glob("ext/*.h")) if path.stat().st_size > 3000]
    sequences = [tokenizer.encode(path.read_text(errors="replace")).ids[:length] for path in paths[:count]]
    assert len(sequences) == count
    return Texts(folder, sequences, json.loads((model / "config.json").read_text())["vocab_size"])


@pytest.fixture(scope="module")
def convert():
    gguf_from_hf = pytest.importorskip("gguf_from_hf")
    return gguf_from_hf.convert


@pytest.fixture(scope="module")
def tiny_gguf(convert, model, tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    convert(model, path)
    return path


@pytest.fixture(scope="module")
def tiny_texts(model, tmp_path_factory):
    return held_out_texts(tmp_path_factory.mktemp("tiny_texts"), model, count=4, length=100)


@pytest.fixture(scope="module")
def reference_gguf(convert, tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "reference.gguf"
    convert(ROOT / "models/reference", path)
    return path


@pytest.fixture(scope="module")
def reference_memory(pointsman, corpus, off_domain, tmp_path_factory):
    out = tmp_path_factory.mktemp("reference_memory") / "memory"
    pointsman.ok("build", "--model", ROOT / "models/reference", "--corpus", corpus, "--off-domain", off_domain, "--out", out,
                 "--kind", "prototypes", "--max-tokens", "3000", "--max-test-tokens", "500", "--preset", "fast", "--threads", "1")
    return out


def test_without_a_memory_every_bit_stays(tiny_gguf, tiny_texts, built_memory):
    plain, _ = tiny_texts.ask(PROBE, tiny_gguf, "--plain")
    for arguments in ((), ("--memory", built_memory, "--strength", 0), ("--memory", built_memory, "--shadow")):
        assert same_bits(plain, tiny_texts.ask(PROBE, tiny_gguf, *arguments)[0]), arguments
    assert not same_bits(plain, tiny_texts.ask(PROBE, tiny_gguf, "--memory", built_memory)[0])


def compare(texts, folder, model, gguf, memory, greedy):
    """Both engines with and without the memory: differences of logits, gains, and where greedy tokens part."""
    ours, ours_with = texts.ask(OURS, model, greedy), texts.ask(OURS, model, greedy, memory)
    theirs = texts.ask(PROBE, gguf, "--greedy", greedy)
    theirs_with = texts.ask(PROBE, gguf, "--greedy", greedy, "--memory", memory)
    for left, right, name in ((ours, theirs, "frozen"), (ours_with, theirs_with, "memory")):
        for number, (a, b) in enumerate(zip(left[1], right[1])):
            if a == b:
                continue
            at = next(i for i in range(max(len(a), len(b))) if a[i:i + 1] != b[i:i + 1])
            again = Texts(folder, [texts.sequences[number] + a[:at]], texts.vocabulary)
            rows, _ = again.ask(OURS, model, 0, *((memory,) if name == "memory" else ()))
            best = np.sort(rows[0][-1])[-2:]
            assert best[1] - best[0] < NEAR_TIE, f"{name}: sequence {number} parts at token {at} without a tie"
            print(f"{name}: sequence {number} parts at token {at} at a near-tie of {best[1] - best[0]:.1e}")
    gain = [texts.nll(with_memory[0]).mean() - texts.nll(frozen[0]).mean()
            for frozen, with_memory in ((ours, ours_with), (theirs, theirs_with))]
    frozen, routed = largest(ours[0], theirs[0]), largest(ours_with[0], theirs_with[0])
    effect = largest(ours[0], ours_with[0])
    print(f"largest difference of logits: frozen {frozen:.2e}, with the memory {routed:.2e}; the memory changes {effect:.2e}; "
          f"gain ours {gain[0]:+.5f}, llama.cpp {gain[1]:+.5f} nats a token")
    return frozen, routed, effect, gain


def test_the_tiny_model_is_routed_as_by_our_runtime(tiny_gguf, tiny_texts, model, built_memory, tmp_path):
    frozen, routed, effect, gain = compare(tiny_texts, tmp_path, model, tiny_gguf, built_memory, greedy=20)
    assert frozen < 1e-3 and routed < 1e-3 < effect
    assert gain[0] == pytest.approx(gain[1], abs=SAME_GAIN)


def test_the_reference_models_gain_is_the_same(reference_gguf, reference_memory, tmp_path):
    model = ROOT / "models/reference"
    texts = held_out_texts(tmp_path, model, count=6, length=250)
    frozen, routed, effect, gain = compare(texts, tmp_path, model, reference_gguf, reference_memory, greedy=0)
    assert gain[0] < -0.01, "the memory helps"
    assert gain[0] == pytest.approx(gain[1], abs=SAME_GAIN)
    assert frozen < 1e-3 and routed < 1e-2 < effect


def test_the_example_generates_what_the_command_does(pointsman, reference_gguf, reference_memory):
    prompt = "#ifndef _STL_LIST_H\n#define _STL_LIST_H 1\n\n#include <bits/concept_check.h>\n\nnamespace std\n{\n  template<typename"
    arguments = ("--model", reference_gguf, "--prompt", prompt, "--max-tokens", 30, "--threads", 1, "--json")
    routed = json.loads(run_ok(EXAMPLE, *arguments, "--memory", reference_memory).stdout)
    ours = pointsman.json("generate", "--model", ROOT / "models/reference", "--memory", reference_memory, "--prompt", prompt,
                          "--max-tokens", 30, "--threads", 1, schema="generate")
    assert routed["prompt_tokens"] == ours["prompt_tokens"], "the same token ids, or the gate reads another text"
    same = next((i for i, (a, b) in enumerate(zip(routed["tokens"], ours["tokens"])) if a != b), 30)
    assert same >= 10, (routed["text"], ours["text"])
    assert routed["written"] > 0 and max(routed["gate"]) > 0
    assert len(routed["gate"]) == len(routed["prompt_tokens"]) + len(routed["tokens"]) - 1
    assert routed["layer_calls"] == 6 * len(routed["tokens"])
    frozen = json.loads(run_ok(EXAMPLE, *arguments).stdout)
    off = json.loads(run_ok(EXAMPLE, *arguments, "--memory", reference_memory, "--disable").stdout)
    assert off["tokens"] == frozen["tokens"] and off["written"] == 0


def test_refusals_name_the_thing(tiny_gguf, reference_gguf, built_memory, reference_memory, tmp_path):
    for gguf, memory in ((tiny_gguf, reference_memory), (reference_gguf, built_memory)):
        done = run(EXAMPLE, "--model", gguf, "--memory", memory, "--prompt", "a")
        assert done.returncode == 1 and "built for another model: router_sha256" in done.stderr
    done = run(EXAMPLE, "--model", tiny_gguf, "--memory", tmp_path / "none", "--prompt", "a")
    assert done.returncode == 1 and "none" in done.stderr


def verify(pointsman, memory, model, *arguments, ask=None, **options):
    return (ask or pointsman)("verify", memory, "--host", "llamacpp", "--model", model, "--python", sys.executable, "--max-tokens", "600",
                              *arguments, env={"OMP_NUM_THREADS": "1"}, **options)


def test_verify_compares_llama_cpp_with_the_runtime(pointsman, tiny_gguf, model, built_memory):
    host = verify(pointsman, built_memory, model, "--gguf", tiny_gguf, ask=pointsman.json, schema="verify")
    assert host["host"] == "llamacpp" and host["version"].startswith("ggml ") and host["dtype"] == "f32"
    carries_exactly(host)


def test_verify_prints_what_other_weights_and_another_cache_change_in_llama_cpp(pointsman, convert, model, built_memory, tmp_path):
    convert(model, tmp_path / "half.gguf", "bf16")
    done = verify(pointsman, built_memory, model, "--gguf", tmp_path / "half.gguf", "--half-cache")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("llamacpp ggml ") and ", bf16, fp16 cache, " in lines[0], done.stderr
    assert [line.split()[0] for line in lines[2:4]] == ["0", "1"]
    assert all(float(line.split()[-1]) > 1e-3 for line in lines[2:4])  # of router logits, at most
    assert "in shadow mode the model's logits keep their bits" in lines
    assert done.returncode == ("does NOT do there" in done.stdout)


def test_verify_of_llama_cpp_names_what_is_missing(pointsman, convert, tiny_gguf, model, other_model, built_memory, tmp_path):
    convert(other_model, tmp_path / "other.gguf")
    (tmp_path / "text.gguf").write_text("no model\n")
    for gguf, parts in {"other.gguf": ("built for another model: router_sha256", "use a GGUF of the model"),
                        "text.gguf": ("text.gguf", "not a GGUF file"), "none.gguf": ("none.gguf", "--gguf")}.items():
        fails(verify(pointsman, built_memory, model, "--gguf", tmp_path / gguf), 1, *parts)
    fails(verify(pointsman, built_memory, model), 2, "--gguf FILE", "gguf_from_hf.py")
    fails(verify(pointsman, built_memory, model, "--gguf", tiny_gguf, "--dtype", "bfloat16"), 2, "--dtype", "--gguf")
    fails(pointsman("verify", built_memory, "--host", "transformers", "--model", model, "--gguf", tiny_gguf), 2, "--host llamacpp only")
    alone = shutil.copy(BINARY, tmp_path)  # an installation without llama.cpp
    done = subprocess.run([alone, "verify", built_memory, "--host", "llamacpp", "--model", model, "--gguf", tiny_gguf], capture_output=True,
                          text=True, env=pointsman.environment())
    fails(done, 1, "pointsman_llama_verify: llama.cpp is not built", "tools/setup llamacpp")


def test_the_cost_is_measured(tiny_gguf):
    report = json.loads(run_ok(BENCH, "--model", tiny_gguf, "--entries", 1000, "--prompt", 16, "--decode", 4,
                               "--rounds", 1).stdout)
    assert [run["variant"] for run in report["runs"]] == ["plain", "idle", "attached", "memory"]
    assert report["entries_per_layer"] == 1000 and report["layers"] == 2


FAMILY_SIZES = dict(vocab_size=257, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
                    num_experts=8, num_experts_per_tok=2, max_position_embeddings=128, tie_word_embeddings=False)
FAMILIES = {
    "olmoe": ("OlmoeConfig", dict(num_key_value_heads=4, eos_token_id=0, pad_token_id=None)),
    "qwen2_moe": ("Qwen2MoeConfig", dict(num_key_value_heads=2, moe_intermediate_size=16, norm_topk_prob=False,
                                         shared_expert_intermediate_size=24)),
    "qwen3_moe": ("Qwen3MoeConfig", dict(num_key_value_heads=2, moe_intermediate_size=16, norm_topk_prob=True, head_dim=16)),
}


def random_family(name, folder):
    """A random model of the family with a byte-level tokenizer of one merge, in the hub's format."""
    import tokenizers
    import torch
    import transformers

    kind, changes = FAMILIES[name]
    torch.manual_seed(3)
    config = getattr(transformers, kind)(**FAMILY_SIZES | changes)
    model = transformers.AutoModelForCausalLM.from_config(config, experts_implementation="eager").eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:
                weight.copy_(1 + 0.3 * torch.randn_like(weight))
            else:
                weight.normal_(std=weight.shape[-1] ** -0.5)
    model.save_pretrained(folder)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(
        vocab={text: number for number, text in enumerate([*alphabet, "ab"])}, merges=[("a", "b")]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    return model


def add_to_routers(model, vectors):
    """What a session does, in transformers: one vector a layer on the router's logits."""
    import torch
    import torch.nn.functional as F

    def patched(gate, vector):
        def forward(hidden):
            logits = F.linear(hidden.reshape(-1, gate.hidden_dim), gate.weight) + vector
            scores, chosen = torch.topk(torch.softmax(logits, dim=-1, dtype=torch.float), gate.top_k, dim=-1)
            if gate.norm_topk_prob:
                scores = scores / scores.sum(dim=-1, keepdim=True)
            return logits, scores, chosen
        return forward

    for layer, vector in zip(model.model.layers, vectors):
        layer.mlp.gate.forward = patched(layer.mlp.gate, torch.from_numpy(vector))


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_routed_where_transformers_is(family, convert, tmp_path):
    import torch

    model = random_family(family, tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "model.gguf")
    random = np.random.default_rng(4)
    texts = Texts(tmp_path, [random.integers(1, 255, length).tolist() for length in (1, 30, 70)], 257)
    vectors = random.normal(scale=2, size=(3, 8)).astype(np.float32)
    vectors.tofile(tmp_path / "session.bin")

    @torch.no_grad()
    def theirs():
        return [model(torch.tensor([ids])).logits[0].numpy() for ids in texts.sequences]

    frozen = theirs()
    frozen_difference = largest(texts.ask(PROBE, tmp_path / "model.gguf", "--plain")[0], frozen)
    add_to_routers(model, vectors)
    routed = theirs()
    ours, _ = texts.ask(PROBE, tmp_path / "model.gguf", "--session", tmp_path / "session.bin", "--batch", 16)
    difference, effect = largest(ours, routed), largest(frozen, routed)
    print(f"{family}: difference to transformers frozen {frozen_difference:.1e}, with a session {difference:.1e}; "
          f"the session changes {effect:.1e}")
    assert frozen_difference < 1e-3 and difference < 1e-3 < 0.1 < effect
