"""Who computes a pass's routing: the C++ core on the CPU, torch on any device.

Both take a Step whose gate is known and change logits under the same rules (router/router.h)."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Optional, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import Error
from ..torch_routing import COUNTERS, TorchLayer, route_rows
from .bindings import Binding, Session, Step


class Engine(Protocol):
    def route(self, step: Step, layer: int, hidden: Tensor, logits: Tensor) -> Tensor:
        """The logits to use [T, E], in the type of `logits`; never `logits` itself."""
        ...

    def counters(self) -> dict[str, int]: ...


@dataclass
class _Prepared:
    """Rows of a step by what they share, on one device."""

    memories: list[tuple[Any, Tensor, Tensor]]  # memory, weight [T] = strength * G, bound [T]
    sessions: list[tuple[Session, Any, Tensor]]  # session, its vectors when the step began, bound [T]
    writes: Optional[Tensor]  # [T] bool; None: all
    gate: Tensor
    tokens: Tensor


class TorchEngine:
    """Any device, no host synchronisation; one set of tables a device."""

    def __init__(self) -> None:
        self._layers: dict[tuple[int, int, torch.device], TorchLayer] = {}
        self._counters: dict[torch.device, Tensor] = {}
        self._lock = threading.Lock()

    def _layer(self, memory: Any, layer: int, device: torch.device) -> TorchLayer:
        key = (id(memory), layer, device)
        with self._lock:
            if key not in self._layers:
                self._layers[key] = TorchLayer.from_tables(
                    memory.tables(layer), value_kind=memory.manifest["value_kind"], top_k=memory.top_k, device=device)
            return self._layers[key]

    def _prepare(self, step: Step, device: torch.device) -> _Prepared:
        if step.prepared is None:
            step.prepared = {}
        if device not in step.prepared:
            step.prepared[device] = self._group(step, device)
        return step.prepared[device]

    def _group(self, step: Step, device: torch.device) -> _Prepared:
        gate, tokens, real = step.gate.to(device), step.tokens.to(device), step.real.to(device)
        first = step.bindings[0]
        if all(binding == first for binding in step.bindings):  # nothing to tell apart, nothing to upload
            memories = [] if first.memory is None else [(first.memory, gate * first.strength * real, real)]
            sessions = [] if first.session is None else [(first.session, first.session.vectors, real)]
            return _Prepared(memories, sessions, torch.zeros_like(real) if first.shadow else None, gate, tokens)
        rows = lambda values, dtype: torch.tensor(values, dtype=dtype).repeat_interleave(step.columns).to(device)
        memories, sessions = [], []
        for memory in _distinct(binding.memory for binding in step.bindings):
            bound = rows([binding.memory is memory for binding in step.bindings], torch.bool) & real
            strength = rows([binding.strength for binding in step.bindings], torch.float32)
            memories.append((memory, torch.where(bound, strength * gate, 0.0), bound))
        for session in _distinct(binding.session for binding in step.bindings):
            bound = rows([binding.session is session for binding in step.bindings], torch.bool) & real
            sessions.append((session, session.vectors, bound))
        writes = rows([not binding.shadow for binding in step.bindings], torch.bool)
        return _Prepared(memories, sessions, writes, gate, tokens)

    def route(self, step: Step, layer: int, hidden: Tensor, logits: Tensor) -> Tensor:
        device = logits.device
        prepared = self._prepare(step, device)
        new, finite = logits.float(), None
        touched, bound_here, shut = (torch.zeros_like(prepared.tokens, dtype=torch.bool) for _ in range(3))
        for memory, weight, bound in prepared.memories:
            if layer not in memory.layers:
                continue
            routed = route_rows(self._layer(memory, layer, device), hidden, new, weight, prepared.tokens)
            new, touched, bound_here = routed.logits, touched | routed.touched, bound_here | bound
            finite = routed.finite if finite is None else finite & routed.finite
            shut = shut | (bound & (prepared.gate == 0))
        write = touched
        for _, vectors, bound in prepared.sessions:
            if layer in vectors:
                new = torch.where(bound[:, None], new + vectors[layer].to(device), new)
                write, bound_here = write | bound, bound_here | bound
        if prepared.writes is not None:
            write = write & prepared.writes
        finite = new.isfinite().all(-1) & (hidden.isfinite().all(-1) if finite is None else finite)
        write = write & finite
        self._count(device, bound_here, touched, write, shut, bound_here & ~finite)
        return torch.where(write[:, None], new.to(logits.dtype), logits)

    def _count(self, device: torch.device, *rows: Tensor) -> None:
        if device not in self._counters:
            self._counters[device] = torch.zeros(len(COUNTERS), dtype=torch.long, device=device)
        self._counters[device] += torch.stack([row.sum() for row in rows])

    def counters(self) -> dict[str, int]:
        total = [0] * len(COUNTERS)
        for counts in self._counters.values():
            total = [a + b for a, b in zip(total, counts.tolist())]
        return dict(zip(COUNTERS, total))


class CoreEngine:
    """The C++ core, on the CPU; a router a thread. Its slots are the rows of a pass: the gate is given to it."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._routers: list[Any] = []
        self._lock = threading.Lock()

    def _router(self) -> Any:
        if not hasattr(self._local, "router"):
            from pointsman import Router

            self._local.router, self._local.slots, self._local.owner = Router(), [], None
            with self._lock:
                self._routers.append(self._local.router)
        return self._local.router

    def _slots(self, bindings: list[Binding]) -> list[int]:
        """One live slot a row, 0 for frozen rows; a row keeps its slot while its binding stays."""
        router, kept = self._router(), self._local.slots
        for row, binding in enumerate(bindings):
            key = (binding, binding.session.vectors if binding.session else None)
            if row < len(kept) and kept[row][0][0] == binding and kept[row][0][1] is key[1]:
                continue
            if row < len(kept) and kept[row][1]:
                router.release_slot(kept[row][1])
            session = None if key[1] is None else {layer: vector.numpy() for layer, vector in key[1].items()}
            slot = 0 if binding.is_frozen else router.add_slot(binding.memory, session=session, strength=binding.strength,
                                                               shadow=binding.shadow)
            kept[row:row + 1] = [(key, slot)]
        return [slot for _, slot in kept[:len(bindings)]]

    def _begin(self, step: Step) -> Any:
        """The core's step; begun again for a layer that is computed again after another pass (checkpointing)."""
        router = self._router()
        if self._local.owner is step:
            return self._local.step
        real = step.real.cpu().numpy()
        rows = np.repeat(np.array(self._slots(step.bindings), dtype=np.uint32), step.columns)
        slots = np.where(real, rows, 0).astype(np.uint32)
        shape = (len(step.bindings), step.columns)
        positions = np.where(real, real.reshape(shape).cumsum(1).reshape(-1) - 1, 0).astype(np.uint32)
        begun = router.begin_step(slots, positions, step.tokens.to(torch.int32).cpu().numpy())
        begun.gate[:] = step.gate.cpu().numpy()
        self._local.owner, self._local.step = step, begun
        return begun

    def route(self, step: Step, layer: int, hidden: Tensor, logits: Tensor) -> Tensor:
        begun = self._begin(step)
        new = logits.detach().clone(memory_format=torch.contiguous_format)  # changed in place, in the host's type
        self._router().route(begun, layer, hidden.detach().contiguous(), new)
        return new

    def counters(self) -> dict[str, int]:
        with self._lock:
            every = [router.counters() for router in self._routers]
        return {name: sum(counters[name] for counters in every) for name in COUNTERS} if every else dict.fromkeys(COUNTERS, 0)


def make_engine(name: str, model: Any, memory: Any) -> Engine:
    if name not in ("auto", "core", "torch"):
        raise Error(f"engine {name!r}; it is auto, core or torch")
    if name == "auto":
        on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
        name = "core" if on_cpu and type(memory).__name__ == "Memory" else "torch"
    return CoreEngine() if name == "core" else TorchEngine()


def _distinct(values: Any) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value is not None and not any(value is known for known in found):
            found.append(value)
    return found
