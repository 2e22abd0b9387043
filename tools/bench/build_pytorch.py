"""Baseline 2 of `pointsman bench build`: the same work in PyTorch by someone who cares for speed.

The model's own forward pass in a few functions: windows in batches, one product for q, k and v, fused attention and
normalisation kernels, tokens sorted by expert and grouped products, no gradient for a weight, no pass done twice.

    python tools/bench/build_pytorch.py WORK.json
"""

import sys

import torch
import torch.nn.functional as F
from transformers import AutoConfig, OlmoeForCausalLM
from transformers.utils import logging

from build_work import Clock, answer, linear_decay, quantize_rows, read_work

BATCH = 4  # windows a pass: of 1, 2, 4, 8 and 16 the fastest, activations stay in the cache


class Model:
    """OLMoE's forward pass on frozen weights."""

    def __init__(self, folder):
        self.config = config = AutoConfig.from_pretrained(folder)
        weights = OlmoeForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
        self.embedding, self.norm = weights["model.embed_tokens.weight"], weights["model.norm.weight"]
        self.output = weights["lm_head.weight"]
        self.layers = [self._layer(weights, f"model.layers.{i}.") for i in range(config.num_hidden_layers)]
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.dim = config.hidden_size // self.heads
        frequencies = 1.0 / config.rope_parameters["rope_theta"] ** (torch.arange(0, self.dim, 2) / self.dim)
        angles = torch.outer(torch.arange(config.max_position_embeddings).float(), frequencies).repeat(1, 2)
        self.cos, self.sin = angles.cos(), angles.sin()

    def _layer(self, weights, prefix):
        layer = {name: weights[prefix + path + ".weight"] for name, path in (
            ("input_norm", "input_layernorm"), ("mix_norm", "post_attention_layernorm"), ("q_norm", "self_attn.q_norm"),
            ("k_norm", "self_attn.k_norm"), ("out", "self_attn.o_proj"), ("router", "mlp.gate"))}
        layer["qkv"] = torch.cat([weights[f"{prefix}self_attn.{name}_proj.weight"] for name in "qkv"])
        layer["gate_up"] = weights[prefix + "mlp.experts.gate_up_proj"].transpose(1, 2)
        layer["down"] = weights[prefix + "mlp.experts.down_proj"].transpose(1, 2)
        return layer

    def _norm(self, x, weight):
        return F.rms_norm(x, weight.shape, weight, self.config.rms_norm_eps)

    def _turn(self, x):
        length = x.shape[2]
        low, high = x.chunk(2, -1)
        return x * self.cos[:length] + torch.cat((-high, low), -1) * self.sin[:length]

    def _attention(self, layer, x):
        batch, length, _ = x.shape
        q, k, v = F.linear(x, layer["qkv"]).split([self.heads * self.dim] + 2 * [self.kv_heads * self.dim], -1)
        q, k = self._norm(q, layer["q_norm"]), self._norm(k, layer["k_norm"])
        q, k, v = (t.view(batch, length, -1, self.dim).transpose(1, 2) for t in (q, k, v))
        mixed = F.scaled_dot_product_attention(self._turn(q), self._turn(k), v, is_causal=True,
                                               enable_gqa=self.heads != self.kv_heads)
        return F.linear(mixed.transpose(1, 2).reshape(batch, length, -1), layer["out"])

    def _experts(self, layer, x, logits):
        k = self.config.num_experts_per_tok
        weights, experts = logits.softmax(-1).topk(k, -1)
        if self.config.norm_topk_prob:
            weights = weights / weights.sum(-1, keepdim=True)
        order = experts.flatten().argsort()
        rows = order // k
        ends = torch.bincount(experts.flatten(), minlength=self.config.num_experts).cumsum(0).to(torch.int32)
        gate, up = F.grouped_mm(x[rows], layer["gate_up"], offs=ends).chunk(2, -1)
        out = F.grouped_mm(F.silu(gate) * up, layer["down"], offs=ends) * weights.flatten()[order, None]
        return torch.zeros_like(x).index_add(0, rows, out)

    def losses(self, batch, change=None, seen=None):
        """[B, T] nats per token. change(layer, hidden, ids) is added to router logits; `seen` collects their inputs."""
        x = F.embedding(batch.inputs, self.embedding)
        for i, layer in enumerate(self.layers):
            x = x + self._attention(layer, self._norm(x, layer["input_norm"]))
            hidden = self._norm(x, layer["mix_norm"]).flatten(0, 1)
            logits = F.linear(hidden, layer["router"])
            if seen is not None:
                seen.append(hidden.detach())
            if change is not None:
                logits = logits + change(i, hidden, batch.inputs.flatten())
            x = x + self._experts(layer, hidden, logits).view_as(x)
        logits = F.linear(self._norm(x, self.norm), self.output)
        flat = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
        return flat.view_as(batch.targets) * batch.mask


