"""Parser of `where` filters: turns text into a SQL condition on images, with bound parameters.

    condition   = alternative, or a chain of them:  a or b,  a and b,  not a,  (a)
    comparison  = column (= != < <= > >=) (column | number | 'text' | "text" | true | false | null)
                | column [not] in (value, ...)
    flag        = mispredicted | failed | converged

`= null` and `!= null` test whether a value is missing. Any other comparison with a missing value is neither true nor
false, and so is its `not`, so images without the value are excluded. `mispredicted` excludes images without a label.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from operator import eq, ge, gt, le, lt, ne
from typing import Any

from sqlalchemy import ColumnElement, and_, literal, literal_column, not_, or_, true

from db.errors import UsageError, did_you_mean
from db.records import ImageState
from db.tables import FAILED, MISPREDICTED, images

MAX_LENGTH = 4000  # characters: keeps conditions within SQLite's limit of 1,000 expression levels
MAX_DEPTH = 50  # nested parentheses and nots: keeps the parser within Python's stack

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {"=": eq, "!=": ne, "<": lt, "<=": le, ">": gt, ">=": ge}
_KEYWORDS = ("and", "or", "not", "in", "true", "false", "null")
_FLAGS: dict[str, ColumnElement[bool]] = {
    "mispredicted": MISPREDICTED,
    "failed": FAILED,
    "converged": images.c.converged == true(),
}
_TOKENS = re.compile(
    r"""(?P<space>\s+)
      | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)
      | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
      | (?P<sign><=|>=|!=|[=<>(),])""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # word, number, text, sign, end
    text: str
    start: int

    @property
    def word(self) -> str:
        """The word in lower case, or the sign; "" for texts and numbers."""
        return self.text.lower() if self.kind in ("word", "sign") else ""


def compile_where(text: str) -> ColumnElement[bool]:
    """Compile a filter such as `mispredicted and probability > 0.9 and label != 'cat'` to a SQL condition.

    Raises:
        UsageError: the filter does not parse, names an unknown column, or compares text with a number. The message
            marks the position.
    """
    return _Parser(text).parse()


