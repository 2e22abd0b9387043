"""Baseline 1 of `pointsman bench build`: the straightforward script.

transformers' OlmoeForCausalLM with forward hooks on its routers, a loop over documents, faiss-cpu for the whitening,
the k-means and the search. What one writes first, with nothing silly in it: weights are frozen, no gradient is recorded
where none is needed.

    python tools/bench/build_plain.py WORK.json
"""

import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import OlmoeForCausalLM
from transformers.utils import logging

from build_work import Clock, answer, linear_decay, quantize_rows, read_work

try:
    import faiss
except ImportError:
    sys.exit("build_plain.py: faiss is not installed: run tools/setup bench (it installs faiss-cpu into .venv)")


class Routers:
    """Hooks on all routers: `change(layer, hidden, ids)` is added to the logits, `seen[layer]` keeps the inputs."""

    def __init__(self, model):
        self.model, self.change, self.keep, self.ids, self.seen = model, None, False, None, {}
        for layer, block in enumerate(model.model.layers):
            block.mlp.gate.register_forward_hook(lambda gate, inputs, output, layer=layer: self._hook(layer, gate, inputs, output))

    def _hook(self, layer, gate, inputs, output):
        hidden = inputs[0]
        if self.keep:
            self.seen[layer] = hidden.detach()
        change = self.change(layer, hidden, self.ids) if self.change else None
        if change is None:
            return output
        logits = output[0] + change
        weights, experts = torch.topk(logits.softmax(-1), gate.top_k, dim=-1)
        if gate.norm_topk_prob:
            weights = weights / weights.sum(-1, keepdim=True)
        return logits, weights, experts

    def losses(self, window):
        """[n] nats per token; 0 where the target does not count."""
        self.ids = window.inputs
        logits = self.model(window.inputs[None]).logits[0]
        return F.cross_entropy(logits, window.targets, reduction="none") * window.mask

    @torch.no_grad()
    def mean_nll(self, windows):
        total = sum(self.losses(window).sum().item() for window in windows)
        return total / sum(window.mask.sum().item() for window in windows)

    @torch.no_grad()
    def capture(self, windows):
        """[layer] = router inputs of the frozen model, [N, H]."""
        self.keep, kept = True, []
        for window in windows:
            self.losses(window)
            kept.append([self.seen[layer] for layer in range(len(self.model.model.layers))])
        self.keep, self.seen = False, {}
        return [torch.cat(rows) for rows in zip(*kept)]


