"""The routers of transformers' MoE families, and how each is made to ask a memory.

A router module becomes an instance of a subclass of its own class, in place: its path, parameters, hooks and state_dict
stay what they were, isinstance holds, and giving the class back restores it. The subclass computes the logits, lets the
adapter change them and selects experts as its family does. Families differ in the selection only, so each is a few
lines; `check_selection` compares them with the installed transformers' own forward, bit for bit, before anything is
replaced.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Iterator

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from ..errors import UnsupportedError

if TYPE_CHECKING:
    from .adapted import Adapted

Selection = tuple[Tensor, Tensor, Tensor]  # logits [T, E], weights [T, k], experts [T, k]


def linear_logits(router: Any, hidden: Tensor) -> Tensor:
    return functional.linear(hidden, router.weight, getattr(router, "bias", None))


def wide_logits(router: Any, hidden: Tensor) -> Tensor:
    """deepseek_v2: both factors in fp32."""
    return functional.linear(hidden.float(), router.weight.float())


def softmax_all(router: Any, logits: Tensor) -> Selection:
    """olmoe, qwen2_moe, qwen3_moe: the k largest of a softmax over all experts."""
    weights, experts = logits.softmax(-1, dtype=torch.float).topk(router.top_k, dim=-1)
    if router.norm_topk_prob:
        weights = weights / weights.sum(-1, keepdim=True)
    return logits, weights.to(logits.dtype), experts


def softmax_renormalised(router: Any, logits: Tensor) -> Selection:
    """mixtral: always divided by their sum, and left in fp32."""
    weights, experts = logits.float().softmax(-1).topk(router.top_k, dim=-1)
    return logits, weights / weights.sum(-1, keepdim=True), experts


def softmax_selected(router: Any, logits: Tensor) -> Selection:
    """gpt_oss: a softmax over the k largest logits, in their type."""
    largest, experts = logits.topk(router.top_k, dim=-1)
    return logits, largest.softmax(1, dtype=largest.dtype), experts


def softmax_by_groups(router: Any, logits: Tensor) -> Selection:
    """deepseek_v2: of the groups with the best experts only, where the model has groups; scaled, not renormalised."""
    scores = logits.softmax(-1, dtype=torch.float32)
    if router.topk_method == "group_limited_greedy":
        grouped = scores.view(scores.shape[0], router.num_group, -1)
        groups = grouped.amax(-1).topk(router.topk_group, dim=-1, sorted=False).indices
        kept = torch.zeros_like(grouped[..., 0], dtype=torch.bool).scatter(1, groups, True)
        scores = grouped.masked_fill(~kept.unsqueeze(-1), 0.0).flatten(1)
    weights, experts = scores.topk(router.top_k, dim=-1, sorted=False)
    return logits, weights * router.routed_scaling_factor, experts


def logits_alone(router: Any, logits: Tensor) -> Tensor:
    """A gate that is an nn.Linear (transformers 4): the block selects."""
    return logits


@dataclass(frozen=True)
class Family:
    model_type: str
    router: str  # the router's name in its block
    class_name: str
    select: Callable[[Any, Tensor], Any]
    logits: Callable[[Any, Tensor], Tensor] = linear_logits


FAMILIES = {family.model_type: family for family in (
    Family("olmoe", "gate", "OlmoeTopKRouter", softmax_all),
    Family("qwen2_moe", "gate", "Qwen2MoeTopKRouter", softmax_all),
    Family("qwen3_moe", "gate", "Qwen3MoeTopKRouter", softmax_all),
    Family("mixtral", "gate", "MixtralTopKRouter", softmax_renormalised),
    Family("gpt_oss", "router", "GptOssTopKRouter", softmax_selected),
    Family("deepseek_v2", "gate", "DeepseekV2TopkRouter", softmax_by_groups, wide_logits),
)}
# transformers 4 has an nn.Linear at the same place; deepseek_v2 read its weight without calling it.
LINEAR_GATES = ("olmoe", "qwen2_moe", "qwen3_moe", "mixtral")


class AdaptedRouter(nn.Module):
    """Mixed in before the router's own class by `adapt`."""

    _pointsman: "Adapted"
    _pointsman_layer: int
    _pointsman_family: Family

    def forward(self, hidden_states: Tensor) -> Any:
        if self._pointsman.is_off():
            return super().forward(hidden_states)  # type: ignore[misc]
        family = self._pointsman_family
        hidden = hidden_states.reshape(-1, self.weight.shape[-1])
        logits = self._pointsman.route(self._pointsman_layer, hidden, family.logits(self, hidden))
        return family.select(self, logits)


_adapted_classes: dict[type, type] = {}


def adapt(router: nn.Module, adapted: "Adapted", layer: int, family: Family) -> None:
    original = type(router)
    if original not in _adapted_classes:
        _adapted_classes[original] = type(f"Adapted{original.__name__}", (AdaptedRouter, original), {})
    router.__dict__.update(_pointsman=adapted, _pointsman_layer=layer, _pointsman_family=family)
    router.__class__ = _adapted_classes[original]


