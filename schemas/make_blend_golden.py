"""Makes schemas/blend_golden.json: the blend rules and the context gate of design.md 5 in double precision.

    python schemas/make_blend_golden.py > schemas/blend_golden.json

Every implementation of the blend (C++ core, LibTorch, Python) is held to these vectors. This one is written from the
formulas alone, one Python float at a time. All inputs are multiples of a power of two, so that fp32 reads them exactly.
"""

import json
import math
import random
import sys

SEED = 20260101
VALUE_KINDS = ("delta", "logits", "assignments")
CONFIDENCE_RULES = ("mean_similarity", "max_similarity", "mean_kernel", "aggregate")
ABSENT = -2.0
SMALLEST_PROBABILITY = 1e-9


def dyadic(value, denominator=1024):
    return round(value * denominator) / denominator


def confidence(rule, tau2, similarities):
    if not similarities:
        return 0.0
    kernels = [math.exp((s - 1) / tau2) for s in similarities]
    unclipped = {
        "mean_similarity": math.exp((sum(similarities) / len(similarities) - 1) / tau2),
        "max_similarity": math.exp((max(similarities) - 1) / tau2),
        "mean_kernel": sum(kernels) / len(kernels),
        "aggregate": sum(kernels),
    }[rule]
    return min(1.0, unclipped)


def softmax(values):
    largest = max(values)
    powers = [math.exp(v - largest) for v in values]
    return [p / sum(powers) for p in powers]


def weights(tau, similarities):
    return softmax([s / tau for s in similarities]) if similarities else []


def mix(case, w):
    columns = range(case["experts"])
    rows = list(zip(w, case["values"], case["value_scales"]))
    return [sum(wi * scale * row[e] for wi, row, scale in rows) for e in columns]


def token_row(case):
    """Where the token stands in the token table; None: nowhere."""
    token, ids = case.get("token", -1), case.get("token_ids", range(len(case.get("token_table", []))))
    return ids.index(token) if token in ids else None


def blend_delta(case, g, mixed):
    strength = case["strength"] * case["gate"]
    change = [g * case["scale"] * m for m in mixed]
    trained = False
    if case.get("router_delta"):
        trained = True
        for e, row in enumerate(case["router_delta"]):
            change[e] += sum(a * b for a, b in zip(row, case["hidden"]))
    if (row := token_row(case)) is not None:
        trained = True
        scale = case["token_table_scales"][row]
        for e, code in enumerate(case["token_table"][row]):
            change[e] += scale * code
    touched = strength > 0 and (g > 0 or trained)
    return touched, [z + strength * c for z, c in zip(case["logits"], change)]


def blend_assignments(case, lam, mixed):
    z = case["logits"]
    q = softmax(z)
    top = set(sorted(range(len(z)), key=lambda e: (-z[e], e))[: case["top_k"]])
    mass = sum(q[e] for e in top)
    p = [(1 - lam) * q[e] + lam * (mass * mixed[e] + (0.0 if e in top else q[e])) for e in range(len(z))]
    return [math.log(max(v, SMALLEST_PROBABILITY)) for v in p]


def expect(case):
    """The fields of `expected` for one case."""
    similarities = [s for s in case["similarities"] if s != ABSENT]
    g = confidence(case["confidence_rule"], case["tau2"], similarities)
    w = weights(case["tau"], similarities)
    lam = min(1.0, case["strength"] * case["gate"] * g)
    mixed = mix(case, w)
    touched, z = lam > 0, case["logits"]
    if case["value_kind"] == "delta":
        touched, z = blend_delta(case, g, mixed)
    elif case["value_kind"] == "logits":
        z = [(1 - lam) * a + lam * b for a, b in zip(z, mixed)]
    else:
        z = blend_assignments(case, lam, mixed)
    z = z if touched else case["logits"]
    rounded = [[round(v, 10) for v in values] for values in (w, z)]
    return {"weights": rounded[0], "confidence": round(g, 10), "lambda": round(lam, 10), "touched": touched,
            "logits": rounded[1]}


def random_assignment(rng, experts, top_k):
    """int8 codes of top_k experts that sum to 128: with the scale 1/128 the weights sum to 1."""
    codes = [0] * experts
    chosen = rng.sample(range(experts), top_k)
    left = 128
    for position, expert in enumerate(chosen):
        rest = len(chosen) - position - 1
        part = left if rest == 0 else rng.randint(1, left - rest)
        codes[expert] = part
        left -= part
    return codes


