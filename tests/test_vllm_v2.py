"""The plug-in and vLLM's second model runner: the seam on a stand-in, the installed vLLM held to what the stand-in assumes, and
a real one with it, on the CPU, where Triton's interpreter runs its kernels (POINTSMAN_VLLM_LONG=1)."""

import ast
import inspect
import sys
import types

import numpy as np
import pytest
import torch

import test_vllm
from conftest import ROOT
from vllm_plugin import PYTHON, core, described, entry, loading, long, module, tokens, vllm_path, worker  # noqa: F401

worker_v2 = module("worker_v2")

VLLM = next(ROOT.glob(".venv-vllm/lib/python*/site-packages/vllm"), None)


# -- a stand-in with the methods and fields that the seam takes from vLLM ---------------------------------------------------------


def runner_class():
    """vLLM's as far as the seam goes: what calls what, and what a batch says. Its tokens are those that the test gives."""

    class GPUModelRunner:
        vllm_config, model, device = None, None, torch.device("cpu")

        def load_model(self):
            self.indices, self.seen = {}, []

        def _remove_request(self, req_id):
            return self.indices.pop(req_id, None) is not None

        def add_requests(self, scheduler_output):
            for new in scheduler_output.scheduled_new_reqs:
                self._remove_request(new.req_id)
                self.indices[new.req_id] = len(self.indices)

        def prepare_inputs(self, scheduler_output):
            rows = [(token, position + i) for _, position, tokens in scheduler_output.rows for i, token in enumerate(tokens)]
            starts = np.cumsum([0] + [len(tokens) for _, _, tokens in scheduler_output.rows], dtype=np.int32)
            padding = [(99, 77)] * 3
            return types.SimpleNamespace(
                req_ids=[request for request, _, _ in scheduler_output.rows], num_tokens=len(rows),
                query_start_loc_np=np.append(starts, np.full(2, len(rows), np.int32)),
                positions=torch.tensor([position for _, position in rows + padding]),
                input_ids=torch.tensor([token for token, _ in rows + padding], dtype=torch.int32),
                num_computed_tokens_np=np.array([position + 3 for _, position, _ in scheduler_output.rows]))  # drafts not yet rejected

        def execute_model(self, scheduler_output, dummy_run=False):
            if not dummy_run:
                for request in sorted(scheduler_output.finished_req_ids | scheduler_output.preempted_req_ids):
                    self._remove_request(request)
                self.add_requests(scheduler_output)
                if not scheduler_output.rows:
                    return None
                self.prepare_inputs(scheduler_output)
            step = worker.step_in_hand()
            self.seen.append(step)
            for layer in self.layers if step is not None else ():
                step.route(layer, torch.ones(step._rows + 3, 64), torch.ones(step._rows + 3, 8))
            return None

        layers = (0, 1)

    return GPUModelRunner


class Engine:
    def __init__(self, runner, settings):
        self.runner, self.settings = runner, settings
        runner.load_model()

    @property
    def steps(self):
        return self.runner.pointsman_steps

    def new(self, name, tokens, **asked):
        params = entry.bind(self.settings, types.SimpleNamespace(extra_args=asked), None)[0]
        return types.SimpleNamespace(req_id=name, sampling_params=params, prefill_token_ids=tokens)

    def step(self, *rows, new=(), finished=(), preempted=(), **options):
        """rows: (request, first position, tokens). Returns G of each."""
        self.runner.execute_model(types.SimpleNamespace(rows=rows, scheduled_new_reqs=new, finished_req_ids=set(finished),
                                                        preempted_req_ids=set(preempted)), **options)
        assert worker.step_in_hand() is None
        step = self.runner.seen[-1] if self.runner.seen else None
        return step and step._begun.gate.tolist()


@pytest.fixture
def engine(core, built_memory, monkeypatch):  # noqa: F811
    runner = runner_class()
    for name, content in (("vllm", {}), ("vllm.platforms", {"current_platform": types.SimpleNamespace(is_cpu=lambda: False)}),
                          ("vllm.v1", {}), ("vllm.v1.worker", {}), ("vllm.v1.worker.gpu", {}),
                          ("vllm.v1.worker.gpu.model_runner", {"GPUModelRunner": runner})):
        stand_in = types.ModuleType(name)
        vars(stand_in).update(content)
        monkeypatch.setitem(sys.modules, name, stand_in)
    settings = described(POINTSMAN_MEMORIES=f"one={built_memory}", POINTSMAN_VLLM_UNTESTED="1")
    settings.read_manifests()
    monkeypatch.setattr(loading, "prepare", lambda settings, *_: worker.Steps(settings, {0: (64, 8), 1: (64, 8)}))
    worker_v2.install(settings)
    return Engine(runner(), settings)


