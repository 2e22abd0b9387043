"""A memory inside a Hugging Face transformers model: see adapted.py.

    import pointsman

    with pointsman.attach(model, "memory/") as adapted:
        model.generate(**inputs)
"""

from __future__ import annotations

import os
import warnings
from typing import Any, Optional

from .adapted import Adapted
from .bindings import Binding, Session


def attach(model: Any, memory: Any = None, *, strength: Optional[float] = None, shadow: bool = False,
           session: Optional[Session] = None, engine: str = "auto", allow_rejected: bool = False,
           check_fingerprint: bool = True, checkpoint: Any = None) -> Adapted:
    """Lets `model` (a transformers causal language model) route with `memory`: an open pointsman.Memory, a path, or
    None for POINTSMAN_MEMORY. Returns an Adapted, to be used in a `with` or ended by its detach().

    strength  0..1 of the memory's change (default: POINTSMAN_STRENGTH, else 1)
    shadow    compute and count, write nothing (POINTSMAN_SHADOW=1 does it from outside, POINTSMAN_DISABLE=1 turns it off)
    session   rerouting vectors that act beside the memory
    engine    auto | core | torch: the C++ core for models on the CPU, torch elsewhere
    checkpoint  the directory that the model was loaded from, where its router weights were rounded to another type in
              loading (default: model.name_or_path)
    Errors: MismatchError with both values, UnsupportedError for routers that are not known."""
    if memory is None:
        memory = os.environ.get("POINTSMAN_MEMORY")
    if isinstance(memory, (str, os.PathLike)):
        from pointsman import Memory

        memory = Memory.open(os.fspath(memory), allow_rejected=allow_rejected)
    if getattr(memory, "output", None) is not None:
        warnings.warn("the memory's output part does not vote in this host: only its routing acts", stacklevel=2)
    if strength is None:
        strength = float(os.environ.get("POINTSMAN_STRENGTH", "1"))
    if memory is not None and check_fingerprint:
        from ..fingerprint import check

        check(model, memory, checkpoint)
    from .engines import make_engine

    return Adapted(model, Binding(memory, session, strength, shadow), make_engine(engine, model, memory))


__all__ = ["attach", "Adapted", "Binding", "Session"]
