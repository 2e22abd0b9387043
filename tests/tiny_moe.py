"""Tiny random transformers models of every family, and memories for them."""

import pytest
import torch
import transformers

from host_memories import TableMemory, open_gate
from pointsman.transformers import attach

torch.set_num_threads(1)  # tiny tensors: a second thread would only wait

VOCABULARY, HIDDEN, EXPERTS = 96, 32, 8
COMMON = dict(vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2,
              num_experts_per_tok=2, max_position_embeddings=128, pad_token_id=0, eos_token_id=None, bos_token_id=None)
FAMILIES = {
    "olmoe": lambda: transformers.OlmoeConfig(**COMMON, intermediate_size=16, num_experts=EXPERTS),
    "olmoe_renormalised": lambda: transformers.OlmoeConfig(**COMMON, intermediate_size=16, num_experts=EXPERTS, norm_topk_prob=True),
    "qwen2_moe": lambda: transformers.Qwen2MoeConfig(**COMMON, moe_intermediate_size=16, shared_expert_intermediate_size=16,
                                                     num_experts=EXPERTS, mlp_only_layers=[1], intermediate_size=32),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(**COMMON, moe_intermediate_size=16, num_experts=EXPERTS, head_dim=16,
                                                     norm_topk_prob=True),
    "mixtral": lambda: transformers.MixtralConfig(**COMMON, intermediate_size=16, num_local_experts=EXPERTS),
    "gpt_oss": lambda: transformers.GptOssConfig(**COMMON, intermediate_size=16, num_local_experts=EXPERTS, head_dim=16),
    "deepseek_v2": lambda: transformers.DeepseekV2Config(
        **COMMON, intermediate_size=32, moe_intermediate_size=16, n_routed_experts=EXPERTS, n_shared_experts=1, first_k_dense_replace=1,
        kv_lora_rank=16, q_lora_rank=None, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16, routed_scaling_factor=1.5),
    "deepseek_v2_groups": lambda: transformers.DeepseekV2Config(
        **COMMON, intermediate_size=32, moe_intermediate_size=16, n_routed_experts=EXPERTS, n_shared_experts=1, first_k_dense_replace=0,
        kv_lora_rank=16, q_lora_rank=None, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16, n_group=4, topk_group=2,
        topk_method="group_limited_greedy"),
}
MOE_LAYERS = {"qwen2_moe": [0, 2], "deepseek_v2": [1, 2]}
PAIRS = [(a, b) for a in range(1, VOCABULARY) for b in range(1, VOCABULARY) if (a * 7 + b) % 2 == 0]  # about half of random text
CLOSE = dict(atol=1e-4, rtol=0)


def random_model(family="olmoe", seed=0, dtype=torch.float32, **changes):
    torch.manual_seed(seed)
    config = FAMILIES[family]()
    for name, value in changes.items():
        setattr(config, name, value)
    model = transformers.AutoModelForCausalLM.from_config(config, experts_implementation="eager").eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=weight.shape[-1] ** -0.5)
    return model.to(dtype)


@pytest.fixture(scope="module")
def model():
    return random_model()


def make_memory(layers=(0, 1, 2), seed=0, **options):
    options = {"vocabulary": VOCABULARY, "gate": open_gate(PAIRS), "size": 4.0} | options
    return TableMemory(layers, HIDDEN, EXPERTS, seed=seed, **options)


@pytest.fixture(scope="module")
def memory():
    return make_memory()


def adapted(model, memory, **options):
    return attach(model, memory, check_fingerprint=False, **options)


def text(batch=1, length=24, seed=0):
    return torch.randint(1, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits_of(model, ids, **options):
    return model(input_ids=ids, **options).logits