def random_values(rng, kind, rows, experts, top_k):
    if kind == "assignments":
        return [random_assignment(rng, experts, top_k) for _ in range(rows)], [1 / 128] * rows
    codes = [[rng.randint(-127, 127) for _ in range(experts)] for _ in range(rows)]
    return codes, [rng.randint(8, 64) / 2048 for _ in range(rows)]


def make_case(rng, name, kind, rule, rows=4, experts=16, top_k=4, **overrides):
    values, scales = random_values(rng, kind, rows, experts, top_k)
    case = {
        "name": f"{kind}/{rule}/{name}",
        "value_kind": kind,
        "confidence_rule": rule,
        "experts": experts,
        "top_k": top_k,
        "tau": rng.choice([0.125, 0.25, 0.5]),
        "tau2": rng.choice([0.25, 0.5]),
        "scale": rng.choice([0.5, 1.0, 2.5]),
        "strength": 1.0,
        "gate": 0.75,
        "similarities": sorted((dyadic(rng.uniform(-0.25, 0.96875)) for _ in range(rows)), reverse=True),
        "values": values,
        "value_scales": scales,
        "logits": [dyadic(rng.uniform(-4, 4)) for _ in range(experts)],
    }
    case.update(overrides)
    case["expected"] = expect(case)
    return case


def tied_logits(rng, experts):
    """The three largest logits are equal: the boundary of a top-2 runs through the tie."""
    logits = [dyadic(rng.uniform(-3, 1)) for _ in range(experts)]
    for expert in rng.sample(range(experts), 3):
        logits[expert] = 1.5
    return logits


def common_cases(rng, kind, rule):
    same = {"kind": kind, "rule": rule}
    certain = [1.0, 1.0, 1.0, 1.0]
    yield make_case(rng, "plain", **same)
    yield make_case(rng, "half strength", **same, strength=0.5)
    yield make_case(rng, "gate shut", **same, gate=0.0)
    yield make_case(rng, "strength 0", **same, strength=0.0)
    yield make_case(rng, "lambda 1", **same, gate=1.0, similarities=certain)
    yield make_case(rng, "g clipped", **same, gate=0.5, similarities=[1 + 3 / 1024, 1 + 2 / 1024, 1.0, 1.0])
    yield make_case(rng, "tie in top-k", **same, top_k=2, logits=tied_logits(rng, 16))
    yield make_case(rng, "tied neighbours", **same, similarities=[0.75, 0.75, 0.75, 0.5])
    yield make_case(rng, "13 experts", **same, experts=13)
    yield make_case(rng, "5 experts, all chosen", **same, experts=5, top_k=5)
    yield make_case(rng, "k larger than rows", **same, similarities=[0.875, 0.5, ABSENT, ABSENT])
    yield make_case(rng, "no neighbour", **same, similarities=[ABSENT] * 4)
    yield make_case(rng, "one neighbour", **same, rows=1)
    yield make_case(rng, "64 experts, k 16", **same, rows=16, experts=64, top_k=8)


def trained_parts(rng, experts, hidden, vocabulary):
    return {
        "hidden": [dyadic(rng.uniform(-2, 2)) for _ in range(hidden)],
        "router_delta": [[dyadic(rng.uniform(-0.25, 0.25)) for _ in range(hidden)] for _ in range(experts)],
        "token_table": [[rng.randint(-127, 127) for _ in range(experts)] for _ in range(vocabulary)],
        "token_table_scales": [rng.randint(8, 64) / 4096 for _ in range(vocabulary)],
        "token": rng.randrange(vocabulary),
    }


def trained_cases(rng):
    """Router delta and token table: under the gate and the strength, not under g."""
    for rule in CONFIDENCE_RULES[:2]:
        same = {"kind": "delta", "rule": rule}
        parts = trained_parts(rng, 16, 11, 3)
        delta_only = {key: parts[key] for key in ("hidden", "router_delta")}
        table_only = {key: parts[key] for key in ("token_table", "token_table_scales", "token")}
        yield make_case(rng, "router delta", **same, **delta_only)
        yield make_case(rng, "token table", **same, **table_only)
        yield make_case(rng, "both, half strength", **same, **parts, strength=0.5)
        yield make_case(rng, "both, gate shut", **same, **parts, gate=0.0)
        yield make_case(rng, "both, no neighbour", **same, **parts, similarities=[ABSENT] * 4)
        yield make_case(rng, "unknown token", **same, **{**table_only, "token": 3})


