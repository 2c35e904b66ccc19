"""Parts of a mark are joined to a shape, and a shape is a finding where it is enough by itself."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from pipeline.audits.candidates import Box, Candidate
from pipeline.audits.deciding import decide
from pipeline.audits.interventions import Trial, wilson
from pipeline.audits.joining import join_all

SIZE = (32, 32)


def a_part(region: Box, name: str = "a", score: float = 1.0) -> Candidate:
    return Candidate(name, region, 0.1, 0.02, score, 0.005, tuple(range(8)), 4)


def joined(*parts: Candidate, tested: Sequence[Candidate] = ()) -> list[Candidate]:
    rng = np.random.default_rng(0)
    grids = {name: rng.dirichlet(np.ones(1024), 8).reshape(8, 32, 32).astype(np.float32) for name in "ab"}
    grids["a"][:, 24:30] *= 3
    return join_all(parts, [*parts, *tested], grids, SIZE, 1)


def test_parts_with_a_gap_become_one_place_with_its_own_shares() -> None:
    (found,) = joined(a_part((10, 24, 17, 30)), a_part((20, 26, 29, 32), score=2.0))
    assert found.region == (10, 24, 29, 32)
    assert (found.score, found.p_value) == (2.0, 0.005)
    assert found.share > 2 * found.share_elsewhere
    assert found.share_elsewhere == pytest.approx(19 * 8 / 1024, rel=0.2)
    assert sorted(found.order) == list(range(8))


def test_three_parts_are_joined_two_by_two_the_smallest_union_first() -> None:
    found = joined(a_part((0, 0, 6, 4)), a_part((8, 0, 12, 4)), a_part((16, 0, 24, 4)))
    assert [one.region for one in found] == [(0, 0, 12, 4), (0, 0, 24, 4)]


@pytest.mark.parametrize(
    "parts",
    [
        (a_part((0, 0, 4, 4)), a_part((9, 0, 13, 4))),  # 5 pixels apart, an eighth of the side are 4
        (a_part((0, 0, 4, 4)), a_part((5, 0, 9, 4), "b")),
        (a_part((0, 0, 20, 16)), a_part((4, 14, 24, 20))),  # the union is more than 30 % of the image
        (a_part((0, 0, 4, 4)),),
    ],
)
def test_what_is_far_away_of_another_class_or_too_large_is_not_joined(parts: Sequence[Candidate]) -> None:
    assert joined(*parts) == []


def test_a_union_that_was_tested_already_is_not_proposed_again() -> None:
    assert joined(a_part((0, 0, 4, 4)), a_part((5, 0, 9, 4)), tested=[a_part((0, 0, 9, 5))]) == []


def a_trial(
    name: str, region: Box, *, ratio: float, turned: float, lost: float = 0.5, control: float = 0.0, like: float = 2.0
) -> Trial:
    candidate = Candidate(name, region, 0.02 * ratio, 0.02, 1.0, 0.005, (0,), 24)
    return Trial(candidate, wilson(lost, 24), wilson(turned, 96), wilson(0.0, 24), wilson(control, 96), like, ())


WORD, PART = (4, 24, 28, 30), (6, 0, 24, 15)


def test_a_word_over_strokes_is_a_finding_and_the_upper_half_of_an_object_is_none() -> None:
    word = a_trial("a", WORD, ratio=2.8, turned=0.78)
    half = a_trial("b", PART, ratio=1.3, turned=0.85, lost=0.9)
    kept, rejected = decide([half], [word])
    assert kept == [word]
    assert rejected[0][0] is half
    assert rejected[0][1].startswith("used, but like a part of the object")


@pytest.mark.parametrize(
    "word",
    [
        a_trial("a", WORD, ratio=2.8, turned=0.78, control=0.7),  # random windows turn as many
        a_trial("a", WORD, ratio=2.8, turned=0.78, lost=0.1),  # nothing is lost without it
        a_trial("a", WORD, ratio=9.0, turned=0.25),  # alone there, but it turns few
        a_trial("a", WORD, ratio=1.2, turned=0.98, like=80.0),  # joined: likeness does not count
    ],
)
def test_a_joined_place_must_be_more_than_others_and_enough_by_itself(word: Trial) -> None:
    assert decide([], [word])[0] == []


def test_two_words_do_not_hide_each_other_and_where_all_classes_have_one_none_stands_out() -> None:
    words = [a_trial(name, (at, 24, at + 6, 30), ratio=3.0, turned=0.7) for at, name in ((0, "a"), (8, "b"))]
    halves = [a_trial(name, PART, ratio=1.4, turned=0.9) for name in "cde"]
    assert decide(halves, words)[0] == words
    everywhere = [a_trial(name, (at, 24, at + 6, 30), ratio=3.0, turned=0.7) for at, name in ((16, "c"), (24, "d"))]
    assert decide([], [*words, *everywhere])[0] == []


def test_a_cast_on_few_images_is_a_finding_where_it_turns_others_and_windows_are_parts_of_it() -> None:
    whole = a_trial("a", (0, 0, 32, 32), ratio=1.0, turned=0.75, like=2.3)
    cast = replace(whole, candidate=replace(whole.candidate, kind="colour"))
    window = a_trial("a", WORD, ratio=3.0, turned=0.7)
    kept, rejected = decide([cast], [window])
    assert kept == [cast]
    assert "part of a finding" in rejected[0][1]
    assert decide([replace(cast, necessity=wilson(0.0, 24))])[0] == []
    assert decide([replace(cast, sufficiency=wilson(0.4, 96))])[0] == []