class Batch:
    """Windows padded on the right."""

    def __init__(self, windows, members):
        chosen = [windows[m] for m in members]
        pad = lambda name: torch.nn.utils.rnn.pad_sequence([getattr(w, name) for w in chosen], batch_first=True)
        self.members, self.inputs, self.targets, self.mask = members, pad("inputs"), pad("targets"), pad("mask")
        lengths = torch.tensor([len(w.inputs) for w in chosen])
        self.real = (torch.arange(self.inputs.shape[1]) < lengths[:, None]).flatten()


def by_length(windows):
    order = sorted(range(len(windows)), key=lambda i: len(windows[i].inputs))
    return [Batch(windows, order[i:i + BATCH]) for i in range(0, len(order), BATCH)]


@torch.no_grad()
def mean_nll(model, batches, change):
    return sum(model.losses(b, change).sum() for b in batches).item() / sum(b.mask.sum() for b in batches).item()


@torch.no_grad()
def capture(model, windows):
    """[layer] = router inputs of the frozen model, [N, H]; rows in the order of the batches."""
    kept = []
    for batch in by_length(windows):
        seen = []
        model.losses(batch, seen=seen)
        kept.append([rows[batch.real] for rows in seen])
    return [torch.cat(rows) for rows in zip(*kept)]


def whiten(rows, dim):
    mean = rows.mean(0)
    centered = rows - mean
    values, vectors = torch.linalg.eigh(centered.T @ centered / len(rows))
    values, vectors = values[-dim:].flip(0), vectors[:, -dim:].flip(1)
    return mean, (vectors / values.clamp_min(values[0] * 1e-6).sqrt()).T.contiguous()


def spherical_kmeans(keys, count, iterations):
    centers = keys[torch.randperm(len(keys))[:count]]
    for _ in range(iterations):
        nearest = (keys @ centers.T).argmax(-1)
        sums = torch.zeros_like(centers).index_add_(0, nearest, keys)
        empty = torch.bincount(nearest, minlength=count) == 0
        sums[empty] = keys[torch.randint(len(keys), (int(empty.sum()),))]
        centers = F.normalize(sums, dim=-1)
    return centers


class Prototypes:
    """One layer: keys start at the centroids, values at 0."""

    def __init__(self, rows, config, settings):
        self.mean, projection = whiten(rows, min(settings["key_dim"], config.hidden_size))
        keys = F.normalize((rows - self.mean) @ projection.T, dim=-1)
        zeros = lambda *shape: torch.zeros(*shape)
        self.parameters = {
            "values": zeros(settings["prototypes"], config.num_experts),
            "centers": spherical_kmeans(keys, settings["prototypes"], settings["kmeans_iterations"]),
            "projection": projection, "log_tau": torch.tensor(settings["tau"]).log(),
            "log_tau2": torch.tensor(settings["tau2"]).log(), "delta": zeros(config.num_experts, config.hidden_size),
            "table": zeros(config.vocab_size, config.num_experts)}
        for name, value in self.parameters.items():
            setattr(self, name, value.requires_grad_())

    def change(self, hidden, ids):
        queries = F.normalize(F.linear(hidden - self.mean, self.projection), dim=-1)
        similarity = F.linear(queries, F.normalize(self.centers, dim=-1))
        weights = (similarity / self.log_tau.exp()).softmax(-1)
        confidence = ((similarity.amax(-1, keepdim=True) - 1) / self.log_tau2.exp()).exp()
        return weights @ self.values * confidence + F.linear(hidden, self.delta) + F.embedding(ids, self.table)

    @torch.no_grad()
    def finish(self, hidden):
        """The arrays of a memory: int8 keys and values, the table, and the entries nearest to each prototype."""
        centers = F.normalize(self.centers, dim=-1)
        entries = F.normalize((hidden - self.mean) @ self.projection.T, dim=-1)
        nearest = (centers @ entries.T).topk(8, -1)[1]
        return [quantize_rows(rows.numpy()) for rows in (centers, self.values, self.table)], nearest


