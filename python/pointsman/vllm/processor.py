"""The entry point `vllm.logits_processors`: refuses a request that asks for what is not there; changes no logits.

Both runners load the classes of this group and refuse those of the other's interface, so that merely installing this
package would stop one of them. RequestCheck therefore stands under both interfaces.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.sample.logits_processor.interface import LogitsProcessor as FirstRunnersProcessor

from .settings import Settings, is_off

try:
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as SecondRunnersProcessor
except ImportError:
    bases: tuple[type, ...] = (FirstRunnersProcessor,)
else:
    bases = (FirstRunnersProcessor, SecondRunnersProcessor)


class RequestCheck(*bases):  # type: ignore[misc]
    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """ValueError, which the server answers with 400."""
        asked = sampling_params.extra_args
        if not asked:
            return
        if Settings.from_environment().resolve(asked) is not None and "memory" in asked and is_off():
            raise ValueError("memory: it was turned off by an error, which the server's log has; "
                             "ask without a memory, or restart the server")

    def __init__(self, *_: Any) -> None:
        pass

    def is_argmax_invariant(self) -> bool:
        return True

    def apply(self, logits: Any, *_: Any) -> Any:
        return logits

    def update_state(self, batch_update: Any) -> None:
        pass

    def add_request(self, *_: Any) -> bool:
        return False
