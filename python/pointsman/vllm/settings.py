"""What the environment and a request ask for. Imports neither vLLM nor torch.

    POINTSMAN_MEMORY     a memory directory: of every request that does not choose; unset: such requests stay frozen
    POINTSMAN_MEMORIES   NAME=DIRECTORY,...: what a request may choose by name. A path in a request is refused: it would
                         let a client make the server read any directory
    POINTSMAN_SESSIONS   a folder of NAME.npz files: the rerouting vectors of a session, arrays named "layer.N" [E]
    POINTSMAN_STRENGTH   0..1 (1): of requests that do not say
    POINTSMAN_SHADOW=1   compute and count, change nothing
    POINTSMAN_DISABLE=1  the plug-in does not load, whatever else is set
    POINTSMAN_ALLOW_REJECTED=1   a memory whose own verdict is `reject` is opened too
    POINTSMAN_VLLM_UNTESTED=1    accelerators and vLLM's second model runner are not refused (worker_v2.py, loading.py)

A request (SamplingParams.extra_args, "vllm_xargs" over HTTP): memory (a name; "" or "none": frozen), strength, session
(a name), shadow (0 or 1).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from typing import Any, Mapping, Optional

import numpy as np

WIRE = "pointsman"  # key of extra_args under which the engine hands a binding to its workers; never a client's
SALT = "pointsman:"  # what every salt of ours begins with
DEFAULT = "default"  # the name of POINTSMAN_MEMORY
UNTESTED = "POINTSMAN_VLLM_UNTESTED"
OFF_SWITCH = "POINTSMAN_VLLM_OFF"  # a path; the file is there once a memory was turned off by an error
_SESSION_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")


def _is_set(environment: Mapping[str, str], name: str) -> bool:
    value = environment.get(name, "").strip()
    if value not in ("", "0", "1"):
        raise ValueError(f"{name}={value}; set it to 1, or to 0, or unset it")
    return value == "1"


def digest_of(manifest: Mapping[str, Any]) -> str:
    """Names one state of a memory: another generation, rebuild or calibration has another."""
    return sha256_of(json.dumps(manifest, sort_keys=True).encode())


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


@dataclass(frozen=True)
class Binding:
    """What one request is routed with, fixed when it enters the engine."""

    memory: Optional[str] = None  # directory
    digest: str = ""  # of the manifest
    strength: float = 1.0
    session: Optional[bytes] = None  # what its file held: a later one is another session to later requests
    shadow: bool = False

    @property
    def salt(self) -> str:
        """What the KV of this routing is cached under; "" where it equals the frozen model's."""
        if self.shadow or (self.memory is None and self.session is None):
            return ""
        return SALT + sha256_of(f"{self.digest} {self.strength!r} {sha256_of(self.session or b'')}".encode())

    def to_wire(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Settings:
    memories: dict[str, str] = field(default_factory=dict)  # name -> directory
    sessions: Optional[str] = None
    strength: float = 1.0
    shadow: bool = False
    disabled: bool = False
    allow_rejected: bool = False
    untested: bool = False
    digests: dict[str, str] = field(default_factory=dict)  # directory -> of the manifest, as read at the start

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """ValueError for a variable that cannot be read."""
        get = lambda name: environment.get(name, "").strip()
        memories = {}
        if get("POINTSMAN_MEMORY"):
            memories[DEFAULT] = os.path.abspath(get("POINTSMAN_MEMORY"))
        for part in filter(None, (part.strip() for part in get("POINTSMAN_MEMORIES").split(","))):
            name, equals, path = part.partition("=")
            if not equals or not name.strip() or not path.strip() or name.strip() in (DEFAULT, "none"):
                raise ValueError(f"POINTSMAN_MEMORIES: {part!r} is not NAME=DIRECTORY (with a name other than {DEFAULT} and none)")
            memories[name.strip()] = os.path.abspath(path.strip())
        strength = _strength(get("POINTSMAN_STRENGTH") or "1", "POINTSMAN_STRENGTH")
        return cls(memories, get("POINTSMAN_SESSIONS") or None, strength, _is_set(environment, "POINTSMAN_SHADOW"),
                   _is_set(environment, "POINTSMAN_DISABLE"), _is_set(environment, "POINTSMAN_ALLOW_REJECTED"),
                   _is_set(environment, UNTESTED))

    @property
    def is_on(self) -> bool:
        return not self.disabled and bool(self.memories or self.sessions)

    def read_manifests(self) -> None:
        """Pins the state of each memory: a newer generation is served by a new start. ValueError if one is not there."""
        for name, directory in self.memories.items():
            path = pathlib.Path(directory) / "MANIFEST.json"
            try:
                self.digests[directory] = digest_of(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError) as error:
                raise ValueError(f"memory {name!r}: {path} cannot be read ({error}): "
                                 "name a directory that `pointsman build` wrote") from error

    def share_off_switch(self) -> None:
        """One path for all processes of this engine: the first makes it, the others inherit it."""
        if OFF_SWITCH in os.environ:
            return
        import atexit

        folder, owner = tempfile.mkdtemp(prefix="pointsman-vllm-"), os.getpid()
        os.environ[OFF_SWITCH] = os.path.join(folder, "off")
        atexit.register(lambda: os.getpid() == owner and shutil.rmtree(folder, ignore_errors=True))

    def resolve(self, asked: Optional[Mapping[str, Any]]) -> Optional[Binding]:
        """Of a request's extra_args; None: frozen. ValueError, in the client's words, for what cannot be."""
        asked = asked or {}
        memory = asked.get("memory", DEFAULT if DEFAULT in self.memories else "")
        if memory in (None, "", "none") or not self.is_on:
            if memory not in (None, "", "none"):
                raise ValueError(f"memory {str(memory)[:64]!r}: this server was started without memories; start it with POINTSMAN_MEMORIES")
            directory = None
        elif not isinstance(memory, str) or memory not in self.memories:
            known = ", ".join(sorted(self.memories)) or "none: the server names them in POINTSMAN_MEMORIES"
            raise ValueError(f"memory {str(memory)[:64]!r} is not known here; a request chooses by name: {known}")
        else:
            directory = self.memories[memory]
        if not self.is_on:
            return None
        strength = _strength(asked.get("strength", self.strength), "strength")
        shadow = asked.get("shadow", 0)
        if shadow not in (0, 1, "0", "1", "true", "false"):
            raise ValueError(f"shadow {str(shadow)[:64]!r} is not 0 or 1")
        session = self._session(asked.get("session"))
        if directory is None and session is None:
            return None
        return Binding(directory, self.digests.get(directory or "", ""), strength, session, self.shadow or shadow in (1, "1", "true"))

    def _session(self, name: Any) -> Optional[bytes]:
        if name in (None, ""):
            return None
        if self.sessions is None:
            raise ValueError("session: this server was started without POINTSMAN_SESSIONS, the folder of its NAME.npz files")
        if not isinstance(name, str) or not _SESSION_NAME.fullmatch(name) or name.startswith("."):
            raise ValueError(f"session {str(name)[:64]!r} is not a name of letters, digits, '.', '_' and '-'")
        path = pathlib.Path(self.sessions) / f"{name}.npz"
        try:
            content = path.read_bytes()
            vectors_of(content)
        except OSError:
            raise ValueError(f"session {name!r} is not known here") from None
        except Exception as error:
            raise ValueError(f"session {name!r} cannot be read ({error}): "
                             "its file must hold arrays named layer.N, one number an expert") from error
        return content


def vectors_of(content: bytes) -> dict[int, np.ndarray]:
    """The vectors [E] fp32 by layer of a NAME.npz file."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        vectors = {int(name.removeprefix("layer.")): np.ascontiguousarray(arrays[name], dtype=np.float32) for name in arrays.files}
    if any(vector.ndim != 1 for vector in vectors.values()):
        raise ValueError("a vector has more than one dimension")
    return vectors


def is_off() -> bool:
    """Whether an error has turned the memories of this engine off."""
    path = os.environ.get(OFF_SWITCH)
    return path is not None and os.path.exists(path)


def turn_off() -> None:
    path = os.environ.get(OFF_SWITCH)
    if path is not None:
        pathlib.Path(path).touch()


def _strength(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{name} {str(value)[:64]!r} is not a number from 0 to 1")
    return number