def token_cases(rng):
    """A token table of some tokens alone."""
    parts = trained_parts(rng, 16, 11, 3)
    same = {"kind": "delta", "rule": "max_similarity", "token_ids": [2, 5, 900]} | {
        key: parts[key] for key in ("token_table", "token_table_scales")}
    for token in (2, 5, 900):
        yield make_case(rng, f"token {token} of some", **same, token=token)
    for token in (-1, 0, 3, 901):
        yield make_case(rng, f"token {token}, not of them", **same, token=token, similarities=[ABSENT] * 4)


def gate_case(name, evidence, n0, prior, lo, hi, window=128):
    return grouped_gate_case(name, n0, window, [{"evidence": evidence, "prior": prior, "lo": lo, "hi": hi}])


def grouped_gate_case(name, n0, window, groups):
    """Every group's evidence is as long as the others'."""
    def openness(group, end):
        last = group["evidence"][max(0, end - window):end]
        mean = (n0 * group["prior"] + sum(last)) / (n0 + len(last))
        lo, hi = group["lo"], group["hi"]
        return 0.0 if mean <= lo else 1.0 if mean >= hi else (mean - lo) / (hi - lo)

    positions = len(groups[0]["evidence"])
    expected = [max(openness(group, end) for group in groups) for end in range(1, positions + 1)]
    return {"name": name, "n0": n0, "window": window, "groups": groups, "expected": [round(v, 10) for v in expected]}


def gate_cases(rng):
    rising = [0.25 + i / 64 for i in range(32)]
    noisy = [dyadic(rng.uniform(0.2, 0.9)) for _ in range(64)]
    yield gate_case("opens slowly", rising, 4.0, 0.25, 0.375, 0.5)
    yield gate_case("opens and shuts", rising + [0.0] * 32, 2.0, 0.25, 0.3125, 0.4375)
    yield gate_case("forgets", rising + [0.0] * 32, 2.0, 0.25, 0.3125, 0.4375, window=16)
    yield gate_case("noisy", noisy, 4.0, 0.5, 0.5, 0.5625)
    yield gate_case("never opens", [0.125] * 8, 4.0, 0.25, 0.25, 0.5)
    yield gate_case("always open", [0.75] * 8, 4.0, 0.75, 0.25, 0.5)
    yield gate_case("ramp of no width", [0.5, 0.75, 0.75, 0.0, 0.0], 2.0, 0.5, 0.5, 0.5)
    yield gate_case("no prior weight", [0.5, 0.25, 0.75], 0.0, 0.0, 0.25, 0.75)
    falling = rising[::-1]
    yield grouped_gate_case("one of two opens", 2.0, 16, [
        {"evidence": rising + [0.125] * 16, "prior": 0.25, "lo": 0.375, "hi": 0.625},
        {"evidence": [0.125] * 16 + falling, "prior": 0.125, "lo": 0.25, "hi": 0.875}])
    yield grouped_gate_case("three, one never", 4.0, 128, [
        {"evidence": noisy, "prior": 0.5, "lo": 0.5, "hi": 0.5625},
        {"evidence": [0.0] * 64, "prior": 0.25, "lo": 0.25, "hi": 0.5},
        {"evidence": noisy[::-1], "prior": 0.375, "lo": 0.4375, "hi": 0.75}])


def make_document():
    rng = random.Random(SEED)
    cases = [case for kind in VALUE_KINDS for rule in CONFIDENCE_RULES for case in common_cases(rng, kind, rule)]
    cases += trained_cases(rng)
    cases += token_cases(random.Random(21))
    return {"version": 1, "tolerance": 1e-5, "absent_similarity": ABSENT, "cases": cases,
            "gate_cases": list(gate_cases(rng))}


def write(document, stream):
    """One case a line: a diff shows which cases changed."""
    lists = {key: ",\n".join(json.dumps(case) for case in document[key]) for key in ("cases", "gate_cases")}
    head = json.dumps({key: value for key, value in document.items() if key not in lists})[1:-1]
    body = ",\n".join(f'"{key}": [\n{text}\n]' for key, text in lists.items())
    stream.write("{" + head + ",\n" + body + "\n}\n")


if __name__ == "__main__":
    write(make_document(), sys.stdout)
