"""At the routers: every gate of a model is vLLM's GateLinear, which has an official out-of-tree replacement.

The gate computes its logits as before; then the step in hand (worker.py), if any of its rows is bound, changes them in
place. Compiled, the call is an opaque custom operation, so that what changes from step to step stays outside the graph.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from . import worker
from .settings import UNTESTED, Settings

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def _route(hidden: torch.Tensor, logits: torch.Tensor, layer: int) -> None:
    step = worker.step_in_hand()
    if step is not None:
        step.route(layer, hidden, logits)


def _route_fake(hidden: torch.Tensor, logits: torch.Tensor, layer: int) -> None:
    return None


def layer_of(prefix: str) -> int:
    """-1 if the name of the module says none."""
    found = _LAYER.search(prefix)
    return int(found[1]) if found else -1


def install(settings: Settings) -> None:
    import vllm.envs
    from vllm.config import get_current_vllm_config
    from vllm.model_executor.custom_op import op_registry_oot
    from vllm.model_executor.layers.fused_moe.router.gate_linear import GateLinear
    from vllm.utils.torch_utils import direct_register_custom_op

    if "GateLinear" in op_registry_oot:
        raise RuntimeError(f"pointsman: another plug-in has replaced GateLinear by {op_registry_oot['GateLinear'].__qualname__}: only one "
                           "can; choose by VLLM_PLUGINS")
    direct_register_custom_op(op_name="pointsman_route", op_func=_route, mutates_args=["logits"], fake_impl=_route_fake)

    @GateLinear.register_oot
    class MemoryGateLinear(GateLinear):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            if get_current_vllm_config().use_v2_model_runner and not settings.untested:
                raise RuntimeError("pointsman: vLLM chose its second model runner, with which the plug-in never ran on an accelerator: set "
                                   f"VLLM_USE_V2_MODEL_RUNNER=0, or {UNTESTED}=1 to try it")
            super().__init__(*args, **kwargs)
            self.pointsman_layer = layer_of(self.prefix)

        def forward(self, x: torch.Tensor) -> Any:
            output = super().forward(x)
            logits = output[0] if isinstance(output, tuple) else output
            if torch.compiler.is_compiling():
                torch.ops.vllm.pointsman_route(x, logits, self.pointsman_layer)
            else:
                _route(x, logits, self.pointsman_layer)
            return output

    # A graph compiled without the plug-in has no such call in it: it must not be found under the same key.
    factors = vllm.envs.compile_factors
    vllm.envs.compile_factors = lambda: {**factors(), "POINTSMAN": "1"}


def find(model: torch.nn.Module) -> dict[int, tuple[int, int]]:
    """The gates that will call: layer -> (hidden size, experts)."""
    return {gate.pointsman_layer: (gate.input_size, gate.output_size) for gate in model.modules() if hasattr(gate, "pointsman_layer")}
