"""Where requests enter the engine: each gets its binding and, with it, its own prefix-cache salt.

Changed routing changes KV. vLLM shares KV blocks between requests of equal tokens and equal salt, so without a salt a
request would silently read what another routing wrote. Nobody has to know: whatever the client sends, offline or over
HTTP, becomes a `Request` in the engine's process, and the salt is derived there.
"""

from __future__ import annotations

import copy
import functools
import inspect
import logging
from typing import Any

from .settings import SALT, WIRE, Settings, is_off

log = logging.getLogger("vllm.pointsman")


def bind(settings: Settings, params: Any, salt: str | None) -> tuple[Any, str | None]:
    """The sampling parameters with the binding inside, and the salt with the binding's. Never raises: a request that
    got past the check and cannot be bound is served frozen, as frozen."""
    binding, asked = None, {}
    if params is not None:  # else: pooling
        asked = dict(params.extra_args or {})
        try:
            binding = None if is_off() else settings.resolve(asked)
        except Exception as error:  # noqa: BLE001
            log.error("pointsman: a request is served without its memory: %s", error)
    if binding is not None and binding.salt:
        salt = f"{binding.salt}/{salt or ''}"
    elif salt is not None and salt.startswith(SALT):
        salt = f"frozen:{salt}"  # a client that writes ours would put its KV among a memory's
    if binding is None and WIRE not in asked:
        return params, salt
    asked.pop(WIRE, None)  # a client's is not to be believed
    if binding is not None:
        asked[WIRE] = binding.to_wire()
    params = copy.copy(params)  # the caller may use them again
    params.extra_args = asked
    return params, salt


def install(settings: Settings) -> None:
    from vllm.v1.request import Request

    original = Request.__init__
    signature = inspect.signature(original)

    @functools.wraps(original)
    def with_binding(self: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(self, *args, **kwargs)
        params, salt = bind(settings, given.arguments["sampling_params"], given.arguments.get("cache_salt"))
        given.arguments.update(sampling_params=params, cache_salt=salt)
        original(*given.args, **given.kwargs)

    Request.__init__ = with_binding
