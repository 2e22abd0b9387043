"""The `pointsman` command: runs the binary of this installation with the libraries of the environment's torch.

The binary is there where torch was when the package was built (python/README.md)."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pathlib
import sys
from typing import NoReturn

FOLDER = pathlib.Path(__file__).resolve().parent / "bin"
REMEDY = "run `pip install torch=={torch}`"
NOT_BUILT = ("this installation has no command, as there was no torch when it was built; run `pip install torch==2.13.0`, then "
             "`pip install --force-reinstall --no-deps .` in the sources; the Python package works without it")


def _stop(problem: str) -> NoReturn:
    print(f"pointsman: {problem}", file=sys.stderr)
    raise SystemExit(1)


def torch_libraries(folder: pathlib.Path) -> pathlib.Path:
    """Where the environment's torch keeps its libraries; torch itself is not imported. SystemExit with the remedy if it is
    not there, or not the one that the binary was built with: its C++ interface differs from version to version."""
    wanted = (folder / "torch_version").read_text().strip()
    remedy = REMEDY.format(torch=wanted)
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        _stop(f"needs the libraries of torch, which this Python does not have; {remedy}")
    found = importlib.metadata.version("torch").split("+")[0]
    if found != wanted:
        _stop(f"was built with torch {wanted}, and this Python has {found}; {remedy}, or install pointsman anew")
    return pathlib.Path(torch.origin).parent / "lib"


def main() -> NoReturn:
    binary = FOLDER / "pointsman"
    if not binary.exists():
        _stop(NOT_BUILT)
    libraries = [str(torch_libraries(FOLDER)), os.environ.get("LD_LIBRARY_PATH", "")]
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(path for path in libraries if path)
    # `--python` finds the Python that started this: it has what is started.
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    os.execv(binary, [str(binary), *sys.argv[1:]])
