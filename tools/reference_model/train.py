"""Trains the reference model on the token files that prepare.py wrote. Resumable: run it again after an interruption.

    OMP_NUM_THREADS=1 python tools/reference_model/train.py --data build/reference_model --processes 2

Writes checkpoint.pt (weights, optimiser, position) every --save-every steps and log.jsonl (loss, held-out loss,
balance, expert load) in --data. Each process is single-threaded and takes its share of every batch; gradients are
averaged in shared memory. Set MALLOC_MMAP_THRESHOLD_=4294967296 and MALLOC_TRIM_THRESHOLD_=8589934592 for glibc to keep
its pages (twice as fast here).
"""

import argparse
import json
import os
import pathlib
import time

import numpy as np
import torch

from model import Config, Olmoe

BATCH, CONTEXT = 16, 256
PEAK_LR, WARMUP_STEPS, DECAY_FROM = 3e-3, 150, 0.55  # constant, then linear to zero over the last 45 % of the tokens
BALANCE_WEIGHT = 0.1  # of the mean over layers: 0.017 a layer; at 0.01 six experts of layer 0 starved


def batches(tokens, seed):
    """Endless [B, T+1] windows: each epoch covers every window once, from a fresh offset, in a fresh order."""
    generator = np.random.default_rng(seed)
    while True:
        offset = int(generator.integers(0, CONTEXT))
        windows = (len(tokens) - offset - 1) // CONTEXT
        order = generator.permutation(windows)
        for i in range(0, windows - BATCH + 1, BATCH):
            starts = offset + order[i : i + BATCH] * CONTEXT
            yield np.stack([tokens[s : s + CONTEXT + 1] for s in starts]).astype(np.int64)


def learning_rate(step, total):
    if step < WARMUP_STEPS:
        return PEAK_LR * (step + 1) / WARMUP_STEPS
    decay = (1 - step / total) / (1 - DECAY_FROM)
    return PEAK_LR * min(1.0, decay)


@torch.no_grad()
def held_out_loss(model, tokens, count=12):
    stride = (len(tokens) - CONTEXT - 1) // (count * BATCH)
    starts = np.arange(count * BATCH) * stride
    rows = torch.from_numpy(np.stack([tokens[s : s + CONTEXT + 1] for s in starts]).astype(np.int64))
    losses, load = [], torch.zeros(len(model.layers), model.config.num_experts)
    for i in range(0, len(rows), BATCH):
        losses.append(model(rows[i : i + BATCH, :-1], rows[i : i + BATCH, 1:]).item())
        load += torch.stack([layer.mlp.share for layer in model.layers])
    return float(np.mean(losses)), (load / count)


def average(tensors, rank, shared, barrier):
    """Each tensor becomes its mean over the processes, in place. shared is one row of numbers a process."""
    sizes = [tensor.numel() for tensor in tensors]
    for tensor, part in zip(tensors, shared[rank].split(sizes)):
        part.copy_(tensor.view(-1))
    barrier.wait()
    for tensor, parts in zip(tensors, shared.split(sizes, dim=1)):
        torch.mean(parts, 0, out=tensor.view(-1))
    barrier.wait()


def train(rank, args, shared, barrier):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tokens = np.load(args.data / "train.npy", mmap_mode="r")
    heldout = np.load(args.data / "heldout.npy", mmap_mode="r")
    model = Olmoe(Config())
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.05},
         {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0}],
        betas=(0.9, 0.97),
        fused=True,
    )
    total, first = args.tokens // (BATCH * CONTEXT) + 1, 0
    checkpoint = args.data / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        print(f"resumed at step {first} of {total}", flush=True)
    source, started, recent = batches(tokens, seed=0), time.time(), []
    for _ in range(first):
        next(source)
    for step in range(first, total):
        rows = torch.from_numpy(next(source)[rank :: args.processes])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, total)
        loss = model(rows[:, :-1], rows[:, 1:])
        (loss + BALANCE_WEIGHT * model.balance()).backward()
        seen = torch.stack([loss.detach(), model.balance().detach()])
        if args.processes > 1:
            average([p.grad for p in parameters] + [seen], rank, shared, barrier)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent.append(seen[0].item())
        done = step + 1
        if rank == 0 and (done % 50 == 0 or done == total):
            line = {"step": done, "tokens": done * BATCH * CONTEXT, "loss": float(np.mean(recent)),
                    "balance": seen[1].item(), "tokens_per_s": len(recent) * BATCH * CONTEXT / (time.time() - started)}
            if done % args.save_every == 0 or done == total:
                line["held_out"], load = held_out_loss(model, heldout)
                line["load_min"], line["load_max"] = load.min().item(), load.max().item()
                if done == total:
                    line["load"] = load.tolist()
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": done}
                torch.save(state, checkpoint.with_suffix(".tmp"))
                os.replace(checkpoint.with_suffix(".tmp"), checkpoint)
            with open(args.data / "log.jsonl", "a") as log:
                print(json.dumps(line), file=log)
            print(line, flush=True)
            recent, started = [], time.time()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--tokens", type=int, default=20_500_000)
    parser.add_argument("--processes", type=int, default=1, choices=[1, 2, 4, 8, 16])
    parser.add_argument("--save-every", type=int, default=250)
    args = parser.parse_args()
    shared = torch.zeros(args.processes, sum(p.numel() for p in Olmoe(Config()).parameters()) + 2).share_memory_()
    barrier = torch.multiprocessing.get_context("spawn").Barrier(args.processes)
    torch.multiprocessing.spawn(train, (args, shared, barrier), nprocs=args.processes)


if __name__ == "__main__":
    main()
