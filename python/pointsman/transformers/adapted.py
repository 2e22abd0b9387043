"""A memory inside a transformers model.

    with pointsman.attach(model, "memory/") as adapted:
        model.generate(**inputs)
        with adapted.bind(None, Binding(memory, strength=0.5)):  # row by row: the first frozen, the second at half strength
            model(**batch)

Attaching changes the class of each router (routers.py) and hooks the model's decoder; nothing of the model is copied or
written. Before a pass the hook reads its tokens, computes the context gate (text_so_far.py) and begins a step; each
router asks for its layer; after the pass every MoE layer must have asked.

Threads: passes of several threads through one adapted model are independent: step and bindings belong to the thread.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import os
import threading
import weakref
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Optional, Sequence

import torch
from torch import Tensor, nn

from ..errors import Error
from ..torch_routing import TorchGate
from .bindings import FROZEN, Binding, Session, Step
from .engines import Engine, TorchEngine
from .routers import MoeLayer, adapt, check_selection, find_layers, restore
from .text_so_far import UNKNOWN, TextSoFar, keep_on_cache, text_of

_handles = itertools.count(1)
_live: "weakref.WeakValueDictionary[int, Adapted]" = weakref.WeakValueDictionary()


OFF = object()  # the step of a pass under the kill switch


def is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() not in ("", "0", "false", "off", "no")


@torch.library.custom_op("pointsman::ask", mutates_args=())
def _ask(hidden: Tensor, logits: Tensor, layer: int, handle: int) -> Tensor:
    adapted = _live.get(handle)
    return logits.clone() if adapted is None else adapted.compute(layer, hidden, logits)


@_ask.register_fake
def _(hidden: Tensor, logits: Tensor, layer: int, handle: int) -> Tensor:
    return torch.empty_like(logits)


# What the memory changes counts as a constant (adapt/rerouting_hooks.h, ConstantHook).
_ask.register_autograd(lambda ctx, gradient: (None, gradient, None, None))


class Adapted:
    """A model with memories attached, until `detach` (or the end of its `with`)."""

    def __init__(self, model: nn.Module, default: Binding, engine: Optional[Engine] = None) -> None:
        self.model = model
        self.default = default
        self.handle = next(_handles)
        self.layers: list[MoeLayer] = find_layers(model)
        for layer in self.layers:
            check_selection(layer)
        self.engine: Engine = engine or TorchEngine()
        self._moe_layers = {layer.layer for layer in self.layers}
        self._gates: dict[tuple[int, torch.device], TorchGate] = {}
        self._local = threading.local()
        self._hooks: list[Any] = []
        self._checkpointed: dict[nn.Module, Any] = {}
        self._check(default)
        self._attach()

    # -- life ------------------------------------------------------------------------------------------------------

    def _attach(self) -> None:
        decoder = self.model.get_decoder() if hasattr(self.model, "get_decoder") else self.model
        self._decoder = decoder
        self._names = [name for name in inspect.signature(type(decoder).forward).parameters if name != "self"]
        # The step's begin and end are host code: compiled graphs stop there.
        before, after = torch.compiler.disable(self._before), torch.compiler.disable(self._after)
        self._hooks = [decoder.register_forward_pre_hook(before, with_kwargs=True, prepend=True),
                       decoder.register_forward_hook(after, with_kwargs=True, always_call=True)]
        for layer in self.layers:
            adapt(layer.router, self, layer.layer, layer.family)
        _live[self.handle] = self

    def detach(self) -> None:
        """Gives the routers their classes back: the model is what it was, bit for bit. Twice is once."""
        if not self._hooks:
            return
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for layer in self.layers:
            restore(layer.router)
        for module, function in self._checkpointed.items():
            if getattr(module._gradient_checkpointing_func, "_pointsman", None) is self:
                module._gradient_checkpointing_func = function
        self._checkpointed = {}
        _live.pop(self.handle, None)

    def __enter__(self) -> "Adapted":
        return self

    def __exit__(self, *_: Any) -> None:
        self.detach()

    def __deepcopy__(self, memo: Any) -> "Adapted":
        raise Error("a model cannot be copied while a memory is attached; detach it first")

    # -- bindings --------------------------------------------------------------------------------------------------

    @contextmanager
    def bind(self, *bindings: Any) -> Iterator[None]:
        """What the rows of this thread's passes are routed with, in the order of the batch: a Binding, a memory, or
        None (frozen) each. Fewer bindings than rows: each serves as many rows side by side (beams of one prompt)."""
        if not bindings:
            raise Error("bind() without a binding; pass one for each row of the batch")
        rows = [self._binding(binding) for binding in bindings]
        previous = getattr(self._local, "bindings", None)
        self._local.bindings = rows
        try:
            yield
        finally:
            self._local.bindings = previous

    def _binding(self, binding: Any) -> Binding:
        if not isinstance(binding, Binding):
            binding = FROZEN if binding is None else Binding(binding, strength=self.default.strength, shadow=self.default.shadow)
        self._check(binding)
        return binding

    def _check(self, binding: Binding) -> None:
        """A memory or session that does not fit the model is refused before it is used."""
        sizes = {layer.layer: layer for layer in self.layers}
        name = type(self.model).__name__
        if binding.memory is not None:
            memory = binding.memory
            missing = sorted(set(map(int, memory.layers)) - set(sizes))
            if missing:
                raise Error(f"{name} has no MoE layer {missing[0]}, the memory has; attach a memory that was built for this model",
                            "mismatch")
            for layer in map(int, memory.layers):
                hidden, experts = sizes[layer].hidden_size, sizes[layer].experts
                if (hidden, experts) != (memory.hidden_size, memory.experts):
                    raise Error(f"layer {layer}: {name} has hidden size {hidden} and {experts} experts, the memory "
                                f"{memory.hidden_size} and {memory.experts}; attach a memory that was built for this model", "mismatch")
        for layer, vector in (binding.session.vectors if binding.session else {}).items():
            if layer not in sizes or vector.shape != (sizes[layer].experts,):
                raise Error(f"the session's vector of layer {layer} has {vector.numel()} experts, {name} has "
                            f"{sizes[layer].experts if layer in sizes else 'no such MoE layer'}; bind a session of this model", "mismatch")

    def _rows(self, batch: int) -> list[Binding]:
        bindings = getattr(self._local, "bindings", None) or [self.default]
        if batch % len(bindings):
            raise Error(f"{len(bindings)} bindings for a batch of {batch} sequences; bind one for each, or a divisor of them")
        times = batch // len(bindings)
        rows = [binding for binding in bindings for _ in range(times)]
        if is_set("POINTSMAN_SHADOW"):
            rows = [Binding(row.memory, row.session, row.strength, shadow=True) for row in rows]
        return rows

    # -- one pass --------------------------------------------------------------------------------------------------

    def is_off(self) -> bool:
        """The kill switch, outside of compiled graphs (those ask `compute`)."""
        return not torch.compiler.is_compiling() and getattr(self._local, "step", None) is OFF

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        given = dict(zip(self._names, args)) | kwargs
        with torch.no_grad(), torch.inference_mode(False):
            self._local.text = None
            self._local.step = OFF if is_set("POINTSMAN_DISABLE") else self._begin(given)
        if self.model.training:
            self._follow_checkpoints()

    def _begin(self, given: dict[str, Any]) -> Step:
        shape = next((x.shape[:2] for x in (given.get("input_ids"), given.get("inputs_embeds")) if x is not None), None)
        if shape is None:
            raise Error("the pass has neither input_ids nor inputs_embeds")
        (batch, columns), ids = shape, given.get("input_ids")
        device = ids.device if ids is not None else given["inputs_embeds"].device
        tokens = ids.long() if ids is not None else torch.full(tuple(shape), UNKNOWN, device=device)
        cache = given.get("past_key_values")
        text = text_of(cache, batch, device)
        real = _real_columns(given.get("attention_mask"), batch, columns, text.length, device)
        positions = given.get("position_ids")
        if positions is not None:
            positions = positions.expand(batch, columns) if positions.dim() == 2 else None
        text.extend(tokens, real, positions)
        if cache is not None:
            keep_on_cache(cache, text)
        self._local.text = text
        bindings = self._rows(batch)
        step = Step(bindings, tokens.reshape(-1), real.reshape(-1), self._gate(bindings, text, columns).reshape(-1), columns)
        step.vectors = getattr(self._local, "vectors", None) or {}
        return step

    def _gate(self, bindings: Sequence[Binding], text: TextSoFar, columns: int) -> Tensor:
        """G [B, C]: each row under the gate of its own memory."""
        gate = torch.zeros(len(bindings), columns, device=text.tokens.device)
        memories = {id(binding.memory): binding.memory for binding in bindings if binding.memory is not None}
        for memory in memories.values():
            tables = self._gate_tables(memory, text.tokens.device)
            values = text.gate(tables, columns) if tables.enabled else text.real[:, text.length - columns:text.length].float()
            if all(binding.memory is memory for binding in bindings):
                return values
            here = torch.tensor([binding.memory is memory for binding in bindings], device=gate.device)
            gate = torch.where(here[:, None], values, gate)
        return gate

    def _gate_tables(self, memory: Any, device: torch.device) -> TorchGate:
        key = (id(memory), device)
        if key not in self._gates:
            self._gates[key] = TorchGate.from_tables(memory.gate, device)
        return self._gates[key]

    def route(self, layer: int, hidden: Tensor, logits: Tensor) -> Tensor:
        """What an adapted router calls: hidden [T, H], logits [T, E] -> the logits to select by."""
        if torch.compiler.is_compiling() or (torch.is_grad_enabled() and logits.requires_grad):
            new = torch.ops.pointsman.ask(hidden, logits, layer, self.handle)
        else:
            new = self.compute(layer, hidden, logits)
        if not torch.compiler.is_compiling():
            vector = self._local.step.vectors.get(layer)
            if vector is not None:
                new = (new.float() + vector.to(new.device)).to(new.dtype)
            observe = getattr(self._local, "observe", None)
            if observe is not None:
                observe(layer, logits, new)
        return new

    @torch.no_grad()
    def compute(self, layer: int, hidden: Tensor, logits: Tensor) -> Tensor:
        """What route() does outside of graphs: the memory's and the sessions' changes, by the engine, under this thread's step."""
        step = getattr(self._local, "step", None)
        if step is OFF:
            return logits.clone()
        if step is None:
            raise Error(f"layer {layer}: the router was called outside of a pass of {type(self._decoder).__name__}, so its tokens are "
                        "not known; call the whole model, or detach the memory")
        step.called.add(layer)
        if all(binding.is_frozen for binding in step.bindings):
            return logits.clone()
        if hidden.shape[0] != step.real.shape[0]:
            raise Error(f"layer {layer}: the router was called with {hidden.shape[0]} rows, "
                        f"the pass has {step.real.shape[0]}; parallel plans "
                        "that split a batch are not supported")
        return self.engine.route(step, layer, hidden, logits)

    def _after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        step, text = self._local.step, self._local.text
        self._local.step = self._local.text = None
        if output is None or not isinstance(step, Step):
            return  # the pass failed, or was frozen
        cache = getattr(output, "past_key_values", None)
        if cache is not None and text is not None:
            keep_on_cache(cache, text)
        missing = sorted(self._moe_layers - step.called)
        if missing:
            paths = ", ".join(layer.path for layer in self.layers if layer.layer in missing)
            raise Error(f"the routers of {len(missing)} MoE layers were not called in a pass: {paths}; a kernel or another tool computes "
                        "the routing itself, so the memory had no effect there: load the model without it", "unsupported")

    # -- gradient checkpointing ------------------------------------------------------------------------------------

    def _follow_checkpoints(self) -> None:
        """A layer that is computed again in the backward pass must meet the step of its forward pass."""
        for module in self._decoder.modules():
            function = getattr(module, "_gradient_checkpointing_func", None)
            if function is None or getattr(function, "_pointsman", None) is self:
                continue
            self._checkpointed[module] = function
            wrapped = functools.partial(self._checkpoint, function)
            wrapped._pointsman = self  # type: ignore[attr-defined]
            module._gradient_checkpointing_func = wrapped

    def _checkpoint(self, function: Any, body: Any, *args: Any, **kwargs: Any) -> Any:
        step = self._local.step

        def body_in_step(*inner: Any, **named: Any) -> Any:
            current = getattr(self._local, "step", None)
            self._local.step = step
            try:
                return body(*inner, **named)
            finally:
                self._local.step = current

        return function(body_in_step, *args, **kwargs)

    # -- what happened ---------------------------------------------------------------------------------------------

    def counters(self) -> dict[str, int]:
        """Totals since attaching, as router/router.h counts them."""
        return self.engine.counters()

    @contextmanager
    def with_vectors(self, vectors: dict[int, Tensor]) -> Iterator[None]:
        """This thread's eager passes add `vectors` (layer -> [E], or [T, E] a row) to the logits; gradients reach them."""
        previous = getattr(self._local, "vectors", None)
        self._local.vectors = vectors
        try:
            yield
        finally:
            self._local.vectors = previous

    @contextmanager
    def observed(self, observe: Callable[[int, Tensor, Tensor], None]) -> Iterator[None]:
        """This thread's eager passes show each layer's logits, before and after: observe(layer, before, after)."""
        previous = getattr(self._local, "observe", None)
        self._local.observe = observe
        try:
            yield
        finally:
            self._local.observe = previous


def _real_columns(mask: Any, batch: int, columns: int, past: int, device: torch.device) -> Tensor:
    """[B, C] bool: the columns of this pass that are not padding."""
    if isinstance(mask, dict):  # made by generate() for models with several kinds of attention
        mask = mask.get("full_attention", next(iter(mask.values())))
    if mask is None or not isinstance(mask, Tensor):
        return torch.ones(batch, columns, dtype=torch.bool, device=device)
    if mask.dim() == 4:  # which keys the last column sees; 0 is "seen" in the additive form
        last = mask[:, 0, -1]
        mask = last if last.dtype == torch.bool else last == 0
        mask = mask[:, :past + columns]
    mask = mask[:, -columns:] if mask.shape[1] < past + columns else mask[:, past:past + columns]
    return mask.to(device=device, dtype=torch.bool).expand(batch, columns)


__all__ = ["Adapted", "Binding", "Session"]
