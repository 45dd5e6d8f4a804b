"""Which messages a subscription picks, against the rules written once more."""

from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from gateway.cmq.endpoints import Protocol
from gateway.cmq.push.schedules import Strategy
from gateway.cmq.push.webhooks import ContentFormat
from gateway.cmq.subscriptions import Subscription
from tests.support.events import NOW

TAGS = st.lists(st.sampled_from("abcde"), max_size=5, unique=True)
WORDS = st.sampled_from(["a", "b", "1", "0", ""])
KEYS = st.lists(WORDS, max_size=6).map(".".join)
PATTERNS = st.lists(st.one_of(WORDS, st.sampled_from("*#")), min_size=1, max_size=6).map(".".join)


def subscription(filter_tags: list[str], binding_keys: list[str]) -> Subscription:
    return Subscription(
        id="subsc-00000001",
        topic_id="topic-00000001",
        name="s",
        protocol=Protocol.HTTP,
        endpoint="http://example.com/",
        queue_id=None,
        notify_strategy=Strategy.BACKOFF_RETRY,
        notify_content_format=ContentFormat.JSON,
        filter_tags=tuple(filter_tags),
        binding_keys=tuple(binding_keys),
        created_at=NOW,
        modified_at=NOW,
    )


@cache
def fits(pattern: tuple[str, ...], words: tuple[str, ...]) -> bool:
    """The rule of a topic exchange, by its definition: `#` is no word, or one and `#` again."""
    if not pattern:
        return not words
    first, rest = pattern[0], pattern[1:]
    if first == "#":
        return fits(rest, words) or (bool(words) and fits(pattern, words[1:]))
    return bool(words) and first in ("*", words[0]) and fits(rest, words[1:])


def split(key: str) -> tuple[str, ...]:
    return tuple(key.split(".")) if key else ()


@given(
    filter_tags=TAGS,
    tags=TAGS,
    binding_keys=st.lists(PATTERNS, max_size=5),
    routing_key=KEYS,
)
def test_tags_and_keys_pick_as_the_rules_say(
    filter_tags: list[str], tags: list[str], binding_keys: list[str], routing_key: str
) -> None:
    by_tags = not filter_tags or any(tag in tags for tag in filter_tags)
    words = split(routing_key)
    by_keys = not binding_keys or any(fits(tuple(k.split(".")), words) for k in binding_keys)
    wants = subscription(filter_tags, binding_keys).wants(routing_key=routing_key, tags=tags)
    assert wants is (by_tags and by_keys)


def test_a_hash_between_two_words_stands_for_no_word_and_a_star_does_not() -> None:
    assert subscription([], ["1.#.0"]).wants(routing_key="1.0", tags=())
    assert subscription([], ["1.#.0"]).wants(routing_key="1.2.3.0", tags=())
    assert not subscription([], ["1.*.0"]).wants(routing_key="1.0", tags=())


def test_an_untagged_message_is_not_for_a_tag_filter() -> None:
    assert not subscription(["a"], []).wants(routing_key="", tags=())
