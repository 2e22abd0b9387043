"""In the worker: which request each row of a step belongs to, what it is bound to, and the text before it.

One forward pass at a time, on one thread. A request is a slot of the core's router from its first step to its last.
The context gate needs every token before a row. Chunks follow one another; a preempted request or a rejected draft
comes again at a lower position, which rewinds the slot; and the tokens that the prefix cache spared are told to the
gate without being routed, as it depends on tokens alone.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Optional, Sequence

import numpy as np
import torch

from .settings import WIRE, Binding, Settings, digest_of, turn_off, vectors_of

log = logging.getLogger("vllm.pointsman")

UNKNOWN = -1  # a token whose id nobody knows (prompt embeddings): unknown text to the gate


@dataclass
class Live:
    """A request that the runner holds; slot 0: frozen."""

    slot: int = 0
    length: int = 0  # positions that its gate has seen
    layers: frozenset[int] = frozenset()  # whose routers must ask


@dataclass
class Rows:
    """The part of a pass that belongs to one request: rows first..last, from `position` on."""

    request: str
    first: int
    last: int
    position: int


class Steps:
    """The core's router, the memories and the requests of one model runner."""

    def __init__(self, settings: Settings, gates: Mapping[int, tuple[int, int]]) -> None:
        """gates: layer -> (hidden size, experts) of the routers that this process runs."""
        import pointsman

        self._gates = gates
        self._router = pointsman.Router()
        self._open = functools.partial(pointsman.Memory.open, allow_rejected=settings.allow_rejected)
        self._memories: dict[str, Any] = {}  # by directory
        self._live: dict[str, Live] = {}
        self.off = False
        self.errors = 0
        self.steps = 0  # passes with at least one bound row

    def open(self, directory: str) -> Any:
        if directory not in self._memories:
            self._memories[directory] = self._open(directory)
        return self._memories[directory]

    def counters(self) -> dict[str, int]:
        return {**self._router.counters(), "steps": self.steps, "live": sum(live.slot != 0 for live in self._live.values()),
                "errors": self.errors, "off": int(self.off)}

    def fail(self, error: BaseException) -> None:
        """The engine goes on with the frozen router, for everybody and until it is started again: after an error a
        memory is not half trusted. New requests share no KV with those that the memory served."""
        self.errors += 1
        self.off = True
        log.error("pointsman: the memory is turned off after an error in routing; requests are served frozen", exc_info=error)
        try:
            turn_off()
        except OSError as untold:
            log.error("pointsman: the other processes of this engine could not be told: %s", untold)

    def begin_or_fail(self, begin: Callable[[], Optional["Step"]]) -> Optional["Step"]:
        """What `begin` gives; None without the memories and after an error in it."""
        if self.off:
            return None
        try:
            return begin()
        except Exception as error:  # noqa: BLE001
            self.fail(error)
            return None

    def begin(self, parts: Sequence[Rows], tokens: np.ndarray, request_of: Callable[[str], Any]) -> Optional["Step"]:
        """`tokens` [T] of all rows, `request_of` gives the runner's state of a request. None: no row is bound."""
        bound = [(self._find(part.request, request_of), part) for part in parts]
        bound = [(live, part) for live, part in bound if live.slot]
        if not bound:
            return None
        slots = np.zeros(len(tokens), dtype=np.uint32)
        positions = np.zeros(len(tokens), dtype=np.uint32)
        for live, part in bound:
            if part.position > live.length:  # by the prefix cache
                self._router.import_gate(live.slot, text_of(request_of(part.request), part.position))
            slots[part.first:part.last] = live.slot
            live.length = part.position + part.last - part.first
            positions[part.first:part.last] = np.arange(part.position, live.length, dtype=np.uint32)
        self.steps += 1
        begun = self._router.begin_step(slots, positions, tokens)
        return Step(self, self._router, begun, len(tokens), frozenset().union(*(live.layers for live, _ in bound)))

    def release(self, request: str) -> None:
        """Of a request that the runner no longer holds. Never raises."""
        try:
            live = self._live.pop(request, None)
            if live is not None and live.slot:
                self._router.release_slot(live.slot)
        except Exception as error:  # noqa: BLE001
            self.fail(error)

    def _find(self, request: str, request_of: Callable[[str], Any]) -> Live:
        if request not in self._live:
            self._live[request] = self._bind(request_of(request).sampling_params)
        return self._live[request]

    def _bind(self, params: Any) -> Live:
        wire = (getattr(params, "extra_args", None) or {}).get(WIRE)
        if wire is None:
            return Live()
        binding = Binding(**wire)
        memory = None if binding.memory is None else self.open(binding.memory)
        session = None if binding.session is None else vectors_of(binding.session)
        wrong = None
        if memory is not None and digest_of(memory.manifest) != binding.digest:
            wrong = f"{binding.memory} changed while the engine started: start it again"
        for layer, vector in (session or {}).items():
            if layer in self._gates and self._gates[layer][1] != len(vector):
                wrong = f"the session has {len(vector)} numbers for layer {layer}, which has {self._gates[layer][1]} experts"
        if wrong is not None:  # alike for every request with this salt, so that none reads another routing's KV
            self.errors += 1
            log.error("pointsman: a request is served frozen: %s", wrong)
            return Live()
        slot = self._router.add_slot(memory, session=session, strength=binding.strength, shadow=binding.shadow)
        layers = set(memory.layers if memory is not None else ()) | set(session or ())
        return Live(slot, 0, frozenset(layers & self._gates.keys()))