def columns_in(text: str) -> list[str]:
    """Return the columns that a filter names, in order of appearance. Raises UsageError if it cannot be split."""
    words = [token.word for token in _Parser(text).tokens if token.kind == "word"]
    return [word for word in dict.fromkeys(words) if word in images.c]


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._depth = 0
        self.tokens = self._split()
        self._next = 0

    def parse(self) -> ColumnElement[bool]:
        condition = self._either()
        if self._peek.kind != "end":
            raise self._error(self._peek, "expected 'and', 'or' or the end here")
        return condition

    def _split(self) -> list[_Token]:
        if len(self._text) > MAX_LENGTH:
            raise UsageError(f"the filter has {len(self._text)} characters; the limit is {MAX_LENGTH}")
        tokens, position = [], 0
        while position < len(self._text):
            match = _TOKENS.match(self._text, position)
            if match is None:
                raise self._unknown(position)
            if match.lastgroup != "space":
                tokens.append(_Token(str(match.lastgroup), match.group(), position))
            position = match.end()
        return [*tokens, _Token("end", "", len(self._text))]

    def _unknown(self, position: int) -> UsageError:
        character = self._text[position]
        problem = "this quote is never closed" if character in "'\"" else f"{character!r} means nothing here"
        return self._error(_Token("sign", character, position), problem)

    def _error(self, token: _Token, problem: str) -> UsageError:
        line = re.sub(r"\s", " ", self._text)  # one line, with every character in its column
        carets = " " * token.start + "^" * max(1, len(token.text))
        return UsageError(f"{problem}\n  {line}\n  {carets}")

    @property
    def _peek(self) -> _Token:
        return self.tokens[self._next]

    def _take(self) -> _Token:
        token = self._peek
        self._next += token.kind != "end"
        return token

    def _accept(self, word: str) -> bool:
        found = self._peek.word == word
        self._next += found
        return found

    def _expect(self, word: str) -> None:
        if not self._accept(word):
            raise self._error(self._peek, f"expected {word!r} here")

    def _either(self) -> ColumnElement[bool]:
        conditions = [self._both()]
        while self._accept("or"):
            conditions.append(self._both())
        return or_(*conditions)

    def _both(self) -> ColumnElement[bool]:
        conditions = [self._single()]
        while self._accept("and"):
            conditions.append(self._single())
        return and_(*conditions)

    def _single(self) -> ColumnElement[bool]:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(self._peek, f"nested more than {MAX_DEPTH} deep")
        if self._accept("not"):
            condition: ColumnElement[bool] = not_(self._single())
        elif self._accept("("):
            condition = self._either()
            self._expect(")")
        else:
            condition = self._comparison()
        self._depth -= 1
        return condition

    def _comparison(self) -> ColumnElement[bool]:
        token = self._take()
        if token.kind != "word" or token.word in _KEYWORDS:
            raise self._error(token, "expected a column here")
        sign = self._peek
        if sign.text in _OPERATORS or sign.word in ("in", "not"):
            return self._compare(self._column(token))
        if token.word in _FLAGS:
            return _FLAGS[token.word]
        self._column(token)
        hint = "; write = null to find missing values" if sign.word == "is" else ""
        raise self._error(sign, f"expected one of = != < <= > >= in here{hint}")

    def _compare(self, column: ColumnElement[Any]) -> ColumnElement[bool]:
        sign = self._take()
        if sign.word in ("in", "not"):
            if sign.word == "not":
                self._expect("in")
            inside = self._inside(column)
            return not_(inside) if sign.word == "not" else inside
        token = self._take()
        if token.word == "null":
            return self._against_null(column, sign)
        if token.kind == "word" and token.word not in ("true", "false"):
            other = self._column(token, quotable=True)
            if _kind(other) != _kind(column):
                raise self._error(token, f"{column.key} holds {_kind(column)}, {other.key} holds {_kind(other)}")
        else:
            other = self._value(column, token)
        if sign.text == "!=" and (column.key, other.key) == ("label", "predicted"):
            return MISPREDICTED  # the partial index has the operands in this order
        condition: ColumnElement[bool] = _OPERATORS[sign.text](column, other)
        return condition

    def _against_null(self, column: ColumnElement[Any], sign: _Token) -> ColumnElement[bool]:
        if sign.text == "=":
            return column.is_(None)
        if sign.text == "!=":
            return column.is_not(None)
        raise self._error(sign, "null has no order; use = null or != null")

    def _inside(self, column: ColumnElement[Any]) -> ColumnElement[bool]:
        values, missing = [], False
        self._expect("(")
        while True:
            token = self._take()
            if token.word == "null":
                missing = True
            else:
                values.append(self._value(column, token))
            if self._accept(")"):
                break
            self._expect(",")
        inside: ColumnElement[bool] = column.in_(values)
        return or_(inside, column.is_(None)) if missing else inside

    def _column(self, token: _Token, *, quotable: bool = False) -> ColumnElement[Any]:
        if token.word in images.c:
            return images.c[token.word]
        near = did_you_mean(token.word, [*images.c.keys(), *_FLAGS])
        hints = [near] if near else []
        if quotable:
            hints.append(f"write '{token.text}' in quotes if it is text")
        elif not near:
            hints.append("columns are: " + ", ".join(images.c.keys()))
        raise self._error(token, f"no column {token.text!r}; " + " ".join(hints))

    def _value(self, column: ColumnElement[Any], token: _Token) -> Any:
        kind, value = self._literal(token)
        if kind != _kind(column):
            raise self._error(token, f"{column.key} holds {_kind(column)}, this is {kind}")
        if column is images.c.state and value in list(ImageState):
            return literal_column(f"'{value}'")  # not a bound parameter, see db.tables.FAILED
        return literal(value)

    def _literal(self, token: _Token) -> tuple[str, Any]:
        if token.kind == "number":
            return "a number", _number(token.text)
        if token.kind == "text":
            quote = token.text[0]
            value = token.text[1:-1].replace(quote * 2, quote)
            if "\0" in value or not _encodes(value):
                raise self._error(token, "this text has characters that no database stores")
            return "text", value
        if token.word in ("true", "false"):
            return "true or false", token.word == "true"
        hint = f"; write '{token.text}' in quotes if it is text" if token.kind == "word" else ""
        raise self._error(token, "expected a value here" + hint)


def _kind(column: ColumnElement[Any]) -> str:
    return {bool: "true or false", str: "text"}.get(column.type.python_type, "a number")


def _number(text: str) -> int | float:
    value = float(text)
    whole = text.lstrip("+-").isdecimal() and abs(value) < 2**53  # larger ones do not fit a database integer
    return int(text) if whole else value


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
