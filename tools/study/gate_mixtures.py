#!/usr/bin/env python3
"""What the gate does to texts that are mixed on purpose: a memory's own test documents and unrelated ones in turn.

    .venv/bin/python tools/study/gate_mixtures.py --model models/reference --memory MEM \\
        --domain /usr/include/boost /usr/include/c++/12 --unrelated build/unrelated

Windows of the model's context are made of blocks, `unrelated/domain` tokens long, in turn (`0/128/128/0`: the domain's
first). A row has the mean openness G and the change of the loss by the memory, with its 95 % interval over windows, on the
unrelated tokens (what the gate has to prevent) and on the domain's (what it costs to prevent it). Only documents that
neither trained nor calibrated the memory are used: those of its test split and of the part of the unrelated text that
measures damage, by hash.
"""

import argparse
import hashlib
import pathlib
import sys

PATTERNS = ("256/0", "4/4", "16/16", "64/64", "128/128", "0/128/128/0", "24/8", "56/8", "112/16", "0/256")


def held_out(paths, hashes):
    """The texts below `paths` that a manifest names."""
    files = (f for path in paths for f in ([path] if path.is_file() else sorted(path.rglob("*"))) if f.is_file())
    contents = (f.read_bytes() for f in files)
    return [c.decode("utf-8", errors="replace") for c in contents if hashlib.sha256(c).hexdigest() in hashes]


class Stream:
    """Tokens of documents in turn, from a piece of each, so that no document fills many windows."""

    def __init__(self, documents, piece):
        self.pieces = [d[begin:begin + piece] for begin in range(0, max(map(len, documents)), piece) for d in documents
                       if len(d) >= begin + piece]
        self.next = 0

    def piece(self):
        self.next += 1
        return self.pieces[(self.next - 1) % len(self.pieces)]


def mix(unrelated, domain, blocks, context):
    """Tokens of one window, and which of them are unrelated. A window has one piece of each text, read on block by block."""
    pieces, places, tokens, is_unrelated = (unrelated.piece(), domain.piece()), [0, 0], [], []
    while len(tokens) < context:
        for i, length in enumerate(blocks):
            kind = i % 2
            take = pieces[kind][places[kind]:places[kind] + length]
            places[kind] += length
            tokens += take
            is_unrelated += [kind == 0] * len(take)
    return tokens[:context], is_unrelated[:context]


def interval(torch, values, weights):
    """Mean over tokens and 95 % over windows (ratio estimator)."""
    total = weights.sum()
    if total == 0:
        return "-"
    mean = (values.sum() / total).item()
    spread = (values - mean * weights).square().sum().sqrt().item() / total.item()
    return f"{mean:+.4f} [{mean - 1.96 * spread:+.4f}, {mean + 1.96 * spread:+.4f}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--memory", type=pathlib.Path, required=True)
    parser.add_argument("--domain", type=pathlib.Path, nargs="+", required=True, help="where the memory's corpus lies")
    parser.add_argument("--unrelated", type=pathlib.Path, nargs="+", required=True, help="where its unrelated text lies")
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--patterns", nargs="+", default=PATTERNS, metavar="UNRELATED/DOMAIN")
    options = parser.parse_args()
    import tokenizers
    import torch
    import transformers

    import pointsman

    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    tokenizer = tokenizers.Tokenizer.from_file(str(options.model / "tokenizer.json"))
    context, end = model.config.max_position_embeddings, model.config.eos_token_id
    memory = pointsman.Memory.open(options.memory)
    texts = [[tokenizer.encode(t, add_special_tokens=False).ids for t in held_out(paths, set(memory.manifest[name]))]
             for paths, name in ((options.domain, "test_sha256"), (options.unrelated, "damage_sha256"))]
    print(f"{len(texts[0])} test documents, {len(texts[1])} unrelated ones; {options.windows} windows of {context} tokens", flush=True)
    if not all(any(len(d) >= context for d in part) for part in texts):
        sys.exit("gate_mixtures.py: no document of a window's length; are --domain and --unrelated what the memory was built with?")

    @torch.no_grad()
    def losses(inputs, targets):
        parts = [torch.nn.functional.cross_entropy(model(input_ids=i, use_cache=False).logits.transpose(1, 2), t, reduction="none")
                 for i, t in zip(inputs.split(10), targets.split(10))]
        return torch.cat(parts).double()

    def openness(rows):
        router, gates = pointsman.Router(), []
        for row in rows.tolist():
            slot = router.add_slot(memory)
            gates.append(torch.from_numpy(router.begin_step([slot] * len(row), range(len(row)), row).gate.copy()))
            router.release_slot(slot)
        return torch.stack(gates).double()

    print("| unrelated/domain | G, unrelated tokens | their change, 95 % | G, domain tokens | their change, 95 % |\n| --- | --- | --- | --- | --- |")
    for pattern in options.patterns:
        blocks = tuple(map(int, pattern.split("/")))
        streams = Stream(texts[1], context), Stream(texts[0], context)
        mixed = [mix(*streams, blocks, context) for _ in range(options.windows)]
        targets = torch.tensor([tokens for tokens, _ in mixed])
        inputs = torch.cat([torch.full((len(targets), 1), end), targets[:, :-1]], 1)
        unrelated = torch.tensor([flags for _, flags in mixed]).double()
        gate, frozen = openness(inputs), losses(inputs, targets)
        with pointsman.attach(model, options.memory):
            change = losses(inputs, targets) - frozen
        cells = [pattern]
        for chosen in (unrelated, 1 - unrelated):
            count = chosen.sum(1)
            cells.append(f"{(gate * chosen).sum().item() / count.sum().item():.2f}" if count.sum() else "-")
            cells.append(interval(torch, (change * chosen).sum(1), count))
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
