"""Language Model Evaluation Harness with a memory: its model `hf`, and in addition what attach() takes.

    python -m pointsman.lm_eval --model pointsman --model_args pretrained=DIR,memory=MEM,strength=0.5 --tasks NAME

The arguments are lm_eval's own; without `memory` the model is frozen. lm_eval has no way for another package to add a
model, so this is its command with one more model registered; in Python, import this module and call lm_eval as usual.
Needs `pip install lm_eval accelerate`.
"""

from __future__ import annotations

import sys
from typing import Any

from .errors import Error

try:
    from lm_eval.api.registry import register_model
    from lm_eval.models.huggingface import HFLM
except ImportError as error:  # of lm_eval, or of what its model `hf` needs
    raise Error(f"{error.name or error}: not installed; pip install lm_eval accelerate", "unsupported") from error


@register_model("pointsman")
class PointsmanLM(HFLM):
    """`hf` for causal models, with a memory attached for as long as the object lives."""

    def __init__(self, pretrained: Any, memory: Any = None, strength: float = 1.0, shadow: bool = False, engine: str = "auto",
                 allow_rejected: bool = False, device: Any = None, **options: Any) -> None:
        super().__init__(pretrained, backend="causal", device=device, **options)
        self.adapted = None
        if memory is not None:
            from .transformers import attach

            self.adapted = attach(self._model, memory, strength=float(strength), shadow=bool(shadow), engine=engine,
                                  allow_rejected=bool(allow_rejected))

    def get_model_info(self) -> dict[str, Any]:
        """What lm_eval stores beside the results: what the memory did, too."""
        info = super().get_model_info()
        return info | {"pointsman": self.adapted.counters()} if self.adapted else info


def main() -> None:
    from lm_eval.__main__ import cli_evaluate

    sys.argv[0] = "lm_eval"
    cli_evaluate()


if __name__ == "__main__":
    # As the module of its name, so that the model is registered once.
    from pointsman.lm_eval import main as run

    run()
