"""The Python package as users get it: a wheel in a clean environment, the sdist, the `pointsman` command.

    POINTSMAN_WHEEL=1 .venv/bin/python -m pytest tests/test_python_wheel.py       # builds; minutes without ccache

Without it the short form runs: what the sdist holds, and the command's search for torch's libraries."""

import os
import pathlib
import re
import subprocess
import sys
import tarfile
import zipfile

import pytest

from pointsman import command

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROUTE = ROOT / "build/release/pointsman_route"
long_form = pytest.mark.skipif(os.environ.get("POINTSMAN_WHEEL") != "1", reason="builds a wheel: set POINTSMAN_WHEEL=1")
# The names by which ccache has compiled the same sources before.
COMPILERS = {"CC": "cc", "CXX": "c++"}


def run(*arguments, **options):
    done = subprocess.run([str(argument) for argument in arguments], capture_output=True, text=True, timeout=3600, **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="session")
def sdist(tmp_path_factory):
    pytest.importorskip("scikit_build_core", reason="tools/setup installs scikit-build-core")
    folder = tmp_path_factory.mktemp("sdist")
    code = f"import scikit_build_core.build as build; print(build.build_sdist({str(folder)!r}))"
    return folder / run(sys.executable, "-c", code, cwd=ROOT).split()[-1]


def test_the_sdist_holds_what_is_built_and_no_more(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"CMakeLists.txt", "cmake/PointsmanCore.cmake", "router/c_api.h", "models/c_api.cc", "python/core_module.cc",
            "python/pointsman/py.typed", "python/pointsman/_core.pyi", "memory/kernels/scan_avx2.cc", "LICENSE",
            "daemon/packaging/pointsman.service", "schemas/openapi.yaml"} <= names
    assert not [name for name in names if name.startswith(("build/", ".venv")) or name.endswith((".safetensors", ".pyc"))]
    assert sdist.stat().st_size < 8 << 20


def test_the_command_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "FOLDER", tmp_path)
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 1 and "pip install torch==" in capsys.readouterr().err
    (tmp_path / "torch_version").write_text("1.0.0\n")
    with pytest.raises(SystemExit):
        command.torch_libraries(tmp_path)
    assert "built with torch 1.0.0, and this Python has 2." in capsys.readouterr().err
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        command.torch_libraries(tmp_path)
    assert "does not have; run `pip install torch==1.0.0`" in capsys.readouterr().err


def test_the_command_runs_the_binary_with_torchs_libraries(tmp_path):
    """A stand-in for the binary that shows what it is started with."""
    import importlib.metadata

    import torch

    (tmp_path / "torch_version").write_text(importlib.metadata.version("torch").split("+")[0])
    script = tmp_path / "pointsman"
    script.write_text('#!/bin/sh\necho "$LD_LIBRARY_PATH $*"\n')
    script.chmod(0o755)
    code = (f"import pathlib, sys\nfrom pointsman import command\ncommand.FOLDER = pathlib.Path({str(tmp_path)!r})\n"
            "sys.argv = ['pointsman', 'inspect', 'a b']\ncommand.main()")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "build/release/python"), "LD_LIBRARY_PATH": "/other"}
    assert run(sys.executable, "-c", code, env=environment) == f"{pathlib.Path(torch.__file__).parent / 'lib'}:/other inspect a b\n"


@pytest.fixture(scope="session")
def clean(tmp_path_factory):
    """A fresh environment with the package installed from the sources."""
    folder = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin/pip", "install", "--disable-pip-version-check", ".", cwd=ROOT, env={**os.environ, **COMPILERS})
    return folder


@long_form
def test_an_installed_package_routes(clean, tmp_path):
    run(ROUTE, "make", tmp_path / "memory", "delta", "absent")
    code = f"""
import importlib.metadata, pathlib, numpy as np, pointsman
assert pathlib.Path(pointsman.__file__).is_relative_to({str(clean)!r}), pointsman.__file__
assert importlib.metadata.version("pointsman") == pointsman.__version__
memory, router = pointsman.Memory.open({str(tmp_path / "memory")!r}), pointsman.Router()
step = router.begin_step([router.add_slot(memory)], [0], [1])
step.gate[:] = 1
logits = np.zeros((1, memory.experts), np.float32)
router.route(step, 0, np.ones((1, memory.hidden_size), np.float32), logits)
print(logits.any())"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    assert run(clean / "bin/python", "-c", code, env=environment, cwd=tmp_path) == "True\n"
    done = subprocess.run([clean / "bin/pointsman", "--version"], capture_output=True, text=True)
    assert done.returncode == 1 and "pip install torch==" in done.stderr  # a clean environment has no torch
    stub = next(clean.glob("lib/python*/site-packages/pointsman"))
    assert {"py.typed", "_core.pyi", "libpointsman.so"} <= {path.name for path in stub.iterdir()}


@long_form
def test_the_examples_show_the_same_gain(clean, model, vllm_model, built_memory, corpus, tmp_path):
    """Installed by `pip install .`, beside each host's own packages, which are lent by their environments."""
    text = tmp_path / "text.h"
    text.write_text(min(corpus.rglob("*.h"), key=lambda path: path.stat().st_size).read_text()[:120])
    hosts = {".venv": ("transformers_host.py", model), ".venv-vllm": ("vllm_offline.py", vllm_model)}
    gains = {}
    for folder, (example, checkpoint) in hosts.items():
        lent = list((ROOT / folder).glob("lib/python*/site-packages"))
        if not lent:
            pytest.skip(f"{folder} is not here: tools/setup {'vllm' if 'vllm' in folder else 'test'} makes it")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("POINTSMAN_")}
        environment |= {"PYTHONPATH": str(lent[0].resolve()), "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1",
                        "HF_HUB_OFFLINE": "1", "POINTSMAN_ALLOW_REJECTED": "1"}
        said = run(clean / "bin/python", ROOT / "examples" / example, checkpoint, built_memory, text, env=environment, cwd=tmp_path)
        frozen, routed = (float(re.search(rf"^{name}:? +([0-9.]+)", said, re.MULTILINE)[1]) for name in ("frozen", "(?:with the )?memory"))
        gains[example] = routed - frozen
    print(gains)
    assert max(gains.values()) < -0.005 and max(gains.values()) - min(gains.values()) <= 0.002


@long_form
def test_the_wheel_of_the_sdist_builds(clean, sdist, tmp_path):
    run(clean / "bin/pip", "wheel", "--disable-pip-version-check", "--no-deps", "-w", tmp_path, sdist,
        env={**os.environ, **COMPILERS})
    (wheel,) = tmp_path.glob("pointsman-*.whl")
    assert {"pointsman/libpointsman.so", "pointsman/command.py"} <= set(zipfile.ZipFile(wheel).namelist())
