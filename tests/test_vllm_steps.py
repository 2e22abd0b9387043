"""The plug-in without vLLM: what the environment and a request may say, and the steps of a runner."""

import types

import numpy as np
import pytest

from conftest import ROOT
from vllm_plugin import ENTRY_POINTS, core, described, entry, gates, loading, settings, tokens, versions, worker  # noqa: F401


def test_the_package_declares_the_entry_points_that_are_tested_here():
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("no pyproject.toml")
    tomllib = pytest.importorskip("tomllib")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    for group, target in (("vllm.general_plugins", "pointsman.vllm:register"),
                          ("vllm.logits_processors", "pointsman.vllm.processor:RequestCheck")):
        assert declared[group] == {"pointsman": target}
        assert f"[{group}]\npointsman = {target}\n" in ENTRY_POINTS


# -- what the environment and a request may say -------------------------------------------------------------------------------


def test_nothing_is_on_unless_the_environment_names_a_memory():
    assert not described().is_on
    assert not described(POINTSMAN_STRENGTH="0.5", POINTSMAN_SHADOW="1").is_on
    assert described(POINTSMAN_MEMORY="/m").is_on
    assert not described(POINTSMAN_MEMORY="/m", POINTSMAN_DISABLE="1").is_on
    assert described().resolve({"session": "x", "strength": 7}) is None  # another plug-in's arguments


def test_a_request_without_arguments_takes_the_default_memory_and_may_refuse_it():
    found = described(POINTSMAN_MEMORY="/m", POINTSMAN_STRENGTH="0.25")
    assert found.resolve(None) == settings.Binding("/m", "digest of /m", 0.25)
    assert found.resolve({"memory": "none"}) is None
    assert described(POINTSMAN_MEMORIES="a=/m").resolve(None) is None


def test_a_memory_chosen_by_path_is_refused():
    found = described(POINTSMAN_MEMORIES="law=/m, code=/n")
    assert found.resolve({"memory": "code", "strength": 0.5}).memory == "/n"
    with pytest.raises(ValueError, match="'/m' is not known here; a request chooses by name: code, law"):
        found.resolve({"memory": "/m"})
    with pytest.raises(ValueError, match="started without memories; start it with POINTSMAN_MEMORIES"):
        described().resolve({"memory": "law"})


@pytest.mark.parametrize("environment, message", [
    ({"POINTSMAN_MEMORIES": "/m"}, "'/m' is not NAME=DIRECTORY"), ({"POINTSMAN_STRENGTH": "2"}, "POINTSMAN_STRENGTH '2'"),
    ({"POINTSMAN_SHADOW": "yes"}, "POINTSMAN_SHADOW=yes; set it to 1")])
def test_an_environment_that_cannot_be_read_is_refused(environment, message):
    with pytest.raises(ValueError, match=message):
        described(**environment)


def test_a_missing_memory_is_named_at_the_start(tmp_path):
    found = described(POINTSMAN_MEMORY=str(tmp_path))
    with pytest.raises(ValueError, match=f"memory 'default': {tmp_path}/MANIFEST.json cannot be read .* `pointsman build`"):
        found.read_manifests()


def test_a_salt_differs_with_all_that_changes_routing_and_with_nothing_else(tmp_path):
    np.savez(tmp_path / "ada.npz", **{"layer.1": np.ones(8)})
    np.savez(tmp_path / "eve.npz", **{"layer.1": np.zeros(8)})
    found = described(POINTSMAN_MEMORIES="a=/m,b=/n", POINTSMAN_SESSIONS=str(tmp_path))
    asked = [{"memory": "a"}, {"memory": "b"}, {"memory": "a", "strength": 0.5}, {"memory": "a", "session": "ada"},
             {"memory": "a", "session": "eve"}, {"session": "ada"}]
    salts = [found.resolve(each).salt for each in asked]
    assert len(set(salts)) == len(salts) and all(salts)
    assert salts == [found.resolve(each).salt for each in asked]
    assert found.resolve({"memory": "a", "shadow": 1}).salt == ""  # writes nothing: shares the frozen model's KV
    before = found.resolve({"memory": "a"}).salt
    found.digests["/m"] = "a later generation"
    assert found.resolve({"memory": "a"}).salt != before


