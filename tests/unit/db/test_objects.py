"""The laws of object storage, in a folder and on a real S3."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from db.errors import ObjectMissing, UsageError
from db.objects import Folder, Objects, open_objects


def test_object_is_given_back_as_it_was_put(objects: Objects) -> None:
    data = bytes(range(256)) * 100
    assert objects.put_once("maps/run/c/0", data)
    assert objects.get("maps/run/c/0") == data
    assert objects.size("maps/run/c/0") == len(data)
    assert objects.exists("maps/run/c/0")


def test_empty_object_is_an_object(objects: Objects) -> None:
    assert objects.put_once("empty", b"")
    assert objects.exists("empty")
    assert objects.get("empty") == b""
    assert not objects.put_once("empty", b"x")


def test_second_put_once_changes_nothing(objects: Objects) -> None:
    assert objects.put_once("a/b", b"first")
    assert not objects.put_once("a/b", b"second")
    assert objects.get("a/b") == b"first"


def test_put_replaces(objects: Objects) -> None:
    objects.put("a/b", b"first")
    objects.put("a/b", b"second")
    assert objects.get("a/b") == b"second"


def test_of_many_writers_at_once_exactly_one_is_told_true(objects: Objects) -> None:
    for trial in range(5):
        data = [bytes([writer]) * 50_000 for writer in range(8)]
        with ThreadPoolExecutor(8) as executor:
            key = f"race/{trial}"
            told = list(executor.map(lambda each, key=key: objects.put_once(key, each), data))
        assert sum(told) == 1
        assert objects.get(f"race/{trial}") == data[told.index(True)]


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [
        (0, 3, b"012"),
        (4, None, b"456789"),
        (8, 5, b"89"),
        (10, 1, b""),
        (99, None, b""),
        (3, 0, b""),
        (None, 2, b"01"),
        (-3, None, b"789"),
        (-10, None, b"0123456789"),
        (-99, None, b"0123456789"),
    ],
)
def test_ranges_give_what_lies_inside(objects: Objects, start: int | None, length: int | None, expected: bytes) -> None:
    objects.put("digits", b"0123456789")
    assert objects.get("digits", start, length) == expected


def test_length_from_the_end_is_refused(objects: Objects) -> None:
    with pytest.raises(ValueError, match="a length needs"):
        objects.get("digits", -3, 2)


def test_missing_object_is_named_with_the_remedy(objects: Objects) -> None:
    for ask in (
        objects.get,
        objects.size,
        lambda key: objects.get(key, 0, 5),
        lambda key: objects.get(key, -5),
    ):
        with pytest.raises(ObjectMissing, match=r"no object 'no/such'.*attribatch repair"):
            ask("no/such")
    assert not objects.exists("no/such")
    assert not objects.exists("no")


def test_part_of_a_key_is_no_object(objects: Objects) -> None:
    objects.put("a/b", b"x")
    assert not objects.exists("a")
    with pytest.raises(ObjectMissing):
        objects.get("a")
    assert not objects.exists("a/b/c")
    with pytest.raises(ObjectMissing):
        objects.get("a/b/c")


def test_deleted_object_is_gone_and_deleting_again_is_fine(objects: Objects) -> None:
    objects.put("a/b", b"x")
    objects.delete("a/b")
    objects.delete("a/b")
    objects.delete("never/was")
    assert not objects.exists("a/b")
    assert objects.put_once("a/b", b"y")


def test_list_gives_keys_with_the_prefix_in_order_of_their_bytes(objects: Objects) -> None:
    keys = ["a/b/2", "a/b/10", "a/b-c", "a/b.txt", "a/b0", "ab", "b", "a/é"]
    assert list(objects.list()) == []
    for key in keys:
        objects.put(key, b"x")
    assert list(objects.list()) == sorted(keys)
    assert list(objects.list("a/b")) == ["a/b-c", "a/b.txt", "a/b/10", "a/b/2", "a/b0"]
    assert list(objects.list("a/b/")) == ["a/b/10", "a/b/2"]
    assert list(objects.list("a/b/1")) == ["a/b/10"]
    assert list(objects.list("zz")) == list(objects.list("zz/")) == list(objects.list("b/c/d")) == []


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/..",
        "a//b",
        "a/",
        "./a",
        "a/.",
        "a\\b",
        "a\0b",
        ".incoming/x",
    ],
)
def test_key_that_could_leave_the_store_is_refused(objects: Objects, key: str) -> None:
    for ask in (objects.get, objects.size, objects.exists, objects.delete):
        with pytest.raises(UsageError, match="not an object key"):
            ask(key)
    for store in (objects.put, objects.put_once):
        with pytest.raises(UsageError, match="not an object key"):
            store(key, b"x")


def test_keys_may_hold_any_other_character(objects: Objects) -> None:
    for key in ("a b/c", "ünï/çødé", "a%2Fb", "a+b", "...", "a..b/.c", "x" * 200, "q?a=1&b#c"):
        assert objects.put_once(key, key.encode())
        assert objects.get(key) == key.encode()
        assert list(objects.list(key)) == [key]


def test_url_opens_the_same_store(objects: Objects) -> None:
    assert str(objects) == objects.url
    if isinstance(objects, Folder):
        objects.put("a", b"x")
        assert open_objects(objects.url).get("a") == b"x"
