"""A memory inside vLLM, as a plug-in: no fork, no file of vLLM edited.

vLLM finds it by two entry points once `pointsman` is installed beside it:

    vllm.general_plugins     pointsman.vllm:register                  in every process of the engine, at its start
    vllm.logits_processors   pointsman.vllm.processor:RequestCheck    checks what a request asks for (HTTP 400)

It does nothing unless the environment names a memory (settings.py has all variables):

    POINTSMAN_MEMORY=manual/ vllm serve MODEL                 every request is routed with it
    POINTSMAN_MEMORIES=law=law/,code=code/ vllm serve MODEL   a request chooses: "vllm_xargs": {"memory": "law"}

The way of a request: processor.py refuses what cannot be; entry.py, in the engine's process, fixes the memory's
generation, the strength and the session and gives the request its own prefix-cache salt; worker.py names the rows of
each step (worker_v2.py, those of vLLM's second model runner); gates.py stands at each router and asks the core to change its logits.
"""

from __future__ import annotations

__all__ = ["register"]


def register() -> None:
    """vLLM's entry: once a process, before its engine or model is made. Raises when it is asked to act and cannot."""
    from .settings import Settings

    settings = Settings.from_environment()
    if not settings.is_on or getattr(register, "done", False):
        return
    from . import entry, gates, versions, worker

    versions.check()
    settings.read_manifests()
    settings.share_off_switch()
    entry.install(settings)
    gates.install(settings)
    worker.install(settings)
    register.done = True  # type: ignore[attr-defined]