def test_a_client_can_write_neither_a_binding_nor_a_salt_of_ours():
    found = described(POINTSMAN_MEMORIES="a=/m")
    params = types.SimpleNamespace(extra_args={"memory": "a"})
    bound, salt = entry.bind(found, params, None)
    assert settings.Binding(**bound.extra_args[settings.WIRE]).memory == "/m" and salt.startswith("pointsman:")
    assert params.extra_args == {"memory": "a"}  # the caller's own stay as they were
    forged = types.SimpleNamespace(extra_args={settings.WIRE: bound.extra_args[settings.WIRE]})
    frozen, other = entry.bind(found, forged, salt)
    assert settings.WIRE not in frozen.extra_args and other == f"frozen:{salt}"
    assert entry.bind(found, params, "mine")[1] == f"{salt}mine"
    assert entry.bind(found, None, salt) == (None, f"frozen:{salt}")  # pooling
    assert entry.bind(found, types.SimpleNamespace(extra_args=None), "mine")[1] == "mine"


def test_a_session_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    np.savez(tmp_path / "flat.npz", **{"layer.1": np.ones((2, 8))})
    found = described(POINTSMAN_SESSIONS=str(tmp_path))
    for name, message in (("bad", "cannot be read"), ("flat", "more than one dimension"), ("gone", "not known here"),
                          ("../x", "not a name"),
                          (".x", "not a name"), (7, "not a name")):
        with pytest.raises(ValueError, match=message):
            found.resolve({"session": name})


def test_other_versions_are_refused_with_the_tested_ones():
    versions.check("0.32.0+cpu")
    with pytest.raises(RuntimeError, match="vLLM 0.33.1 is not tested with this plug-in: install vLLM 0.32.0"):
        versions.check("0.33.1")


# -- the steps of a runner, without one -------------------------------------------------------------------------------------------


class Runner:
    """The requests of a runner, their bindings fixed as at the entry."""

    def __init__(self, memory, sessions=None):
        self.settings = described(POINTSMAN_MEMORIES=f"one={memory}", POINTSMAN_SESSIONS=str(sessions or ""))
        self.settings.read_manifests()
        self.steps = worker.Steps(self.settings, {0: (64, 8), 1: (64, 8)})
        self.requests = {}

    def add(self, name, tokens, **asked):
        params = types.SimpleNamespace(extra_args=asked)
        self.requests[name] = types.SimpleNamespace(sampling_params=entry.bind(self.settings, params, None)[0], prompt_token_ids=tokens,
                                                    prompt_is_token_ids=None, output_token_ids=[], num_prompt_tokens=len(tokens))

    def begin(self, *parts):
        """parts: (request, first position, tokens)."""
        rows, tokens = [], []
        for name, position, part in parts:
            rows.append(worker.Rows(name, len(tokens), len(tokens) + len(part), position))
            tokens += part
        return self.steps.begin(rows, np.array(tokens, np.int32), self.requests.__getitem__)


def gate(step, rows):
    return step._begun.gate[:rows].tolist()


def test_the_gate_is_the_same_whole_chunked_rewound_and_after_cached_tokens(core, built_memory, tokens):
    runner = Runner(built_memory)
    for name in ("whole", "chunks", "cached", "again"):
        runner.add(name, tokens, memory="one")
    whole = gate(runner.begin(("whole", 0, tokens)), 60)
    chunks = gate(runner.begin(("chunks", 0, tokens[:32])), 32) + gate(runner.begin(("chunks", 32, tokens[32:])), 28)
    cached = gate(runner.begin(("cached", 32, tokens[32:])), 28)
    runner.begin(("again", 0, tokens[:50]))
    runner.begin(("again", 50, [7, 8, 9]))  # rejected drafts
    again = gate(runner.begin(("again", 50, tokens[50:])), 10)
    resumed = gate(runner.begin(("again", 32, tokens[32:])), 28)  # preempted, its first block still cached
    assert whole == chunks and whole[32:] == cached == resumed and whole[50:] == again


def test_a_layer_that_was_not_asked_turns_the_memory_off(core, built_memory):
    import torch

    runner = Runner(built_memory)
    runner.add("a", [1, 2, 3], memory="one")
    step = runner.begin(("a", 0, [1, 2, 3]))
    step.route(0, torch.zeros(3, 64), torch.zeros(3, 8))
    step.end()
    assert runner.steps.off and runner.steps.counters()["errors"] == 1


