"""Every short pattern against every short text; `scripts/differential --exhaustive` does all."""

from random import Random

from gateway.policy.pattern import Wildcard
from tests.campaigns.small_world import mismatches, oracle, texts

LENGTH_MAX = 4
SHARE = 60
"""Of the patterns of length 5 one in so many is judged here, on as many of the texts."""


def test_all_patterns_and_texts_up_to_four_characters_are_matched_by_the_rule() -> None:
    every = list(texts(LENGTH_MAX))
    found = [one for pattern in every for one in mismatches(pattern, every)]
    assert found == []


def test_some_patterns_and_texts_of_five_characters_are_matched_by_the_rule() -> None:
    every = list(texts(LENGTH_MAX + 1))
    random = Random(5)  # noqa: S311  # the same pairs each time
    longest = [one for one in every if len(one) == LENGTH_MAX + 1]
    found = [
        one
        for pattern in random.sample(longest, k=len(longest) // SHARE)
        for one in mismatches(pattern, random.sample(every, k=len(every) // 2))
    ]
    assert found == []


def test_what_is_left_of_a_pattern_after_a_beginning_matches_what_is_left_of_the_text() -> None:
    every = list(texts(3))
    for pattern in every:
        for beginning in texts(2):
            rests = list(Wildcard.read(pattern).after(beginning))
            for text in texts(2):
                whole = oracle(pattern, beginning + text)
                assert any(oracle(rest, text) for rest in rests) is whole, (
                    pattern,
                    beginning,
                    text,
                )
