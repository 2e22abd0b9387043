"""The C++ tokenizer against the Hugging Face tokenizers library: equal ids and equal decoded text.

    POINTSMAN_SEED=7 pytest tests/test_tokenizer_parity.py      another set of random texts; the seed is printed

Needs the program pointsman_tokenize (POINTSMAN_BINARY_DIR, default build/release).
"""

import json
import os
import pathlib
import random
import struct
import subprocess

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = pathlib.Path(os.environ.get("POINTSMAN_BINARY_DIR", ROOT / "build" / "release")) / "pointsman_tokenize"
SEED = int(os.environ.get("POINTSMAN_SEED", "20261123"))

QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

WRITTEN = [
    "", " ", "  ", "\n", "\r\n\r\n \t x", "a", "Hello, world!", "don't WON'T I'LL we've they'Re it\u2019s 'Sfoo 'ſ x'K",
    "The quick brown fox jumps over the lazy dog. " * 40, "a" * 5000, " " * 3000 + "x", "\n" * 700, "ab" * 3000 + "\t" * 99,
    "Привет, мир! Ёлка", "你好，世界。今天天气怎么样？", "こんにちは世界 カタカナ ｶﾀｶﾅ", "안녕하세요 세계", "मैं हिन्दी बोलता हूँ",
    "שלום עולם", "السلام عليكم ١٢٣", "สวัสดีชาวโลก", "Ελληνικά", "İstanbul ıIiİ ßẞ ﬁ ﬆ", "Tiếng Việt có dấu",
    "👩‍👩‍👧‍👦 👨🏽‍🚀 🏳️‍🌈 🇩🇪🇫🇷 ❤️ ☺︎ 1️⃣", "e\u0301 é a\u0328\u0301 a\u0301\u0328 \u1e9b\u0323 \u212b Å", "q\u0307\u0323 q\u0323\u0307 \u0344",
    "x\u0085y\u00a0z\u1680a\u180eb\u2003c\u2028d\u2029e\u202ff\u205fg\u3000h\u200bi\ufeffj\u2060k\u200c\u200dl",
    "\x00\x01\x1f\x7f nul\x00nul", "½ Ⅷ ² ٣ 一 ㊿ 12345678 3.14e-10", "\U0001d7d8\U0001d400 \U00011de0\U00016ff4",
    "def f(x):\n    return {k: v**2 for k, v in x.items()}  # 1_000\n\n\n\tif (a!=b) {\n\t\t++c;\r\n\t}\n",
    "#include <vector>\nint main() { return std::vector<int>{1,2,3}.size() << 4; }\n", "https://example.org/a?b=c&d=%20#e",
    "<|endoftext|>", "a<|endoftext|>b<|endoftext|>", " <|endoftext|> \n", "<|endof<|endoftext|>text|>", "<|endoftext", "word WORD words",
    " xx<mask> <mask>yy  <lr>  zz<lr>", "sword word, word_ wordé wordⒶ word\u200d -word- word٣ word²", "caf\u00e9 cafe\u0301 CAFE\u0301!",
    "a\U00011935\U00011930b \u32ff \u0c3c\u0301 \U00010d24\u0328", "㍿ ﷺ ｆｕｌｌ ｗｉｄｔｈ ™ ℌ ⅓", "\ud7a3\u1100\u1161\u11a8\uac00\u11a8",
]
INVALID = [b"\x80", b"a\xffb", b"\xc3", b"\xe2\x82", b"\xe2\x82x", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80",
           b"\xf0\x80\x80\x80", b"\xe0\x80\xaf", b"\xf8\x88\x80\x80\x80", b"ok \xf0\x9f\x98\x80 \xe9 end",
           b"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41"]
PIECES = ["<|endoftext|>", "word", "<mask>", "<lr>", " ", "  ", "\n", "\t", "the", " the", "'s", "'LL", "12", "é",
          "e\u0301", "\u0300\u0323",
          "你", "👍🏽", "\u200d", "\u00a0", "\u180e", "_", "--", "X", "ß", "\r\n", "café", "\u1c89", "\U00016130", "\U0002ebf0"]


