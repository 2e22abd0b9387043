"""The files of the plug-in that need no vLLM, and what its tests stand on."""

import importlib.util
import os
import sys
import types

import numpy as np
import pytest

from conftest import ROOT

PYTHON = ROOT / ".venv-vllm/bin/python"
PACKAGE = ROOT / "build/release/python"
ENTRY_POINTS = """[vllm.general_plugins]
pointsman = pointsman.vllm:register

[vllm.logits_processors]
pointsman = pointsman.vllm.processor:RequestCheck
"""


def module(name):
    """A file of the plug-in that needs neither vLLM nor torch, without the compiled package around it."""
    spec = importlib.util.spec_from_file_location(f"plugin.{name}", ROOT / f"python/pointsman/vllm/{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    setattr(sys.modules["plugin"], name, loaded)
    spec.loader.exec_module(loaded)
    return loaded


sys.modules["plugin"] = types.ModuleType("plugin")
settings = module("settings")
entry = module("entry")
versions = module("versions")
worker = module("worker")
gates = module("gates")
loading = module("loading")


def described(**environment):
    found = settings.Settings.from_environment(environment)
    found.digests = {directory: f"digest of {directory}" for directory in found.memories.values()}
    return found


@pytest.fixture(scope="module")
def core():
    if not PACKAGE.exists():
        pytest.fail(f"{PACKAGE} is not built: cmake --preset release && cmake --build build/release --target pointsman_python")
    sys.path.insert(0, str(PACKAGE))
    import pointsman

    return pointsman


@pytest.fixture(scope="module")
def tokens(core, built_memory, model, corpus):
    """60 at which the gate opens and shuts and opens again, so that a row at a wrong place has another G."""
    import tokenizers

    text = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json")).encode(sorted(corpus.rglob("*.h"))[0].read_text()).ids[200:260]
    noise = np.random.default_rng(2).integers(0, 500, 60).tolist()
    router, chosen, opened = core.Router(), [], [0.0]
    slot = router.add_slot(core.Memory.open(built_memory, allow_rejected=True))
    for position in range(60):
        chosen.append(text[position] if opened[-1] < 0.5 else noise[position])
        opened.append(float(router.begin_step([slot], [position], chosen[-1:]).gate[0]))
    assert len(set(opened[:32])) > 1 and len(set(opened[32:50])) > 2 and len(set(opened[50:])) > 2
    return chosen


@pytest.fixture(scope="module")
def vllm_path(tmp_path_factory):
    """PYTHONPATH under which vLLM finds the package of the build tree as if it had been installed."""
    if not PYTHON.exists():
        pytest.skip("vLLM is not here: tools/setup vllm installs it into .venv-vllm (3.5 GB)")
    if not PACKAGE.exists():
        pytest.fail(f"{PACKAGE} is not built: cmake --preset release && cmake --build build/release --target pointsman_python")
    installed = tmp_path_factory.mktemp("installed") / "pointsman-0.1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: pointsman\nVersion: 0.1.0\n")
    (installed / "entry_points.txt").write_text(ENTRY_POINTS)
    return f"{PACKAGE}:{installed.parent}"


long = pytest.mark.skipif(not os.environ.get("POINTSMAN_VLLM_LONG"), reason="minutes: POINTSMAN_VLLM_LONG=1 runs it")
