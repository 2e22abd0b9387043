"""A memory on disk, opened for reading. Needs numpy only.

Shapes: H hidden size, E experts, R keys of a layer, D their dimensions, T rows of a call, V vocabulary, P token pairs.
"""

from __future__ import annotations

import json
import os
from functools import cached_property
from typing import Any, Mapping, NamedTuple, Optional, Union

import numpy as np

from . import _core

Path = Union[str, "os.PathLike[str]"]
NO_DOCUMENT = 0xFFFFFFFF


class Reference(NamedTuple):
    """A token of the reference text."""

    document: str
    position: int


def model_fingerprint(directory: Path) -> dict[str, str]:
    """What ties a memory to the model in `directory` (config.json, safetensors, tokenizer.json): architecture,
    config_sha256, router_sha256, tokenizer_sha256, dtype, experts_sha256. Reads all expert weights, on several threads."""
    return _core.fingerprint_of_model(os.fspath(directory))


class Memory:
    """Immutable; any thread. Arrays that it gives are views of its files, read-only, and keep it alive.

        memory = Memory.open("memory/")
        similarity, row = memory.search(layer=3, hidden=hidden, k=4)
        memory.references(3, row[0, 0])                            # where the nearest entry of the first token comes from
    """

    def __init__(self, core: _core.Memory) -> None:
        self._core = core
        self._info = core.info()

    @classmethod
    def open(cls, path: Path, *, allow_rejected: bool = False, load: str = "mmap") -> "Memory":
        """Verifies every block's checksum. `load`: "mmap" maps the files, "ram" copies them.

        Raises RejectedError if the memory's own verdict is `reject`, and Error with the code `not_found` (no memory there),
        `corrupt` (the message names the file and `pointsman verify --repair`), `unsupported` (of a newer version)."""
        if load not in ("mmap", "ram"):
            raise ValueError(f"load={load!r}; it is 'mmap' or 'ram'")
        return cls(_core.Memory.open(os.fspath(path), allow_rejected, load == "ram"))

    @property
    def path(self) -> str:
        """The directory that it was opened from."""
        return self._core.path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """MANIFEST.json (schemas/manifest.schema.json): fingerprint, build settings, verdict, ..."""
        return json.loads(self._core.manifest)

    @property
    def fingerprint(self) -> dict[str, str]:
        """Of the model that it was built for; model_fingerprint() has the same fields."""
        return self.manifest["fingerprint"]

    @property
    def verdict(self) -> str:
        """adopt, reject, inconclusive or absent."""
        return self.manifest["verdict"]["verdict"]

    @cached_property
    def layers(self) -> list[int]:
        """The model's layers that have a memory, ascending."""
        return self._core.layers()

    @property
    def kind(self) -> str:
        """entries or prototypes."""
        return self._info["kind"]

    @property
    def value_kind(self) -> str:
        """delta, logits or assignments: what a value votes for."""
        return self._info["value_kind"]

    @property
    def top_k(self) -> int:
        """Experts a token of the model; 0 unless values are assignments."""
        return self._info["top_k"]

    @property
    def hidden_size(self) -> int:
        """H: width of the router's input."""
        return self._info["hidden_size"]

    @property
    def experts(self) -> int:
        """E: experts of a layer."""
        return self._info["experts"]

    def check_fingerprint(self, fingerprint: Mapping[str, str]) -> str:
        """Raises MismatchError, with both values, unless `fingerprint` is that of the memory's model. A differing dtype or
        expert digest is the text that is returned; "" otherwise."""
        names = ("architecture", "config_sha256", "router_sha256", "tokenizer_sha256", "dtype", "experts_sha256")
        return self._core.check_fingerprint(*(str(fingerprint.get(name, "")) for name in names))

    def documents(self) -> list[str]:
        """Names of the documents behind it, in the order of the indices in `references`."""
        return list(self._documents)

    @cached_property
    def _documents(self) -> list[str]:
        return self._core.documents()

    def references(self, layer: int, row: int) -> list[Reference]:
        """The reference tokens behind a row that search() found: one for entries, up to 8 for prototypes."""
        table = self.tables(layer)["references"]
        found = () if table is None else table[int(row)].tolist()
        return [Reference(self._documents[document], position) for document, position in found if document != NO_DOCUMENT]

    def stats(self) -> dict[str, Any]:
        """generation, rows (over all layers), documents, derived_bytes and truth_bytes on disk, as of now."""
        now = self._core.info()
        return {name: now[name] for name in ("generation", "rows", "documents", "derived_bytes", "truth_bytes")}

    def search(self, layer: int, hidden: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The exact k nearest keys of hidden [T, H] (float32), best first: similarity [T, k] and row [T, k]. Where there is
        none (fewer keys than k, a row that is not finite) the similarity is -2. The GIL is released."""
        return self._core.search(layer, hidden, k)

    def tables(self, layer: int) -> dict[str, Any]:
        """What a layer routes with, for an implementation on a device; formulas in router/c_api.h (pm_keys, pm_layer).

        mean [H] or None, projection [D, H] or None, codes [R, D] int8, code_scales [R], values [R, E] int8,
        value_scales [R], references [R, n, 2] uint32 (document, position) or None, router_delta [E, H] or None,
        token_table [N, E] int8 or None, token_table_scales [N] or None, token_ids [N] uint32 ascending (whose rows these are;
        None: row v is token v's), k, tau, tau2, scale, confidence (mean_similarity, max_similarity, mean_kernel,
        aggregate)."""
        return self._core.layer(layer)

    @cached_property
    def gate(self) -> dict[str, Any]:
        """The context gate: enabled, n0, common, window, groups [{name, prior, lo, hi}], pairs [P] uint64 ascending
        (previous token << 32 | token) or None, is_common [P] uint8 or None, pair_groups [P] uint16 (bit j: in group j) or
        None with one group; formulas in router/c_api.h (pm_gate)."""
        return self._core.gate()

    @cached_property
    def output(self) -> Optional[dict[str, Any]]:
        """The output memory, if there is one: the keys as in tables(), next_tokens [R] int32, vocabulary, k, tau, lambda,
        tau2."""
        return self._core.output()

    def __repr__(self) -> str:
        return f"<pointsman.Memory {self.path!r}: {self.kind}, layers {self.layers}, verdict {self.verdict}>"
