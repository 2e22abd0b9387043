"""The torch implementation of the routing: golden vectors, ties, the no-op, a compiled graph."""

import json
import pathlib
import sys

import numpy as np
import pytest
import torch

torch.set_num_threads(1)  # tiny tensors: a second thread would only wait
ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "build/release/python"))

from host_memories import TableMemory, open_gate  # noqa: E402
from pointsman import torch_routing as tr  # noqa: E402

GOLDEN = json.loads((ROOT / "schemas/blend_golden.json").read_text())
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def layer_of(case, device):
    names = ("confidence", "tau", "tau2", "scale")
    tables = {name: case.get(name) for name in names} | {"confidence": case["confidence_rule"]}
    tables |= {"k": len(case["similarities"]), "values": np.array(case["values"], np.int8),
               "value_scales": np.array(case["value_scales"], np.float32),
               "codes": np.zeros((len(case["values"]), 1), np.int8), "code_scales": np.ones(len(case["values"]), np.float32)}
    for name, dtype in (("router_delta", np.float32), ("token_table", np.int8), ("token_table_scales", np.float32),
                        ("token_ids", np.uint32)):
        if name in case:
            tables[name] = np.array(case[name], dtype)
    return tr.TorchLayer.from_tables(tables, value_kind=case["value_kind"], top_k=case["top_k"], device=device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_golden_case(case, device):
    layer = layer_of(case, device)
    row = lambda values, dtype=torch.float32: torch.tensor([values], dtype=dtype, device=device)
    weight = row(case["strength"]) * case["gate"]
    routed = tr.blend(layer, row(case.get("hidden", [0.0])), row(case["logits"]), weight, row(case.get("token", -1), torch.long),
                      row(case["similarities"]), torch.arange(layer.k, device=device)[None])
    expected, near = case["expected"], pytest.approx
    assert routed.logits[0].tolist() == near(expected["logits"], abs=GOLDEN["tolerance"])
    assert routed.touched.item() is expected["touched"]
    if not expected["touched"]:
        assert torch.equal(routed.logits, row(case["logits"]))
    else:
        assert routed.confidence.item() == near(expected["confidence"], abs=1e-6)
        found = sum(s != GOLDEN["absent_similarity"] for s in case["similarities"])
        weights = tr.neighbour_weights(layer.tau, row(case["similarities"]))[0]
        assert weights[:found].tolist() == near(expected["weights"], abs=1e-6)


@pytest.mark.parametrize("case", GOLDEN["gate_cases"], ids=lambda case: case["name"])
def test_golden_gate(case):
    gate = tr.TorchGate.from_tables({"enabled": True, "n0": case["n0"], "window": case["window"], "groups": case["groups"]})
    evidence = torch.tensor([group["evidence"] for group in case["groups"]], dtype=torch.float64).t()
    for end, expected in enumerate(case["expected"], 1):
        last = evidence[max(0, end - gate.window):end]
        assert gate.value(last.sum(0), torch.tensor(len(last))).item() == pytest.approx(expected, abs=1e-6)


def reference_search(tables, hidden):
    """One row and one key at a time, in double precision but for the codes: memory/layer_index.h by its text."""
    result = []
    for h in hidden.double().numpy():
        q = tables["projection"].astype(np.float64) @ (h.astype(np.float32) - tables["mean"]).astype(np.float64)
        q = (q / np.linalg.norm(q)).astype(np.float32)
        scale = np.float32(np.abs(q).max() / np.float32(32767))
        dots = tables["codes"].astype(np.int64) @ np.rint(q / scale).astype(np.int64)
        similarity = dots.astype(np.float32) * (tables["code_scales"] * scale)
        result.append(sorted(range(len(similarity)), key=lambda r: (-similarity[r], r))[:tables["k"]])
    return np.array(result)


@pytest.mark.parametrize("dim", [1, 16, 300])
def test_search_finds_the_nearest_and_breaks_ties_by_row(dim, monkeypatch):
    memory = TableMemory([0], 32, 8, rows=300, dim=dim)
    layer = tr.TorchLayer.from_tables(memory.tables(0))
    hidden = torch.randn(40, 32, generator=torch.Generator().manual_seed(1))
    similarity, rows = tr.search(layer, hidden)
    expected = reference_search(memory.tables(0), hidden)
    assert (rows.numpy() == expected).mean() > 0.99  # the projection is summed in another order
    assert (similarity[:, 1:] <= similarity[:, :-1]).all()
    monkeypatch.setattr(tr, "SIMILARITIES_AT_ONCE", 1)  # one block after another
    layer.codes = torch.cat((layer.codes,) * 5)
    layer.code_scales = torch.cat((layer.code_scales,) * 5)
    again, copies = tr.search(layer, hidden)
    assert torch.equal(again[:, ::5], similarity[:, :2]) and torch.equal(copies[:, 0], rows[:, 0])


def test_search_without_keys_or_for_rows_that_are_not_finite():
    memory = TableMemory([0], 32, 8, rows=4)
    layer = tr.TorchLayer.from_tables(memory.tables(0))
    hidden = torch.randn(3, 32)
    hidden[1, 5] = torch.inf
    hidden[2] = layer.mean
    similarity, _ = tr.search(layer, hidden)
    assert similarity.shape == (3, 4) and (similarity[1] == tr.ABSENT).all() and (similarity[2] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value_kind", tr.VALUE_KINDS)
def test_rows_of_weight_zero_keep_their_bits(value_kind, dtype):
    memory = TableMemory([0], 32, 8, value_kind=value_kind, vocabulary=10 if value_kind == "delta" else 0)
    layer = tr.TorchLayer.from_tables(memory.tables(0), value_kind=value_kind, top_k=2)
    hidden, logits = torch.randn(6, 32).to(dtype), torch.randn(6, 8).to(dtype)
    logits[0, 0] = -0.0
    logits[3, 2] = torch.nan
    weight = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.5, 0.0])
    new = tr.route(layer, hidden, logits, weight, torch.tensor([0, 1, 2, 3, -1, 99]))
    raw = torch.int32 if dtype == torch.float32 else torch.int16
    same = (new.view(raw) == logits.view(raw)).all(-1)
    assert same.tolist() == [True, False, True, True, False, True] and new.dtype == dtype


