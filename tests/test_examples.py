"""examples/ as a user starts them: the same text, the same gain in each host. test_python_wheel.py runs them installed by pip, and
test_llamacpp.py the example of llama.cpp."""

import os
import re
import subprocess
import sys

from conftest import ROOT
from vllm_plugin import PACKAGE, PYTHON, vllm_path  # noqa: F401

SAME_GAIN = 0.002  # nats a token, as `pointsman verify --host`


def gain(python, example, *arguments, **environment):
    """What the memory changes, in nats a token; negative is better."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("POINTSMAN_")}
    done = subprocess.run([str(part) for part in (python, ROOT / "examples" / example, *arguments)], capture_output=True, text=True, timeout=600,
                          env=clean | {"OMP_NUM_THREADS": "1"} | environment)
    assert done.returncode == 0, done.stderr[-3000:]
    frozen, memory = (float(re.search(rf"^{name}:? +([0-9.]+)", done.stdout, re.MULTILINE)[1]) for name in ("frozen", "(?:with the )?memory"))
    return memory - frozen


def test_the_examples_show_the_same_gain(vllm_path, model, vllm_model, built_memory, corpus, tmp_path):  # noqa: F811
    text = tmp_path / "text.h"
    text.write_text(min(corpus.rglob("*.h"), key=lambda path: path.stat().st_size).read_text()[:120])
    gains = [gain(sys.executable, "transformers_host.py", model, built_memory, text, PYTHONPATH=str(PACKAGE)),
             gain(PYTHON, "vllm_offline.py", vllm_model, built_memory, text, PYTHONPATH=vllm_path, POINTSMAN_ALLOW_REJECTED="1",
                  VLLM_CPU_KVCACHE_SPACE="1", VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_NO_USAGE_STATS="1", HF_HUB_OFFLINE="1")]
    print(gains)
    assert max(gains) < -0.005 and max(gains) - min(gains) <= SAME_GAIN
