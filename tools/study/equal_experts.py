#!/usr/bin/env python3
"""A model whose experts are all equal, so that routing cannot choose: every expert of a layer becomes its expert 0.

    .venv/bin/python tools/study/equal_experts.py models/reference build/equal-experts [--renormalize]

Where the model does not renormalize its top-k weights (norm_topk_prob false), routing still scales a layer's output;
--renormalize sets norm_topk_prob, and nothing is left to learn.
"""

import argparse
import json
import pathlib
import re
import shutil
import sys


def make_equal_experts(source, target, renormalize=False):
    try:
        from safetensors.torch import load_file, save_file
    except ImportError:
        sys.exit("equal_experts.py: safetensors is not installed: run tools/setup study, then this again with .venv/bin/python")

    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.suffix == ".json":
            shutil.copy(path, target / path.name)
    for path in source.glob("*.safetensors"):
        weights = load_file(path)
        for name in weights:
            first = re.sub(r"\.experts\.\d+\.", ".experts.0.", name)
            weights[name] = weights[first].clone()
        save_file(weights, target / path.name, metadata={"format": "pt"})
    if renormalize:
        config = json.loads((target / "config.json").read_text())
        config["norm_topk_prob"] = True
        (target / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("target", type=pathlib.Path)
    parser.add_argument("--renormalize", action="store_true")
    options = parser.parse_args()
    make_equal_experts(options.source, options.target, options.renormalize)


if __name__ == "__main__":
    main()