def test_a_split_pass_turns_the_memory_off_and_changes_nothing(core, built_memory):
    import torch

    runner = Runner(built_memory)
    runner.add("a", [1, 2, 3], memory="one")
    logits = torch.ones(2, 8)
    runner.begin(("a", 0, [1, 2, 3])).route(0, torch.ones(2, 64), logits)
    assert runner.steps.off and torch.equal(logits, torch.ones(2, 8))


@pytest.mark.parametrize("copied", [False, True])
def test_half_precision_rows_that_are_not_written_keep_their_bits(copied, core, built_memory, tmp_path):
    import torch

    class Accelerated(torch.Tensor):
        """Has to be copied to be read."""

        def cpu(self):
            return self.as_subclass(torch.Tensor).clone()

        def contiguous(self):
            raise AssertionError("not on the host")

    place = Accelerated if copied else torch.Tensor
    np.savez(tmp_path / "ada.npz", **{"layer.0": np.arange(8)})
    runner = Runner(built_memory, tmp_path)
    runner.add("frozen", [1, 2], memory="none")
    runner.add("ada", [1, 2], session="ada")
    step = runner.begin(("frozen", 0, [1, 2]), ("ada", 0, [1, 2]))
    before = torch.randn(5, 8, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)  # the last row is padding
    logits = before.clone()
    step.route(0, torch.randn(5, 64).to(torch.bfloat16).as_subclass(place), logits.as_subclass(place))
    assert not runner.steps.off
    assert torch.equal(logits[[0, 1, 4]], before[[0, 1, 4]])
    assert torch.equal(logits[2:4], (before[2:4].float() + torch.arange(8)).to(torch.bfloat16))


def test_a_binding_that_does_not_fit_is_served_frozen_and_counted(core, built_memory, tmp_path):
    np.savez(tmp_path / "short.npz", **{"layer.0": np.arange(5)})
    runner = Runner(built_memory, tmp_path)
    runner.add("a", [1, 2], session="short")
    runner.settings.digests = dict.fromkeys(runner.settings.digests, "of another generation")
    runner.add("b", [1, 2], memory="one")
    assert runner.begin(("a", 0, [1, 2]), ("b", 0, [1, 2])) is None
    assert runner.steps.counters()["errors"] == 2 and not runner.steps.off


def test_prompts_of_embeddings_are_unknown_text():
    request = types.SimpleNamespace(prompt_token_ids=None, prompt_is_token_ids=None, num_prompt_tokens=3, output_token_ids=[5, 6])
    assert worker.text_of(request, 4).tolist() == [-1, -1, -1, 5]
    request = types.SimpleNamespace(prompt_token_ids=[7, 0, 8], prompt_is_token_ids=[True, False, True],
                                    num_prompt_tokens=3, output_token_ids=[5])
    assert worker.text_of(request, 6).tolist() == [7, -1, 8, 5, -1, -1]


def test_a_memory_that_does_not_fit_the_model_stops_the_start():
    memory = types.SimpleNamespace(hidden_size=64, experts=8)
    loading.check_layers({0: (64, 8), 1: (64, 8)}, "one", memory, [0, 1], "tiny")
    with pytest.raises(RuntimeError, match=r"out of reach in tiny: 1, 2 \(found: 0\)"):
        loading.check_layers({0: (64, 8)}, "one", memory, [0, 1, 2], "tiny")
    with pytest.raises(RuntimeError, match="for 64 hidden units and 8 experts, layer 0 of tiny has 64 and 16"):
        loading.check_layers({0: (64, 16)}, "one", memory, [0], "tiny")
    fingerprint = {"architecture": "olmoe", "config_sha256": "c", "router_sha256": "r", "tokenizer_sha256": "t"}
    loading.check_fingerprint("one", fingerprint, fingerprint, "tiny")
    loading.check_fingerprint("one", fingerprint, None, "tiny")
    with pytest.raises(RuntimeError, match="router_sha256 is x, the memory has r"):
        loading.check_fingerprint("one", fingerprint, fingerprint | {"router_sha256": "x"}, "tiny")


def test_the_layer_of_a_gate_is_in_its_name():
    names = ("model.layers.11.mlp.gate", "layers.3.block_sparse_moe.gate", "model.mtp.gate")
    assert [gates.layer_of(name) for name in names] == [11, 3, -1]
