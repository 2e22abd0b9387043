"""The loss curve as an SVG: no plotting library, the same bytes for the same log, legible on light and dark pages."""

from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 52, 128, 64, 44  # margins around the plot; the right one holds the lines' labels
LOW, HIGH = 2, 8  # nats per token; an untrained model starts at ln(4096) = 8.3

STYLE = """
  text { font: 13px -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #24292f }
  .page { fill: #ffffff } .soft { fill: #57606a } .grid { stroke: #d8dee4 } .mark { stroke: #8c959f; stroke-dasharray: 4 4 }
  .title { font-size: 15px; font-weight: 600 }
  .train { stroke: #0969da } .heldout { stroke: #bc4c00 } .trainText { fill: #0969da } .heldoutText { fill: #bc4c00 }
  .dot { fill: #bc4c00 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .page { fill: #0d1117 } .soft { fill: #9198a1 } .grid { stroke: #30363d } .mark { stroke: #6e7681 }
    .train { stroke: #58a6ff } .heldout { stroke: #f0883e } .trainText { fill: #58a6ff } .heldoutText { fill: #f0883e }
    .dot { fill: #f0883e }
  }
"""


def loss_curve(log: list[dict], notes: list[dict]) -> str:
    """The SVG of log.jsonl's lines, with a dashed line where a note of notes.json has a mark."""
    millions = max(1, -(-log[-1]["tokens"] // 1_000_000))
    step = max(1, round(millions / 6))

    def x(tokens):
        return LEFT + (WIDTH - LEFT - RIGHT) * tokens / (millions * 1_000_000)

    def y(loss):
        return TOP + (HEIGHT - TOP - BOTTOM) * (HIGH - min(max(loss, LOW), HIGH)) / (HIGH - LOW)

    def text(at_x, at_y, words, kind="soft", anchor="start"):
        return f'<text x="{at_x:.1f}" y="{at_y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'

    def line(x1, y1, x2, y2, kind):
        return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'

    heldout = [entry for entry in log if "held_out" in entry]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">',
        "<title>Loss of the reference model against tokens seen</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
        text(LEFT, 28, "Loss of the reference model", "title"),
        text(LEFT, 48, "nats per token"),
        text(WIDTH - RIGHT, HEIGHT - 8, "million tokens seen", anchor="end"),
    ]
    for loss in range(LOW, HIGH + 1):
        parts += [line(LEFT, y(loss), WIDTH - RIGHT, y(loss), "grid"), text(LEFT - 10, y(loss) + 4, str(loss), anchor="end")]
    for tick in range(0, millions + 1, step):
        parts.append(text(x(tick * 1_000_000), HEIGHT - BOTTOM + 20, str(tick), anchor="middle"))
    for note in notes:
        if "mark" in note:
            parts += [line(x(note["tokens"]), TOP, x(note["tokens"]), HEIGHT - BOTTOM, "mark"),
                      text(x(note["tokens"]) + 6, TOP + 14, note["mark"])]
    for key, kind, entries in (("loss", "train", log), ("held_out", "heldout", heldout)):
        points = " ".join(f'{x(entry["tokens"]):.1f},{y(entry[key]):.1f}' for entry in entries)
        parts.append(f'<polyline points="{points}" class="{kind}" fill="none" stroke-width="2" stroke-linejoin="round"/>')
    parts += [f'<circle cx="{x(entry["tokens"]):.1f}" cy="{y(entry["held_out"]):.1f}" r="3" class="dot"/>' for entry in heldout]
    end = x(log[-1]["tokens"]) + 10
    last, last_heldout = y(log[-1]["loss"]), y(heldout[-1]["held_out"])
    below = max(last, last_heldout + 17)  # one line of text apart
    parts += [text(end, last_heldout + 1, f'held out {heldout[-1]["held_out"]:.2f}', "heldoutText"),
              text(end, below + 1, f'training {log[-1]["loss"]:.2f}', "trainText"), "</svg>"]
    return "\n".join(parts) + "\n"
