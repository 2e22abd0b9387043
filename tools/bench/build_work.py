"""What both baselines of `pointsman bench build` share: the work order, the memory that comes out, the answer.

The work order is one JSON file written by the command: the token windows (the tokenizer is not what is measured), the
order of the training steps and every constant, so that all sides do the same steps. A script prints one JSON line:
seconds of everything between the loaded model and the finished arrays, and the losses that tell whether the values are
the same. Loading the model, and the loss of the finished values on the reference text, are outside of the clock.
"""

import dataclasses
import json
import sys
import time

import numpy as np
import torch


@dataclasses.dataclass
class Window:
    """Targets that do not count have mask 0; the loss is a sum over the others."""

    inputs: torch.Tensor  # [n] int64
    targets: torch.Tensor  # [n] int64
    mask: torch.Tensor  # [n] float32


@dataclasses.dataclass
class Work:
    model: str
    threads: int
    values: str  # "prototypes": trained through the loss; "knn": each token's own logits
    reference: list[Window]
    held_out: list[Window]
    settings: dict
    plan: list[list[list[int]]]  # by epoch, by step: indices of `reference`

    @property
    def tokens(self):
        return sum(len(window.inputs) for window in self.reference)


def _windows(rows):
    return [Window(torch.tensor(row["inputs"]), torch.tensor(row["targets"]),
                   torch.tensor(row["mask"], dtype=torch.float32)) for row in rows]


def read_work(path):
    with open(path) as file:
        order = json.load(file)
    torch.set_num_threads(order["threads"])
    torch.manual_seed(order["settings"]["seed"])
    return Work(order["model"], order["threads"], order["values"], _windows(order["reference"]),
                _windows(order["held_out"]), order["settings"], order["plan"])


class Clock:
    """Wall time and the processor time of all threads of this process."""

    def __init__(self):
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self):
        return {"seconds": time.perf_counter() - self.wall, "cpu_seconds": time.process_time() - self.cpu}


def quantize_rows(rows):
    """Symmetric int8 codes with one scale a row, as a memory stores keys and values."""
    scales = np.abs(rows).max(axis=1, keepdims=True) / 127.0
    return np.round(rows / np.maximum(scales, 1e-30)).astype(np.int8), scales[:, 0]


def answer(work, spent, **losses):
    json.dump({"tokens": work.tokens, **spent, **losses}, sys.stdout)
    sys.stdout.write("\n")


def linear_decay(optimizer, rates, done):
    """Learning rates at the share `done` of all steps."""
    for group, rate in zip(optimizer.param_groups, rates):
        group["lr"] = rate * (1 - done)
