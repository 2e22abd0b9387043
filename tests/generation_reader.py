"""Reads a published memory by docs/formats.md alone: what the Python hosts are held to, and a check of that page."""

import json
import pathlib
import struct

import numpy as np

RULES = ("mean_similarity", "max_similarity", "mean_kernel", "aggregate")
VALUE_KINDS = ("delta", "logits", "assignments")
SECTIONS = {2: ("mean", "<f4"), 3: ("projection", "<f4"), 4: ("codes", "i1"), 5: ("code_scales", "<f4"), 6: ("values", "i1"),
            7: ("value_scales", "<f4"), 8: ("references", "<u4"), 9: ("router_delta", "<f4"), 10: ("token_table", "i1"),
            11: ("token_table_scales", "<f4"), 12: ("layer_numbers", "<i4"), 13: ("name_offsets", "<u8"),
            14: ("names", "u1"), 15: ("pairs", "<u8"), 16: ("is_common", "u1"),
            18: ("next_tokens", "<i4"), 19: ("ramps", "<f4"), 20: ("pair_groups", "<u2"), 21: ("token_ids", "<u4")}
VECTORS = ("mean", "code_scales", "value_scales", "token_table_scales", "layer_numbers", "name_offsets", "names", "pairs", "is_common",
           "next_tokens", "pair_groups", "token_ids")


def read_sections(path):
    data = path.read_bytes()
    magic, version, _, _, size, _, count = struct.unpack_from("<8sIIQQQI", data)
    assert magic == b"PTMNDRV\n" and version == 3 and size == len(data)
    arrays = {}
    for index in range(count):
        kind, element, offset, rows, columns = struct.unpack_from("<IIQQQ", data, 64 + 32 * index)
        raw = data[offset:offset + element * rows * columns]
        if kind == 1:
            arrays["parameters"] = raw
        elif kind in SECTIONS:
            name, dtype = SECTIONS[kind]
            array = np.frombuffer(raw, dtype)
            arrays[name] = array if name in VECTORS else array.reshape(rows, -1)
    return arrays


class GenerationReader:
    """What pointsman.Memory gives."""

    def __init__(self, directory):
        directory = pathlib.Path(directory)
        self.manifest = json.loads((directory / "MANIFEST.json").read_text())
        folder = directory / f"derived/gen-{self.manifest['generation']:03}"
        documents = read_sections(folder / "documents.bin")
        kind, value_kind, self.top_k, _ = struct.unpack_from("<IIII", documents["parameters"])
        self.kind, self.value_kind = ("entries", "prototypes")[kind], VALUE_KINDS[value_kind]
        self.layers = documents["layer_numbers"].tolist()
        gate = read_sections(folder / "gate.bin")
        enabled, n0, prior, common, lo, hi, window = struct.unpack_from("<IfffffI", gate["parameters"])
        groups = [{"name": "", "prior": prior, "lo": lo, "hi": hi}]
        if "ramps" in gate:
            ends = gate["name_offsets"].tolist()
            names = [gate["names"].tobytes()[begin:end].decode() for begin, end in zip(ends, ends[1:])]
            groups = [{"name": name, "prior": p, "lo": l, "hi": h} for name, (p, l, h) in zip(names, gate["ramps"].reshape(-1, 3).tolist())]
        self.gate = {"enabled": bool(enabled), "n0": n0, "common": common, "window": window, "groups": groups,
                     "pairs": gate.get("pairs", np.zeros(0, np.uint64)), "is_common": gate.get("is_common", np.zeros(0, np.uint8)),
                     "pair_groups": gate.get("pair_groups")}
        self._tables = {layer: self._layer(folder / f"layer-{layer:03}.bin") for layer in self.layers}

    def _layer(self, path):
        arrays = read_sections(path)
        _, self.experts, self.hidden_size, _, _, _, k, tau, tau2, scale, rule, _ = struct.unpack("<iIIIQQifffII", arrays.pop("parameters"))
        return arrays | {"k": k, "tau": tau, "tau2": tau2, "scale": scale, "confidence": RULES[rule]}

    def tables(self, layer):
        return self._tables[layer]
