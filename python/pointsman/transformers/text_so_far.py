"""The tokens that a forward pass continues, and the context gate over them.

The gate of a token depends on the text before it. That text belongs to the KV cache: what the cache remembers, crops,
reorders (beam search) or copies, this remembers, crops, reorders and copies. So it is kept on the cache object itself.

Columns count as in the cache: padding has columns, but no place in the text. B sequences, L columns.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from ..errors import Error
from ..torch_routing import TorchGate

UNKNOWN = -1  # a token that is not known: evidence of unrelated text
_NAME = "_pointsman_text"


class TextSoFar:
    """Arrays [B, capacity], the first `length` columns in use."""

    def __init__(self, batch: int, device: torch.device) -> None:
        self.length = 0
        whole = lambda value: torch.full((batch, 0), value, dtype=torch.long, device=device)
        self.tokens = whole(UNKNOWN)
        self.previous = whole(UNKNOWN)  # the token before, padding aside
        self.last = whole(UNKNOWN)  # the last token up to here
        self.index = whole(0)  # tokens up to here, padding aside
        self.start = whole(0)  # of them before the document that this one belongs to (packed batches)
        self.sums: dict[TorchGate, Tensor] = {}  # running sums of the evidence [B, L, groups], float64
        self.real = whole(0).bool()

    _ARRAYS = ("tokens", "previous", "last", "index", "start", "real")

    @property
    def batch(self) -> int:
        return self.tokens.shape[0]

    def truncate(self, length: int) -> None:
        self.length = min(self.length, length)
        for gate, sums in self.sums.items():
            self.sums[gate] = sums[:, :self.length]

    def select(self, rows: Tensor) -> None:
        for name in self._ARRAYS:
            array = getattr(self, name)
            setattr(self, name, array.index_select(0, rows.to(array.device)))
        self.sums = {gate: sums.index_select(0, rows.to(sums.device)) for gate, sums in self.sums.items()}

    def _reserve(self, columns: int) -> None:
        missing = self.length + columns - self.tokens.shape[1]
        if missing <= 0:
            return
        missing = max(missing, self.tokens.shape[1], 64)
        for name in self._ARRAYS:
            array = getattr(self, name)
            setattr(self, name, torch.cat((array, array.new_zeros(array.shape[0], missing)), 1))

    def extend(self, tokens: Tensor, real: Tensor, positions: Optional[Tensor]) -> None:
        """tokens, real [B, T]; positions [B, T], if given, tell documents packed into one row apart."""
        count = tokens.shape[1]
        self._reserve(count)
        begin, end = self.length, self.length + count
        column = torch.arange(count, device=tokens.device).expand_as(tokens)
        newest = torch.where(real, column, -1).cummax(1).values  # the last real column up to here
        before = torch.cat((newest.new_full((newest.shape[0], 1), -1), newest[:, :-1]), 1)
        carried = self.last[:, begin - 1:begin] if begin else tokens.new_full((tokens.shape[0], 1), UNKNOWN)
        at = lambda values, where: torch.where(where >= 0, values.gather(1, where.clamp_min(0)), carried)
        previous = at(tokens, before)
        index = real.cumsum(1) + (self.index[:, begin - 1:begin] if begin else 0)
        start = (self.start[:, begin - 1:begin] if begin else torch.zeros_like(index[:, :1])).expand_as(index)
        if positions is not None and count > 1:
            earlier = torch.where(before >= 0, positions.gather(1, before.clamp_min(0)), -1)
            fresh = real & (before >= 0) & (positions <= earlier)  # a position that does not ascend: another document
            start = torch.maximum(start, torch.where(fresh, index - 1, 0).cummax(1).values)
            previous = torch.where(fresh, UNKNOWN, previous)
        for name, values in (("tokens", tokens), ("previous", previous), ("last", at(tokens, newest)), ("index", index),
                             ("start", start), ("real", real)):
            getattr(self, name)[:, begin:end] = values
        self.length = end

    def gate(self, gate: TorchGate, columns: int) -> Tensor:
        """G (fp32) of the last `columns` columns [B, columns]; 0 for padding."""
        used = slice(0, self.length)
        known = self.sums.get(gate)
        begin = known.shape[1] if known is not None else 0
        fresh = slice(begin, self.length)
        evidence = gate.evidence[gate.places_of(self.previous[:, fresh], self.tokens[:, fresh])]
        evidence = torch.where(self.real[:, fresh, None], evidence, 0.0)
        if known is None or begin == 0:
            sums = evidence.cumsum(1)
        else:  # in the order of one sum over all columns, so that prefill and decode agree to the bit
            sums = torch.cat((known, torch.cat((known[:, -1:], evidence), 1).cumsum(1)[:, 1:]), 1)
        self.sums[gate] = sums
        index = self.index[:, used].contiguous()
        recent = slice(self.length - columns, self.length)
        count = (index - self.start[:, used])[:, recent].clamp_max(gate.window)
        first = (index[:, recent] - count).contiguous()  # tokens before the window
        column = torch.searchsorted(index, first).clamp_max(self.length - 1)
        at_column = column[..., None].expand(-1, -1, sums.shape[2])
        before = torch.where((first > 0)[..., None], sums.gather(1, at_column), 0.0)
        return torch.where(self.real[:, recent], gate.value(sums[:, recent] - before, count), 0.0)


# A cache whose class keeps its text in step with it. Made per class of cache, so that isinstance and copies hold.
_following: dict[type, type] = {}


def _class_that_follows(original: type) -> type:
    def reorder_cache(self: Any, beam_idx: Tensor) -> Any:
        self.__dict__[_NAME].select(beam_idx)
        return original.reorder_cache(self, beam_idx)

    def batch_select_indices(self: Any, indices: Tensor) -> Any:
        rows = torch.as_tensor(indices)
        self.__dict__[_NAME].select(rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows.reshape(-1))
        return original.batch_select_indices(self, indices)

    def batch_repeat_interleave(self: Any, repeats: int) -> Any:
        text = self.__dict__[_NAME]
        text.select(torch.arange(text.batch, device=text.tokens.device).repeat_interleave(repeats))
        return original.batch_repeat_interleave(self, repeats)

    def reset(self: Any) -> Any:
        self.__dict__[_NAME].truncate(0)
        return original.reset(self)

    methods = {function.__name__: function for function in (reorder_cache, batch_select_indices, batch_repeat_interleave, reset)
               if hasattr(original, function.__name__)}
    return type(original.__name__, (original,), methods | {"_pointsman_original": original, "__module__": original.__module__})


def keep_on_cache(cache: Any, text: TextSoFar) -> None:
    cache.__dict__[_NAME] = text
    if not hasattr(type(cache), "_pointsman_original"):
        original = type(cache)
        if original not in _following:
            _following[original] = _class_that_follows(original)
        cache.__class__ = _following[original]


def text_of(cache: Any, batch: int, device: torch.device) -> TextSoFar:
    """The text of a cache, as long as the cache: what it has that was not seen here is unknown text."""
    text = None if cache is None else cache.__dict__.get(_NAME)
    length = 0 if cache is None else int(cache.get_seq_length())
    if text is None:
        text = TextSoFar(batch, device)
    if text.batch != batch:
        raise Error(f"the KV cache holds {text.batch} sequences, this pass has {batch}; reorder or repeat the cache with its own methods")
    text.truncate(length)
    if text.length < length:
        unknown = torch.full((batch, length - text.length), UNKNOWN, dtype=torch.long, device=device)
        text.extend(unknown, torch.ones_like(unknown, dtype=torch.bool), None)
    return text
