"""The routing of router/ on torch tensors: any device, fixed shapes, no host synchronisation, torch.compile.

    layer = TorchLayer.from_tables(memory.tables(3), device="cuda")
    logits = route(layer, hidden, logits, weight, token)        # weight[T] = strength * G; 0: the row keeps its bits

    router = TorchRouter(device="cuda")                         # slots and gates as in router/router.h
    slot = router.add_slot(memory, strength=0.5)
    step = router.begin_step(slots, positions, tokens)
    logits = router.route(step, layer, hidden, logits)          # not in place: returns the logits to use

Formulas: router/blend.h, router/context_gate.h, memory/layer_index.h. schemas/blend_golden.json holds this and the C++
core together. Dot products of keys are exact integers here too; the projection before them is summed in another order
than the core's, so that similarities agree to 1e-5 and neighbours that close may change places.

Shapes: T rows, H hidden size, E experts, R keys of a layer, D their dimensions, k neighbours.
"""

from __future__ import annotations

import itertools
import weakref
from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, Sequence

import numpy as np
import torch
from torch import Tensor

ABSENT = -2.0  # similarity of a neighbour that does not exist
ABSENT_BELOW = -1.5
SMALLEST_PROBABILITY = 1e-9
CONFIDENCE_RULES = ("mean_similarity", "max_similarity", "mean_kernel", "aggregate")
VALUE_KINDS = ("delta", "logits", "assignments")
SIMILARITIES_AT_ONCE = 1 << 24  # of one block of keys: bounds the scratch memory, never T x R


def _read(source: Any, name: str, default: Any = None) -> Any:
    value = source.get(name, default) if isinstance(source, Mapping) else getattr(source, name, default)
    return default if value is None else value


def _tensor(source: Any, name: str, dtype: torch.dtype, device: torch.device) -> Optional[Tensor]:
    value = _read(source, name)
    if value is None or np.size(value) == 0:
        return None
    array = np.array(value)
    if array.dtype == np.uint32:  # of which torch knows little
        array = array.astype(np.int64)
    return torch.as_tensor(array).to(device=device, dtype=dtype)


# Layers that compiled graphs may name. An operator takes numbers and tensors, no objects.
_handles = itertools.count(1)
_live: "weakref.WeakValueDictionary[int, TorchLayer]" = weakref.WeakValueDictionary()


@dataclass(eq=False)
class TorchLayer:
    """One layer of a memory on a device."""

    codes: Tensor  # [R, D] int8
    code_scales: Tensor  # [R]
    values: Tensor  # [R, E] int8
    value_scales: Tensor  # [R]
    mean: Optional[Tensor] = None  # [H]
    projection: Optional[Tensor] = None  # [D, H]
    router_delta: Optional[Tensor] = None  # [E, H]
    token_table: Optional[Tensor] = None  # [N, E] int8
    token_table_scales: Optional[Tensor] = None  # [N]
    token_ids: Optional[Tensor] = None  # [N] int64 ascending, whose rows these are; None: row v is token v's
    k: int = 16
    tau: float = 0.5
    tau2: float = 0.5
    scale: float = 1.0
    confidence: str = "mean_similarity"
    value_kind: str = "delta"
    top_k: int = 0  # experts a token, for assignments
    handle: int = field(default_factory=lambda: next(_handles))

    def __post_init__(self) -> None:
        if self.confidence not in CONFIDENCE_RULES:
            raise ValueError(f"confidence rule {self.confidence!r}; it is one of {', '.join(CONFIDENCE_RULES)}")
        if self.value_kind not in VALUE_KINDS:
            raise ValueError(f"value kind {self.value_kind!r}; it is one of {', '.join(VALUE_KINDS)}")
        _live[self.handle] = self

    @classmethod
    def from_tables(cls, tables: Any, *, value_kind: str = "delta", top_k: int = 0,
                    device: torch.device | str = "cpu") -> "TorchLayer":
        """`tables`: what Memory.tables(layer) gives, arrays by the names of memory/routing_tables.h."""
        device = torch.device(device)
        real, small = torch.float32, torch.int8
        arrays = {name: _tensor(tables, name, dtype, device) for name, dtype in (
            ("codes", small), ("code_scales", real), ("values", small), ("value_scales", real), ("mean", real),
            ("projection", real), ("router_delta", real), ("token_table", small), ("token_table_scales", real),
            ("token_ids", torch.int64))}
        numbers = {name: _read(tables, name, default) for name, default in (
            ("k", 16), ("tau", 0.5), ("tau2", 0.5), ("scale", 1.0), ("confidence", "mean_similarity"))}
        return cls(**arrays, **numbers, value_kind=value_kind, top_k=top_k)

    @property
    def experts(self) -> int:
        """E."""
        return self.values.shape[1]

    def token_rows(self, token: Tensor) -> tuple[Tensor, Tensor]:
        """Of tokens [T]: their rows in the token table, and whether they have one [T] (else the row is any)."""
        last = self.token_table.shape[0] - 1
        if self.token_ids is None:
            return token.clamp(0, last), (token >= 0) & (token <= last)
        row = torch.searchsorted(self.token_ids, token.to(torch.int64)).clamp_max(last)
        return row, self.token_ids[row] == token


