"""The Python package's core, as built by CMake: its routing has the bits of C++, its errors name what is wrong."""

import functools
import importlib
import inspect
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from conftest import flip_bit, truncate

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "build/release/python"
ROUTE = ROOT / "build/release/pointsman_route"
pointsman = pytest.importorskip("pointsman", reason="cmake --build build/release --target pointsman_python")

ROWS, HIDDEN, EXPERTS, VOCABULARY = 40, 12, 10, 7  # of pointsman_route's memories
KINDS = ("delta", "logits", "assignments")


def run_python(code, **environment):
    """A fresh interpreter that sees the package."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("POINTSMAN_")}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
                          env=clean | {"PYTHONPATH": str(PACKAGE)} | environment)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Directories of random memories by kind of value; `rejected` has the verdict reject."""
    folder = tmp_path_factory.mktemp("python_core")
    for kind, verdict in [(kind, "absent") for kind in KINDS] + [("rejected", "reject")]:
        subprocess.run([ROUTE, "make", folder / kind, kind, verdict], check=True)
    return folder


@pytest.fixture
def memory(made):
    return pointsman.Memory.open(made / "delta")


@pytest.fixture
def text():
    """tokens [T], hidden [T, H], logits [T, E]."""
    random = np.random.default_rng(3)
    return (random.integers(0, VOCABULARY, ROWS).astype(np.int32), random.normal(size=(ROWS, HIDDEN)).astype(np.float32),
            random.normal(size=(ROWS, EXPERTS)).astype(np.float32))


def routed_by_cpp(directory, layer, tokens, hidden, logits):
    done = subprocess.run([ROUTE, "route", directory, str(layer), str(len(tokens))], capture_output=True, check=True,
                          input=tokens.tobytes() + hidden.tobytes() + logits.tobytes())
    numbers = np.frombuffer(done.stdout, np.float32)
    return numbers[:len(tokens)], numbers[len(tokens):].reshape(logits.shape)


def begin(router, slot, tokens):
    return router.begin_step(np.full(len(tokens), slot, np.uint32), np.arange(len(tokens), dtype=np.uint32), tokens)


def same_bits(a, b):
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


def error_of(call):
    with pytest.raises(pointsman.Error) as caught:
        call()
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [0, 3])
def test_routing_has_the_bits_of_cpp(made, text, kind, layer):
    tokens, hidden, logits = text
    gate, expected = routed_by_cpp(made / kind, layer, tokens, hidden, logits)
    router = pointsman.Router()
    step = begin(router, router.add_slot(pointsman.Memory.open(made / kind, load="ram")), tokens)
    changed = logits.copy()
    router.route(step, layer, hidden, changed)
    assert same_bits(step.gate, gate) and same_bits(changed, expected)
    untouched = (changed == logits).all(1)
    assert 0 < untouched.sum() < ROWS  # the gate shuts some rows and opens others
    assert np.array_equal(untouched, gate == 0)


def test_what_writes_nothing_keeps_every_bit(memory, text):
    tokens, hidden, logits = text
    logits[0, 0], logits[1, 1] = np.float32(-0.0), np.float32(np.nan)
    router = pointsman.Router()
    silent = [(0, 1), (router.add_slot(memory, shadow=True), 1), (router.add_slot(memory, strength=0), 1),
              (router.add_slot(None), 1), (router.add_slot(memory), 2)]  # layer 2 has no memory
    for slot, layer in silent:
        changed = logits.copy()
        router.route(begin(router, slot, tokens), layer, hidden, changed)
        assert same_bits(changed, logits), (slot, layer)
    assert router.counters()["touched"] > 0 and router.counters()["written"] == 0
    assert router.counters()["non_finite"] == 2  # the NaN, on each slot that has a memory at the layer


def test_kill_switch(memory, text):
    tokens, hidden, logits = text
    router = pointsman.Router()
    slot = router.add_slot(memory)
    step, changed = begin(router, slot, tokens), logits.copy()
    router.set_kill_switch(True)
    router.route(step, 1, hidden, changed)
    router.set_kill_switch(False)
    router.route(step, 1, hidden, changed)
    assert same_bits(changed, logits)
    router.route(begin(router, slot, tokens), 1, hidden, changed)
    assert not same_bits(changed, logits)


