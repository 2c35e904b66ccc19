"""Prose linter of `make check`: applies the rules of docs/style/attribatch to the text that people read.

The rules are Vale's YAML, so that `vale .` applies them too; pip cannot install Vale itself. Usage:

    python -m tests.prose              exit 1 if a file has more hits than docs/style/allowed.txt allows
    python -m tests.prose PATH ...     print every hit in these files and folders
    python -m tests.prose --record     write the present number of hits of every file to docs/style/allowed.txt
"""

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from tests.prose.blocks import Block, blocks_of

ROOT = Path(__file__).parents[2]
RULES, ALLOWED = ROOT / "docs/style/attribatch", ROOT / "docs/style/allowed.txt"
ROOMS = ("pipeline", "db", "workers", "benchmarks")
CHECKED = ("*.md", "docs/**/*.md", "*.py", *(f"{room}/**/*.py" for room in ROOMS), "pipeline/**/*.html", "docker/*")
SENTENCE = re.compile(r"\S.*?(?:(?<!e\.g)(?<!i\.e)(?<!etc)(?<!vs)(?<!cf)[.!?][\"')]*(?= |$)|$)")
WHOLE = re.compile(r".+")


class Rule:
    """One rule file: the pattern to search for, the scope to search in, and the message to report."""

    def __init__(self, path: Path) -> None:
        fields = yaml.safe_load(path.read_text("utf-8"))
        self.name, self.message, self.scope = path.stem, fields["message"], fields.get("scope", "text")
        self.swap, self.most = fields.get("swap", {}), fields.get("max")
        flags = re.IGNORECASE if fields.get("ignorecase") else 0
        template = "(?:{})" if fields.get("nonword") else r"\b(?:{})\b"
        tokens = fields.get("tokens") or self.swap or [fields["token"]]
        self.pattern = re.compile(template.format("|".join(tokens)), flags)
        self.exceptions = re.compile(r"\b(?:{})\b".format("|".join(fields.get("exceptions", ["(?!)"]))), flags)

    def hits(self, block: Block) -> Iterator[tuple[int, str]]:
        """Offset and message of each hit in a block."""
        if self.scope.startswith("comment") and self.scope != block.scope:
            return
        for part in (SENTENCE if self.scope == "sentence" else WHOLE).finditer(block.text()):
            found = [one for one in self.pattern.finditer(part[0]) if not self.exceptions.search(one[0])]
            if self.most is not None:
                found = found[:1] if len(found) > self.most else []
            yield from ((part.start() + one.start(), self._describe(one[0])) for one in found)

    def _describe(self, found: str) -> str:
        better = [new for old, new in self.swap.items() if re.fullmatch(old, found, self.pattern.flags)]
        message = self.message
        for value in (*better, found):
            message = message.replace("%s", value, 1)
        return str(message)


def check(path: Path, rules: Iterable[Rule]) -> list[str]:
    """The hits in a file, `file:line:column: rule: message`, in the order of lines."""
    found = [
        (*block.position(offset), rule.name, message)
        for block in blocks_of(path)
        for rule in rules
        for offset, message in rule.hits(block)
    ]
    return ["{}:{}:{}: {}: {}".format(path.relative_to(ROOT), *hit) for hit in sorted(found)]


def main(arguments: list[str]) -> int:
    """Print the hits that count, and return the exit status."""
    rules = [Rule(path) for path in sorted(RULES.glob("*.yml"))]
    named = [Path(one).resolve() for one in arguments if not one.startswith("-")]
    files = sorted({path for pattern in CHECKED for path in ROOT.glob(pattern) if path.is_file()})
    files = [path for path in files if not named or any(path.is_relative_to(one) for one in named)]
    hits = {str(path.relative_to(ROOT)): check(path, rules) for path in files}
    if "--record" in arguments:
        ALLOWED.write_text("".join(f"{len(found)} {name}\n" for name, found in hits.items() if found), "utf-8")
        return 0
    recorded = [] if named else [line.split(" ", 1) for line in ALLOWED.read_text("utf-8").splitlines()]
    allowed = {name: int(count) for count, name in recorded}
    over = {name: found for name, found in hits.items() if len(found) > allowed.get(name, 0)}
    for name, found in over.items():
        print(*found, f"{name}: {len(found)} hits, {allowed.get(name, 0)} allowed", sep="\n")
    return bool(over)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