class PrototypeLayer(nn.Module):
    def __init__(self, hidden, config, settings):
        super().__init__()
        rows, dim = hidden.numpy(), min(settings["key_dim"], config.hidden_size)
        pca = faiss.PCAMatrix(rows.shape[1], dim, -0.5)
        pca.train(rows)
        # FAISS whitens by the singular values; by the standard deviations it is a factor the square root of N more.
        projection = faiss.vector_to_array(pca.A).reshape(dim, -1) * np.float32(np.sqrt(len(rows)))
        self.register_buffer("mean", torch.from_numpy(faiss.vector_to_array(pca.mean)))
        keys = F.normalize((hidden - self.mean) @ torch.from_numpy(projection).T, dim=-1)
        kmeans = faiss.Kmeans(dim, settings["prototypes"], niter=settings["kmeans_iterations"], spherical=True,
                              seed=settings["seed"], min_points_per_centroid=1,
                              max_points_per_centroid=len(rows) // settings["prototypes"] + 1)
        kmeans.train(keys.numpy())
        self.projection = nn.Parameter(torch.from_numpy(projection))
        self.centers = nn.Parameter(torch.from_numpy(kmeans.centroids.copy()))
        self.values = nn.Parameter(torch.zeros(settings["prototypes"], config.num_experts))
        self.log_tau = nn.Parameter(torch.tensor(settings["tau"]).log())
        self.log_tau2 = nn.Parameter(torch.tensor(settings["tau2"]).log())
        self.delta = nn.Parameter(torch.zeros(config.num_experts, config.hidden_size))
        self.table = nn.Parameter(torch.zeros(config.vocab_size, config.num_experts))

    def forward(self, hidden, ids):
        queries = F.normalize((hidden - self.mean) @ self.projection.T, dim=-1)
        similarity = queries @ F.normalize(self.centers, dim=-1).T
        weights = (similarity / self.log_tau.exp()).softmax(-1)
        confidence = ((similarity.amax(-1, keepdim=True) - 1) / self.log_tau2.exp()).exp()
        return weights @ self.values * confidence + hidden @ self.delta.T + self.table[ids]

    @torch.no_grad()
    def finish(self, hidden):
        """The arrays of a memory: int8 keys and values, the table, and the entries nearest to each prototype."""
        centers = F.normalize(self.centers, dim=-1).numpy()
        entries = F.normalize((hidden - self.mean) @ self.projection.T, dim=-1).numpy()
        index = faiss.IndexFlatIP(centers.shape[1])
        index.add(entries)
        nearest = index.search(centers, 8)[1]
        return [quantize_rows(rows) for rows in (centers, self.values.numpy(), self.table.numpy())], nearest


def train_prototypes(work, routers):
    settings, clock = work.settings, Clock()
    hidden = routers.capture(work.reference)
    memory = nn.ModuleList(PrototypeLayer(rows, routers.model.config, settings) for rows in hidden)
    routers.change = lambda layer, rows, ids: memory[layer](rows, ids)
    rates = [settings["rates"][name.split(".")[1]] for name, _ in memory.named_parameters()]
    optimizer = torch.optim.Adam([{"params": [p], "lr": rate} for p, rate in zip(memory.parameters(), rates)])

    best_nll = routers.mean_nll(work.held_out)
    best = {name: value.clone() for name, value in memory.state_dict().items()}
    steps, done = sum(len(epoch) for epoch in work.plan), 0
    for epoch in work.plan:
        for members in epoch:
            linear_decay(optimizer, rates, done / steps)
            weight = sum(work.reference[m].mask.sum().item() for m in members)
            optimizer.zero_grad()
            for m in members:
                (routers.losses(work.reference[m]).sum() / weight).backward()
            optimizer.step()
            done += 1
        nll = routers.mean_nll(work.held_out)
        if nll < best_nll:
            best_nll, best = nll, {name: value.clone() for name, value in memory.state_dict().items()}
    memory.load_state_dict(best)
    for layer, rows in zip(memory, hidden):
        layer.finish(rows)
    answer(work, clock.read(), nll=best_nll)


def optimize_knn(work, routers):
    """The published recipe: each token's own logits by a few Adam steps, keys = the normalised router inputs."""
    settings, layers, clock = work.settings, len(routers.model.model.layers), Clock()
    hidden, values = routers.capture(work.reference), []
    for window in work.reference:
        free = [torch.zeros(len(window.inputs), routers.model.config.num_experts, requires_grad=True) for _ in range(layers)]
        routers.change = lambda layer, rows, ids: free[layer]
        optimizer = torch.optim.Adam(free, lr=settings["knn_rate"])
        for _ in range(settings["knn_steps"]):
            optimizer.zero_grad()
            routers.losses(window).sum().backward()
            optimizer.step()
        values.append([change.detach() for change in free])
    indexes = []
    for layer, rows in enumerate(hidden):
        keys = rows.numpy().copy()
        faiss.normalize_L2(keys)
        index = faiss.IndexScalarQuantizer(keys.shape[1], faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
        index.train(keys)
        index.add(keys)
        indexes.append((index, quantize_rows(torch.cat([v[layer] for v in values]).numpy())))
    spent = clock.read()

    total = 0.0
    for window, free in zip(work.reference, values):
        routers.change = lambda layer, rows, ids: free[layer]
        total += routers.mean_nll([window]) * window.mask.sum().item()
    answer(work, spent, nll=total / sum(window.mask.sum().item() for window in work.reference))


def main():
    logging.disable_progress_bar()
    work = read_work(sys.argv[1])
    faiss.omp_set_num_threads(work.threads)
    model = OlmoeForCausalLM.from_pretrained(work.model, dtype=torch.float32).eval().requires_grad_(False)
    model.config.use_cache = False
    routers = Routers(model)
    (optimize_knn if work.values == "knn" else train_prototypes)(work, routers)


if __name__ == "__main__":
    main()