def test_sessions_are_added_and_replaced(memory, text):
    tokens, hidden, logits = text
    vector = np.linspace(-1, 1, EXPERTS)
    router = pointsman.Router()
    slot = router.add_slot(None, session={1: vector})
    changed = logits.copy()
    router.route(begin(router, slot, tokens), 1, hidden, changed)
    assert same_bits(changed, logits + vector.astype(np.float32))
    router.set_session(slot, {1: [2.0] * EXPERTS})
    changed = logits.copy()
    router.route(begin(router, slot, tokens), 1, hidden, changed)
    assert same_bits(changed, logits + np.float32(2))
    router.set_session(slot, None)
    router.route(begin(router, slot, tokens), 1, hidden, logits)
    assert "layer 4096" in str(error_of(lambda: router.add_slot(None, session={4096: vector})))
    assert "one length" in str(error_of(lambda: router.add_slot(None, session={0: vector, 1: vector[1:]})))
    assert "not finite" in str(error_of(lambda: router.add_slot(None, session={0: vector * np.nan})))


def test_strength_of_a_slot(memory, text):
    tokens, hidden, logits = text
    router, half = pointsman.Router(), logits.copy()
    slot = router.add_slot(memory, strength=0.5)
    router.route(begin(router, slot, tokens), 1, hidden, half)
    other, expected = logits.copy(), pointsman.Router()
    changed = expected.add_slot(memory)
    expected.set_strength(changed, 0.5)
    expected.route(begin(expected, changed, tokens), 1, hidden, other)
    assert same_bits(half, other) and not same_bits(half, logits)
    router.release_slot(slot)
    assert "not live" in str(error_of(lambda: router.set_strength(slot, 1)))


