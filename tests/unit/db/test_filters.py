"""What a filter means, checked against rows that each lack something."""

import pytest
from sqlalchemy import Engine, insert
from sqlalchemy.dialects import sqlite

from db.encoding import image_values
from db.errors import UsageError
from db.filters import MAX_DEPTH, MAX_LENGTH, columns_in, compile_where
from db.ledger import Ledger
from db.queries import find_images
from db.records import ImageRow, ImageState
from db.session import write
from db.tables import images
from tests.support.records import make_run

RUN = make_run()


def row(number: int, **values: object) -> ImageRow:
    defaults = {"key": f"{number}.png", "version": "1", "state": ImageState.DONE}
    return ImageRow(run_id=RUN.id, row=number, **defaults | values)  # type: ignore[arg-type]


ROWS = [
    row(0, label="cat", predicted="cat", probability=0.9, converged=True, target="cat"),
    row(1, label="cat", predicted="dog", probability=0.5, converged=False, target="dog"),
    row(2, label=None, predicted="dog", probability=0.1),
    row(3, label="it's", predicted="it's", probability=1e-3),
    row(4, label='a "b"', predicted=None, state=ImageState.FAILED, error="truncated; DROP TABLE x"),
    row(5, label="null", predicted="or", probability=-2.0, evaluations=50),
]


@pytest.fixture
def stored(engine: Engine) -> Engine:
    Ledger(engine).submit(RUN, [])
    with write(engine) as connection:
        connection.execute(insert(images), [image_values(each) for each in ROWS])
    return engine


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("label = 'cat'", [0, 1]),
        ('label="cat"', [0, 1]),
        ("label != 'cat'", [3, 4, 5]),
        ("label = predicted", [0, 3]),
        ("probability > 0.5", [0]),
        ("probability >= .5", [0, 1]),
        ("probability < 1e-2", [3, 5]),
        ("probability <= -2", [5]),
        ("row > probability", [1, 2, 3, 5]),
        ("evaluations = 50.0", [5]),
        ("converged = true", [0]),
        ("converged != TRUE", [1]),
        ("converged in (true, false)", [0, 1]),
        ("converged < true", [1]),
        ("converged >= false", [0, 1]),
        ("label = null", [2]),
        ("label != NULL", [0, 1, 3, 4, 5]),
        ("label = 'null'", [5]),
        ("predicted = 'or'", [5]),
        ("label = 'it''s'", [3]),
        ('label = "it\'s"', [3]),
        ('label = "a ""b"""', [4]),
        ("label in ('cat', 'null')", [0, 1, 5]),
        ("label not in ('cat', 'null')", [3, 4]),
        ("label in ('null', null)", [2, 5]),
        ("row in (1)", [1]),
        ("mispredicted", [1, 5]),
        ("not mispredicted", [0, 3]),
        ("failed", [4]),
        ("not failed", [0, 1, 2, 3, 5]),
        ("state = 'failed'", [4]),
        ("converged", [0]),
        ("not converged", [1]),
        ("failed or mispredicted and probability > 0", [1, 4]),
        ("(failed or mispredicted) and probability < 0", [5]),
        ("not (failed or mispredicted)", [0, 3]),
        ("not failed and not mispredicted", [0, 3]),
        ("not not failed", [4]),
        ("LABEL = 'cat' AND NOT Failed", [0, 1]),
        ("\n label\t=\n'cat' ", [0, 1]),
        ("row = 99999999999999999999", []),
        ("row < 1e400", [0, 1, 2, 3, 4, 5]),
        ("label = ''", []),
        ("label = ''''", []),
        ("label = 'x'' OR ''1''=''1'", []),
        ("label = 'x; DROP TABLE attribatch_images; --'", []),
        ("error = 'truncated; DROP TABLE x'", [4]),
        ("label = '%'", []),
        ("label = ':label'", []),
        ("label = '%(x)s'", []),
    ],
)
def test_filter_finds(stored: Engine, where: str, found: list[int]) -> None:
    assert [each.row for each in find_images(stored, RUN.id, where=where).rows] == found


