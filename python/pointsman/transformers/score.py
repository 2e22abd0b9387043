"""Nats per token with and without a memory, in the runtime's windows: what `pointsman eval` says, said by transformers.

    python -m pointsman.transformers.score --model DIR --memory MEM --corpus PATH... [--dtype bfloat16] [--json]

A document is [end-of-text] + its tokens, cut into pieces of the model's context; each piece is a sequence of its own
and every token is predicted once (indexer/windows.h)."""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from contextlib import nullcontext
from typing import Any, Callable, Iterable, Sequence

import torch



def windows(tokens: Sequence[int], end_of_text: int, context: int) -> list[tuple[list[int], list[int]]]:
    """(inputs, targets) of every window."""
    inputs = [end_of_text, *tokens[:-1]]
    return [(list(inputs[begin:begin + context]), list(tokens[begin:begin + context])) for begin in range(0, len(tokens), context)]


@torch.no_grad()
def mean_nll(model: Any, documents: Iterable[Sequence[int]], end_of_text: int, context: int) -> tuple[float, int]:
    """Nats per token over all documents, and how many tokens. One window at a time: padding cannot play a part."""
    total, count = 0.0, 0
    for tokens in documents:
        for inputs, targets in windows(tokens, end_of_text, context):
            logits = model(input_ids=torch.tensor([inputs], device=model.device), use_cache=False).logits[0].float()
            wanted = torch.tensor(targets, device=logits.device)
            total += torch.nn.functional.cross_entropy(logits, wanted, reduction="none").double().sum().item()
            count += len(targets)
    return total / max(count, 1), count


def compare(model: Any, documents: Sequence[Sequence[int]], attach: Callable[[], Any], end_of_text: int,
            context: int) -> dict[str, Any]:
    """`attach()` attaches the memory; what it returns ends that at the end of a `with`."""
    frozen, tokens = mean_nll(model, documents, end_of_text, context)
    with attach() as adapted:
        memory, _ = mean_nll(model, documents, end_of_text, context)
        counters = adapted.counters() if adapted is not None else {}
    return {"documents": len(documents), "tokens": tokens, "frozen_nll": frozen, "memory_nll": memory, "gain": memory - frozen,
            "counters": counters}


def read_documents(paths: Sequence[str], tokenizer: Any) -> list[list[int]]:
    files = [file for path in map(pathlib.Path, paths)
             for file in (sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path])]
    texts = (file.read_text(encoding="utf-8", errors="replace") for file in files)
    return [ids for ids in (tokenizer.encode(text, add_special_tokens=False).ids for text in texts) if ids]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="pointsman.transformers.score", description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", required=True, help="the model's directory")
    parser.add_argument("--memory", help="a memory that was built for this model; none = frozen twice")
    parser.add_argument("--corpus", required=True, nargs="+", help="files or folders of text")
    parser.add_argument("--context", type=int, default=0, help="tokens of a window at most; 0 = the model's, as `pointsman eval`")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--engine", default="auto", choices=("auto", "core", "torch"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)

    import tokenizers
    import transformers

    from . import attach

    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype)).to(options.device).eval()
    tokenizer = tokenizers.Tokenizer.from_file(str(pathlib.Path(options.model) / "tokenizer.json"))
    context = options.context or model.config.max_position_embeddings
    end = model.generation_config.eos_token_id
    end = end[0] if isinstance(end, list) else end or 0
    start = (lambda: attach(model, options.memory, engine=options.engine)) if options.memory else nullcontext
    report = compare(model, read_documents(options.corpus, tokenizer), start, end, context)
    if options.json:
        json.dump(report, sys.stdout)
        print()
    else:
        print(f"{report['documents']} documents, {report['tokens']} tokens: frozen {report['frozen_nll']:.4f}, with the memory "
              f"{report['memory_nll']:.4f} nats per token, gain {report['gain']:+.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
