"""The steps of vLLM's second model runner (vllm/v1/worker/gpu), its default where there is Triton.

Run on the CPU only, Triton's kernels interpreted (tests/test_vllm_v2.py), never on an accelerator: it is off unless
POINTSMAN_VLLM_UNTESTED=1. It keeps no object of a request and resumes a preempted one as a new one, so that the text
before a row comes with the request's arrival. Positions and token ids are in tensors that kernels write on the device;
they are read back once a step, and the router's rows at every layer: slow, but the core's own bits, with the device
waited for. Hence no CUDA graphs (loading.py refuses them): a replay, full or piecewise, asks no router.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Optional, Sequence

import torch

from . import worker
from .settings import Settings


@dataclass(frozen=True)
class Arrival:
    """A request as the scheduler sent it; the fields are those of the first runner's requests that worker.py reads."""

    sampling_params: Any
    prompt_token_ids: Sequence[int]  # and what was generated before a preemption
    prompt_is_token_ids: None = None  # all are: see loading.unfollowed
    output_token_ids: Sequence[int] = ()


def begin(runner: Any, batch: Any) -> Optional[worker.Step]:
    """batch: the InputBatch that the model is about to read."""
    starts, rows = batch.query_start_loc_np, batch.num_tokens
    # The scheduler's own view (num_computed_tokens_np) may be ahead of what the device knows.
    positions = batch.positions[:rows].cpu().numpy()
    parts = [worker.Rows(request, int(starts[i]), int(starts[i + 1]), int(positions[starts[i]])) for i, request in enumerate(batch.req_ids)]
    tokens = batch.input_ids[:rows].to("cpu", torch.int32).numpy()
    return runner.pointsman_steps.begin(parts, tokens, runner.pointsman_requests.__getitem__)


def install(settings: Settings) -> None:
    """Wraps the runner: loading, arrival and end of each request, and each pass."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        import vllm.v1.worker.cpu.shm  # noqa: F401  first, as in vLLM's CPU worker: replaces what the runner's modules import

    from vllm.v1.worker.gpu.model_runner import GPUModelRunner

    load = worker.prepared(settings, GPUModelRunner.load_model)
    add, remove, prepare, execute = (GPUModelRunner.add_requests, GPUModelRunner._remove_request, GPUModelRunner.prepare_inputs,
                                     GPUModelRunner.execute_model)

    @functools.wraps(load)
    def load_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.pointsman_requests = {}
        return load(self, *args, **kwargs)

    @functools.wraps(add)
    def add_requests(self: Any, scheduler_output: Any) -> Any:
        result = add(self, scheduler_output)
        try:
            for new in scheduler_output.scheduled_new_reqs:
                self.pointsman_requests[new.req_id] = Arrival(new.sampling_params, new.prefill_token_ids)
        except Exception as error:  # noqa: BLE001
            self.pointsman_steps.fail(error)
        return result

    @functools.wraps(remove)
    def remove_request(self: Any, req_id: str) -> Any:
        """At its end, at a preemption, and before it is added again."""
        self.pointsman_requests.pop(req_id, None)
        self.pointsman_steps.release(req_id)
        return remove(self, req_id)

    @functools.wraps(prepare)
    def prepare_inputs(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Not called in a pass of dummy rows."""
        batch = prepare(self, *args, **kwargs)
        worker.take(self.pointsman_steps.begin_or_fail(lambda: begin(self, batch)))
        return batch

    @functools.wraps(execute)
    def execute_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            result = execute(self, *args, **kwargs)
        finally:
            step = worker.take(None)
        if step is not None:
            step.end()
        return result

    GPUModelRunner.load_model = load_model
    GPUModelRunner.add_requests, GPUModelRunner._remove_request = add_requests, remove_request
    GPUModelRunner.prepare_inputs, GPUModelRunner.execute_model = prepare_inputs, execute_model