def test_the_gate_is_the_same_whole_chunked_batched_cached_and_after_rejected_drafts(engine, tokens):  # noqa: F811
    whole = engine.step(("whole", 0, tokens), new=[engine.new("whole", tokens, memory="one")])
    new = [engine.new(name, tokens, memory="one") for name in ("chunks", "cached")] + [engine.new("frozen", [1, 2])]
    first = engine.step(("frozen", 0, [1, 2]), ("cached", 32, tokens[32:]), ("chunks", 0, tokens[:20]), new=new)
    assert first == [0, 0] + whole[32:] + whole[:20]
    assert engine.step(("chunks", 20, tokens[20:50]), ("frozen", 2, [3])) == whole[20:50] + [0]
    engine.step(("chunks", 50, [7, 8, 9]))
    assert engine.step(("chunks", 50, tokens[50:])) == whole[50:]


def test_a_preempted_request_arrives_again_with_what_it_had_said(engine, tokens):  # noqa: F811
    whole = engine.step(("whole", 0, tokens), new=[engine.new("whole", tokens, memory="one")])
    engine.step(("a", 0, tokens[:40]), new=[engine.new("a", tokens[:40], memory="one")])
    engine.step(("a", 40, tokens[40:50]))
    engine.step(("whole", 60, [1]), preempted=["a"])
    assert engine.steps.counters()["live"] == 1
    # Its first 45 tokens, five of them generated, are still cached.
    assert engine.step(("a", 45, tokens[45:50]), new=[engine.new("a", tokens[:50], memory="one")]) == whole[45:50]
    assert engine.steps._router.export_gate(engine.steps._live["a"].slot).tolist() == tokens[:50]


def test_the_end_of_a_request_frees_its_slot_and_its_name(engine, tokens):  # noqa: F811
    assert engine.step(("a", 0, tokens), new=[engine.new("a", tokens, memory="one")]) is not None
    assert engine.steps.counters()["live"] == 1 and list(engine.runner.pointsman_requests) == ["a"]
    engine.step(finished=["a"])
    assert engine.steps.counters()["live"] == 0 and not engine.runner.pointsman_requests
    assert engine.step(("a", 0, tokens), new=[engine.new("a", tokens)]) is None  # another, and frozen
    assert engine.step(("a", 0, tokens), new=[engine.new("a", tokens, memory="one")]) is not None  # added again without an end


def test_dummy_rows_are_not_routed(engine, tokens):  # noqa: F811
    engine.step(("a", 0, tokens), new=[engine.new("a", tokens, memory="one")])
    assert engine.step(("a", 60, [1]), dummy_run=True) is None
    assert engine.steps.counters()["steps"] == 1