@pytest.mark.parametrize(
    ("where", "problem", "carets"),
    [
        ("lable = 'cat'", "no column 'lable'; did you mean 'label'?", "^^^^^"),
        ("failed and mispredicte", "did you mean 'mispredicted'?", "           ^^^^^^^^^^^"),
        ("size > 3", "columns are: run_id, row, key", "^^^^"),
        ("label = cat", "write 'cat' in quotes if it is text", "        ^^^"),
        ("label in (cat)", "write 'cat' in quotes if it is text", "          ^^^"),
        ("label = 3", "label holds text, this is a number", "        ^"),
        ("row = '3'", "row holds a number, this is text", "      ^^^"),
        ("row = true", "row holds a number, this is true or false", "      ^^^^"),
        ("converged = 1", "converged holds true or false, this is a number", "            ^"),
        ("label = row", "label holds text, row holds a number", "        ^^^"),
        ("label < null", "use = null or != null", "      ^"),
        ("label", "expected one of = != < <= > >= in", "     ^"),
        ("label 'cat'", "expected one of", "      ^^^^^"),
        ("label is null", "in here; write = null to find missing values", "      ^^"),
        ("label = ", "expected a value here", "        ^"),
        ("label == 'cat'", "expected a value here", "       ^"),
        ("= 3", "expected a column here", "^"),
        ("3 = row", "expected a column here", "^"),
        ("", "expected a column here", "^"),
        ("   ", "expected a column here", "   ^"),
        ("failed and", "expected a column here", "          ^"),
        ("failed or or failed", "expected a column here", "          ^^"),
        ("(failed", "expected ')' here", "       ^"),
        ("failed)", "expected 'and', 'or' or the end here", "      ^"),
        ("failed failed", "expected 'and', 'or' or the end here", "       ^^^^^^"),
        ("row in ()", "expected a value here", "        ^"),
        ("row in (1 2)", "expected ',' here", "          ^"),
        ("row in 1", "expected '(' here", "       ^"),
        ("row not 1", "expected 'in' here", "        ^"),
        ("row in (1, row)", "expected a value here", "           ^^^"),
        ("label = 'cat", "this quote is never closed", "        ^"),
        ("failed; DROP TABLE x", "';' means nothing here", "      ^"),
        ("failed -- x", "'-' means nothing here", "       ^"),
        ("label = 'a\0b'", "no database stores", "        ^^^^^"),
        ("label = '\ud800'", "no database stores", "        ^^^"),
        ("label\n= cat", "no column 'cat'", "        ^^^"),
    ],
)
def test_mistake_is_named_and_pointed_at(where: str, problem: str, carets: str) -> None:
    with pytest.raises(UsageError) as caught:
        compile_where(where)
    first, shown, pointer = str(caught.value).split("\n")
    assert problem in first
    assert len(shown) == len(where) + 2
    assert pointer == "  " + carets


def test_texts_and_numbers_are_bound_never_written_into_the_sql() -> None:
    hostile = "x' OR '1'='1"
    condition = compile_where(f'label = "{hostile}" and probability > 123.25 or key in ("{hostile}")')
    compiled = condition.compile(dialect=sqlite.dialect())
    assert "OR '1'" not in str(compiled)
    assert "123.25" not in str(compiled)
    assert hostile in compiled.params.values()


def test_deep_nesting_and_long_filters_are_refused() -> None:
    with pytest.raises(UsageError, match=f"nested more than {MAX_DEPTH} deep"):
        compile_where("(" * 500 + "failed" + ")" * 500)
    with pytest.raises(UsageError, match=f"the limit is {MAX_LENGTH}"):
        compile_where("not " * MAX_LENGTH + "failed")


def test_longest_filter_is_within_the_databases_limits(stored: Engine) -> None:
    longest = " or ".join(["row=1"] * (MAX_LENGTH // 9))
    assert [each.row for each in find_images(stored, RUN.id, where=longest).rows] == [1]
    many = f"row in ({', '.join(['1'] * (MAX_LENGTH // 3 - 5))})"
    assert [each.row for each in find_images(stored, RUN.id, where=many).rows] == [1]


def test_a_filter_names_its_columns_in_order_and_once() -> None:
    asked = "not (Gini > 0.5 or label in ('entropy', \"gini\")) and mispredicted and label != predicted"
    assert columns_in(asked) == ["gini", "label", "predicted"]
    assert columns_in("failed") == columns_in(" ") == []
