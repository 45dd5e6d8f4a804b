"""Conditions that no call can meet, as far as that can be proved.

A comparison changes its answer only at a value that is written: between two written numbers or
times all are alike, and so are all addresses between two ends of ranges. So a few samples stand
for every value there is, and if none of them passes, none does.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from ipaddress import IPv4Address, IPv6Address, ip_network
from itertools import pairwise

from gateway.policy.condition import (
    ALL,
    ANY,
    CALL_KEYS,
    IF_EXIST,
    RESOURCE_KEYS,
    TAG_KEYS,
    Condition,
    Context,
    NullCondition,
    ValueCondition,
)

SINGLE_KEYS = (CALL_KEYS | RESOURCE_KEYS) - TAG_KEYS
"""The keys that have one value at most; two conditions on one of several may mean two of them."""

DIGITS = 100
"""More than a sum or a half of two written numbers can have."""

_ANYWHERE = ("192.0.2.1", "2001:db8::1", "::fffe:ffff:ffff", "::1:0:0:0")
"""An address of each family, and those beside the ones that mean an IPv4 address."""
_SECOND = timedelta(seconds=1)
_FIRST, _LAST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)


def impossible_key(conditions: Iterable[Condition]) -> str | None:
    """The key of conditions that cannot hold together, or None if none is found."""
    by_key: dict[str, list[Condition]] = {}
    for one in conditions:
        by_key.setdefault(one.key, []).append(one)
    for key, together in by_key.items():
        if any(_is_impossible(family) for family in _families(key, together)):
            return key
    return None


def _families(key: str, conditions: Sequence[Condition]) -> Iterator[list[Condition]]:
    """Conditions on one key that the same samples decide, such as all that compare times."""
    nulls = [one for one in conditions if isinstance(one, NullCondition)]
    if any(one.wants_null for one in nulls):
        yield [*conditions]
    if key not in SINGLE_KEYS:
        return
    read = [one for one in conditions if isinstance(one, ValueCondition) and not one.templates]
    for family in _SAMPLES:
        alike = [one for one in read if _bare(one.name).startswith(f"{family}_")]
        if alike:
            yield [*alike, *nulls]


def _bare(name: str) -> str:
    return name.removeprefix(ANY).removeprefix(ALL).removesuffix(IF_EXIST)


def _is_impossible(conditions: Sequence[Condition]) -> bool:
    samples = _samples(conditions) if conditions else None
    if samples is None:
        return False
    key = conditions[0].key
    values = [(), *((sample,) for sample in samples)]
    return not any(_all_hold(conditions, {key: value}) for value in values)


def _all_hold(conditions: Sequence[Condition], context: Context) -> bool:
    try:
        return all(one.holds(context, {}) for one in conditions)
    except ValueError:  # a sample of another kind: nothing is proved
        return True


def _samples(conditions: Sequence[Condition]) -> Iterable[str] | None:
    """Values that stand for all there are; None if no few do."""
    if any(isinstance(one, NullCondition) and one.wants_null for one in conditions):
        return ("",)
    values = [one for one in conditions if isinstance(one, ValueCondition)]
    family = _bare(values[0].name).partition("_")[0]
    return _SAMPLES[family]([value for one in values for value in one.written], values)


def _listed(_: Sequence[str], conditions: Sequence[ValueCondition]) -> Iterable[str] | None:
    """The values of a condition that only its own values pass, if there is one."""
    for one in conditions:
        if _bare(one.name) in {"string_equal", "binary_equal"} and not one.holds_if_absent:
            return one.written
    return None


def _numbers(written: Sequence[str]) -> Iterator[str]:
    numbers = sorted({Decimal(text) for text in written})
    with localcontext(prec=DIGITS):
        between = [(one + other) / 2 for one, other in pairwise(numbers)]
        for number in (numbers[0] - 1, *numbers, *between, numbers[-1] + 1):
            yield f"{number:f}"


def _moments(written: Sequence[str]) -> Iterator[str]:
    moments = {
        datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=UTC) for text in written
    }
    inner = {moment for moment in moments if _FIRST < moment < _LAST}
    near = {moment + step for moment in inner for step in (-_SECOND, _SECOND)}
    for moment in sorted({_FIRST, _LAST, *moments, *near}):
        yield f"{moment.replace(tzinfo=None).isoformat()}Z"


def _addresses(written: Sequence[str]) -> Iterator[str]:
    yield from _ANYWHERE
    for text in written:
        network = ip_network(text, strict=False)
        make = IPv4Address if network.version == 4 else IPv6Address  # noqa: PLR2004  # IPv4
        for number in (int(network.network_address) - 1, int(network.broadcast_address) + 1):
            if 0 <= number < 2**network.max_prefixlen:
                yield str(make(number))
        yield str(network.network_address)
        yield str(network.broadcast_address)


_SAMPLES: Mapping[
    str, Callable[[Sequence[str], Sequence[ValueCondition]], Iterable[str] | None]
] = {
    "numeric": lambda written, _: _numbers(written),
    "date": lambda written, _: _moments(written),
    "ip": lambda written, _: _addresses(written),
    "bool": lambda *_: ("true", "false"),
    "string": _listed,
    "binary": _listed,
}