def restore(router: nn.Module) -> None:
    router.__class__ = type(router).__mro__[2]  # AdaptedX, AdaptedRouter, X
    for name in ("_pointsman", "_pointsman_layer", "_pointsman_family"):
        del router.__dict__[name]


@dataclass(frozen=True)
class MoeLayer:
    layer: int  # index in the model
    path: str
    router: nn.Module
    family: Family

    @property
    def experts(self) -> int:
        return self.router.weight.shape[0]

    @property
    def hidden_size(self) -> int:
        return self.router.weight.shape[1]


def _refuse(model: nn.Module, what: str) -> UnsupportedError:
    known = ", ".join(FAMILIES)
    return UnsupportedError(f"{type(model).__name__}: {what} (transformers {transformers.__version__}); known families: {known}")


def _family_of(model: nn.Module, router: nn.Module, path: str, attached: bool) -> Family:
    model_type = model.config.get_text_config().model_type
    family = FAMILIES.get(model_type)
    if family is None:
        raise _refuse(model, f"routers of the model type {model_type!r} are not known: {type(router).__name__} at {path}")
    if isinstance(router, AdaptedRouter):
        if attached:
            return router._pointsman_family
        raise UnsupportedError(f"{path}: a memory is attached already; detach it first, or bind several memories by row")
    if type(router) is nn.Linear and model_type in LINEAR_GATES:
        return Family(model_type, family.router, "Linear", logits_alone)
    if type(router).__name__ != family.class_name:
        raise _refuse(model, f"the router at {path} is a {type(router).__name__}, {family.class_name} is known")
    if "forward" in router.__dict__:
        raise _refuse(model, f"the forward of the router at {path} was replaced by another tool; attach before that tool, "
                             "or load without it (device_map, for instance)")
    return family


def _check_block(model: nn.Module, block: nn.Module, path: str) -> None:
    """Blocks that compute the router's logits themselves would never call the router."""
    kinds = {type(block).__name__, type(block.experts).__name__}
    if any("Mxfp4" in kind for kind in kinds):
        raise _refuse(model, f"the block at {path} keeps its experts in MXFP4 and does not call its router; load with "
                             "quantization_config=Mxfp4Config(dequantize=True)")
    if "forward" in block.__dict__:
        raise _refuse(model, f"the forward of the block at {path} was replaced, by a kernel perhaps; load with use_kernels=False")


def find_layers(model: nn.Module, attached: bool = False) -> list[MoeLayer]:
    """Every MoE layer, ascending. Refused by name: a model without any, a router that is not known, and, unless
    `attached`, one that has a memory already."""
    layers: list[MoeLayer] = []
    for path, block in _blocks(model):
        router = next((getattr(block, name) for name in ("gate", "router") if hasattr(block, name)), None)
        if router is None:
            raise _refuse(model, f"the MoE block {type(block).__name__} at {path} has neither gate nor router")
        family = _family_of(model, router, f"{path}.{'gate' if hasattr(block, 'gate') else 'router'}", attached)
        _check_block(model, block, path)
        number = re.search(r"(?:^|\.)layers\.(\d+)\.", f"{path}.")
        if number is None:
            raise _refuse(model, f"no layer number in the path {path}")
        layers.append(MoeLayer(int(number[1]), f"{path}.{family.router}", router, family))
    if not layers:
        raise _refuse(model, "no MoE layer was found")
    return sorted(layers, key=lambda layer: layer.layer)


def router_modules(model: nn.Module) -> list[nn.Module]:
    """The routers of every MoE layer, ascending, adapted or not."""
    return [layer.router for layer in find_layers(model, attached=True)]


def _blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for path, module in model.named_modules():
        if isinstance(getattr(module, "experts", None), nn.Module):
            yield path, module


@torch.no_grad()
def check_selection(layer: MoeLayer) -> None:
    """Our selection against the installed router's own forward, bit for bit, on a few random rows."""
    weight = layer.router.weight
    if weight.device.type == "meta":
        raise UnsupportedError(f"{layer.path}: the weights are not loaded (meta device); attach after loading")
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, layer.hidden_size, generator=generator).to(weight.device, weight.dtype)
    theirs = layer.router.forward(hidden)
    ours = layer.family.select(layer.router, layer.family.logits(layer.router, hidden))
    pairs = [(theirs, ours)] if isinstance(theirs, Tensor) else list(zip(theirs, ours))
    same = type(theirs) is type(ours) and (isinstance(theirs, Tensor) or len(theirs) == len(ours)) and all(
        a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)
    if not same:
        raise UnsupportedError(f"{layer.path}: transformers {transformers.__version__} routes a {layer.family.model_type} in a way "
                               f"that is not known here; use a tested version (5.19 to 5.23; 4.57 but for gpt_oss and deepseek_v2)")
