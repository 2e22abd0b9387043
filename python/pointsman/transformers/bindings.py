"""What a row of a batch is routed with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Optional

import torch
from torch import Tensor


class Session:
    """The rerouting vectors of one client, learned online (online.py) or given: layer -> [E] fp32.

    Read by passes of any thread; `replace` swaps all vectors at once, for the passes that begin later."""

    def __init__(self, vectors: Optional[Mapping[int, Any]] = None) -> None:
        self._vectors: Mapping[int, Tensor] = {}
        self.replace(vectors or {})

    @property
    def vectors(self) -> Mapping[int, Tensor]:
        """Layer -> [E]; not to be changed in place."""
        return self._vectors

    def replace(self, vectors: Mapping[int, Any]) -> None:
        """Layer -> [E], copied; layers that are not named have none from then on."""
        self._vectors = {int(layer): torch.as_tensor(vector, dtype=torch.float32).detach().clone().cpu()
                         for layer, vector in vectors.items()}


@dataclass(frozen=True)
class Binding:
    """A memory or none, a session or none, and how strongly the memory acts."""

    memory: Any = None
    session: Optional[Session] = None
    strength: float = 1.0  # 0..1, of the memory's change, not of the session's
    shadow: bool = False  # compute and count, write nothing

    def __post_init__(self) -> None:
        strength = float(self.strength)
        object.__setattr__(self, "strength", min(1.0, max(0.0, strength)) if strength == strength else 0.0)

    @property
    def is_frozen(self) -> bool:
        """Neither memory nor session: nothing acts."""
        return self.memory is None and self.session is None


FROZEN = Binding()


@dataclass(eq=False)
class Step:
    """One forward pass. T rows, B sequences one after another, C columns each."""

    bindings: list[Binding]  # [B]
    tokens: Tensor  # [T]; negative: unknown
    real: Tensor  # [T] bool: not padding
    gate: Tensor  # [T] fp32
    columns: int
    vectors: dict[int, Tensor] = field(default_factory=dict)  # layer -> [E] or [T, E] that gradients pass through
    called: set[int] = field(default_factory=set)  # MoE layers whose router ran
    prepared: Any = None  # of the engine
