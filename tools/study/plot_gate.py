#!/usr/bin/env python3
"""Gain against damage along the gate's quantiles, as a picture: what `pointsman_study --gate-curve` printed.

    tools/setup study
    build/release/pointsman_study --model models/reference --corpus /usr/include/boost /usr/include/c++/12 \\
        --off-domain build/unrelated --gate-curve > build/headers.jsonl
    .venv/bin/python tools/study/plot_gate.py --out docs/gate_curve.svg "C++ headers=build/headers.jsonl"

One column a file, of its first configuration; one line for each weight of the prior (n0). A point is a quantile of the
unrelated text's evidence at which the ramp begins. Above: the damage there; below: how much of it stays untouched.
"""

import argparse
import json
import pathlib
import sys

try:
    import matplotlib
except ImportError:
    sys.exit("plot_gate.py: matplotlib is not installed: run tools/setup study, then .venv/bin/python tools/study/plot_gate.py")
matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402

DAMAGE_BOUND = 0.002
UNTOUCHED_BOUND = 95  # % of unrelated tokens


def draw(axes, lower, name, line):
    for n0, color in zip(sorted({p["prior_tokens"] for p in line["gate_curve"]}), ("#1b6ca8", "#c2571a", "#4d7c3a")):
        points = sorted((p for p in line["gate_curve"] if p["prior_tokens"] == n0), key=lambda p: p["unrelated_quantile"])
        gain = [-p["gain"]["mean"] for p in points]
        damage = [p["damage"]["mean"] for p in points]
        upper = [max(0, p["damage"]["ci95"][1] - p["damage"]["mean"]) for p in points]
        axes.errorbar(gain, damage, yerr=[[0] * len(points), upper], marker="o", markersize=3, linewidth=1, elinewidth=0.6,
                      color=color, label=f"n0 = {n0:g}")
        untouched = [100 * p["untouched"] for p in points]
        lower.plot(gain, untouched, marker="o", markersize=3, linewidth=1, color=color)
        if n0 == 4:
            for i, place in ((0, (6, 0)), (2, (6, 0)), (4, (6, -3)), (-1, (0, -10))):
                lower.annotate(f"{points[i]['unrelated_quantile']:g}", (gain[i], untouched[i]), textcoords="offset points",
                               xytext=place, fontsize=6, color=color)
    chosen = line.get("gated")
    if chosen:
        axes.plot(-chosen["gain"]["mean"], chosen["damage"]["mean"], "k*", markersize=9, label="found by the build's search")
        lower.plot(-chosen["gain"]["mean"], 100 * chosen["untouched"], "k*", markersize=9)
    axes.axhline(DAMAGE_BOUND, color="#888888", linestyle="--", linewidth=0.8, label="asked for")
    lower.axhline(UNTOUCHED_BOUND, color="#888888", linestyle="--", linewidth=0.8)
    axes.set_title(name, fontsize=9)
    lower.set_xlabel("gain on the text (nats a token)", fontsize=8)
    for panel in (axes, lower):
        panel.axvline(-line["ungated"]["gain"]["mean"], color="#888888", linestyle=":", linewidth=0.8,
                      label="without a gate" if panel is axes else None)
        panel.tick_params(labelsize=7)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args()
    matplotlib.rcParams.update({"svg.hashsalt": "pointsman", "svg.fonttype": "none"})  # the same bytes for the same figures
    figure, panels = pyplot.subplots(2, len(options.files), figsize=(3.6 * len(options.files), 5.2), squeeze=False, sharex="col")
    for axes, lower, item in zip(panels[0], panels[1], options.files):
        name, equals, path = item.partition("=")
        if not equals:
            parser.error(f"{item}: write NAME=FILE")
        draw(axes, lower, name, json.loads(pathlib.Path(path).read_text().splitlines()[0]))
    panels[0][0].set_ylabel("damage on unrelated text, with the\nupper end of its 95 % interval", fontsize=8)
    panels[1][0].set_ylabel("unrelated tokens untouched, %\n(beside points: the quantile, n0 = 4)", fontsize=8)
    panels[0][0].legend(fontsize=6, loc="upper left", bbox_to_anchor=(0, 0.94))
    figure.tight_layout()
    figure.savefig(options.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
