"""Pointsman inside a Python process: a kNN routing memory for Mixture-of-Experts models.

    with pointsman.attach(model, "memory/"): ...      # transformers; needs torch
    memory = pointsman.Memory.open("memory/")         # the core; needs numpy only
    router = pointsman.Router()

Environment: POINTSMAN_DISABLE=1 turns all routing off, POINTSMAN_SHADOW=1 computes and counts but writes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._core import version as __version__
from .errors import Error, MismatchError, RejectedError, UnsupportedError
from .memory import Memory, Reference, model_fingerprint
from .router import Router, RowTrace, Step

if TYPE_CHECKING:
    from .transformers import attach

__all__ = ("Error", "Memory", "MismatchError", "Reference", "RejectedError", "Router", "RowTrace", "Step", "UnsupportedError",
           "__version__", "attach", "model_fingerprint")


def __getattr__(name: str) -> Any:
    if name == "attach":  # imports torch and transformers, which the core does without
        from .transformers import attach

        return attach
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
