#!/usr/bin/env python3
"""A multiple-choice task from text that is on the machine: which of four lines comes next in this file?

    tools/study/make_choice_task.py --root /usr/include/c++/12 --train build/choice_train --out build/choice.jsonl

Each item is a place in a held-out file: some lines before it are the prompt, the true next line is one choice, and three
lines of other held-out files, of about the same length, are the others. Files are held out by a hash of their name, and
the files that are left are copied (linked) to --train, for `pointsman build --corpus`. Lines that say nothing (blank,
punctuation, comments) and lines that several files share are never a choice. The same arguments give the same task.
"""

import argparse
import hashlib
import json
import pathlib
import random
import re


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=pathlib.Path, required=True, help="folder of text files")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the task: one JSON object a line")
    parser.add_argument("--train", type=pathlib.Path, required=True, help="folder for links to the files that are not held out")
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--lines", type=int, default=12, help="lines of the prompt at most")
    parser.add_argument("--prompt-bytes", type=int, default=500, help="bytes of the prompt at most, from its end")
    parser.add_argument("--held-out", type=float, default=0.3, help="share of the files")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def number(seed, name):
    """In [0, 1), from the seed and a name."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") / 2**64


def readable(path):
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return text if "\0" not in text and 1_000 < len(text) < 200_000 else None


def is_choice(line):
    words = re.findall(r"[A-Za-z_]{2,}", line)
    return 15 <= len(line) <= 100 and len(words) >= 3 and not re.match(r"\s*(//|/?\*|#)", line)


def main():
    options = arguments()
    texts = {}
    for path in sorted(options.root.rglob("*")):
        if path.is_file() and not path.is_symlink() and (text := readable(path)) is not None:
            texts[path.relative_to(options.root).as_posix()] = text
    held_out = [name for name in texts if number(options.seed, name) < options.held_out]
    options.train.mkdir(parents=True, exist_ok=True)
    for name in texts.keys() - set(held_out):
        link = options.train / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(options.root / name)

    files_with = {}  # a line without its indentation -> files
    for name, text in texts.items():
        for line in set(map(str.strip, text.splitlines())):
            files_with.setdefault(line, set()).add(name)
    lines_of = {name: texts[name].splitlines() for name in held_out}
    places = []  # (file, number of the line, the line)
    for name, lines in lines_of.items():
        places += [(name, i, line) for i, line in enumerate(lines)
                   if i >= 4 and is_choice(line) and len(files_with[line.strip()]) == 1]
    places.sort(key=lambda place: number(options.seed, f"{place[0]}:{place[1]}"))
    chosen, taken = [], {}
    for name, i, _ in places:  # at most three places of a file
        if len(chosen) < options.items and taken.setdefault(name, 0) < 3:
            taken[name] += 1
            chosen.append((name, i))

    generator = random.Random(options.seed)
    with open(options.out, "w", encoding="utf-8") as out:
        for name, i in chosen:
            lines = lines_of[name]
            true = lines[i]
            rivals = [line for other, _, line in places
                      if other != name and abs(len(line) - len(true)) <= 8 and line.strip() != true.strip()]
            if len(rivals) < 3:
                continue
            choices = [true, *generator.sample(rivals, 3)]
            generator.shuffle(choices)
            prompt = "\n".join(lines[max(0, i - options.lines):i])[-options.prompt_bytes:] + "\n"
            row = {"prompt": prompt, "choices": [c + "\n" for c in choices], "answer": choices.index(true), "file": name}
            out.write(json.dumps(row) + "\n")
    print(f"{len(chosen)} items from {len(taken)} of {len(held_out)} held-out files; {len(texts) - len(held_out)} files to train on")


if __name__ == "__main__":
    main()
