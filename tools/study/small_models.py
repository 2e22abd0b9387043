"""Small random models of every family that a memory can be built for, and texts of this machine to build it from."""

import hashlib
import pathlib
import shutil

CONTEXT = 128
COMMON = dict(hidden_size=64, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2, num_experts_per_tok=2,
              max_position_embeddings=CONTEXT, pad_token_id=None, eos_token_id=0, bos_token_id=None, tie_word_embeddings=True,
              initializer_range=0.2)
# The configuration's class in transformers, and its sizes. Two have dense layers among the others.
FAMILIES = {
    "olmoe": ("OlmoeConfig", dict(intermediate_size=32, num_experts=8)),
    "qwen2_moe": ("Qwen2MoeConfig", dict(moe_intermediate_size=32, shared_expert_intermediate_size=32, num_experts=8,
                                         mlp_only_layers=[1], intermediate_size=64)),
    "qwen3_moe": ("Qwen3MoeConfig", dict(moe_intermediate_size=32, num_experts=8, head_dim=32, norm_topk_prob=True)),
    "mixtral": ("MixtralConfig", dict(intermediate_size=32, num_local_experts=8)),
    "gpt_oss": ("GptOssConfig", dict(intermediate_size=32, num_local_experts=8, head_dim=32)),
    # Sizes that vLLM has kernels for.
    "deepseek_v2": ("DeepseekV2Config", dict(
        intermediate_size=64, moe_intermediate_size=32, n_routed_experts=8, n_shared_experts=1, first_k_dense_replace=1, n_group=1,
        topk_group=1, kv_lora_rank=512, q_lora_rank=None, qk_nope_head_dim=16, qk_rope_head_dim=64, v_head_dim=32,
        routed_scaling_factor=1.5)),
}
# Little to learn from, for seconds, and no budget that cuts a test document short: a host can be given the text that was scored.
WHOLE_TEST = ("--max-tokens", "4000", "--max-test-tokens", "60000", "--threads", "1")


def copy_headers(target, count, largest):
    """Real C++ headers of this machine's compiler, small ones, under the names that they have there."""
    root = sorted(pathlib.Path("/usr/include/c++").iterdir())[-1]
    chosen = [path for path in sorted(root.glob("bits/*.h")) if 1500 < path.stat().st_size < largest][:count]
    assert len(chosen) == count
    for path in chosen:
        (target / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target / path.parent.name / path.name)
    return target


def write_licenses(folder):
    """English: the licenses of Debian, cut into documents."""
    for path in sorted(pathlib.Path("/usr/share/common-licenses").glob("*")):
        if path.is_symlink():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        for part in range(min(6, len(text) // 2000)):
            (folder / f"{path.name}.{part}.txt").write_text(text[part * 2000:(part + 1) * 2000])
    return folder


def train_tokenizer(texts):
    """A byte-level BPE of 512 tokens, the first of which ends a text."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=512, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return tokenizer


def config_of(family, **changes):
    import transformers

    kind, sizes = FAMILIES[family]
    return getattr(transformers, kind)(**COMMON | sizes | changes)


def save_model(config, folder, tokenizer, seed=7):
    """A random model whose experts differ enough for routing to matter, in the hub's format, with a copy of this tokenizer.json."""
    import torch
    import transformers

    torch.manual_seed(seed)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    if tokenizer.parent != folder:
        shutil.copy(tokenizer, folder / "tokenizer.json")
    return folder


def held_out_files(memory, corpus):
    """The files that `memory`, a pointsman.Memory, was scored on."""
    is_tested = lambda path: hashlib.sha256(path.read_bytes()).hexdigest() in memory.manifest["test_sha256"]
    tested = [path for path in sorted(corpus.rglob("*.h")) if is_tested(path)]
    assert len(tested) == len(memory.manifest["test_sha256"])
    return tested


def held_out(memory, corpus, tokenizer):
    """Token ids of those files, as far as a build reads them. `tokenizer` is a tokenizer.json."""
    import tokenizers
    from pointsman.transformers.score import read_documents

    documents = read_documents(held_out_files(memory, corpus), tokenizers.Tokenizer.from_file(str(tokenizer)))
    return [tokens[:1024] for tokens in documents]
