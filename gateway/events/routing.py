"""Binding keys: which routing keys they match, by the rules of an AMQP topic exchange. Pure."""

from collections.abc import Sequence


def matches(binding_key: str, routing_key: str) -> bool:
    """Whether a binding key, in which `*` is one word and `#` any number, matches a routing key."""
    if binding_key == "#":
        return True
    return _match_words(binding_key.split("."), routing_key.split(".") if routing_key else [])


def _match_words(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """Match greedily, going back to the last `#` only: as far as linear as word globs can be."""
    at, word, hash_at, hash_word = 0, 0, -1, 0
    while word < len(words):
        if at < len(pattern) and pattern[at] == "#":
            hash_at, hash_word = at, word
            at += 1
        elif at < len(pattern) and pattern[at] in ("*", words[word]):
            at, word = at + 1, word + 1
        elif hash_at >= 0:
            hash_word += 1
            at, word = hash_at + 1, hash_word
        else:
            return False
    return all(rest == "#" for rest in pattern[at:])