@dataclass(eq=False)
class TorchGate:
    """The context gate of a memory on a device (memory/routing_tables.h, GateView): J groups of documents."""

    pairs: Tensor  # [P] int64, ascending: previous token << 32 | token
    evidence: Tensor  # [P + 2, J] float64: e of each pair; then of a pair that is not there, and of an unknown token
    prior: Tensor  # [J] float64
    lo: Tensor  # [J] float64
    hi: Tensor  # [J] float64
    enabled: bool = False
    n0: float = 4.0
    window: int = 128

    @classmethod
    def from_tables(cls, gate: Any, device: torch.device | str = "cpu") -> "TorchGate":
        """From Memory.gate, or a mapping of the same names; what is absent has the format's default."""
        array = lambda name, dtype: np.asarray(() if _read(gate, name, None) is None else _read(gate, name), dtype=dtype)
        number = lambda source, name, default: float(np.float32(_read(source, name, default)))
        pairs = array("pairs", np.uint64).astype(np.int64)
        groups = _read(gate, "groups", None) or [{}]
        ramps = np.array([[number(group, name, default) for name, default in (("prior", 0.0), ("lo", 0.0), ("hi", 1.0))]
                          for group in groups])
        marks = array("pair_groups", np.int64)
        if marks.size == 0:
            marks = np.ones(len(pairs), np.int64)  # all are of the one group
        weight = np.where(array("is_common", bool), number(gate, "common", 0.3), 1.0)
        evidence = np.where(marks[:, None] >> np.arange(len(groups)) & 1, weight[:, None], 0.0)
        evidence = np.concatenate((evidence, np.zeros((1, len(groups))), ramps[:, 0][None]))
        tensors = (torch.from_numpy(np.ascontiguousarray(values)).to(device) for values in (pairs, evidence, *ramps.T))
        return cls(*tensors, enabled=bool(_read(gate, "enabled", False)), n0=number(gate, "n0", 4.0),
                   window=int(_read(gate, "window", 128)))

    @property
    def unknown(self) -> int:
        """The row of `evidence` of a token that is not known."""
        return self.pairs.numel() + 1

    def places_of(self, previous: Tensor, token: Tensor) -> Tensor:
        """int64 of the shape of both: the row of `evidence` of each token, given the one before; negative: unknown."""
        unknown = (previous < 0) | (token < 0)
        count = self.pairs.numel()
        if count == 0:
            return torch.where(unknown, self.unknown, 0)
        pair = (previous.clamp_min(0) << 32) | token.clamp_min(0)
        place = torch.searchsorted(self.pairs, pair.contiguous()).clamp_max(count - 1)
        return torch.where(unknown, self.unknown, torch.where(self.pairs[place] == pair, place, count))

    def value(self, sums: Tensor, count: Tensor) -> Tensor:
        """G (fp32) where the last `count` tokens [...], `window` of them at most, have evidence that sums to `sums`
        [..., J]."""
        mean = (self.n0 * self.prior + sums) / (self.n0 + count[..., None])
        width = self.hi - self.lo
        ramp = torch.where(width != 0, (mean - self.lo) / torch.where(width != 0, width, 1.0), 1.0)
        ramp = torch.where(mean >= self.hi, 1.0, ramp)
        return torch.where(mean > self.lo, ramp, 0.0).amax(-1).float()  # NaN: 0