def random_code_point(rng):
    while True:
        c = rng.choice([rng.randrange(0x80), rng.randrange(0x250), rng.randrange(0x3000), rng.randrange(0x10000),
                        rng.randrange(0x20000), rng.randrange(0x110000)])
        if not 0xD800 <= c < 0xE000:
            return chr(c)


def random_texts(count):
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    for i in range(count):
        length = rng.choice([1, 2, 3, 5, 8, 20, 60])
        if i % 3 == 0:
            yield "".join(random_code_point(rng) for _ in range(length)).encode()
        elif i % 3 == 1:
            yield "".join(rng.choice(PIECES) if rng.random() < 0.8 else random_code_point(rng) for _ in range(length)).encode()
        else:
            yield bytes(rng.choice([rng.randrange(256), rng.randrange(128), 0xE2, 0x82, 0xF0, 0x9F]) for _ in range(length))


# Han, Hangul, Tangut and what lies above plane 2 are uniform: every 37th is asked.
UNIFORM = [(0x3400, 0xA000), (0xAC00, 0xD7A0), (0xE000, 0xF900), (0x17000, 0x18800), (0x20000, 0x110000)]


def every_code_point():
    """Code points beside letters, digits and marks, so that their class and their normalisation show."""
    asked = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000
             and (c % 37 == 0 or not any(first <= c < last for first, last in UNIFORM))]
    for start in range(0, len(asked), 16):
        yield "".join(f"a{chr(c)}1{chr(c)}\u0328\u0301 " for c in asked[start:start + 16]).encode()


def source_texts():
    """Code and prose of this repository, whole files."""
    files = sorted((ROOT / "models").rglob("*.cc")) + sorted((ROOT / "memory").rglob("*.h")) + sorted(ROOT.glob("*.md"))
    return [f.read_bytes() for f in files]


@pytest.fixture(scope="module")
def texts():
    return [t.encode() for t in WRITTEN] + INVALID + source_texts() + list(random_texts(2400))


@pytest.fixture(scope="module")
def sweep():
    return list(every_code_point())


