"""Writes models/tokenizer/unicode_tables.inc: where the tokenizers library and the C++ libraries see Unicode differently.

    python tools/generate_unicode_tables.py > models/tokenizer/unicode_tables.inc

The tokenizers library matches patterns with Unicode 16 (Oniguruma) and normalises with Unicode 10; PCRE2 10.42 and
utf8proc 2.8 know Unicode 14, as does this Python's unicodedata. Asks the library about every code point.
"""

import sys
import unicodedata

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

PROPERTIES = ["L", "Lu", "Ll", "Lt", "Lm", "Lo", "M", "N", "Nd", "P", "S"]
CODE_POINTS = [c for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]


def ranges(code_points):
    found = []
    for c in sorted(code_points):
        if found and found[-1][1] == c - 1:
            found[-1][1] = c
        else:
            found.append([c, c])
    return found


def print_table(name, code_points):
    print(f"constexpr CodePointRange {name}[] = {{")
    line = "   "
    for first, last in ranges(code_points):
        item = f" {{0x{first:x}, 0x{last:x}}},"
        if len(line) + len(item) > 120:
            print(line)
            line = "   "
        line += item
    print(line + "\n};")


def newer_members(name):
    splitter = pre_tokenizers.Split(Regex(rf"\p{{{name}}}"), "removed")
    library = {c for c in CODE_POINTS if not splitter.pre_tokenize_str(chr(c))}
    known = {c for c in CODE_POINTS if unicodedata.category(chr(c)).startswith(name)}
    assert known <= library, f"{name}: Unicode took characters away"
    return library - known


def inert_in_normalization():
    """Characters that Unicode 14 decomposes, composes or reorders and the library's older tables leave alone."""
    found = set()
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        normalizer = getattr(normalizers, form)()
        for c in CODE_POINTS:
            for text in (chr(c), "a" + chr(c) + "\u0328\u0301"):
                if normalizer.normalize_str(text) != unicodedata.normalize(form, text):
                    found.add(c)
    # What such a character is composed of must not compose either.
    newer = [unicodedata.decomposition(chr(c)).split() for c in found]
    return found | {int(parts[-1], 16) for parts in newer if len(parts) == 2 and not parts[0].startswith("<")}


assert unicodedata.unidata_version == "14.0.0", "compare with the Unicode version of PCRE2 and utf8proc"
print(f"// Made by tools/generate_unicode_tables.py from tokenizers {tokenizers.__version__} and Unicode 14. Do not edit.")
for name in PROPERTIES:
    print_table(f"kNewer{name}", newer_members(name))
print_table("kInertInNormalization", inert_in_normalization())
