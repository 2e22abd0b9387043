"""tools/check_includes.py: this repository is clean, and each kind of violation is caught where it stands."""

import importlib.util
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SPEC = importlib.util.spec_from_file_location("check_includes", ROOT / "tools" / "check_includes.py")
check_includes = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(check_includes)


@pytest.fixture
def tree(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return check_includes.check(tmp_path)

    return write


def test_this_repository_is_clean():
    assert check_includes.check(ROOT) == []


@pytest.mark.parametrize(
    "name, included",
    [
        ("memory/a.cc", "router/router.h"),
        ("router/a.h", "models/model.h"),
        ("models/families/a.cc", "adapt/objective.h"),
        ("adapt/a.cc", "indexer/builder.h"),
        ("indexer/evaluation/a.cc", "tools/progress.h"),
        ("indexer/a.cc", "daemon/server.h"),
        ("daemon/a.cc", "indexer/builder.h"),
        ("python/a.cc", "models/model.h"),
        ("hosts/llamacpp/a.cc", "models/config.h"),
    ],
)
def test_an_include_against_the_arrows_is_caught(tree, name, included):
    (violation,) = tree(name, f'#include <vector>\n#include "{included}"\n')
    module, target = name.split("/")[0], included.split("/")[0]
    assert violation == f"{name}:2: includes {included}: {module}/ must not know {target}/"


@pytest.mark.parametrize(
    "name, included",
    [
        ("router/a.cc", "memory/layer_index.h"),
        ("models/a.cc", "router/router.h"),
        ("indexer/a.cc", "memory/memory.h"),
        ("daemon/a.cc", "adapt/rerouting.h"),
        ("tools/a.cc", "daemon/server.h"),
        ("python/a.cc", "router/c_api.h"),
        ("python/a.cc", "models/c_api.h"),
        ("hosts/llamacpp/a.cc", "router/router.h"),
        ("memory/kernels/a.cc", "memory/kernels/scan.h"),
    ],
)
def test_an_include_along_the_arrows_is_fine(tree, name, included):
    assert tree(name, f'#include "{included}"\n') == []


@pytest.mark.parametrize(
    "name", ["memory/a.h", "router/a_test.cc", "models/config.cc", "models/safetensors.h", "models/fingerprint.cc",
             "models/config_test.cc", "models/tokenizer/bpe.cc", "models/c_api.cc", "python/a.cc"])
@pytest.mark.parametrize("header", ["torch/torch.h", "ATen/ATen.h", "c10/core/Device.h"])
def test_libtorch_is_caught_where_it_must_not_be(tree, name, header):
    (violation,) = tree(name, f"#include <{header}>\n")
    assert violation == f"{name}:1: includes {header}: this file must build without LibTorch"


def test_libtorch_is_fine_in_the_rest_of_models(tree):
    assert tree("models/attention.cc", "#include <ATen/ATen.h>\n") == []


@pytest.mark.parametrize("module", ["memory", "router", "adapt", "indexer"])
@pytest.mark.parametrize("call", ['fopen("x", "r")', "std::ofstream out(path)", "std::ifstream in{path}",
                                  "const int fd = ::open(path, O_RDONLY)"])
def test_raw_file_calls_are_caught(tree, module, call):
    (violation,) = tree(f"{module}/a.cc", f"void F() {{\n  {call};\n}}\n")
    assert violation.startswith(f"{module}/a.cc:2: calls ")
    assert "memory/file_layer.h" in violation


def test_raw_file_calls_are_fine_in_the_file_layer_in_tests_and_as_methods(tree):
    assert tree("memory/file_layer.cc", "int fd = ::open(path, O_RDONLY);\n") == []
    assert tree("memory/damage_test.cc", "std::ofstream(path) << 1;\n") == []
    assert tree("memory/test_support.h", "std::ifstream in(path);\n") == []
    assert tree("memory/b.cc", "auto memory = Memory::Open(path);\nrocksdb::DB::open(path);\n") == []


def test_a_throw_in_a_header_is_caught(tree):
    assert tree("models/a.h", "inline void F() {\n  throw 1;\n}\n") == ["models/a.h:2: throws in a header: return a Result"]
    assert tree("models/a.h", "// Does not throw.\n/* nor\n throw */\n") == []


def test_comments_and_strings_are_not_code(tree):
    assert tree("router/a.cc", '// #include "models/model.h"\n/*\n#include "models/model.h"\n*/\n') == []
    assert tree("adapt/a.cc", 'const char* kText = "std::ofstream \\" fopen(";  // ::open(\n') == []
    assert tree("indexer/a.cc", 'auto s = R"x(\nfopen("a")\n)x"; int n = 1\'000;\nstd::ifstream in;\n') == [
        "indexer/a.cc:4: calls std::ifstream: use memory/file_layer.h, where faults can be injected"]
