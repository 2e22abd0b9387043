"""Collects the reference model's text, splits it, trains its tokenizer and writes token files.

    python tools/reference_model/prepare.py --out build/reference_model

Reads files of installed Debian documentation packages (`--help` lists them) and of the Python standard library.
Writes to --out: tokenizer.json (byte-level BPE), train.npy and heldout.npy (uint16 token ids, one document after
another, each closed by <|endoftext|>), sources.json (per package: version, licence, files, bytes, tokens).

Held out: a file whose name (the path from the package's folder on) hashes into the first 1/16 of SHA-256.
`heldout.py` is that rule; the quick start uses it to find text of the trained kind that the model has not seen.
"""

import argparse
import gzip
import html.parser
import json
import pathlib
import re
import subprocess

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from heldout import is_held_out

VOCABULARY = 4096
END_OF_TEXT = "<|endoftext|>"

# package -> (licence, file name patterns). C++ headers and GSM8K are in none of them.
PACKAGES = {
    "linux-doc-6.1": ("GPL-2.0", r"/Documentation/.*\.rst\.gz$|/Documentation/.*/ABI/.*\.gz$|/Documentation/.*\.txt\.gz$"),
    "python3.11-doc": ("PSF-2.0", r"/_sources/.*\.rst\.txt$"),
    "postgresql-doc-15": ("PostgreSQL", r"/html/.*\.html$"),
    "git-doc": ("GPL-2.0", r"\.txt$"),
    "bash-doc": ("GFDL-1.3", r"/bashref\.html$|\.txt(\.gz)?$"),
    "perl-doc": ("Artistic or GPL-1+", r"\.pod$"),
    "libpython3.11-stdlib": ("PSF-2.0", r"/usr/lib/python3\.11/.*\.py$"),
    "libpython3.11-minimal": ("PSF-2.0", r"/usr/lib/python3\.11/.*\.py$"),
}


class HtmlText(html.parser.HTMLParser):
    """The text of a page: tags dropped, blocks on their own lines, scripts and navigation left out."""

    BLOCKS = {"p", "div", "li", "tr", "pre", "h1", "h2", "h3", "h4", "h5", "dt", "dd", "br", "table"}

    def __init__(self):
        super().__init__()
        self.parts, self.skipped = [], 0

    def handle_starttag(self, tag, attrs):
        if tag in ("script", "style", "head") or (tag == "div" and dict(attrs).get("class", "").startswith("nav")):
            self.skipped += tag != "div"
        if tag in self.BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag):
        if tag in ("script", "style", "head"):
            self.skipped -= 1

    def handle_data(self, data):
        if not self.skipped:
            self.parts.append(data)


def read_text(path: pathlib.Path) -> str | None:
    """The file's text, or None where it is not UTF-8 or too short to learn from."""
    raw = gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if ".html" in path.name:
        parser = HtmlText()
        parser.feed(text)
        text = re.sub(r"\n[ \t]*\n\s*\n", "\n\n", "".join(parser.parts)).strip() + "\n"
    return text if len(text) >= 200 else None


def package_files(package: str, pattern: str) -> list[pathlib.Path]:
    listed = subprocess.run(["dpkg", "-L", package], capture_output=True, text=True, check=True).stdout.split("\n")
    paths = sorted({pathlib.Path(line) for line in listed if re.search(pattern, line)})
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def version_of(package: str) -> str:
    return subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True).stdout


def train_tokenizer(texts) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # GPT-2's pattern, as OLMoE's
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.epilog = "packages: " + " ".join(PACKAGES)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    missing = [package for package in PACKAGES if not version_of(package)]
    if missing:
        parser.error(f"these packages are not installed: {' '.join(missing)}; install them with apt")
    args.out.mkdir(parents=True, exist_ok=True)

    train, heldout, sources, seen = [], [], {}, set()
    for package, (licence, pattern) in PACKAGES.items():
        entry = {"version": version_of(package), "licence": licence, "files": 0, "bytes": 0}
        for path in package_files(package, pattern):
            text = read_text(path)
            if text is None or hash(text) in seen:  # the same file under two names teaches nothing twice
                continue
            seen.add(hash(text))
            entry["files"] += 1
            entry["bytes"] += len(text.encode())
            (heldout if is_held_out(path) else train).append((package, text))
        sources[package] = entry
        print(package, entry, flush=True)

    sample = [text for _, text in train if len(text) < 400_000][::2]  # half of the files teach the merges as well as all
    tokenizer = train_tokenizer(sample)
    tokenizer.save(str(args.out / "tokenizer.json"))
    end = tokenizer.token_to_id(END_OF_TEXT)
    for name, documents in (("train", train), ("heldout", heldout)):
        encoded = tokenizer.encode_batch([text for _, text in documents], add_special_tokens=False)
        ids = [np.array(e.ids + [end], dtype=np.uint16) for e in encoded]
        for (package, _), document in zip(documents, ids):
            key = f"{name}_tokens"
            sources[package][key] = sources[package].get(key, 0) + len(document)
        order = np.random.default_rng(0).permutation(len(ids))
        tokens = np.concatenate([ids[i] for i in order])
        np.save(args.out / f"{name}.npy", tokens)
        print(name, len(documents), "documents", len(tokens), "tokens", flush=True)
    (args.out / "sources.json").write_text(json.dumps(sources, indent=1))


if __name__ == "__main__":
    main()
