"""The prose linter: each rule's own examples, and where text is found in files of each kind."""

import re
from pathlib import Path

import pytest
import yaml

from tests.prose.__main__ import ALLOWED, RULES, Rule, main
from tests.prose.blocks import Block, blocks_of

RULE_FILES = sorted(RULES.glob("*.yml"))


def _examples(path: Path, kind: str) -> list[Block]:
    scope = yaml.safe_load(path.read_text("utf-8")).get("scope", "text")
    found = re.findall(rf"^# {kind}: (.*)$", path.read_text("utf-8"), re.MULTILINE)
    return [Block(scope, [(1, 1, re.sub(r"`[^`]*`", "xxx", text))]) for text in found]


@pytest.mark.parametrize("path", RULE_FILES, ids=lambda path: path.stem)
def test_a_rule_finds_its_bad_examples_and_no_good_one(path: Path) -> None:
    rule, bad, good = Rule(path), _examples(path, "bad"), _examples(path, "good")
    assert bad
    assert good
    assert [block.text() for block in bad if not list(rule.hits(block))] == []
    assert [block.text() for block in good if list(rule.hits(block))] == []


@pytest.mark.parametrize("path", RULE_FILES, ids=lambda path: path.stem)
def test_a_rule_is_one_that_vale_reads(path: Path) -> None:
    fields = yaml.safe_load(path.read_text("utf-8"))
    keys = {"extends", "message", "level", "scope", "ignorecase", "nonword", "exceptions", "tokens", "swap", "max"}
    assert set(fields) <= keys | {"token"}
    assert fields["extends"] in {"existence", "substitution", "occurrence"}
    assert fields["level"] == "error"


def test_a_message_shows_the_words_and_the_better_ones() -> None:
    rule = Rule(RULES / "Spelling.yml")
    assert list(rule.hits(Block("text", [(1, 1, "The Colour of it")]))) == [
        (4, "Use the American 'color' instead of 'Colour'.")
    ]


PYTHON = '''"""One line.

Args:
    first: the first
        entry.
    second: the second, see `what it is`.
"""

X = 1  # after code
# a comment
# on two lines
raise ValueError(
    f"no {what} here: "
    "write another one"
)
SQL = "SELECT one FROM two WHERE three"
'''


def test_python_gives_docstrings_comments_and_joined_messages(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(PYTHON)
    blocks = list(blocks_of(path))
    assert [(block.scope, block.text()) for block in blocks] == [
        ("comment.block", "One line."),
        ("comment.block", "Args:"),
        ("comment.block", "first: the first entry."),
        ("comment.block", "second: the second, see xxxxxxxxxxxx."),
        ("comment.line", "after code"),
        ("comment.line", "a comment on two lines"),
        ("string", "no xxxxxx here: write another one"),
    ]
    assert blocks[2].position(len("first: the first ")) == (5, 9)
    assert blocks[6].position(len("no xxxxxx here: ")) == (14, 6)


MARKDOWN = """# Heading

A paragraph with `code` and
a [link](https://example.org/what-it-is).

- one item
- another

```
what it is
```

| a cell | another |
"""


def test_markdown_gives_paragraphs_items_and_cells_without_code(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(MARKDOWN)
    texts = [block.text() for block in blocks_of(path)]
    assert texts == [
        "# Heading",
        "A paragraph with xxxxxx and a [link] .",
        "- one item",
        "- another",
        "a cell",
        "another",
    ]


def test_templates_give_text_between_tags_and_shown_attributes(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text('<p>All {{ n }} <b>maps</b>\n{% if x %}here{% endif %}</p><img alt="A map"><script>a</script>\n')
    blocks = list(blocks_of(path))
    assert [block.text() for block in blocks] == ["All xxxxxxx maps here", "A map"]
    assert blocks[0].position(len("All xxxxxxx maps ")) == (2, 11)


def test_the_exit_status_is_that_of_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "README.md").write_text("Read it thereby, `thereby`, and\nthereof.\n")
    (tmp_path / "allowed.txt").write_text("1 README.md\n")
    monkeypatch.setattr("tests.prose.__main__.ROOT", tmp_path)
    monkeypatch.setattr("tests.prose.__main__.ALLOWED", tmp_path / "allowed.txt")
    assert main([]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ")[:2] for line in lines] == [
        ["README.md:1:9:", "Archaic:"],
        ["README.md:2:1:", "Archaic:"],
        ["README.md:", "2"],
    ]
    assert main(["--record"]) == 0
    assert (tmp_path / "allowed.txt").read_text() == "2 README.md\n"
    assert main([]) == 0


def test_the_list_names_only_files_that_exist() -> None:
    names = [line.split(" ", 1)[1] for line in ALLOWED.read_text("utf-8").splitlines()]
    assert [name for name in names if not (ALLOWED.parents[2] / name).is_file()] == []


def test_names_in_the_glossary_exist() -> None:
    root = ALLOWED.parents[2]
    lines = (root / "docs/glossary.md").read_text("utf-8").splitlines()
    names = [
        name for line in lines for name in re.findall(r"`([^`]+)`", line.rsplit("|", 2)[-2] if "|" in line else "")
    ]
    source = "".join(path.read_text("utf-8") for room in ("pipeline", "db") for path in (root / room).rglob("*.py"))
    words = set(re.findall(r"\w+", source))
    assert [name for name in names if name.rsplit(".", 1)[-1] not in words] == []
