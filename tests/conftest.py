"""What the command-line tests stand on: the real binary, a small random OLMoE model, a corpus, a memory built once."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jsonschema
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "build/release/python"), str(ROOT / "tools/study")]  # the Python package as it was built
from small_models import config_of, copy_headers, save_model, train_tokenizer, write_licenses  # noqa: E402

BINARY = ROOT / "build/release/pointsman"
SEED = 7

# The smallest build that still goes through every stage.
SMALL_BUILD = ("--max-tokens", "4000", "--max-test-tokens", "2000", "--preset", "fast", "--threads", "1")


class Cli:
    """Runs pointsman as a user does, without the POINTSMAN_* variables of whoever runs the tests."""

    def __call__(self, *arguments, env=None, stdin=None, timeout=280, cwd=None):
        return subprocess.run([str(BINARY), *map(str, arguments)], capture_output=True, text=True, input=stdin, errors="replace",
                              timeout=timeout, cwd=cwd, env=self.environment(env))

    def environment(self, extra=None):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("POINTSMAN_")}
        return clean | (extra or {})

    def start(self, *arguments):
        return subprocess.Popen([str(BINARY), *map(str, arguments)], stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL, env=self.environment())

    def ok(self, *arguments, **options):
        done = self(*arguments, **options)
        assert done.returncode == 0, done.stderr
        return done

    def json(self, *arguments, **options):
        """The document on stdout; with schema=NAME it must be valid by schemas/NAME.schema.json."""
        schema = options.pop("schema", None)
        document = json.loads(self.ok(*arguments, "--json", **options).stdout)
        if schema:
            jsonschema.validate(document, json.loads((ROOT / f"schemas/{schema}.schema.json").read_text()))
        return document


def last_line(done):
    """The one line that says what is wrong; warnings and progress may stand before it."""
    lines = done.stderr.strip().splitlines()
    assert lines and lines[-1].startswith("pointsman: "), done.stderr
    return lines[-1]


def fails(done, code, *parts):
    """Exit status `code`, nothing on stdout, and a last line of stderr that contains every part."""
    assert done.returncode == code, (done.returncode, done.stdout[-500:], done.stderr[-2000:])
    assert done.stdout == ""
    line = last_line(done)
    for part in parts:
        assert part in line, line
    return line


def carries_exactly(host, other_kernels=True, largest=1e-3):
    """Of `pointsman verify --host`'s JSON for 600 tokens and fp32: the host's routers do what the reference's do."""
    assert host["carries"] and host["silent_is_identical"]
    assert abs(host["gain_difference"]) < 1e-5 and abs(host["gain"]) > 10 * abs(host["gain_difference"])
    assert 300 < host["tokens"] <= 600
    for layer in host["layers"]:
        assert layer["rows"] == host["tokens"] and layer["searched"] > 0.05
        assert layer["fallback_changed"] == 0 and layer["nearest_changed"] < 0.01 and layer["experts_changed"] < 0.01
        assert layer["logits_median"] < 1e-4 and layer["logits_max"] < largest and (layer["logits_max"] > 0 or not other_kernels)


@pytest.fixture(scope="session")
def pointsman():
    if not BINARY.exists():
        pytest.fail(f"{BINARY} is not built: cmake --preset release && cmake --build build/release --target pointsman")
    return Cli()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return copy_headers(tmp_path_factory.mktemp("corpus"), count=48, largest=12_000)


@pytest.fixture(scope="session")
def off_domain(tmp_path_factory):
    return write_licenses(tmp_path_factory.mktemp("off_domain"))


def make_model(folder, texts, seed, context=128):
    """A random OLMoE in the hub's format, with a byte-level BPE trained on `texts`."""
    import torch

    torch.set_num_threads(1)
    tokenizer = train_tokenizer(texts)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = config_of("olmoe", vocab_size=tokenizer.get_vocab_size(), num_hidden_layers=2, max_position_embeddings=context)
    return save_model(config, folder, folder / "tokenizer.json", seed)


@pytest.fixture(scope="session")
def model(tmp_path_factory, corpus):
    return make_model(tmp_path_factory.mktemp("model"), [p.read_text() for p in sorted(corpus.rglob("*.h"))], SEED)


@pytest.fixture(scope="session")
def vllm_model(model, tmp_path_factory):
    """vLLM's OLMoE reads the output layer from the checkpoint even where it is tied."""
    import safetensors.torch

    copy = shutil.copytree(model, tmp_path_factory.mktemp("vllm") / "model")
    weights = safetensors.torch.load_file(copy / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    safetensors.torch.save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


@pytest.fixture(scope="session")
def long_model(tmp_path_factory, corpus):
    """Its context holds a window of `study rewire`."""
    texts = [p.read_text() for p in sorted(corpus.rglob("*.h"))]
    return make_model(tmp_path_factory.mktemp("long_model"), texts, SEED, context=256)


@pytest.fixture(scope="session")
def other_model(tmp_path_factory, corpus):
    texts = [p.read_text() for p in sorted(corpus.rglob("*.h"))]
    return make_model(tmp_path_factory.mktemp("other_model"), texts, SEED + 1)


@pytest.fixture(scope="session")
def built_memory(pointsman, model, corpus, off_domain, tmp_path_factory):
    """Built once; tests that write to it take `memory`, a copy."""
    out = tmp_path_factory.mktemp("memory") / "memory"
    pointsman.json("build", "--model", model, "--corpus", corpus, "--off-domain", off_domain, "--out", out,
                   "--kind", "entries", *SMALL_BUILD, schema="build")
    return out


@pytest.fixture
def memory(built_memory, tmp_path):
    return shutil.copytree(built_memory, tmp_path / "memory")


@pytest.fixture
def model_copy(model, tmp_path):
    return shutil.copytree(model, tmp_path / "model")


def flip_bit(path, offset, bit=3):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def truncate(path, keep=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