def train(pre_tokenizer, normalizer=None, added=(), post_processor=None, vocabulary=1200):
    """A byte-level BPE trained on this file and the sources, in the style of the reference model."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    if post_processor is not None:
        tokenizer.post_processor = post_processor
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=["<|endoftext|>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    corpus = WRITTEN * 3 + [t.decode() for t in source_texts()]
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens([a for a in added if not a.special])
    tokenizer.add_special_tokens([a for a in added if a.special])
    return tokenizer


ADDED = [AddedToken("word", single_word=True, normalized=False), AddedToken("<mask>", lstrip=True, special=True, normalized=False),
         AddedToken("<lr>", lstrip=True, rstrip=True, normalized=False), AddedToken("café", normalized=True),
         AddedToken("  ", normalized=False), AddedToken("<|endof", normalized=False)]


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


BYTES = {"add_prefix_space": False, "use_regex": False}
VARIANTS = {
    "reference": lambda: train(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "gpt_neox": lambda: train(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFC(), ADDED,
                              processors.TemplateProcessing("$A", "$A $B", [])),
    "prefix_space": lambda: train(pre_tokenizers.ByteLevel(add_prefix_space=True), None, ADDED, processors.ByteLevel()),
    "qwen": lambda: train(pre_tokenizers.Sequence([split(QWEN), pre_tokenizers.ByteLevel(**BYTES)]), normalizers.NFC(), ADDED),
    "o200k": lambda: train(pre_tokenizers.Sequence([split(O200K), pre_tokenizers.ByteLevel(**BYTES)])),
    "digits": lambda: train(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                     pre_tokenizers.ByteLevel(add_prefix_space=False)]), normalizers.NFKC(), ADDED),
    "digit_groups": lambda: train(pre_tokenizers.Sequence([pre_tokenizers.Digits(), split(r"\s+", "merged_with_next"),
                                                           split(r"[\p{P}\p{S}]", "merged_with_previous"),
                                                           pre_tokenizers.ByteLevel(**BYTES)]), normalizers.NFD()),
    "removed": lambda: train(pre_tokenizers.Sequence([split(r"\s", "removed"), split(r"[\p{L}\p{M}]+", "contiguous", True),
                                                      pre_tokenizers.Split("e", "isolated"),
                                                      pre_tokenizers.ByteLevel(**BYTES)]),
                             normalizers.Sequence([normalizers.NFKD(), normalizers.NFC()]), ADDED),
    "no_regex": lambda: train(pre_tokenizers.ByteLevel(**BYTES), None, ADDED),
}


def with_old_spelling(text):
    """ "left right" instead of ["left", "right"], as tokenizers before 0.20 wrote merges."""
    spec = json.loads(text)
    spec["model"]["merges"] = [" ".join(pair) for pair in spec["model"]["merges"]]
    return json.dumps(spec)


def with_ignored_merges(text):
    spec = json.loads(text)
    spec["model"]["ignore_merges"] = True
    spec["model"]["merges"] = spec["model"]["merges"][::3]
    vocabulary = spec["model"]["vocab"]
    spec["model"]["merges"] = [m for m in spec["model"]["merges"] if all(p in vocabulary for p in m)]
    return json.dumps(spec)


def run_program(path, texts):
    payload = b"".join(struct.pack("<I", len(t)) + t for t in texts)
    done = subprocess.run([PROGRAM, path], input=payload, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    results, at = [], 0
    for _ in texts:
        (count,) = struct.unpack_from("<I", done.stdout, at)
        ids = list(struct.unpack_from(f"<{count}i", done.stdout, at + 4))
        at += 4 + 4 * count
        (size,) = struct.unpack_from("<I", done.stdout, at)
        results.append((ids, done.stdout[at + 4:at + 4 + size]))
        at += 4 + size
    assert at == len(done.stdout)
    return results


def assert_parity(path, texts):
    library = Tokenizer.from_file(str(path))
    expected = [library.encode(t.decode("utf-8", "replace"), add_special_tokens=False).ids for t in texts]
    decoded = [library.decode(ids, skip_special_tokens=False) for ids in expected]
    different = []
    for text, ids, plain, (our_ids, our_bytes) in zip(texts, expected, decoded, run_program(path, texts)):
        if our_ids != ids or our_bytes.decode("utf-8", "replace") != plain:
            different.append(f"{text[:300]!r}\n  library {ids[:60]}\n  ours    {our_ids[:60]}")
    assert not different, f"seed {SEED}, {len(different)} of {len(texts)} texts:\n" + "\n".join(different[:5])


@pytest.mark.parametrize("variant", VARIANTS)
def test_ids_and_text_equal_the_library(variant, texts, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(VARIANTS[variant]().to_str(), encoding="utf-8")
    assert_parity(path, texts)


# The first has GPT-2's pattern alone, the others each a pattern and a normal form of their own.
@pytest.mark.parametrize("variant", ["reference", "gpt_neox", "qwen", "o200k", "digits", "digit_groups"])
def test_every_code_point(variant, sweep, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(VARIANTS[variant]().to_str(), encoding="utf-8")
    assert_parity(path, sweep)


@pytest.mark.parametrize("respell", [with_old_spelling, with_ignored_merges])
def test_spellings_of_the_model(respell, texts, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(respell(VARIANTS["qwen"]().to_str()), encoding="utf-8")
    assert_parity(path, texts)


@pytest.mark.parametrize("path", [ROOT / "models" / "reference" / "tokenizer.json"])
def test_shipped_tokenizer(path, texts):
    if not path.exists():
        pytest.skip("the reference model is not in this checkout")
    assert_parity(path, texts)


def test_round_trip_of_bytes(tmp_path):
    """Without normaliser or prefix, decoding gives the text back, invalid bytes replaced."""
    path = tmp_path / "tokenizer.json"
    path.write_text(VARIANTS["reference"]().to_str(), encoding="utf-8")
    texts = [t.encode() for t in WRITTEN] + INVALID + list(random_texts(300))
    for text, (_, decoded) in zip(texts, run_program(path, texts)):
        assert decoded == text.decode("utf-8", "replace").encode()


def test_agrees_with_transformers(texts, tmp_path):
    transformers = pytest.importorskip("transformers")
    path = tmp_path / "tokenizer.json"
    path.write_text(VARIANTS["gpt_neox"]().to_str(), encoding="utf-8")
    library = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))
    few = texts[:200]
    for text, (ids, _) in zip(few, run_program(path, few)):
        assert ids == library(text.decode("utf-8", "replace"), add_special_tokens=False)["input_ids"]