def train_prototypes(work, model):
    settings, clock = work.settings, Clock()
    hidden = capture(model, work.reference)
    memory = [Prototypes(rows, model.config, settings) for rows in hidden]
    change = lambda layer, rows, ids: memory[layer].change(rows, ids)
    parameters = [(name, value) for layer in memory for name, value in layer.parameters.items()]
    rates = [settings["rates"][name] for name, _ in parameters]
    optimizer = torch.optim.Adam([{"params": [p], "lr": rate} for (_, p), rate in zip(parameters, rates)], foreach=True)
    held_out = by_length(work.held_out)

    snapshot = lambda: [p.detach().clone() for _, p in parameters]
    best_nll, best = mean_nll(model, held_out, change), snapshot()
    steps, done = sum(len(epoch) for epoch in work.plan), 0
    for epoch in work.plan:
        for members in epoch:
            linear_decay(optimizer, rates, done / steps)
            batches = [Batch(work.reference, members[i:i + BATCH]) for i in range(0, len(members), BATCH)]
            weight = sum(b.mask.sum() for b in batches)
            optimizer.zero_grad()
            for batch in batches:
                (model.losses(batch, change).sum() / weight).backward()
            optimizer.step()
            done += 1
        nll = mean_nll(model, held_out, change)
        if nll < best_nll:
            best_nll, best = nll, snapshot()
    with torch.no_grad():
        for (_, parameter), value in zip(parameters, best):
            parameter.copy_(value)
    for layer, rows in zip(memory, hidden):
        layer.finish(rows)
    answer(work, clock.read(), nll=best_nll)


def optimize_knn(work, model):
    """Each token's own logits by a few Adam steps; the first of them sees the frozen model, whose inputs are the keys."""
    settings, clock = work.settings, Clock()
    finished, keys = [], []
    for batch in by_length(work.reference):
        free = [torch.zeros(batch.inputs.numel(), model.config.num_experts, requires_grad=True) for _ in model.layers]
        optimizer = torch.optim.Adam(free, lr=settings["knn_rate"], foreach=True)
        for step in range(settings["knn_steps"]):
            seen = [] if step == 0 else None
            optimizer.zero_grad()
            model.losses(batch, lambda layer, rows, ids: free[layer], seen).sum().backward()
            optimizer.step()
            if seen:
                keys.append([rows[batch.real] for rows in seen])
        finished.append((batch, [change.detach() for change in free]))
    for layer in range(len(model.layers)):
        quantize_rows(F.normalize(torch.cat([rows[layer] for rows in keys]), dim=-1).numpy())
        quantize_rows(torch.cat([free[layer][batch.real] for batch, free in finished]).numpy())
    spent = clock.read()

    with torch.no_grad():
        total = sum(model.losses(b, lambda layer, rows, ids: free[layer]).sum().item() for b, free in finished)
    answer(work, spent, nll=total / sum(w.mask.sum().item() for w in work.reference))


def main():
    logging.disable_progress_bar()
    work = read_work(sys.argv[1])
    model = Model(work.model)
    (optimize_knn if work.values == "knn" else train_prototypes)(work, model)


if __name__ == "__main__":
    main()
