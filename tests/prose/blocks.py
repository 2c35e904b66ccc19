"""Finds the text that people read in Markdown, Python and Jinja templates, with its position.

Code in backticks, fields of f-strings and Jinja expressions become "xxx", so that sentences keep their shape.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

SKIPPED = re.compile(r"(?ms)^ *(```|~~~).*?^ *\1|^ *>>> .*?$|^[^\n]*[├│└].*?$|<!--.*?-->|(?<=\])\([^)\s]*\)")
CODE = re.compile(r"(?s)(`+)(?!`).+?(?<!`)\1(?!`)|https?://\S+")
FIELD = re.compile(r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")
TOKEN = re.compile(  # enough for Python 3.11, where an f-string cannot contain its own quote
    r"""(?is)(?P<comment>\#[^\n]*)|(?P<prefix>(?<!\w)[rbfu]{1,2}|)(?P<quote>"{3}|'{3}|"|')"""
    r"""(?P<body>(?:\\.|(?!(?P=quote)).)*)(?P=quote)"""
)
NOT_PROSE = re.compile(r"\W*(?:SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|WITH|PRAGMA|EXPLAIN|import|noqa|type)\b")
UNSEEN = re.compile(
    r"(?s)<(script|style)\b.*?</\1>|\{#.*?#\}|\{%.*?%\}|</?(?:a|abbr|b|code|em|i|small|span|strong)\b[^<>]*>"
)
TAG = re.compile(r"<[^<>]*>")
ATTRIBUTE = re.compile(r'\b(?:alt|title|placeholder|aria-label)="([^"{}]*)"')
SECTION = re.compile(r"\s*(?:Args|Attributes|Raises|Returns|Yields):$")
ENTRY = re.compile(r"\s+\*{0,2}\w+(?: \([^)]*\))?: ")
ITEM = re.compile(r"\s*(?:[-*+] |#+ |\w{1,2}[.)] |>)|\s*$|.*\S {2,}\S")  # also blank lines and rows of tables


class Block(NamedTuple):
    """A paragraph, comment or message: its scope and its pieces (line, column, text), counted from 1."""

    scope: str
    pieces: list[tuple[int, int, str]]

    def text(self) -> str:
        """The pieces, joined by spaces."""
        return " ".join(text for _, _, text in self.pieces)

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of the character at `offset` of the text."""
        starts = [0, *accumulate(len(text) + 1 for _, _, text in self.pieces)]
        index = bisect_right(starts, offset) - 1
        return self.pieces[index][0], self.pieces[index][1] + offset - starts[index]

    def add(self, text: str, line: int, column: int) -> None:
        """Append a text that starts at this line and column; runs of spaces count as one."""
        for number, row in enumerate(text.split("\n")):
            at = 1 if number else column
            self.pieces.extend((line + number, at + one.start(), one[0]) for one in re.finditer(r"\S+(?: \S+)*", row))


def blocks_of(path: Path) -> Iterator[Block]:
    """The blocks of a file, by its suffix; of files other than Markdown, Python and HTML the comments after #."""
    source = path.read_text("utf-8")
    if path.suffix == ".md":
        blocks = _paragraphs("text", source, 1, 1)
    elif path.suffix == ".html":
        blocks = _template(source)
    else:
        blocks = _python(source, with_strings=path.suffix == ".py")
    for block in blocks:
        few_words = block.scope == "string" and len(re.findall("[A-Za-z]{2,}", block.text())) < 3
        if block.pieces and not few_words and not NOT_PROSE.match(block.text()):
            yield block


def _blank(pattern: re.Pattern[str], text: str, filler: str) -> str:
    """Replace every match by `filler`, at the same length and with the same line breaks."""
    return pattern.sub(lambda match: re.sub(r"[^\n]", filler, match[0]), text)


def _paragraphs(scope: str, text: str, line: int, column: int) -> Iterator[Block]:
    """Blocks of Markdown or of a docstring: paragraphs, list items, cells of tables, entries of `Args:`."""
    block, in_section = Block(scope, []), False
    rows = zip(text.split("\n"), _blank(CODE, _blank(SKIPPED, text, " "), "x").split("\n"), strict=True)
    for number, (written, row) in enumerate(rows):
        is_table, at = row.lstrip().startswith("|"), 1 if number else column
        in_section = in_section or bool(SECTION.match(row))
        starts = ITEM.match(written) or (in_section and (SECTION.match(row) or ENTRY.match(row)))
        for cell in re.split(r"(?<=\|)", row) if is_table else [row]:
            if starts or is_table:
                yield block
                block = Block(scope, [])
            block.add(cell.replace("|", " "), line + number, at)
            at += len(cell)
    yield block


def _template(source: str) -> Iterator[Block]:
    """Blocks of a Jinja template: the text between tags that are not inline, and attributes that are shown."""
    text = _blank(TAG, _blank(FIELD, _blank(UNSEEN, source, " "), "x"), "\0")
    runs = [(one.start(), one[0]) for one in re.finditer(r"[^\0]+", text)]
    for start, run in runs + [(one.start(1), one[1]) for one in ATTRIBUTE.finditer(source)]:
        block = Block("text", [])
        block.add(run, source.count("\n", 0, start) + 1, start - source.rfind("\n", 0, start))
        yield block


def _python(source: str, *, with_strings: bool) -> Iterator[Block]:
    """Blocks of a module: comments, docstrings and other strings. Adjacent ones are joined."""
    block, end, column = Block("", []), 0, 0
    for token in TOKEN.finditer(source):
        start, quote, between = token.start(), token["quote"], source[end : token.start()]
        line, last, column = source.count("\n", 0, start) + 1, column, start - source.rfind("\n", 0, start)
        is_first, end = not source[start - column + 1 : start].strip(), token.end()
        if quote and (not with_strings or (len(quote) == 3 and is_first)):
            yield from _paragraphs("comment.block", token["body"], line, column + token.start("body") - start)
            continue
        text = token["body"].replace(r"\n", "  ") if quote else " " + token["comment"][1:]
        text = _blank(FIELD, text, "x") if quote and "f" in token["prefix"].lower() else text
        scope = "string" if quote else "comment.line"
        if scope != block.scope or not between.isspace() or not (quote or (last == column and text[:3].strip())):
            yield block
            block = Block(scope, [])
        block.add(_blank(CODE, text, "x"), line, column + (token.start("body") - start if quote else 0))
    yield block
