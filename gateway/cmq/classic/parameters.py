"""The parameters of the classic API, which are plain text. Pure."""

import re
from collections.abc import Collection, Mapping

from gateway.cmq import limits
from gateway.cmq.classic.numbers import failure, told_as
from gateway.cmq.lists import check_search

Params = Mapping[str, str]


def check_names(params: Params, *, single: Collection[str], repeatable: Collection[str]) -> None:
    """Refuse parameters that an action has not, for they are misspelled ones.

    single, repeatable: those with one value, and those with a list. Raises ClassicError
    4000/10320; 10330 for a list where one value is meant, 10310 for the opposite.
    """
    for name in params:
        stem, dot, _ = name.partition(".")
        if name in single or (dot and stem in repeatable):
            continue
        if name in repeatable:
            raise failure((4000, 10310), f"parameter {name} key format error")
        if dot and stem in single:
            raise failure((4000, 10330), f"{stem} is NOT a repeatable parameter")
        raise failure((4000, 10320), f"no such parameter: {name}")


def required(params: Params, name: str) -> str:
    """A parameter that must be there. Raises ClassicError 4000/10390."""
    if name not in params:
        raise failure((4000, 10390), f"lacked of required parameter {name}")
    return params[name]


def number(
    params: Params, name: str, *, low: int, high: int, default: int, range_module: int = 10350
) -> int:
    """A whole number. Raises ClassicError 4000 with 10360 for no number, 10350 out of range."""
    text = params.get(name)
    if not text:
        return default
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise failure((4000, 10360), f"error type: parameter {name} is not a number")
    value = int(text)
    if not low <= value <= high:
        raise failure((4000, range_module), f"parameter {name} must be from {low} to {high}")
    return value


def read_page(params: Params, *, most: int = limits.LIMIT.high) -> tuple[int, int]:
    """Offset and limit of a list. Raises ClassicError 4000; 10390 for an offset without a limit."""
    if params.get("offset"):
        required(params, "limit")
    offset, limit = limits.OFFSET, limits.LIMIT
    return (
        number(params, "offset", low=offset.low, high=offset.high, default=offset.default),
        number(params, "limit", low=limit.low, high=most, default=limit.default),
    )


def array(params: Params, name: str) -> list[str]:
    """A list written `name.1`, `name.2`, …, from 0 or 1 on.

    Raises ClassicError 4000: 10390 absent, 10310 no number, 10380 a gap, 10370 over 16.
    """
    found: dict[int, str] = {}
    for key, value in params.items():
        stem, dot, index = key.partition(".")
        if stem != name or not dot:
            continue
        if not re.fullmatch(r"[0-9]{1,4}", index):
            raise failure((4000, 10310), f"parameter {key} key format error")
        found[int(index)] = value
    if not found:
        raise failure((4000, 10390), f"lacked of required parameter {name}.n")
    if len(found) > limits.BATCH_MAX:
        raise failure((4000, 10370), f"batch size out of range: at most {limits.BATCH_MAX}")
    first = min(found)
    if first > 1 or max(found) - first + 1 != len(found):
        raise failure((4000, 10380), f"parameter {name}.n is not consequent")
    return [found[index] for index in sorted(found)]


def optional_array(params: Params, name: str) -> list[str] | None:
    """A list as `array` reads it; None if nothing of it is given. Raises ClassicError."""
    if any(key.partition(".")[0] == name and "." in key for key in params):
        return array(params, name)
    return None


def read_search(params: Params) -> str:
    """What a list is searched for. Raises ClassicError 4000/10350 for more than a name can be."""
    with told_as((4000, 10350)):
        return check_search(params.get("searchWord", ""), parameter="searchWord")