def test_explain_names_the_neighbours(memory, text):
    tokens, hidden, logits = text
    router = pointsman.Router()
    step = begin(router, router.add_slot(memory), tokens)
    before = logits.copy()
    rows = router.explain(step, 3, hidden, logits)
    assert [row.row for row in rows] == list(range(ROWS))
    open_row = next(row for row in rows if row.written)
    similarity, found = memory.search(3, hidden, 4)
    assert [index for index, _ in open_row.neighbours] == found[open_row.row].tolist()
    assert same_bits(np.array([s for _, s in open_row.neighbours], np.float32), similarity[open_row.row].copy())
    assert same_bits(open_row.logits_before, before[open_row.row]) and same_bits(open_row.logits_after, logits[open_row.row])
    (reference,) = memory.references(3, found[open_row.row, 0])
    assert reference == (f"corpus/{'ab'[found[open_row.row, 0] % 2]}.txt", found[open_row.row, 0] // 2)


def test_output_memory_votes_on_chosen_rows(memory, text):
    tokens, hidden, _ = text
    router = pointsman.Router()
    step = begin(router, router.add_slot(memory), tokens)
    step.gate[:] = 1
    every = np.zeros((ROWS, VOCABULARY), np.float32)
    router.vote_output(step, hidden, every)
    last = np.zeros((1, VOCABULARY), np.float32)
    router.vote_output(step, hidden[-1:], last, rows=[ROWS - 1])
    assert same_bits(last[0], every[-1].copy()) and every.any(1).all()
    assert router.counters()["voted"] == ROWS + 1
    assert memory.output["vocabulary"] == VOCABULARY and memory.output["next_tokens"].shape == (20,)
    assert error_of(lambda: router.vote_output(step, hidden[:1], last, rows=[ROWS])).code == "invalid_argument"


def test_a_gate_moves_between_slots(memory, text):
    tokens, _, _ = text
    router = pointsman.Router()
    first, second = router.add_slot(memory), router.add_slot(memory)
    whole = begin(router, first, tokens).gate.copy()
    assert router.slot_length(first) == ROWS and same_bits(router.gate_history(first), whole)
    router.import_gate(second, router.export_gate(first)[:15])
    step = router.begin_step([second] * (ROWS - 15), range(15, ROWS), tokens[15:])
    assert same_bits(step.gate, whole[15:])
    assert same_bits(router.export_gate(second), tokens)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_torch_tensors_are_taken_without_a_copy(memory, text, dtype):
    torch = pytest.importorskip("torch")
    tokens, hidden, logits = text
    kind = getattr(torch, dtype)
    small_hidden, small = torch.from_numpy(hidden).to(kind), torch.from_numpy(logits).to(kind)
    router = pointsman.Router()
    step = begin(router, router.add_slot(memory), torch.from_numpy(tokens))
    expected = small.float().clone()
    router.route(step, 1, small_hidden.float(), expected)
    changed = small.clone()
    router.route(step, 1, small_hidden, changed)
    assert torch.equal(changed.view(torch.int16 if kind.itemsize == 2 else torch.int32),
                       expected.to(kind).view(torch.int16 if kind.itemsize == 2 else torch.int32))
    written = (changed != small).any(1).numpy()
    assert np.array_equal(written, step.gate > 0)


def test_arrays_that_do_not_fit_are_named(memory, text):
    torch = pytest.importorskip("torch")
    tokens, hidden, logits = text
    router = pointsman.Router()
    step = begin(router, router.add_slot(memory), tokens)
    before = logits.copy()
    locked = logits.copy()
    locked.flags.writeable = False
    cases = [
        ((hidden, logits.astype(np.float64)), "logits: is of float64; pass float32, bfloat16 or float16"),
        ((hidden.astype(np.int32), logits), "hidden: is of int32; pass float32"),
        ((hidden, logits[0]), "logits: has the shape [10]; pass a matrix"),
        ((hidden[:5], logits), "hidden: 5 rows for a step of 40"),
        ((hidden[:, :5].copy(), logits), "layer 1: hidden size is 5, the memory's keys have 12"),
        ((hidden, logits[:, :9].copy()), "layer 1: 9 experts"),
        ((hidden, logits.repeat(2, 1)[:, ::2]), "logits: of shape [40, 10] is not contiguous; pass numpy.ascontiguousarray"),
        ((hidden.T.copy().T, logits), "hidden: of shape [40, 12] is not contiguous"),
        ((hidden, locked), "logits: is read-only"),
        ((hidden, None), "logits: a NoneType that gives no array"),
        ((hidden, logits.tolist()), "logits: a list that gives no array"),
        ((hidden, torch.from_numpy(logits).requires_grad_()), "logits: needs gradients"),
        ((torch.from_numpy(hidden).to("meta"), logits), "hidden: "),
    ]
    for arguments, message in cases:
        error = error_of(lambda: router.route(step, 1, *arguments))
        assert error.code == "invalid_argument" and str(error).startswith(message), str(error)
    assert same_bits(logits, before)


def test_steps_that_do_not_fit_are_named(memory, text):
    tokens, hidden, logits = text
    router = pointsman.Router()
    slot = router.add_slot(memory)
    step = begin(router, slot, tokens)
    cases = [
        (lambda: router.begin_step([slot], [0, 1]), "step of 1 slots, 2 positions and 0 tokens"),
        (lambda: router.begin_step([slot, slot], [0, 2]), "row 1: position 2 of slot"),
        (lambda: router.begin_step([99], [0]), "row 0: slot 99 is not live"),
        (lambda: router.begin_step([-1], [0]), "slots: -1..-1; they are within 0..4294967295"),
        (lambda: router.begin_step([slot], [0], [2**40]), "tokens: 1099511627776..1099511627776; they are within"),
        (lambda: router.begin_step([1.5], [0]), "slots: of type float64; pass integers"),
        (lambda: pointsman.Router().route(step, 1, hidden, logits), "the step belongs to another router"),
    ]
    for call, message in cases:
        assert str(error_of(call)).startswith(message), str(error_of(call))
    begin(router, slot, tokens)
    assert "stale" in str(error_of(lambda: router.route(step, 1, hidden, logits)))


def test_memories_that_do_not_open_are_named(made, tmp_path):
    missing = error_of(lambda: pointsman.Memory.open(tmp_path / "nothing"))
    assert missing.code == "not_found" and "not a memory" in str(missing)
    for break_it, code, part in ((lambda path: flip_bit(path, 700), "corrupt", "verify --repair"),
                                 (truncate, "corrupt", "verify --repair"),
                                 (pathlib.Path.unlink, "corrupt", "verify --repair")):
        copy = tmp_path / f"broken{len(list(tmp_path.iterdir()))}"
        shutil.copytree(made / "delta", copy)
        break_it(copy / "derived/gen-001/layer-001.bin")
        error = error_of(lambda: pointsman.Memory.open(copy))
        assert error.code == code and part in str(error) and "layer-001.bin" in str(error), str(error)
    with pytest.raises(pointsman.RejectedError, match="its verdict is reject.*allow_rejected"):
        pointsman.Memory.open(made / "rejected")
    assert pointsman.Memory.open(made / "rejected", allow_rejected=True).verdict == "reject"
    with pytest.raises(ValueError, match="load='disk'"):
        pointsman.Memory.open(made / "delta", load="disk")


def test_tables_outlive_the_memory_and_are_read_only(made):
    tables = pointsman.Memory.open(made / "delta").tables(1)
    expected = pointsman.Memory.open(made / "delta", load="ram").tables(1)
    assert tables["codes"].shape == (40, HIDDEN) and tables["codes"].dtype == np.int8
    assert tables["values"].shape == (40, EXPERTS) and tables["router_delta"].shape == (EXPERTS, HIDDEN)
    assert tables["token_table"].shape == (VOCABULARY, EXPERTS) and tables["mean"] is None
    assert tables["references"].shape == (40, 1, 2)
    assert (tables["k"], tables["confidence"], tables["scale"]) == (4, "mean_similarity", 1.5)
    for name, value in tables.items():
        if isinstance(value, np.ndarray):
            assert same_bits(value, expected[name]) and not value.flags.writeable, name


def test_search_is_the_blend_of_the_tables(memory, text):
    """A second implementation, from the formulas of router/c_api.h, on what tables() gives."""
    _, hidden, _ = text
    tables = memory.tables(3)
    unit = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
    keys = tables["codes"].astype(np.float64) * tables["code_scales"][:, None]
    similarity, row = memory.search(3, hidden, 5)
    expected = unit @ keys.T
    assert np.allclose(np.sort(expected, 1)[:, ::-1][:, :5], similarity, atol=1e-4)
    assert np.allclose(np.take_along_axis(expected, row.astype(np.int64), 1), similarity, atol=1e-4)
    assert memory.search(3, np.full((1, HIDDEN), np.nan, np.float32), 2)[0].tolist() == [[-2.0, -2.0]]
    assert memory.search(3, hidden[:1], 50)[0][0, 40:].tolist() == [-2.0] * 10  # fewer keys than k
    assert "has nothing for layer 2; its layers are 0 1 3" in str(error_of(lambda: memory.search(2, hidden, 1)))
    assert "k is 0" in str(error_of(lambda: memory.search(3, hidden, 0)))


def test_what_a_memory_says_of_itself(made, memory):
    assert memory.layers == [0, 1, 3] and (memory.hidden_size, memory.experts, memory.top_k) == (HIDDEN, EXPERTS, 3)
    assert memory.documents() == ["corpus/a.txt", "corpus/b.txt"] and memory.kind == "entries"
    assert memory.manifest == json.loads((made / "delta/MANIFEST.json").read_text())
    stats = memory.stats()
    assert stats["rows"] == 120 and stats["documents"] == 2 and stats["generation"] == 1
    assert stats["derived_bytes"] == sum(p.stat().st_size for p in (made / "delta/derived/gen-001").iterdir())
    assert memory.gate["enabled"] and memory.gate["window"] == 9 and np.all(np.diff(memory.gate["pairs"].astype(np.int64)) > 0)
    assert pointsman.Memory.open(made / "logits").value_kind == "logits"
    fingerprint = dict(memory.fingerprint)
    assert memory.check_fingerprint(fingerprint) == ""
    assert "dtype bfloat16 (memory) != float32 (model)" in memory.check_fingerprint(fingerprint | {"dtype": "float32"})
    with pytest.raises(pointsman.MismatchError, match="router_sha256 2+ .memory. != 9+ .model."):
        memory.check_fingerprint(fingerprint | {"router_sha256": "9" * 64})


def test_threads_run_beside_each_other(memory, text):
    """Each with its own router: the bits of one thread. One long search lets another thread run: the GIL is released."""
    tokens, hidden, logits = text
    expected, lone = logits.copy(), pointsman.Router()
    lone.route(begin(lone, lone.add_slot(memory), tokens), 1, hidden, expected)
    wrong = []

    def work():
        router = pointsman.Router()
        slot = router.add_slot(memory)
        for _ in range(100):
            changed = logits.copy()
            router.route(begin(router, slot, tokens), 1, hidden, changed)
            if not same_bits(changed, expected):
                wrong.append(changed)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong

    many = np.tile(hidden, (20_000, 1))
    searching, ticks = threading.Event(), 0
    thread = threading.Thread(target=lambda: (memory.search(3, many, 1), searching.set()))
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # whoever has the GIL keeps it: only the search's own release lets this thread count
    try:
        thread.start()
        while not searching.wait(0.001):
            ticks += 1
    finally:
        sys.setswitchinterval(switch)
        thread.join()
    assert ticks > 3


def test_the_core_needs_no_torch(made):
    done = run_python("import sys\nsys.modules['torch'] = sys.modules['transformers'] = None\nimport pointsman\n"
                      f"print(pointsman.Memory.open({str(made / 'delta')!r}).layers, pointsman.__version__)")
    assert done.stdout == "[0, 1, 3] 0.1.0\n", done.stderr
    done = run_python("import pointsman, sys; print(sorted({'torch', 'faiss', 'transformers'} & set(sys.modules)))")
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("variable, counters", [("POINTSMAN_DISABLE", "0 0"), ("POINTSMAN_SHADOW", "1 0")])
def test_the_environment_turns_it_off(made, variable, counters):
    code = (f"import numpy as np, pointsman\nrouter = pointsman.Router()\n"
            f"slot = router.add_slot(pointsman.Memory.open({str(made / 'delta')!r}))\n"
            f"step = router.begin_step([slot], [0], [1])\nstep.gate[:] = 1\nlogits = np.zeros((1, {EXPERTS}), np.float32)\n"
            f"router.route(step, 1, np.ones((1, {HIDDEN}), np.float32), logits)\nassert not logits.any()\n"
            "print(router.counters()['touched'], router.counters()['written'])")
    done = run_python(code, **{variable: "1"})
    assert done.stdout.strip() == counters, done.stderr
    done = run_python(code, **{variable: "yes"})
    assert done.returncode == 1 and f"{variable}=yes; set it to 1" in done.stderr


def test_the_fingerprint_is_that_of_the_command(built_memory, model):
    fingerprint = pointsman.model_fingerprint(model)
    assert fingerprint == json.loads((built_memory / "MANIFEST.json").read_text())["fingerprint"]
    assert pointsman.Memory.open(built_memory, allow_rejected=True).check_fingerprint(fingerprint) == ""
    broken = error_of(lambda: pointsman.model_fingerprint(model / "nothing"))
    assert broken.code == "not_found" and "config.json" in str(broken)


def public_things(module):
    """Classes and functions that a module offers, and the classes' public members that it wrote itself."""
    for name in getattr(module, "__all__", None) or [name for name, thing in vars(module).items() if not name.startswith("_")]:
        thing = getattr(module, name)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)) or not thing.__module__.startswith("pointsman"):
            continue
        yield name, thing
        for inner, member in vars(thing).items() if inspect.isclass(thing) else ():
            member = getattr(member, "__func__", member)  # of class methods
            if not inner.startswith("_") and (inspect.isfunction(member) or isinstance(member, (property, functools.cached_property))):
                yield f"{name}.{inner}", member


