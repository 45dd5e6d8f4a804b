"""What single members of a request may be. Pure."""

from collections.abc import Sequence

from gateway.batch import datatypes
from gateway.errors import InvalidParameterValue

TAGS_MAX = 10
TAG_KEY_MAX = 127  # as the vendor's tag service has it
TAG_VALUE_MAX = 255  # likewise


def check_range(
    name: str, value: int | None, *, most: int, least: int = 0, detail: str | None = None
) -> None:
    """Refuse a number below `least` or over `most`; `detail` is the code's for the latter."""
    if value is None:
        return
    if value < 0:
        raise InvalidParameterValue(f"{name} `{value}` is negative.", detail="Negative")
    if value < least:
        raise InvalidParameterValue(f"{name} `{value}` is under {least}.")
    if value > most:
        raise InvalidParameterValue(f"{name} `{value}` is over {most}.", detail=detail)


def check_choice(name: str, value: str | None, choices: Sequence[str]) -> None:
    """Refuse a word that is not one of `choices`; an absent one is fine."""
    if value is not None and value not in choices:
        raise InvalidParameterValue(f"{name} `{value}` is not one of {', '.join(choices)}.")


def check_text(name: str, value: str | None, *, most: int, least: int = 0) -> None:
    """Refuse a text with control characters, or not of `least` to `most` characters."""
    if value is None:
        return
    if not least <= len(value) <= most or not value.isprintable():
        raise InvalidParameterValue(
            f"{name} must have from {least} to {most} characters, none of them a control character."
        )


def check_tags(tags: Sequence[datatypes.Tag] | None) -> None:
    """Refuse more than ten tags, an empty key, a key named twice and what is too long."""
    keys = [tag.key for tag in tags or ()]
    if len(keys) > TAGS_MAX:
        raise InvalidParameterValue(f"There are more than {TAGS_MAX} Tags.")
    if len(set(keys)) != len(keys) or "" in keys:
        raise InvalidParameterValue("Every tag needs a key of its own.")
    for tag in tags or ():
        if len(tag.key) > TAG_KEY_MAX or len(tag.value) > TAG_VALUE_MAX:
            raise InvalidParameterValue(
                f"The tag `{tag.key[:TAG_KEY_MAX]}` is too long: a key has at most {TAG_KEY_MAX}"
                f" characters, a value {TAG_VALUE_MAX}."
            )