def test_one_row_does_not_see_another():
    layer = tr.TorchLayer.from_tables(TableMemory([0], 32, 8).tables(0))
    hidden, logits = torch.randn(20, 32), torch.randn(20, 8)
    together = tr.route(layer, hidden, logits, torch.ones(20))
    alone = torch.cat([tr.route(layer, hidden[i:i + 1], logits[i:i + 1], torch.ones(1)) for i in range(20)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_the_operator_keeps_pytorchs_rules():
    layer = tr.TorchLayer.from_tables(TableMemory([0], 32, 8).tables(0))
    arguments = (torch.randn(4, 32), torch.randn(4, 8), torch.ones(4), torch.full((4,), -1), layer.handle)
    torch.library.opcheck(torch.ops.pointsman.route, arguments, test_utils=("test_schema", "test_faketensor"))
    logits = torch.randn(4, 8, requires_grad=True)
    tr.route(layer, arguments[0], logits, arguments[2]).sum().backward()
    assert torch.equal(logits.grad, torch.ones(4, 8))  # what the memory adds is a constant


def test_compiled_in_one_graph():
    layer = tr.TorchLayer.from_tables(TableMemory([0], 32, 8).tables(0))
    router = torch.nn.Linear(32, 8)

    def step(hidden, weight):
        return tr.route(layer, hidden, router(hidden), weight).topk(2, dim=-1)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (3, 7):
        hidden, weight = torch.randn(rows, 32), torch.arange(rows) / rows
        with torch.no_grad():
            assert all(map(torch.equal, compiled(hidden, weight), step(hidden, weight)))


TEXT = [1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 9, 9, 9, 1, 2, 3, 4, 5, 6, 7]


def gates_by_hand(gate, text):
    of_groups = []
    for bit, group in enumerate(gate["groups"]):
        marks = gate["pair_groups"] if gate["pair_groups"] is not None else np.ones(len(gate["pairs"]), np.uint16)
        known = {(int(p) >> 32, int(p) & 0xFFFFFFFF) for p, mark in zip(gate["pairs"], marks) if mark >> bit & 1}
        evidence = [group["prior"]] + [float(pair in known) for pair in zip(text, text[1:])]
        values = []
        for end in range(1, len(text) + 1):
            last = evidence[max(0, end - gate["window"]):end]
            mean = (gate["n0"] * group["prior"] + sum(last)) / (gate["n0"] + len(last))
            values.append(min(1.0, max(0.0, (mean - group["lo"]) / (group["hi"] - group["lo"]))))
        of_groups.append(values)
    return [max(values) for values in zip(*of_groups)]


TWO_GROUPS = {"groups": [{"name": "a", "prior": 0.1, "lo": 0.2, "hi": 0.6}, {"name": "b", "prior": 0.05, "lo": 0.15, "hi": 0.3}],
              "pair_groups": np.array([1, 2, 3, 1, 2, 3], np.uint16)}


@pytest.mark.parametrize("groups", [{}, TWO_GROUPS], ids=["one group", "two groups"])
def test_gate_of_a_slot_rewinds_and_equals_prefill(groups):
    gate = open_gate(zip(range(1, 7), range(2, 8)), **groups)
    memory = TableMemory([0], 32, 8, gate=gate)
    expected = gates_by_hand(gate, TEXT)
    assert 0 < sum(0 < value < 1 for value in expected) and max(expected) > 0.5 and min(expected) == 0
    router = tr.TorchRouter(max_slots=3, max_positions=32)
    one, two = router.add_slot(memory), router.add_slot(memory)
    whole = router.begin_step([one] * len(TEXT) + [0], [*range(len(TEXT)), 0], [*TEXT, 1])
    assert whole.gate.tolist() == pytest.approx([*expected, 0.0], abs=1e-6)
    router.begin_step([two] * 4, range(4), [1, 2, 8, 8])
    for position in range(2, len(TEXT)):  # from position 2 on it is the other text
        step = router.begin_step([two], [position], [TEXT[position]])
        assert step.gate.tolist() == pytest.approx([expected[position]], abs=1e-6)


def test_router_mixes_memories_sessions_and_shadow():
    first, second = (TableMemory([0, 1], 32, 8, seed=seed) for seed in (0, 1))
    router = tr.TorchRouter(max_slots=8)
    vector = np.linspace(-1, 1, 8, dtype=np.float32)
    slots = [router.add_slot(first), router.add_slot(second, strength=0.25), router.add_slot(first, shadow=True),
             router.add_slot(None, session={1: vector}), router.add_slot(second, session={0: vector}), 0]
    hidden, logits = torch.randn(6, 32), torch.randn(6, 8)
    step = router.begin_step(slots, [0] * 6)
    new = router.route(step, 0, hidden, logits)
    one, two = (tr.TorchLayer.from_tables(memory.tables(0)) for memory in (first, second))
    at = lambda row: (hidden[row:row + 1], logits[row:row + 1])
    assert torch.allclose(new[0], tr.route(one, *at(0), torch.ones(1))[0])
    assert torch.allclose(new[1], tr.route(two, *at(1), torch.tensor([0.25]))[0])
    assert torch.allclose(new[4], tr.route(two, *at(4), torch.ones(1))[0] + torch.tensor(vector))
    for row in (2, 3, 5):
        assert torch.equal(new[row], logits[row])
    assert router.counters() == {"rows": 4, "touched": 4, "written": 3, "gate_shut": 0, "non_finite": 0}
    router.kill_switch = True
    assert router.route(step, 0, hidden, logits) is logits
    router.kill_switch = False
    router.release_slot(slots[0])
    assert torch.equal(router.route(step, 0, hidden, logits)[0], logits[0])
    with pytest.raises(ValueError, match="8 slots are in use"):
        for _ in range(9):
            router.add_slot(first)