class Step:
    """One forward pass of `rows` rows; rows behind them are padding."""

    def __init__(self, steps: Steps, router: Any, begun: Any, rows: int, layers: frozenset[int]) -> None:
        self._steps, self._router, self._begun = steps, router, begun
        self._rows, self._layers = rows, layers
        self._called: set[int] = set()

    def route(self, layer: int, hidden: torch.Tensor, logits: torch.Tensor) -> None:
        """Changes logits [T.., E] in place; hidden [T.., H]. Never raises.

        On an accelerator both are copied to the host and the logits back, which waits for the device at every layer."""
        if self._steps.off:
            return
        try:
            self._called.add(layer)
            if layer not in self._layers:
                return
            if hidden.dim() != 2 or len(hidden) < self._rows or len(logits) < self._rows:
                raise RuntimeError(f"layer {layer}: the router was given {tuple(hidden.shape)} "
                                   f"for a step of {self._rows} rows: the pass is "
                                   "split (micro-batches, sequence parallelism), which is not supported")
            read, written = hidden[:self._rows].cpu().contiguous(), logits[:self._rows]
            dense = written.cpu().contiguous()
            self._router.route(self._begun, layer, read, dense)
            if dense is not written:
                written.copy_(dense)
        except Exception as error:  # noqa: BLE001
            self._steps.fail(error)

    def end(self) -> None:
        """After a whole pass: a layer that was not asked would go unnoticed otherwise."""
        missed = self._layers - self._called
        if missed and not self._steps.off:
            self._steps.fail(RuntimeError(f"the router of layer {', '.join(map(str, sorted(missed)))} was not run in this pass"))


def text_of(request: Any, count: int) -> np.ndarray:
    """The first `count` token ids of a request as the runner holds it; UNKNOWN where there is none."""
    prompt, mask = request.prompt_token_ids, request.prompt_is_token_ids
    if prompt is None:
        prompt = [UNKNOWN] * request.num_prompt_tokens
    elif mask is not None:
        prompt = [token if known else UNKNOWN for token, known in zip(prompt, mask)]
    known = [*prompt, *request.output_token_ids][:count]
    return np.array(known + [UNKNOWN] * (count - len(known)), dtype=np.int32)


_in_hand: Optional[Step] = None  # of the pass that runs in this process


def step_in_hand() -> Optional[Step]:
    return _in_hand


def take(step: Optional[Step]) -> Optional[Step]:
    """The step that the gates ask from now on; returns the one before."""
    global _in_hand
    before, _in_hand = _in_hand, step
    return before


def prepared(settings: Settings, load: Callable[..., Any]) -> Callable[..., Any]:
    """A runner's load_model, after which it has its `pointsman_steps`."""
    from . import loading

    @functools.wraps(load)
    def load_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = load(self, *args, **kwargs)
        self.pointsman_steps = loading.prepare(settings, self.vllm_config, self.model, self.device)
        return result

    return load_model


# -- the first model runner (CPU; GPU without VLLM_USE_V2_MODEL_RUNNER) --------------------------------------------------


def _begin(runner: Any, steps: Steps) -> Optional[Step]:
    batch, starts = runner.input_batch, runner.query_start_loc.np
    count = batch.num_reqs
    rows = int(starts[count])
    # The tensors that the model reads, not the scheduler's view: it may be ahead of drafts that were rejected.
    computed = runner.num_computed_tokens[:count].tolist()
    parts = [Rows(request, int(starts[i]), int(starts[i + 1]), computed[i]) for i, request in enumerate(batch.req_ids[:count])]
    tokens = runner.input_ids.gpu[:rows].to("cpu", torch.int32).numpy()
    if runner.enable_prompt_embeds:
        tokens = np.where(runner.is_token_ids.np[:rows], tokens, UNKNOWN).astype(np.int32)
    return steps.begin(parts, tokens, runner.requests.__getitem__)


def install(settings: Settings) -> None:
    """Wraps the runner: loading, each pass, and the end of each request."""
    if settings.untested:
        from . import worker_v2

        worker_v2.install(settings)
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner
    from vllm.v1.worker.worker_base import WorkerBase

    CPUModelRunner.load_model = prepared(settings, CPUModelRunner.load_model)
    GPUModelRunner.load_model = prepared(settings, GPUModelRunner.load_model)

    forward, removed = GPUModelRunner._model_forward, GPUModelRunner._on_request_state_removed

    @functools.wraps(forward)
    def model_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        steps: Steps = self.pointsman_steps
        step = steps.begin_or_fail(lambda: _begin(self, steps))
        if step is None:
            return forward(self, *args, **kwargs)
        take(step)
        try:
            result = forward(self, *args, **kwargs)
        finally:
            take(None)
        step.end()
        return result

    @functools.wraps(removed)
    def on_request_state_removed(self: Any, request_id: str, state: Any) -> None:
        self.pointsman_steps.release(request_id)
        removed(self, request_id, state)

    GPUModelRunner._model_forward = model_forward
    GPUModelRunner._on_request_state_removed = on_request_state_removed
    WorkerBase.pointsman_counters = lambda self: self.model_runner.pointsman_steps.counters()
