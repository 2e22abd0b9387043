"""Online rerouting in a transformers model: one additive vector of router logits a MoE layer, learned from a text alone by a
few steps on the model's own next-token loss, with autograd in the host.

    session = Session()
    learned = Rerouter(adapted, ReroutingOptions(guard=True)).feed(session, input_ids)
    with adapted.bind(Binding(memory, session)):
        model.generate(input_ids)

Formulas, rules and defaults are those of adapt/rerouting.h and docs/decisions/007-rerouting-defaults.md. What a memory
changes counts as a constant: no gradient flows through what is retrieved. Contexts of a batch are independent. No weight
is touched, and none gets a gradient.

B contexts, C tokens each (padding has weight 0), L MoE layers, E experts. Threads: as Adapted; one Rerouter, one thread.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Optional, Sequence

import torch
from torch import Tensor

from ..errors import Error
from .adapted import Adapted
from .bindings import FROZEN, Binding, Session

RULES = ("adam", "evidence", "agreement")
FULL_AGREEMENT = 0.12  # docs/decisions/007-rerouting-defaults.md
Vectors = dict[int, Tensor]  # layer -> [B, E] fp32


@dataclass(frozen=True)
class ReroutingOptions:
    """adapt/rerouting_options.h; `layers` is written as --rewire-layers is."""

    rule: str = "agreement"
    steps: int = 1
    rate: float = 0.03
    layers: str = "all"  # all, soft-most, soft-least, or last, most-confident, least-confident with a count such as last:3
    guard: bool = False  # learn from the first 3/4; keep only if the last quarter's loss falls by more than the margin
    guard_margin: float = 0.0
    stop_early: bool = False  # a context stops once a step gains less than stop_below; a step that lost is taken back
    stop_below: float = 0.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise Error(f"rule {self.rule!r}; it is one of {', '.join(RULES)}")
        if not re.fullmatch(r"all|soft-most|soft-least|(last|most-confident|least-confident)(:[1-9]\d*)?", self.layers):
            raise Error(f"layers {self.layers!r}; it is all, soft-most, soft-least, or last, most-confident, least-confident with a "
                        "count such as last:3")

    @property
    def which(self) -> str:
        """The choice without its count: all, last, most-confident or least-confident."""
        return {"soft-most": "most-confident", "soft-least": "least-confident"}.get(self.layers, self.layers.partition(":")[0])

    @property
    def count(self) -> int:
        """Layers to adapt; 0: no count was given."""
        return int(self.layers.partition(":")[2] or 0)

    @property
    def soft(self) -> bool:
        """Every layer is adapted, its step scaled by its confidence."""
        return self.layers.startswith("soft-")


@dataclass
class Rerouted:
    """What a batch of contexts was taught, each alone."""

    vectors: Vectors
    before: list[float]  # [B] nats per token, with the start vectors; empty without a step
    kept: list[bool]  # [B] False where the guard fell back to the start
    steps: int  # forward and backward passes of the last fit


@dataclass
class Fed:
    """What one text taught a session: nats per token before and after, and whether the guard let it stay."""

    loss_before: float
    loss_after: float
    kept: bool


def _mean_losses(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """[B] nats per counted target."""
    flat = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    return (flat.view_as(weights) * weights).sum(1) / weights.sum(1).clamp_min(1)


def _spread(rows: Tensor) -> Tensor:
    """[B, C, E] -> [B, E]: root of the sum of squares over the tokens."""
    return rows.square().sum(1).sqrt() + 1e-20


def _agreement(rows: Sequence[Tensor], weights: Tensor, steered: Tensor) -> Tensor:
    """[B, 1] in 0..1: the cosine between the steps of the context's halves, as a part of FULL_AGREEMENT. Over the layers
    that the context steers [B, layers], whatever the others of the batch do."""
    rows = [layer * own[:, None, None] for layer, own in zip(rows, steered.unbind(1))]
    head = (weights.cumsum(1) <= 0.5 * weights.sum(1, keepdim=True)).float().unsqueeze(-1)
    first = torch.cat([(layer * head).sum(1) / _spread(layer) for layer in rows], 1)
    second = torch.cat([(layer.sum(1) - (layer * head).sum(1)) / _spread(layer) for layer in rows], 1)
    lengths = (first.square().sum(1, keepdim=True) * second.square().sum(1, keepdim=True)).sqrt()
    return ((first * second).sum(1, keepdim=True) / (lengths + 1e-12) / FULL_AGREEMENT).clamp(0, 1)


class _Adam:
    """adapt/adam.h for tensors that are leaves of nothing."""

    def __init__(self, values: Sequence[Tensor], rate: float) -> None:
        self.rate, self.steps = rate, 0
        self.moments = [(torch.zeros_like(value), torch.zeros_like(value)) for value in values]

    def step(self, values: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        self.steps += 1
        new = []
        for value, gradient, (first, second) in zip(values, gradients, self.moments):
            first.mul_(0.9).add_(gradient, alpha=0.1)
            second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            denominator = second.sqrt() / (1 - 0.999**self.steps) ** 0.5 + 1e-8
            new.append(value - self.rate / (1 - 0.9**self.steps) * first / denominator)
        return new


class Rerouter:
    """`memory`: what the vectors act beside, the adapted model's own binding by default."""

    def __init__(self, adapted: Adapted, options: ReroutingOptions = ReroutingOptions(), memory: Optional[Binding] = None) -> None:
        self.adapted, self.options = adapted, options
        binding = adapted.default if memory is None else memory
        self.beside = Binding(binding.memory, None, binding.strength, binding.shadow) if binding.memory is not None else FROZEN
        self.layers = [layer.layer for layer in adapted.layers]
        self.experts = {layer.layer: layer.experts for layer in adapted.layers}

    # -- for sessions ----------------------------------------------------------------------------------------------

    def feed(self, session: Session, input_ids: Tensor, attention_mask: Optional[Tensor] = None) -> Fed:
        """Learns from one text [1, C], at least two tokens, and goes on from what the session has learned."""
        if input_ids.dim() != 2 or input_ids.shape[0] != 1 or input_ids.shape[1] < 2:
            raise Error(f"input_ids has the shape {tuple(input_ids.shape)}; a session learns from one text of two tokens or more, [1, C]")
        start = {layer: vector[None] for layer, vector in session.vectors.items()}
        targets = input_ids.roll(-1, 1)
        weights = torch.ones(input_ids.shape, device=input_ids.device)
        if attention_mask is not None:
            weights = weights * attention_mask * attention_mask.roll(-1, 1)
        weights[:, -1] = 0  # its target is not known yet
        learned = self.learn(input_ids, targets, weights, start, attention_mask)
        after = self.losses(learned.vectors, input_ids, targets, weights, attention_mask)[0].item()
        session.replace({layer: vector[0] for layer, vector in learned.vectors.items()})
        return Fed(learned.before[0] if learned.before else after, after, learned.kept[0])

    # -- for batches -----------------------------------------------------------------------------------------------

    def learn(self, inputs: Tensor, targets: Tensor, weights: Tensor, start: Optional[Vectors] = None,
              mask: Optional[Tensor] = None) -> Rerouted:
        """inputs, targets [B, C] token ids, weights [B, C] (0: the target does not count), mask as attention_mask."""
        self._context = (inputs, targets, mask)
        confidence = self._observe(weights)[1] if self.options.which in ("most-confident", "least-confident") else None
        self._scales = self._step_scales(confidence, inputs.shape[0])
        self._steered = [layer for i, layer in enumerate(self.layers) if self._scales[:, i].max() > 0]
        device = inputs.device
        none = {layer: torch.zeros(inputs.shape[0], self.experts[layer]) for layer in self.layers}
        self._start = {layer: (start or {}).get(layer, none[layer]).detach().clone().float().to(device) for layer in self.layers}
        return self._fit_guarded(weights) if self.options.guard else self._fit(weights)

    def mean_retrieved(self, inputs: Tensor, weights: Tensor, mask: Optional[Tensor] = None) -> Vectors:
        """Each context's mean change by the memory over its tokens: a warm start."""
        self._context = (inputs, inputs, mask)
        return self._observe(weights)[0]

    @torch.no_grad()
    def losses(self, vectors: Vectors, inputs: Tensor, targets: Tensor, weights: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        """[B] nats per token with `vectors`."""
        self._context = (inputs, targets, mask)
        return self._losses(self._rows(vectors), weights)

    # -- passes ----------------------------------------------------------------------------------------------------

    def _rows(self, vectors: Vectors) -> Vectors:
        """A context's vector for each of its tokens: [B, E] -> [B * C, E]."""
        columns = self._context[0].shape[1]
        return {layer: vector.repeat_interleave(columns, 0) for layer, vector in vectors.items()}

    def _losses(self, rows: Vectors, weights: Tensor) -> Tensor:
        inputs, targets, mask = self._context
        with self.adapted.bind(self.beside), self.adapted.with_vectors(rows):
            logits = self.adapted.model(input_ids=inputs, attention_mask=mask, use_cache=False).logits
        return _mean_losses(logits, targets, weights)

    @torch.no_grad()
    def _observe(self, weights: Tensor) -> tuple[Vectors, Tensor]:
        """The memory's mean change of each context, and the confidence of each layer [B, L]: the mean of log p over tokens
        and selected experts."""
        inputs, _, mask = self._context
        change: Vectors = {}
        confidence: dict[int, Tensor] = {}
        chosen = self.adapted.model.config.get_text_config().num_experts_per_tok

        def mean(rows: Tensor) -> Tensor:
            rows = rows.view(*weights.shape, -1)
            return (rows * weights.unsqueeze(-1)).sum(1) / weights.sum(1, keepdim=True).clamp_min(1)

        def see(layer: int, before: Tensor, after: Tensor) -> None:
            change[layer] = mean((after.float() - before.float()))
            best = after.float().log_softmax(-1).topk(min(chosen, after.shape[-1]), -1).values
            confidence[layer] = mean(best.mean(-1, keepdim=True))

        with self.adapted.bind(self.beside), self.adapted.observed(see):
            self.adapted.model(input_ids=inputs, attention_mask=mask, use_cache=False)
        return change, torch.cat([confidence[layer] for layer in self.layers], 1)

    def _step_scales(self, confidence: Optional[Tensor], batch: int) -> Tensor:
        """[B, L]: how far a step of each context and layer goes, 0..1."""
        options, layers = self.options, len(self.layers)
        scales = torch.ones(batch, layers, device=self._context[0].device)
        count = min(options.count, layers) if options.count > 0 else (layers + 1) // 2
        if options.which == "last":
            scales[:, :layers - count] = 0
        if confidence is None:
            return scales
        order = -confidence if options.which == "least-confident" else confidence
        if options.soft:
            return order.softmax(1) / order.softmax(1).amax(1, keepdim=True)
        return torch.zeros_like(scales).scatter(1, order.topk(count, 1).indices, 1.0)

    def _differentiate(self, vectors: Vectors, weights: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Losses [B], and by steered layer the gradient of every token [B, C, E]."""
        rows = {layer: vector.detach() for layer, vector in self._rows(vectors).items()}
        leaves = [rows[layer].requires_grad_() for layer in self._steered]
        with torch.inference_mode(False), torch.enable_grad():
            losses = self._losses(rows, weights)
            gradients = torch.autograd.grad(losses.sum(), leaves)
        shape = self._context[0].shape
        return losses.detach(), [gradient.view(*shape, -1) for gradient in gradients]

    @torch.no_grad()
    def _fit(self, weights: Tensor) -> Rerouted:
        options, batch = self.options, weights.shape[0]
        result = Rerouted({layer: vector.clone() for layer, vector in self._start.items()}, [], [True] * batch, 0)
        current = [result.vectors[layer] for layer in self._steered]
        adam = _Adam(current, options.rate)
        done = weights.new_zeros(batch, 1)
        steered = (self._scales[:, [self.layers.index(layer) for layer in self._steered]] > 0).float()
        last, previous = None, list(current)
        for step in range(options.steps):
            losses, gradients = self._differentiate(result.vectors, weights)
            now = losses.unsqueeze(1)
            if step == 0:
                result.before = losses.tolist()
            elif options.stop_early:
                back = (now > last) & (done == 0)
                current = [torch.where(back, old, new) for old, new in zip(previous, current)]
                done = torch.maximum(done, (now > last - options.stop_below).float())
                if done.min() > 0:
                    break
            last, result.steps, previous = now, result.steps + 1, current
            sums = [gradient.sum(1) for gradient in gradients]
            if options.rule == "adam":
                moved = adam.step(previous, sums)
            else:
                agreed = options.rule == "agreement"
                rate = options.rate * (_agreement(gradients, weights, steered) if agreed else weights.new_ones(batch, 1))
                moved = [old - rate * total / _spread(gradient) for old, total, gradient in zip(previous, sums, gradients)]
            scales = [self._scales[:, self.layers.index(layer), None] * (1 - done) for layer in self._steered]
            current = [old + scale * (new - old) for old, new, scale in zip(previous, moved, scales)]
            result.vectors.update(zip(self._steered, current))
        result.vectors.update(zip(self._steered, current))
        return result

    @torch.no_grad()
    def _fit_guarded(self, weights: Tensor) -> Rerouted:
        head = weights * (weights.cumsum(1) <= 0.75 * weights.sum(1, keepdim=True))
        tried = self._fit(head)
        before = self._losses(self._rows(self._start), weights - head)
        after = self._losses(self._rows(tried.vectors), weights - head)
        result = self._fit(weights)
        keep = (after < before - self.options.guard_margin).unsqueeze(1)  # False for NaN
        result.vectors = {layer: torch.where(keep, vector, self._start[layer]) for layer, vector in result.vectors.items()}
        result.kept = keep.flatten().tolist()
        return result


__all__ = ["Rerouter", "ReroutingOptions", "Rerouted", "Fed"]
