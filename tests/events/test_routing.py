"""Binding keys match as the topic exchange of AMQP says, judged by a slow independent reading."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.events.routing import matches


def reference(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(reference(pattern[1:], words[skip:]) for skip in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and reference(pattern[1:], words[1:])


@pytest.mark.parametrize(
    ("binding_key", "routing_key", "matched"),
    [
        ("1.#.0", "1.0", True),
        ("1.#.0", "1.2.3.0", True),
        ("1.*.0", "1.0", False),
        ("1.*.0", "1.2.0", True),
        ("#", "", True),
        ("*", "", False),
        ("batch.job.#", "batch.task.TASK_RUNNING.job-1", False),
    ],
)
def test_star_is_one_word_and_hash_any_number(
    binding_key: str, routing_key: str, matched: bool
) -> None:
    assert matches(binding_key, routing_key) is matched


@given(
    pattern=st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=7),
    words=st.lists(st.sampled_from(["a", "b"]), max_size=7),
)
def test_matching_agrees_with_the_reference(pattern: list[str], words: list[str]) -> None:
    assert matches(".".join(pattern), ".".join(words)) is reference(pattern, words)
