#!/usr/bin/env python3
"""Gain and damage of every variant in each domain, as a picture: of the tables that tools/study/domains printed.

    tools/setup study
    .venv/bin/python tools/study/plot_domains.py docs/results.md --out docs/domains.svg

Reads a table under each line `NAME, seed N...: M test documents`, in docs/results.md or the study's own tables.md. One row
of panels a table: on the left the gain, on the right the damage on unrelated text, both with their 95 % intervals.
"""

import argparse
import pathlib
import re
import sys

TITLE = re.compile(r"^(?P<name>[^|]+, seed \d+[^|:]*): [\d,]+ test documents")
ESTIMATE = re.compile(r"([+-]?\d*\.\d+) \[([+-]?\d*\.\d+), ([+-]?\d*\.\d+)\]")
DAMAGE_BOUND = 0.002
SHOWN = 0.02  # nats of damage; what does more stands at the edge, with its number


def estimate(cell):
    """(mean, low, high), None where there is no number."""
    found = ESTIMATE.search(cell)
    return tuple(map(float, found.groups())) if found else None


def tables(text):
    """[(title, [(variant, gain, damage)])]"""
    result = []
    for line in text.splitlines():
        title = TITLE.match(line)
        if title:
            result.append((title["name"], []))
        elif result and line.startswith("|"):
            cells = [cell.strip(" *") for cell in line.strip().strip("|").split("|")]
            if len(cells) == 6 and estimate(cells[1]):
                result[-1][1].append((cells[0], estimate(cells[1]), estimate(cells[4])))
        elif result and result[-1][1] and line.strip():
            result.append(("", []))  # the table ended: others do not belong to it
    return [(title, rows) for title, rows in result if title and rows]


def color(name):
    if "memory" in name and "rewiring" not in name:
        return "#1b6ca8"
    return "#c2571a" if name in ("random_neighbours", "shuffled_values") else "#555555"


def points(axes, values, names):
    for y, (value, name) in enumerate(zip(values, names)):
        if value is None:
            axes.annotate("not measured", (0, y), fontsize=6, color="#777777", va="center", xytext=(4, 0), textcoords="offset points")
            continue
        mean, low, high = value
        axes.errorbar([mean], [y], xerr=[[max(0, mean - low)], [max(0, high - mean)]], marker="o", markersize=3, linewidth=1,
                      color=color(name))
    axes.axvline(0, color="#888888", linewidth=0.8)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="x", labelsize=7)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=pathlib.Path, help="with the tables")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args()
    found = tables(options.file.read_text())
    if not found:
        sys.exit(f"plot_domains.py: {options.file}: no line NAME, seed N: M test documents with a table of six columns under it")
    try:
        import matplotlib
    except ImportError:
        sys.exit("plot_domains.py: matplotlib is not installed: run tools/setup study, then use .venv/bin/python")
    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams.update({"svg.hashsalt": "pointsman", "svg.fonttype": "none"})  # the same bytes for the same figures
    heights = [len(rows) for _, rows in found]
    figure, panels = pyplot.subplots(len(found), 2, figsize=(8.5, 0.17 * sum(heights) + 0.9 * len(found)), squeeze=False,
                                     gridspec_kw={"height_ratios": heights, "width_ratios": (3, 2)})
    for (title, rows), (left, right) in zip(found, panels):
        names = [name for name, _, _ in rows]
        points(left, [gain for _, gain, _ in rows], names)
        left.set_title(title + ": change of the loss on the text", fontsize=8, loc="left")
        damages = [damage for _, _, damage in rows]
        inside = [d and (d if d[0] <= SHOWN else (SHOWN, SHOWN, SHOWN)) for d in damages]
        points(right, inside, names)
        for y, (damage, name) in enumerate(zip(damages, names)):
            if damage and damage[0] > SHOWN:
                right.plot([SHOWN], [y], marker=">", markersize=4, color=color(name))
                right.annotate(f"{damage[0]:+.2f}", (SHOWN, y), fontsize=6, va="center", ha="right", xytext=(-5, 0), textcoords="offset points")
        right.axvline(DAMAGE_BOUND, color="#b02020", linestyle="--", linewidth=0.8)
        right.set_xlim(-0.005, SHOWN * 1.02)
        right.set_yticklabels([])
        right.set_title("on unrelated text", fontsize=8, loc="left")
    for axes in panels[-1]:
        axes.set_xlabel("nats a token against frozen, 95 %; left of 0 is better", fontsize=7)
    figure.tight_layout()
    figure.savefig(options.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