def _transform(layer: TorchLayer, hidden: Tensor) -> Tensor:
    """normalise(projection (h - mean)) [T, D] fp32; a row that is not finite becomes NaN."""
    wide = torch.float32 if hidden.device.type == "mps" else torch.float64  # TF32 cannot reach float64
    rows = hidden.float()
    if layer.mean is not None:
        rows = rows - layer.mean
    if layer.projection is not None:
        rows = (rows.to(wide) @ layer.projection.to(wide).t()).float()
    squares = rows.to(wide).square().sum(-1, keepdim=True)
    inverse = torch.where(squares > 0, squares.rsqrt(), 0.0)
    rows = (rows.to(wide) * inverse).float()
    return torch.where(squares.isfinite(), rows, torch.nan)


def _ranks(similarity: Tensor, first_row: int) -> Tensor:
    """int64 that order as (similarity, then lower row first), all different."""
    bits = (similarity + 0.0).view(torch.int32).to(torch.int64)  # + 0.0: no negative zero
    ordered = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)
    rows = torch.arange(first_row, first_row + similarity.shape[-1], device=similarity.device)
    return (ordered << 32) | (0xFFFFFFFF - rows)


def search(layer: TorchLayer, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """The k nearest keys of each row, best first, ties to the lower row: similarities [T, k] and rows [T, k].

    Where there is none (fewer keys than k, a row that is not finite) the similarity is -2."""
    total, dim = layer.codes.shape
    count, k = hidden.shape[0], max(0, min(layer.k, total))
    if k == 0 or count == 0:
        return hidden.new_full((count, k), ABSENT, dtype=torch.float32), hidden.new_zeros((count, k), dtype=torch.long)
    query = _transform(layer, hidden)
    largest = query.abs().amax(-1, keepdim=True)
    query_scale = largest / 32767.0
    steps = (query / query_scale).round().clamp(-32767, 32767)
    codes = torch.where(query_scale > 0, steps, 0.0).to(torch.int32)  # NaN: 0
    # int16 = 256 high + low: both products stay below 2^24, where fp32 is exact (TF32 and bf16 operands too).
    high = codes >> 8
    halves = torch.cat((high, codes - (high << 8))).float()
    block = max(1024, SIMILARITIES_AT_ONCE // max(count, 1))
    best = None
    for first in range(0, total, block):
        keys = layer.codes[first:first + block]
        sums = halves.new_zeros((2 * count, keys.shape[0]), dtype=torch.int64)
        for begin in range(0, dim, 256):  # 256 products of 255 * 127 at most
            part = slice(begin, begin + 256)
            sums += (halves[:, part] @ keys[:, part].float().t()).to(torch.int64)
        dots = (sums[:count] << 8) + sums[count:]
        ranks = _ranks(dots.float() * (layer.code_scales[first:first + block] * query_scale), first)
        ranks = ranks.topk(min(k, ranks.shape[1]), dim=-1).values
        best = ranks if best is None else torch.cat((best, ranks), -1).topk(k, dim=-1).values
    rows = 0xFFFFFFFF - (best & 0xFFFFFFFF)
    ordered = (best >> 32).to(torch.int32)
    similarity = torch.where(ordered >= 0, ordered, ordered ^ 0x7FFFFFFF).view(torch.float32)
    return torch.where(largest.isfinite(), similarity, ABSENT), rows


def confidence(rule: str, tau2: float, similarity: Tensor) -> Tensor:
    """g [T] of similarities [T, k], best first; 0 without neighbours."""
    found = similarity > ABSENT_BELOW
    count = found.sum(-1)
    if similarity.shape[-1] == 0:
        return similarity.new_zeros(similarity.shape[:-1])
    if rule == "mean_similarity":
        g = ((torch.where(found, similarity, 0.0).sum(-1) / count - 1) / tau2).exp()
    elif rule == "max_similarity":
        g = ((similarity[..., 0] - 1) / tau2).exp()
    else:
        g = torch.where(found, ((similarity - 1) / tau2).exp(), 0.0).sum(-1)
        g = g / count if rule == "mean_kernel" else g
    return torch.where((count > 0) & (g > 0), g.clamp_max(1.0), 0.0)


def neighbour_weights(tau: float, similarity: Tensor) -> Tensor:
    """softmax(s / tau) over the neighbours that exist [T, k]; all 0 without any."""
    found = similarity > ABSENT_BELOW
    powers = torch.where(found, ((similarity - similarity[..., :1]) / tau).exp(), 0.0)
    return powers / powers.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)


def _assigned(z: Tensor, mixed: Tensor, lam: Tensor, top_k: int) -> Tensor:
    q = z.softmax(-1)
    # A stable sort: of equal logits the lower expert comes first.
    order = z.sort(dim=-1, descending=True, stable=True).indices[..., :min(top_k, z.shape[-1])]
    chosen = torch.zeros_like(z, dtype=torch.bool).scatter(-1, order, True)
    mass = torch.where(chosen, q, 0.0).sum(-1, keepdim=True)
    p = (1 - lam) * q + lam * mass * mixed + torch.where(chosen, 0.0, lam * q)
    return p.clamp_min(SMALLEST_PROBABILITY).log()


@dataclass
class Routed:
    """What one layer did to T rows; `logits` in fp32 as they would be written."""

    logits: Tensor  # [T, E]
    touched: Tensor  # [T] bool: the memory's weight was above 0
    finite: Tensor  # [T] bool
    confidence: Tensor  # [T]
    similarity: Tensor  # [T, k]
    neighbours: Tensor  # [T, k]


def blend(layer: TorchLayer, hidden: Tensor, logits: Tensor, weight: Tensor, token: Optional[Tensor],
          similarity: Tensor, neighbours: Tensor) -> Routed:
    """The three blend rules for rows whose neighbours are known. weight [T] = strength * G, token [T] or None."""
    z = logits.float()
    finite = hidden.isfinite().all(-1) & z.isfinite().all(-1)
    weight = torch.where(finite, weight, 0.0)
    g = torch.where(weight > 0, confidence(layer.confidence, layer.tau2, similarity), 0.0)
    lam = (weight * g).clamp_max(1.0)
    if similarity.shape[-1] > 0:
        w = neighbour_weights(layer.tau, similarity) * layer.value_scales[neighbours]
        mixed = torch.einsum("tk,tke->te", w, layer.values[neighbours].float())
    else:
        mixed = torch.zeros_like(z)
    touched = lam > 0
    if layer.value_kind == "delta":
        change = torch.where(touched[:, None], (g * layer.scale)[:, None] * mixed, 0.0)
        if layer.router_delta is not None:
            change = change + torch.where(finite[:, None], hidden.float(), 0.0) @ layer.router_delta.t()
            touched = weight > 0
        if layer.token_table is not None and token is not None:
            row, known = layer.token_rows(token)
            votes = layer.token_table_scales[row][:, None] * layer.token_table[row].float()
            change = change + torch.where(known[:, None], votes, 0.0)
            touched = touched | ((weight > 0) & known)
        new = z + weight[:, None] * change
    elif layer.value_kind == "logits":
        new = (1 - lam)[:, None] * z + lam[:, None] * mixed
    else:
        new = _assigned(z, mixed, lam[:, None], layer.top_k)
    new = torch.where(touched[:, None], new, z)
    return Routed(new, touched, finite & new.isfinite().all(-1), g, similarity, neighbours)


def route_rows(layer: TorchLayer, hidden: Tensor, logits: Tensor, weight: Tensor, token: Optional[Tensor]) -> Routed:
    """search() and blend(): what a layer's memory makes of the rows hidden [T, H] and logits [T, E]."""
    similarity, neighbours = search(layer, hidden)
    return blend(layer, hidden, logits, weight, token, similarity, neighbours)


@torch.library.custom_op("pointsman::route", mutates_args=())
def _route_op(hidden: Tensor, logits: Tensor, weight: Tensor, token: Tensor, handle: int) -> Tensor:
    layer = _live.get(handle)
    if layer is None:
        raise RuntimeError(f"pointsman::route: the tables {handle} are gone; keep the TorchLayer alive")
    routed = route_rows(layer, hidden, logits, weight, token)
    write = routed.touched & routed.finite
    # Selected in the host's type: rounded once, and a row that is not written keeps its bits.
    return torch.where(write[:, None], routed.logits.to(logits.dtype), logits)


@_route_op.register_fake
def _(hidden: Tensor, logits: Tensor, weight: Tensor, token: Tensor, handle: int) -> Tensor:
    return torch.empty_like(logits)


# What a memory changes counts as a constant: gradients pass through the logits that it is added to.
_route_op.register_autograd(lambda ctx, gradient: (None, gradient, None, None, None))


def route(layer: TorchLayer, hidden: Tensor, logits: Tensor, weight: Tensor, token: Optional[Tensor] = None) -> Tensor:
    """hidden [T, H], logits [T, E] of any floating type, weight [T] fp32 = strength * G, token [T] int64 or None.

    Returns the logits to use, in their type. One opaque operator with a fake implementation: torch.compile keeps it
    whole. A row whose weight is 0 keeps its bits."""
    if token is None:
        token = torch.full((hidden.shape[0],), -1, dtype=torch.long, device=hidden.device)
    return torch.ops.pointsman.route(hidden, logits, weight, token, layer.handle)


class TorchMemory:
    """A memory's layers and gate on one device. Shared between routers; immutable."""

    def __init__(self, memory: Any, device: torch.device | str = "cpu") -> None:
        manifest = _read(memory, "manifest", {})
        self.value_kind = _read(memory, "value_kind") or manifest.get("value_kind", "delta")
        self.top_k = int(_read(memory, "top_k", 0))
        self.gate = TorchGate.from_tables(_read(memory, "gate"), device)
        self.layers = {int(layer): TorchLayer.from_tables(memory.tables(int(layer)), value_kind=self.value_kind,
                                                          top_k=self.top_k, device=device)
                       for layer in memory.layers}


@dataclass
class TorchStep:
    """One forward pass. gate may be replaced before the first route."""

    slots: Tensor  # [T]
    positions: Tensor  # [T]
    tokens: Tensor  # [T], negative: unknown
    gate: Tensor  # [T] fp32


@dataclass
class _Slot:
    memory: Optional[TorchMemory]
    session: Optional[Mapping[int, Any]]
    strength: float
    shadow: bool


COUNTERS = ("rows", "touched", "written", "gate_shut", "non_finite")


class TorchRouter:
    """router/router.h on a device: the same slots, gates and counters, with room for a fixed number of sequences.

    Arguments of begin_step and route may live on the device; nothing is read back. So unlike the core, it does not
    refuse an unknown slot (it counts as frozen) or positions out of order. One thread at a time."""

    def __init__(self, device: torch.device | str = "cpu", max_slots: int = 64, max_positions: int = 4096) -> None:
        self.device = torch.device(device)
        self.max_slots, self.max_positions = max_slots, max_positions
        shape = (max_slots + 1, max_positions)
        self._tokens = torch.full(shape, -1, dtype=torch.long, device=self.device)
        self._places = torch.zeros(shape, dtype=torch.long, device=self.device)  # of the evidence in the memory's gate
        self._strength = torch.zeros(max_slots + 1, device=self.device)
        self._writes = torch.zeros(max_slots + 1, dtype=torch.bool, device=self.device)
        self._memory_of = torch.zeros(max_slots + 1, dtype=torch.long, device=self.device)  # 0: none
        self._has_session = torch.zeros(max_slots + 1, dtype=torch.bool, device=self.device)
        self._sessions: dict[int, Tensor] = {}  # layer -> [slots, E]
        self._session_layers: dict[int, Tensor] = {}  # layer -> [slots] bool
        self._slots: dict[int, _Slot] = {}
        self._memories: dict[int, TorchMemory] = {}
        self._counters = torch.zeros(len(COUNTERS), dtype=torch.long, device=self.device)
        self._uploads: "weakref.WeakKeyDictionary[Any, TorchMemory]" = weakref.WeakKeyDictionary()
        self.kill_switch = False

    def add_slot(self, memory: Any = None, *, session: Optional[Mapping[int, Any]] = None, strength: float = 1.0,
                 shadow: bool = False) -> int:
        """As Router.add_slot. ValueError where all slots are in use."""
        free = next((slot for slot in range(1, self.max_slots + 1) if slot not in self._slots), None)
        if free is None:
            raise ValueError(f"{self.max_slots} slots are in use; release one or make the router with max_slots=")
        if memory is not None and not isinstance(memory, TorchMemory):
            memory = self._upload(memory)
        self._slots[free] = _Slot(memory, None, strength, shadow)
        index = 0
        if memory is not None:
            index = next((i for i, known in self._memories.items() if known is memory), len(self._memories) + 1)
            self._memories[index] = memory
        self._memory_of[free] = index
        self._writes[free] = not shadow
        self._tokens[free] = -1
        self._places[free] = memory.gate.unknown if memory is not None else 0
        self.set_strength(free, strength)
        self.set_session(free, session)
        return free

    def _upload(self, memory: Any) -> TorchMemory:
        if memory not in self._uploads:
            self._uploads[memory] = TorchMemory(memory, self.device)
        return self._uploads[memory]

    def release_slot(self, slot: int) -> None:
        """Ends a sequence; its tables stay on the device for the next one."""
        if self._slots.pop(slot, None) is not None:
            self._memory_of[slot], self._has_session[slot], self._strength[slot] = 0, False, 0.0
            for has in self._session_layers.values():
                has[slot] = False

    def set_strength(self, slot: int, strength: float) -> None:
        """0..1, of the memory's change; NaN is 0."""
        self._strength[slot] = min(1.0, max(0.0, strength)) if strength == strength else 0.0

    def set_session(self, slot: int, session: Optional[Mapping[int, Any]]) -> None:
        """session: layer -> vector [E]."""
        for has in self._session_layers.values():
            has[slot] = False
        self._slots[slot].session = session
        self._has_session[slot] = bool(session)
        for layer, vector in (session or {}).items():
            vector = torch.as_tensor(vector, dtype=torch.float32, device=self.device)
            if layer not in self._sessions:
                self._sessions[layer] = torch.zeros(self.max_slots + 1, vector.numel(), device=self.device)
                self._session_layers[layer] = torch.zeros(self.max_slots + 1, dtype=torch.bool, device=self.device)
            self._sessions[layer][slot] = vector
            self._session_layers[layer][slot] = True

    def _rows(self, values: Any) -> Tensor:
        return torch.as_tensor(values).to(device=self.device, dtype=torch.long)

    def begin_step(self, slots: Any, positions: Any, tokens: Any = None) -> TorchStep:
        """slots, positions, tokens [T]; rows of one sequence ascend by position, a lower one rewinds its gate."""
        slots, positions = self._rows(slots), self._rows(positions)
        tokens = torch.full_like(slots, -1) if tokens is None else self._rows(tokens)
        self._tokens[slots, positions] = tokens
        before = torch.where(positions > 0, self._tokens[slots, (positions - 1).clamp_min(0)], -1)
        bound = self._memory_of[slots]
        gate = torch.zeros_like(slots, dtype=torch.float32)
        for index, memory in self._memories.items():
            here = bound == index
            if not memory.gate.enabled:
                gate = torch.where(here, 1.0, gate)
                continue
            old = self._places[slots, positions]
            self._places[slots, positions] = torch.where(here, memory.gate.places_of(before, tokens), old)
            window = positions[:, None] - torch.arange(memory.gate.window, device=self.device)
            places = torch.where(here[:, None], self._places[slots[:, None], window.clamp_min(0)], 0)
            # One group at a time: [T, window] is the most that is held.
            sums = [torch.where(window >= 0, of_group[places], 0.0).sum(-1) for of_group in memory.gate.evidence.unbind(-1)]
            count = (positions + 1).clamp_max(memory.gate.window)
            gate = torch.where(here, memory.gate.value(torch.stack(sums, -1), count), gate)
        return TorchStep(slots, positions, tokens, gate)

    def route(self, step: TorchStep, layer: int, hidden: Tensor, logits: Tensor) -> Tensor:
        """Returns the logits to use [T, E], in their type; `logits` itself where nothing is bound at this layer."""
        memories = {index: memory for index, memory in self._memories.items() if layer in memory.layers}
        session = self._session_layers.get(layer)
        if self.kill_switch or (not memories and session is None):
            return logits
        new, touched = logits.float(), torch.zeros_like(step.slots, dtype=torch.bool)
        bound, writes = self._memory_of[step.slots], self._writes[step.slots]
        finite = hidden.isfinite().all(-1) & new.isfinite().all(-1)
        counted, shut = torch.zeros_like(touched), torch.zeros_like(touched)
        for index, memory in memories.items():
            here = bound == index
            weight = torch.where(here, self._strength[step.slots] * step.gate, 0.0)
            routed = route_rows(memory.layers[layer], hidden, new, weight, step.tokens)
            new, touched = routed.logits, touched | routed.touched
            finite, counted = finite & routed.finite, counted | here
            shut = shut | (here & (step.gate == 0))
        write = touched
        if session is not None:
            has = session[step.slots]
            new = torch.where((has & finite)[:, None], new + self._sessions[layer][step.slots], new)
            write, counted, finite = write | has, counted | has, finite & new.isfinite().all(-1)
        write = write & finite & writes
        self._counters += torch.stack([counted.sum(), touched.sum(), write.sum(), shut.sum(),
                                       (counted & ~finite).sum()])
        return torch.where(write[:, None], new.to(logits.dtype), logits)

    def counters(self) -> dict[str, int]:
        """Totals since construction; this reads the device."""
        return dict(zip(COUNTERS, self._counters.tolist()))


__all__: Sequence[str] = ("TorchLayer", "TorchGate", "TorchMemory", "TorchRouter", "TorchStep", "Routed", "route",
                          "route_rows", "blend", "search", "confidence", "neighbour_weights")
