"""Checks what a file may include and call: the one-way arrows between modules, and the rules that keep them useful.

    python tools/check_includes.py [ROOT]      prints one line a violation, exit 1 if there is any

* module arrows: memory <- router <- models <- adapt <- indexer <- tools, adapt <- daemon <- tools, router <- python,
  router <- hosts
* of models/, python/ knows the C interface only
* no LibTorch in memory/, router/ and the files of models/ that read files only
* no raw file call in memory/, router/, adapt/, indexer/ and hosts/: faults can only be injected below memory/file_layer.cc
* no `throw` in a header
"""

import pathlib
import re
import sys

# What each module may include besides itself.
ALLOWED = {
    "memory": set(),
    "router": {"memory"},
    "models": {"memory", "router"},
    "adapt": {"memory", "router", "models"},
    "indexer": {"memory", "router", "models", "adapt"},
    "daemon": {"memory", "router", "models", "adapt"},
    "python": {"memory", "router"},
    "hosts": {"memory", "router"},
    "tools": {"memory", "router", "models", "adapt", "indexer", "daemon"},
}
# Single files beyond those.
ALLOWED_FILES = {("python", "models/c_api.h")}
TORCH_FREE = re.compile(r"(memory|router|python)/|models/(config|safetensors|fingerprint|c_api)[._]|models/tokenizer/")
TORCH_HEADER = re.compile(r"(torch|ATen|c10|caffe2)/")
# Their files go through memory/file_layer.h. Tests may damage files by hand.
CHECKED_FILES = re.compile(r"(memory|router|adapt|indexer)/|hosts/(?!.*/pointsman_)")
TEST_FILE = re.compile(r"_test\.(cc|h)$|/test_\w+\.h$")
FILE_LAYER = "memory/file_layer.cc"
RAW_FILE_CALL = re.compile(r"\b(fopen|freopen)\s*\(|\bstd::(basic_)?[oi]?fstream\b|\bstd::(basic_)?filebuf\b"
                           r"|(?<![\w>])::(open|openat|creat)\s*\(")
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')
THROW = re.compile(r"\bthrow\b")
COMMENT_OR_LITERAL = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(?P<mark>[^(\s\\]*)\(.*?\)(?P=mark)"|"(?:\\.|[^"\\\n])*"|(?<!\w)\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)


def without_comments(text, literals):
    """Blanks comments (and, with `literals`, strings too), keeping the line numbers."""

    def blank(match):
        token = match.group()
        if token.startswith("/") or literals:
            return "\n" * token.count("\n") or " "
        return token

    return COMMENT_OR_LITERAL.sub(blank, text)


def include_problem(name, included):
    module = name.split("/")[0]
    target = included.split("/")[0]
    allowed = target in ALLOWED[module] or (module, included) in ALLOWED_FILES
    if "/" in included and target in ALLOWED and target != module and not allowed:
        return f"includes {included}: {module}/ must not know {target}/"
    if TORCH_FREE.match(name) and TORCH_HEADER.match(included):
        return f"includes {included}: this file must build without LibTorch"
    return None


def problems_of(name, text):
    """Violations in one file as (line, what)."""
    for number, line in enumerate(without_comments(text, literals=False).split("\n"), start=1):
        match = INCLUDE.match(line)
        problem = match and include_problem(name, match.group(1))
        if problem:
            yield number, problem
    is_test = TEST_FILE.search(name)
    for number, line in enumerate(without_comments(text, literals=True).split("\n"), start=1):
        call = RAW_FILE_CALL.search(line)
        if call and CHECKED_FILES.match(name) and name != FILE_LAYER and not is_test:
            yield number, f"calls {call.group().rstrip('( ')}: use memory/file_layer.h, where faults can be injected"
        if name.endswith(".h") and THROW.search(line):
            yield number, "throws in a header: return a Result"


def sources(root):
    for module in ALLOWED:
        for path in sorted((root / module).rglob("*")):
            if path.suffix in (".h", ".cc") and path.is_file():
                yield path


def check(root):
    """One line a violation: `file:line: what`."""
    found = []
    for path in sources(root):
        name = path.relative_to(root).as_posix()
        found += [f"{name}:{line}: {what}" for line, what in problems_of(name, path.read_text(encoding="utf-8"))]
    return found


if __name__ == "__main__":
    violations = check(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parent.parent))
    print("\n".join(violations) or "includes: ok")
    sys.exit(1 if violations else 0)
