"""Logits of programs that read token ids and write raw fp32: pointsman_llama_probe, and our runtime's pointsman_logits."""

import os
import subprocess

import numpy as np


def run(program, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("POINTSMAN_")}
    return subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True, timeout=300,
                          env=environment | {"OMP_NUM_THREADS": "1"})


def run_ok(program, *arguments):
    done = run(program, *arguments)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done


class Texts:
    """Sequences of token ids and what an engine makes of them. `targets`: the token after each row that counts; by default each
    sequence's own next one."""

    def __init__(self, folder, sequences, vocabulary, targets=None):
        self.folder, self.sequences, self.vocabulary = folder, sequences, vocabulary
        self.targets = targets or [ids[1:] for ids in sequences]
        (folder / "ids.txt").write_text("".join(" ".join(map(str, ids)) + "\n" for ids in sequences))

    def ask(self, program, model, *arguments):
        """Logits [T, V] of each sequence, and its greedy continuation if there is one."""
        out = self.folder / "logits.bin"
        done = run_ok(program, model, self.folder / "ids.txt", out, *arguments)
        flat = np.fromfile(out, dtype=np.float32).reshape(-1, self.vocabulary)
        ends = np.cumsum([len(ids) for ids in self.sequences])
        return np.split(flat, ends[:-1]), [list(map(int, line.split())) for line in done.stdout.splitlines()]

    def nll(self, logits):
        """Nats of every target."""
        values = []
        for wanted, rows in zip(self.targets, logits):
            rows = rows[:len(wanted)].astype(np.float64)
            peak = rows.max(-1)
            total = peak + np.log(np.exp(rows - peak[:, None]).sum(-1))
            values.append(total - rows[np.arange(len(wanted)), wanted])
        return np.concatenate(values)


def same_bits(a, b):
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b))