def test_a_pass_that_fails_leaves_no_step_behind_and_a_skipped_layer_turns_the_memory_off(engine, monkeypatch, tokens):  # noqa: F811
    monkeypatch.setattr(worker.Step, "route", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.step(("a", 0, tokens), new=[engine.new("a", tokens, memory="one")])
    assert worker.step_in_hand() is None and not engine.steps.off
    monkeypatch.undo()
    engine.runner.layers = (0,)
    engine.step(("a", 60, [1]))
    assert engine.steps.off and engine.steps.counters()["errors"] == 1


# -- what is refused --------------------------------------------------------------------------------------------------------------


def config(second=True, **changed):
    given = dict(cudagraph_mode=None, world_size_across_dp=1, use_ubatching=False, speculative_config=None, enable_prompt_embeds=False,
                 supports_multimodal_inputs=False) | changed
    part = types.SimpleNamespace(model="tiny", **given)
    return types.SimpleNamespace(model_config=part, compilation_config=part, parallel_config=part, use_v2_model_runner=second,
                                 speculative_config=given["speculative_config"])


UNTESTED = types.SimpleNamespace(untested=True)


def test_an_accelerator_is_refused_without_the_switch():
    for second in (False, True):
        with pytest.raises(RuntimeError, match="tiny runs on cuda, where the plug-in never ran: .*POINTSMAN_VLLM_UNTESTED=1"):
            loading.check_place(types.SimpleNamespace(untested=False), config(second), "cuda")
        loading.check_place(UNTESTED, config(second), "cuda")
    assert described(POINTSMAN_VLLM_UNTESTED="1").untested and not described().untested


@pytest.mark.parametrize("changed, message", [
    ({"cudagraph_mode": "PIECEWISE"}, r"CUDA graphs \(PIECEWISE\).* -cc.cudagraph_mode=none"),
    ({"world_size_across_dp": 2}, "runs on 2 devices.* serve it on one"),
    ({"use_ubatching": True}, "micro-batches.* --enable-dbo"),
    ({"speculative_config": types.SimpleNamespace(method="eagle")}, "drafts come from eagle.* take ngram"),
    ({"enable_prompt_embeds": True}, "embeddings.* --enable-prompt-embeds"),
    ({"supports_multimodal_inputs": True}, "images or sound.* --language-model-only")])
def test_what_has_no_tested_path_is_refused_by_name(changed, message):
    with pytest.raises(RuntimeError, match=message):
        loading.check_place(UNTESTED, config(**changed), "cpu")
    with pytest.raises(RuntimeError, match=f"{message}|on cuda with the first model runner"):
        loading.check_place(UNTESTED, config(second=False, **changed), "cuda")
    loading.check_place(UNTESTED, config(second=False, **changed), "cpu")  # tested there, or impossible


def test_drafts_of_the_prompts_own_tokens_are_not_refused():
    loading.check_place(UNTESTED, config(speculative_config=types.SimpleNamespace(method="ngram")), "cpu")


# -- the installed vLLM is what the stand-in takes it for ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources():
    """Classes of the installed vLLM by name, as parsed."""
    if VLLM is None:
        pytest.skip("vLLM is not here: tools/setup vllm installs it into .venv-vllm (3.5 GB)")
    files = ("v1/worker/gpu/model_runner.py", "v1/worker/gpu/input_batch.py", "v1/core/sched/output.py")
    return {node.name: node for file in files for node in ast.parse((VLLM / file).read_text()).body if isinstance(node, ast.ClassDef)}


def methods(node):
    return {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}


def test_the_fields_that_are_read_are_there(sources):
    fields = {name: {each.target.id: ast.unparse(each.annotation) for each in sources[name].body if isinstance(each, ast.AnnAssign)}
              for name in ("InputBatch", "NewRequestData", "SchedulerOutput")}
    read = {"InputBatch": {"req_ids": "list[str]", "num_tokens": "int", "query_start_loc_np": "np.ndarray", "positions": "torch.Tensor",
                           "input_ids": "torch.Tensor"},
            "NewRequestData": {"req_id": "str", "sampling_params": "SamplingParams | None", "prefill_token_ids": "list[int] | None"},
            "SchedulerOutput": {"scheduled_new_reqs": "list[NewRequestData]"}}
    for name, wanted in read.items():
        assert {field: fields[name].get(field) for field in wanted} == wanted


def test_the_methods_that_are_wrapped_are_there_and_called_from_where_the_seam_expects(sources):
    runner = methods(sources["GPUModelRunner"])
    for name, arguments in {"add_requests": ["self", "scheduler_output"], "_remove_request": ["self", "req_id"],
                            "prepare_inputs": ["self", "scheduler_output", "batch_req_state", "batch_desc", "num_active_loras"],
                            "load_model": ["self", "load_dummy_weights"]}.items():
        assert [each.arg for each in runner[name].args.args] == arguments, name

    def callers(called):
        return {name for name, node in runner.items() for each in ast.walk(node)
                if isinstance(each, ast.Call) and ast.unparse(each.func) == f"self.{called}"}

    assert callers("_remove_request") == {"finish_requests", "add_requests"}
    assert callers("add_requests") == callers("finish_requests") == callers("prepare_inputs") == {"execute_model"}
    assert callers("model") == {"execute_model"}
    finished = ast.unparse(runner["finish_requests"])
    assert "scheduler_output.finished_req_ids" in finished and "scheduler_output.preempted_req_ids" in finished
    executed = ast.unparse(runner["execute_model"])
    assert executed.index("self.finish_requests(") < executed.index("self.add_requests(") < executed.index("self.prepare_inputs(")


# -- inside vLLM, the checks of the first runner ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checks(vllm_path, vllm_model, built_memory, corpus, pointsman, tmp_path_factory):  # noqa: F811
    return test_vllm.checked(vllm_path, vllm_model, built_memory, corpus, pointsman, tmp_path_factory.mktemp("checks"),
                             CHECK_SECOND_RUNNER="1", POINTSMAN_VLLM_UNTESTED="1")


OF_THE_FIRST = [test for name, test in vars(test_vllm).items()
                if name.startswith("test_") and list(inspect.signature(test).parameters) == ["checks"]]


@long
@pytest.mark.parametrize("test", OF_THE_FIRST, ids=lambda test: test.__name__)
def test_the_second_runner_passes(test, checks):
    test(checks)


@long
def test_drafts_that_are_rejected_are_taken_back(checks):
    assert checks["rewinds"] > 10
    test_vllm.follows_transformers(checks["drafts"])


@long
def test_without_the_switch_the_second_runner_is_refused(checks):
    assert "set VLLM_USE_V2_MODEL_RUNNER=0, or POINTSMAN_VLLM_UNTESTED=1 to try it" in checks["refused runner"]
