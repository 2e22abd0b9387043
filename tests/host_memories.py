"""Random memories in RAM for the tests of the Python hosts: what pointsman.Memory gives, without a directory."""

import numpy as np


def quantized(rows):
    """Symmetric int8 with one scale a row, as memory/layer_index.h QuantizeRows."""
    scales = (np.abs(rows).max(-1) / 127).astype(np.float32)
    codes = np.rint(rows / np.where(scales > 0, scales, 1)[:, None]).clip(-127, 127).astype(np.int8)
    return codes, scales


class TableMemory:
    """The part of pointsman.Memory that a host reads."""

    def __init__(self, layers, hidden_size, experts, rows=64, dim=16, *, vocabulary=0, value_kind="delta", top_k=2,
                 confidence="mean_similarity", seed=0, size=2.0, gate=None, router_delta=False, architecture="olmoe",
                 k=8):
        random = np.random.default_rng(seed)
        self.layers = list(layers)
        self.hidden_size, self.experts, self.value_kind, self.top_k = hidden_size, experts, value_kind, top_k
        self.manifest = {"value_kind": value_kind, "fingerprint": {"architecture": architecture}}
        self.fingerprint = None
        self.gate = gate or {"enabled": False}
        self._tables = {}
        for layer in self.layers:
            keys = random.normal(size=(rows, dim)).astype(np.float32)
            keys[rows // 2] = keys[rows // 3]  # two equal keys: a tie
            codes, code_scales = quantized(keys / np.linalg.norm(keys, axis=-1, keepdims=True))
            values = np.abs(random.normal(size=(rows, experts))) if value_kind == "assignments" else \
                size * random.normal(size=(rows, experts))
            if value_kind == "assignments":
                values /= values.sum(-1, keepdims=True)
            values, value_scales = quantized(values.astype(np.float32))
            tables = {
                "mean": random.normal(size=hidden_size).astype(np.float32) * 0.1,
                "projection": random.normal(size=(dim, hidden_size)).astype(np.float32),
                "codes": codes, "code_scales": code_scales, "values": values, "value_scales": value_scales,
                "k": k, "tau": 0.2, "tau2": 2.0, "scale": 1.5, "confidence": confidence,
            }
            if router_delta:
                tables["router_delta"] = 0.1 * random.normal(size=(experts, hidden_size)).astype(np.float32)
            if vocabulary:
                table, scales = quantized(random.normal(size=(vocabulary, experts)).astype(np.float32))
                tables |= {"token_table": table, "token_table_scales": scales}
            self._tables[layer] = tables

    def tables(self, layer):
        return self._tables[layer]


def open_gate(pairs, **changes):
    """A gate that knows the given (previous, token) pairs."""
    codes = np.array(sorted({(a << 32) | b for a, b in pairs}), dtype=np.uint64)
    return {"enabled": True, "n0": 4.0, "common": 0.3, "window": 8, "groups": [{"name": "", "prior": 0.1, "lo": 0.2, "hi": 0.6}],
            "pairs": codes, "is_common": np.zeros(len(codes), np.uint8), "pair_groups": None} | changes
