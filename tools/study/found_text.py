"""Pieces of text of several kinds, all found on a Debian machine with this project's packages."""

import gzip
import pathlib

PIECE_CHARACTERS = 700  # 150 to 350 tokens of the reference model
SHORTEST = 400

# kind -> (folders, glob). `headers` is what the reference model has never seen.
KINDS = {
    "headers": (["/usr/include/boost", "/usr/include/c++"], "**/*.h*"),
    "documentation": (["/usr/share/doc/git", "/usr/share/doc/python3.11", "/usr/share/doc/python3"], "**/*.txt*"),
    "prose": (["/usr/share/common-licenses", "/usr/share/doc/debian", "/usr/share/doc/debian-faq"], "**/*"),
    "python": (["/usr/lib/python3.11", "/usr/lib/python3"], "**/*.py"),
    "perl": (["/usr/share/perl", "/usr/share/perl5"], "**/*.p[lm]"),
}


def read_text(path):
    raw = path.read_bytes()
    if path.suffix == ".gz":
        raw = gzip.decompress(raw)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return ""


def files_of(kind):
    folders, pattern = KINDS[kind]
    found = {p.resolve() for folder in folders for p in pathlib.Path(folder).glob(pattern) if p.is_file()}
    return sorted(found)


def piece_of(text, rng):
    """Whole lines from anywhere in a text, so that not every piece is a file's licence."""
    lines = text.splitlines(keepends=True)
    begin = rng.randrange(len(lines))
    piece = ""
    for line in lines[begin:]:
        if len(piece) >= PIECE_CHARACTERS:
            break
        piece += line
    return piece


def pieces(kind, count, rng):
    """`count` pieces, of as many different files as there are; fewer where the machine has too little text."""
    files = files_of(kind)
    rng.shuffle(files)
    found = []
    for _ in range(20):  # several rounds: a few long files may be all that there is of a kind
        for path in files:
            if len(found) == count:
                return found
            text = read_text(path)
            piece = piece_of(text, rng) if len(text) >= SHORTEST else ""
            if len(piece) >= SHORTEST:
                found.append((f"{len(found):03d}-{path.name.removesuffix('.gz')}", piece))
    return found


def write(folder, texts):
    folder.mkdir(parents=True)
    for name, text in texts:
        (folder / name).write_text(text)


def write_pieces(folder, kind, count, rng):
    write(folder, pieces(kind, count, rng))


def write_shuffled(folder, kind, count, rng):
    """The pieces with their words in random order: the same words as often, and no text."""
    shuffled = []
    for name, text in pieces(kind, count, rng):
        words = text.split()
        rng.shuffle(words)
        shuffled.append((name, " ".join(words) + "\n"))
    write(folder, shuffled)