def test_every_public_thing_is_typed_and_documented():
    core = inspect.getsource(sys.modules["pointsman.memory"]) + inspect.getsource(sys.modules["pointsman.router"])
    assert "# type: ignore" not in core
    for owner in (pointsman.Memory, pointsman.Router, pointsman.Step):
        for name, member in inspect.getmembers(owner, inspect.isfunction):
            if name.startswith("_") and name not in ("__len__",):
                continue
            hints = inspect.signature(member)
            assert hints.return_annotation is not inspect.Signature.empty, (owner, name)
    for module in ("pointsman", "pointsman.torch_routing", "pointsman.transformers", "pointsman.transformers.online"):
        for name, thing in public_things(importlib.import_module(module)):
            assert inspect.getdoc(thing) and thing.__doc__ != object.__doc__, f"{module}: {name} is not documented"
            if inspect.isfunction(thing):
                untyped = [each.name for each in inspect.signature(thing).parameters.values()
                           if each.annotation is inspect.Parameter.empty and each.name not in ("self", "cls")]
                assert not untyped and inspect.signature(thing).return_annotation is not inspect.Signature.empty, (module, name, untyped)
    stub = (ROOT / "python/pointsman/_core.pyi").read_text()
    for owner in (pointsman._core.Memory, pointsman._core.Router, pointsman._core.Step, pointsman._core.Session):
        for name in vars(owner):
            if not name.startswith("_") or name in ("__len__",):
                assert f"def {name}(" in stub or f"    {name}: " in stub, (owner, name)
    assert (PACKAGE / "pointsman/py.typed").exists()
