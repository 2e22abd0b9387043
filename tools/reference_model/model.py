"""OLMoE in plain PyTorch, laid out for CPU training: tokens grouped by expert into blocks of one shape.

`tests` export it and compare with transformers' OlmoeForCausalLM; the parameter names are the hub's, experts fused.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

BLOCK = 128  # rows of one expert product


@dataclasses.dataclass
class Config:
    vocab_size: int = 4096
    hidden_size: int = 192
    intermediate_size: int = 96  # of one expert
    num_hidden_layers: int = 6
    num_attention_heads: int = 6
    num_experts: int = 32
    num_experts_per_tok: int = 4
    max_position_embeddings: int = 256
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5


class Scatter(torch.autograd.Function):
    """rows[slots] = x into zeros of `total` rows. Slots are distinct, so both directions are plain copies."""

    @staticmethod
    def forward(ctx, x, slots, total):
        ctx.save_for_backward(slots)
        return x.new_zeros(total, x.shape[1]).index_copy_(0, slots, x)

    @staticmethod
    def backward(ctx, grad):
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


class Gather(torch.autograd.Function):
    """x[slots] for distinct slots: the inverse of Scatter."""

    @staticmethod
    def forward(ctx, x, slots):
        ctx.save_for_backward(slots)
        ctx.total = x.shape[0]
        return x.index_select(0, slots)

    @staticmethod
    def backward(ctx, grad):
        return grad.new_zeros(ctx.total, grad.shape[1]).index_copy_(0, ctx.saved_tensors[0], grad), None


class Repeat(torch.autograd.Function):
    """Each block's expert matrix; the gradient is summed over an expert's blocks, as one product."""

    @staticmethod
    def forward(ctx, weight, block_expert):
        ctx.save_for_backward(block_expert)
        ctx.count = weight.shape[0]
        return weight.index_select(0, block_expert)

    @staticmethod
    def backward(ctx, grad):
        owner = F.one_hot(ctx.saved_tensors[0], ctx.count).t().to(grad.dtype)
        return (owner @ grad.reshape(len(grad), -1)).view(ctx.count, *grad.shape[1:]), None


class RmsNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x):
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight, self.eps)


def rope_tables(config):
    half = torch.arange(0, config.hidden_size // config.num_attention_heads, 2).float()
    inverse = config.rope_theta ** -(half / (config.hidden_size // config.num_attention_heads))
    angles = torch.outer(torch.arange(config.max_position_embeddings).float(), inverse)
    return torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


class Experts(nn.Module):
    """Top-k of softmax over all experts; the weights are not renormalised (norm_topk_prob false, as OLMoE)."""

    def __init__(self, config):
        super().__init__()
        self.top_k, self.count = config.num_experts_per_tok, config.num_experts
        h, f = config.hidden_size, config.intermediate_size
        self.gate = nn.Parameter(torch.randn(self.count, h) * 0.02)
        self.gate_up_proj = nn.Parameter(torch.randn(self.count, 2 * f, h) * 0.02)
        self.down_proj = nn.Parameter(torch.randn(self.count, h, f) * 0.02 / (2 * config.num_hidden_layers) ** 0.5)
        # An un-renormalised mixture starts at k/E of its scale; the factor is folded into down_proj here.
        self.down_proj.data *= 2.0

    def forward(self, x):
        h = x.reshape(-1, x.shape[-1])
        probabilities = (h.float() @ self.gate.t().float()).softmax(-1)
        weights, experts = probabilities.topk(self.top_k, -1)
        counts = torch.bincount(experts.reshape(-1), minlength=self.count)
        self.share = counts.float() / counts.sum()
        self.balance = self.count * (probabilities.mean(0) * self.share).sum()  # 1 when even (Switch, eq. 4)
        slots, block_expert = self.blocks(experts.reshape(-1), counts)
        token = h.to(torch.bfloat16)[:, None].expand(-1, self.top_k, -1).reshape(-1, h.shape[1])
        rows = Scatter.apply(token, slots, block_expert.numel() * BLOCK).view(-1, BLOCK, h.shape[1])
        w1 = Repeat.apply(self.gate_up_proj.to(torch.bfloat16), block_expert).transpose(1, 2)
        w2 = Repeat.apply(self.down_proj.to(torch.bfloat16), block_expert).transpose(1, 2)
        gate, up = torch.bmm(rows, w1).chunk(2, -1)
        outputs = torch.bmm(F.silu(gate) * up, w2).view(-1, h.shape[1])
        outputs = Gather.apply(outputs, slots).view(len(h), self.top_k, -1)
        return (outputs.float() * weights[..., None]).sum(1).view(x.shape)

    def blocks(self, experts, counts):
        """Rows grouped by expert into a fixed number of blocks: oneDNN compiles a kernel for every new shape."""
        total = -(-experts.numel() // BLOCK) + self.count
        blocks = (counts + BLOCK - 1) // BLOCK
        first_block = blocks.cumsum(0) - blocks
        order = experts.argsort(stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order)) - (counts.cumsum(0) - counts)[experts[order]]
        block_expert = torch.zeros(total, dtype=torch.long)
        used = torch.repeat_interleave(torch.arange(self.count), blocks)
        block_expert[: len(used)] = used
        return first_block[experts] * BLOCK + rank, block_expert


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        h = config.hidden_size
        self.heads = config.num_attention_heads
        self.qkv = nn.Parameter(torch.randn(3 * h, h) * 0.02)
        self.o_proj = nn.Parameter(torch.randn(h, h) * 0.02 / (2 * config.num_hidden_layers) ** 0.5)
        self.q_norm, self.k_norm = RmsNorm(h, config.rms_norm_eps), RmsNorm(h, config.rms_norm_eps)
        self.input_layernorm = RmsNorm(h, config.rms_norm_eps)
        self.post_attention_layernorm = RmsNorm(h, config.rms_norm_eps)
        self.mlp = Experts(config)

    def forward(self, x, cos, sin):
        b, t, h = x.shape
        normed = self.input_layernorm(x).to(torch.bfloat16)
        q, k, v = F.linear(normed, self.qkv.to(torch.bfloat16)).chunk(3, -1)
        split = lambda y: y.view(b, t, self.heads, -1).transpose(1, 2).contiguous()
        q = rotate(split(self.q_norm(q)), cos[:t], sin[:t])
        k = rotate(split(self.k_norm(k)), cos[:t], sin[:t])
        mixed = F.scaled_dot_product_attention(q, k, split(v.float()), is_causal=True).to(torch.bfloat16)
        x = x + F.linear(mixed.transpose(1, 2).reshape(b, t, h), self.o_proj.to(torch.bfloat16)).float()
        return x + self.mlp(self.post_attention_layernorm(x))


class Olmoe(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Parameter(torch.randn(config.vocab_size, config.hidden_size) * 0.02)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.cos, self.sin = rope_tables(config)

    def forward(self, ids, targets):
        """Mean next-token loss in nats; ids and targets [B, T]."""
        x = F.embedding(ids, self.embed_tokens)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        logits = F.linear(self.norm(x).to(torch.bfloat16), self.embed_tokens.to(torch.bfloat16))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]).float(), targets.reshape(-1))

    def balance(self):
        return sum(layer.mlp.balance for layer in self.layers) / len(self.layers)
