"""The routing of a forward pass by the C++ core, on the CPU (router/router.h). Needs numpy only.

Shapes: T rows (tokens) of a step, H hidden size, E experts. Matrices are taken without a copy from anything on the CPU with
DLPack or the buffer protocol (numpy, torch, jax); they must be contiguous.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Mapping, Optional

import numpy as np

from . import _core
from .errors import Error
from .memory import Memory


def _is_on(variable: str) -> bool:
    value = os.environ.get(variable, "")
    if value not in ("", "0", "1"):
        raise Error(f"{variable}={value}; set it to 1, or to 0, or unset it")
    return value == "1"


def _vector(name: str, values: Any, dtype: type) -> np.ndarray:
    """[T] of `dtype`; other integers are converted if they fit."""
    if type(values) is np.ndarray and values.dtype == dtype and values.flags.c_contiguous:
        return values
    array = np.asarray(values)
    if array.size == 0:
        array = array.astype(dtype)
    if array.dtype.kind not in "iu":
        raise Error(f"{name}: of type {array.dtype}; pass integers")
    limits = np.iinfo(dtype)
    if array.size and (array.min() < limits.min or array.max() > limits.max):
        raise Error(f"{name}: {array.min()}..{array.max()}; they are within {limits.min}..{limits.max}")
    return np.ascontiguousarray(array, dtype=dtype)


def _session(session: Optional[Mapping[int, Any]]) -> Optional[_core.Session]:
    if session is None:
        return None
    vectors = [np.ascontiguousarray(vector, dtype=np.float32) for vector in session.values()]
    return _core.Session([int(layer) for layer in session], vectors)


class Step:
    """One forward pass of T rows. Valid until the next begin_step of its router."""

    __slots__ = ("_core", "gate")

    def __init__(self, core: _core.Step) -> None:
        self._core = core
        self.gate: np.ndarray = core.gate()
        """G of each row [T], 0..1: 1 for a memory without gate, 0 for rows without memory. Whoever knows better may change
        it before the first route."""

    def __len__(self) -> int:
        return len(self._core)


@dataclass
class RowTrace:
    """What happened to one row at one layer."""

    row: int
    layer: int
    gate: float  # G: how much the text so far resembles the memory
    confidence: float  # g: how near the neighbours are
    written: bool
    neighbours: list[tuple[int, float]]  # (row of the memory, similarity), best first; Memory.references names them
    logits_before: np.ndarray  # [E]
    logits_after: np.ndarray  # [E]; in shadow mode what would have been written


class Router:
    """The sequences that are being routed.

        router = Router()
        slot = router.add_slot(memory)                              # one sequence; 0 is the frozen router
        step = router.begin_step(slots, positions, tokens)          # once a forward pass
        router.route(step, layer, hidden, logits)                   # at each MoE layer; logits change in place

    A row whose weight is 0 and that has no session is not written: its logits keep their bits. A row's result depends on
    its own sequence only, not on the batch and not on threads. Calls may come from any thread; the router takes them one at
    a time, with the GIL released. After an exception no logits were changed.

    POINTSMAN_DISABLE=1 in the environment turns every route of a new Router off, POINTSMAN_SHADOW=1 makes every slot a
    shadow: everything is computed and counted, nothing is written.
    """

    def __init__(self) -> None:
        self._core = _core.Router()
        self._shadow = _is_on("POINTSMAN_SHADOW")
        self._core.set_kill_switch(_is_on("POINTSMAN_DISABLE"))

    def add_slot(self, memory: Optional[Memory], *, session: Optional[Mapping[int, Any]] = None, strength: float = 1.0,
                 shadow: bool = False) -> int:
        """A new sequence. `session`: vectors [E] by layer, added to the logits (online rerouting). `strength` 0..1 scales the
        memory's change, not the session's. Released ids are given out again."""
        core = None if memory is None else memory._core
        return self._core.add_slot(core, _session(session), strength, shadow or self._shadow)

    def release_slot(self, slot: int) -> None:
        """Ends a sequence; twice is once."""
        self._core.release_slot(slot)

    def set_strength(self, slot: int, strength: float) -> None:
        """Of a live sequence, from the next step on; 0..1 as in add_slot."""
        self._core.set_strength(slot, strength)

    def set_session(self, slot: int, session: Optional[Mapping[int, Any]]) -> None:
        """Replaces the session vectors (None: none); the gate's state stays."""
        self._core.set_session(slot, _session(session))

    def begin_step(self, slots: Any, positions: Any, tokens: Any = None) -> Step:
        """slots [T], positions [T] and tokens [T] of the pass's rows (uint32, uint32, int32; other integers are converted).

        Slot 0 is the frozen router, for rows without memory and for padding. Rows of one sequence ascend by position, one by
        one; a position at or below one already seen rewinds the sequence's gate. Without tokens, and for a negative one, the
        gate reads unknown text and the token table is off."""
        return Step(self._core.begin_step(_vector("slots", slots, np.uint32), _vector("positions", positions, np.uint32),
                                          None if tokens is None else _vector("tokens", tokens, np.int32)))

    def route(self, step: Step, layer: int, hidden: Any, logits: Any) -> None:
        """Changes logits [T, E] in place, given the router's input hidden [T, H]. float32, or bfloat16 and float16, which are
        computed with in fp32 and rounded once. A layer that no memory and no session of the step knows is left alone."""
        self._core.route(step._core, layer, hidden, logits)

    def explain(self, step: Step, layer: int, hidden: Any, logits: Any) -> list[RowTrace]:
        """route() in float32, and what it did to each row that has memory or session at this layer, in row order."""
        return [RowTrace(**row) for row in self._core.route_traced(step._core, layer, hidden, logits)]

    def vote_output(self, step: Step, hidden: Any, logits: Any, rows: Any = None) -> None:
        """The output memory's vote, after the last layer: hidden [n, H] is what the output layer reads and logits
        [n, vocabulary] what it gave, in float32, for the step's rows `rows` [n], ascending (None: all)."""
        self._core.vote_output(step._core, hidden, logits, None if rows is None else _vector("rows", rows, np.uint32))

    def set_kill_switch(self, off: bool) -> None:
        """True: every route and vote is a no-op, at once. False: not any more, from the next step on."""
        self._core.set_kill_switch(off)

    def counters(self) -> dict[str, int]:
        """Totals of (row, layer) pairs since construction: rows seen on bound slots, touched (the memory's weight was above
        0), written, gate_shut (G was 0), voted (rows of output logits), non_finite (left as they were)."""
        return self._core.counters()

    def slot_length(self, slot: int) -> int:
        """Positions that the slot's gate has seen."""
        return self._core.slot_length(slot)

    def gate_history(self, slot: int) -> np.ndarray:
        """G after each position [length] so far."""
        return self._core.gate_history(slot)

    def export_gate(self, slot: int) -> np.ndarray:
        """The slot's tokens so far [length] int32, all that its gate depends on; -1 where unknown, as everywhere without a
        memory or without a gate. Kept by prefix caches and by whoever preempts."""
        return self._core.export_gate(slot)

    def import_gate(self, slot: int, tokens: Any) -> None:
        """Puts the slot after `tokens` [length], whatever it had seen: the same bits as if they had been routed."""
        self._core.import_gate(slot, _vector("tokens", tokens, np.int32))
