"""The condition element: operators over what is known about a call.

A context maps a condition key, such as `qcs:ip`, to its values. A key without values is absent.
Most keys are known of a call; those of RESOURCE_KEYS are known of each resource on its own.
"""

import base64
import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from gateway.call import AttributeTest, Principal
from gateway.errors import InvalidParameter
from gateway.policy.pattern import Wildcard, expand, has_variables, is_known_template

Address = IPv4Address | IPv6Address
Context = Mapping[str, tuple[str, ...]]
Test = Callable[[str], bool]
MakeTest = Callable[[str], Test]
"""Reads one value of a policy and gives the test of one value of the context.

Both raise ValueError for a text that is not of the operator's kind.
"""

IPV4_AS_IPV6 = IPv6Network("::ffff:0:0/96")

_KEY = re.compile(r"[a-z][a-z0-9_-]*(?::[A-Za-z0-9_-]+(?:/[^\s]+)?)?")
_NUMBER = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?")
_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:T[0-9]{2}:[0-9]{2}:[0-9]{2}Z| [0-9]{2}:[0-9]{2}:[0-9]{2})"
)
CALL_KEYS = frozenset(
    {
        "qcs:current_time",
        "qcs:ip",
        "qcs:mfa",
        "qcs:owner_uin",
        "qcs:request_tag",
        "qcs:uin",
        "qcs:vpc",
        "mfa",
    }
)
RESOURCE_KEYS = frozenset({"qcs:create_uin", "qcs:resource_tag", "qcs:tag"})
NAMED_TAG = "qcs:tag/"
"""The older form: `qcs:tag/<key>` has the value of one tag."""
TAG_KEYS = frozenset({"qcs:resource_tag", "qcs:request_tag", "qcs:tag"})
"""Their values are `key&value`, one for each tag."""
ANY, ALL, IF_EXIST = "for_any_value:", "for_all_value:", "_if_exist"


def is_carried(key: str) -> bool:
    """Whether a call that comes here, or a resource of one, can carry a condition key."""
    return key in CALL_KEYS or key in RESOURCE_KEYS or key.startswith(NAMED_TAG)


def is_foreign(key: str, services: Collection[str]) -> bool:
    """Whether only calls of other services carry a key such as `cvm:region`.

    services: those that are served here, as policies name them.
    """
    service, colon, _ = key.partition(":")
    return bool(colon) and service != "qcs" and service not in services


def caller_context(principal: Principal) -> dict[str, tuple[str, ...]]:
    """The keys that every call of a principal carries, whatever it is.

    Why `mfa` beside `qcs:mfa`: the vendor's general policies compare `mfa` with "0", newer pages
    write `qcs:mfa` and a boolean.
    """
    return {
        "qcs:uin": (principal.uin,),
        "qcs:owner_uin": (principal.owner_uin,),
        "qcs:mfa": ("true" if principal.mfa else "false",),
        "mfa": ("1" if principal.mfa else "0",),
    }


def carried_by_tags(tags: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """The keys that the tags of a resource make, each of a key and a value."""
    pairs = tuple(tags)
    if not pairs:
        return {}
    texts = tuple(f"{key}&{value}" for key, value in pairs)
    named = {f"{NAMED_TAG}{key}": (value,) for key, value in pairs}
    return {"qcs:resource_tag": texts, "qcs:tag": texts, **named}


def string_equal(written: str) -> Test:
    """Equal, letter case counts."""
    return lambda value: value == written


def string_equal_ignore_case(written: str) -> Test:
    """Equal, letter case does not count."""
    folded = written.casefold()
    return lambda value: value.casefold() == folded


def string_like(written: str) -> Test:
    """Like, with `*` at the start, at the end, or both."""
    if "*" in written.removeprefix("*").removesuffix("*"):
        raise ValueError("a `*` stands at the start or at the end")
    return Wildcard.read(written).matches


def binary_equal(written: str) -> Test:
    """The same bytes; both sides are base64."""
    wanted = base64.b64decode(written, validate=True)
    return lambda value: base64.b64decode(value, validate=True) == wanted


def bool_equal(written: str) -> Test:
    """The same of `true` and `false`."""
    wanted = _read_bool(written)
    return lambda value: _read_bool(value) is wanted


def ip_equal(written: str) -> Test:
    """Inside a range or equal to an address.

    Why host bits may be set: the vendor's own sample is `10.121.2.10/24`, meant as a range.
    """
    network = _read_network(written)
    first, last = int(network.network_address), int(network.broadcast_address)
    family = type(network.network_address)

    def test(value: str) -> bool:
        address = read_ip(value)
        return type(address) is family and first <= int(address) <= last

    return test


def number_test(compare: Callable[[Decimal, Decimal], bool]) -> MakeTest:
    """Make the operator that holds if `compare(context value, written value)`."""

    def make(written: str) -> Test:
        wanted = _read_number(written)
        return lambda value: compare(_read_number(value), wanted)

    return make


def date_test(compare: Callable[[datetime, datetime], bool]) -> MakeTest:
    """Make the operator that holds if `compare(context value, written value)`."""

    def make(written: str) -> Test:
        wanted = _read_moment(written)
        return lambda value: compare(_read_moment(value), wanted)

    return make


def _read_bool(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ValueError("not `true` or `false`")
    return text.lower() == "true"


def _read_network(written: str) -> IPv4Network | IPv6Network:
    """A range, host bits allowed. One of IPv4 that is written as IPv6 is the IPv4 range."""
    network = ip_network(written, strict=False)
    if isinstance(network, IPv6Network) and network.subnet_of(IPV4_AS_IPV6):
        mapped = network.network_address.ipv4_mapped
        return ip_network(f"{mapped}/{network.prefixlen - IPV4_AS_IPV6.prefixlen}")
    return network


@lru_cache(maxsize=4_096)
def read_ip(text: str) -> Address:
    """An address, one of IPv4 in its own form however it is written. Raises ValueError."""
    address = ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _read_number(text: str) -> Decimal:
    if _NUMBER.fullmatch(text) is None:
        raise ValueError("not a number")
    return Decimal(text)


@lru_cache(maxsize=64)
def _read_moment(text: str) -> datetime:
    if _MOMENT.fullmatch(text) is None:
        raise ValueError("not a time such as `2016-06-01T00:01:00Z`")
    return datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Operator:
    """How values are compared. negated: holds for a value that passes none of the tests."""

    make_test: MakeTest
    negated: bool = False


OPERATORS: Mapping[str, Operator] = {
    "string_equal": Operator(string_equal),
    "string_not_equal": Operator(string_equal, negated=True),
    "string_equal_ignore_case": Operator(string_equal_ignore_case),
    "string_not_equal_ignore_case": Operator(string_equal_ignore_case, negated=True),
    "string_like": Operator(string_like),
    "string_not_like": Operator(string_like, negated=True),
    "binary_equal": Operator(binary_equal),
    "bool_equal": Operator(bool_equal),
    "ip_equal": Operator(ip_equal),
    "ip_not_equal": Operator(ip_equal, negated=True),
    "date_equal": Operator(date_test(operator.eq)),
    "date_not_equal": Operator(date_test(operator.eq), negated=True),
    "date_greater_than": Operator(date_test(operator.gt)),
    "date_greater_than_equal": Operator(date_test(operator.ge)),
    "date_less_than": Operator(date_test(operator.lt)),
    "date_less_than_equal": Operator(date_test(operator.le)),
    "numeric_equal": Operator(number_test(operator.eq)),
    "numeric_not_equal": Operator(number_test(operator.eq), negated=True),
    "numeric_greater_than": Operator(number_test(operator.gt)),
    "numeric_greater_than_equal": Operator(number_test(operator.ge)),
    "numeric_less_than": Operator(number_test(operator.lt)),
    "numeric_less_than_equal": Operator(number_test(operator.le)),
}


@dataclass(frozen=True, slots=True)
class ValueCondition:
    """One key compared with the values written for it, one of which must fit.

    name: the operator as written. templates: written values with a policy variable, read when the
    caller is known. needs_all: `for_all_value:`. needs_any: `for_any_value:`.

    Why a negated operator with several values means "none of them": the vendor's wording allows
    "differs from one of them" too, under which a list of two ranges would exclude nobody.
    """

    name: str
    key: str
    written: tuple[str, ...]
    operator: Operator
    tests: tuple[Test, ...]
    templates: tuple[str, ...]
    needs_all: bool
    needs_any: bool
    holds_if_absent: bool

    @property
    def has_variables(self) -> bool:
        """Whether it must be told the caller's variables."""
        return bool(self.templates)

    @property
    def combines_any(self) -> bool:
        """Whether one of several values of the key is enough; else each of them must do."""
        return self.needs_any if self.operator.negated else not self.needs_all

    def holds(self, context: Context, variables: Mapping[str, str]) -> bool:
        """Judge the call. Raises ValueError if a value of the context cannot be compared.

        Every value is compared, so that whether it raises depends on no order.
        """
        values = context.get(self.key)
        if not values:
            return self.holds_if_absent
        tests = self.tests
        if self.templates:
            tests += tuple(self._late_test(text, variables) for text in self.templates)
        passed = [any([test(value) for test in tests]) for value in values]  # noqa: C419  # all
        if self.operator.negated:
            fits = [not one for one in passed]
            return any(fits) if self.needs_any else all(fits)
        return all(passed) if self.needs_all else any(passed)

    def _late_test(self, template: str, variables: Mapping[str, str]) -> Test:
        text = expand(template, variables)
        if text is None:
            raise ValueError(f"a variable of `{template}` has no value")
        return self.operator.make_test(text)


@dataclass(frozen=True, slots=True)
class NullCondition:
    """`null_equal`: the key is absent or empty (wants_null), or it is not."""

    name: str
    key: str
    written: tuple[str, ...]
    wants_null: bool

    @property
    def has_variables(self) -> bool:
        """Whether it must be told the caller's variables."""
        return False

    @property
    def combines_any(self) -> bool:
        """Whether one of several values of the key is enough; else each of them must do."""
        return not self.wants_null

    @property
    def holds_if_absent(self) -> bool:
        """What it says of a key that is absent."""
        return self.wants_null

    def holds(self, context: Context, variables: Mapping[str, str]) -> bool:
        """Judge the call."""
        del variables  # a null has no text to put one into
        return (not any(context.get(self.key, ()))) is self.wants_null


Condition = ValueCondition | NullCondition


def is_of_resource(condition: Condition) -> bool:
    """Whether the key is known of each resource, instead of the call."""
    return condition.key in RESOURCE_KEYS or condition.key.startswith(NAMED_TAG)


def as_test(condition: Condition, variables: Mapping[str, str]) -> AttributeTest:
    """Write a condition on a resource down for whoever lists resources.

    A variable without a value, or with one that the operator cannot compare, stays as it is
    written, and then cannot be judged.
    """
    values = tuple(_expanded(condition, text, variables) for text in condition.written)
    return AttributeTest(condition.name, condition.key, values)


def _expanded(condition: Condition, text: str, variables: Mapping[str, str]) -> str:
    if not has_variables(text) or isinstance(condition, NullCondition):
        return text
    expanded = expand(text, variables)
    try:
        condition.operator.make_test(expanded or "")
    except ValueError:
        return text
    return text if expanded is None else expanded


@lru_cache(maxsize=1_024)
def read_test(test: AttributeTest) -> Condition:
    """Read what `as_test` wrote: the condition, to be judged without variables."""
    return _read_condition(test.operator, test.key, list(test.values))


def read_conditions(written: object) -> tuple[Condition, ...]:
    """Read a whole condition element, `{operator: {key: value or values}}`; all must hold.

    Raises InvalidParameter: ConditionError for the shape, ConditionTypeError for the operator,
    ConditionContentError for a key or a value.
    """
    if not isinstance(written, dict) or not written:
        raise _refused("`condition` is not an object with operators in it", "ConditionError")
    return tuple(
        _read_condition(name, key, values)
        for name, keys in written.items()
        for key, values in _keys_of(name, keys).items()
    )


def _keys_of(name: str, keys: object) -> dict[str, object]:
    if not isinstance(keys, dict) or not keys:
        raise _refused(f"`{name}` is not an object with condition keys in it", "ConditionError")
    return keys


def _read_condition(name: str, key: str, written: object) -> Condition:
    if _KEY.fullmatch(key) is None:
        raise _refused(f"the condition key `{key}` cannot be read", "ConditionContentError")
    values = _texts(written, name=name, key=key)
    if name == "null_equal":
        return _read_null_condition(key, values)
    found = _find_operator(name)
    if name.startswith(ALL) and key in TAG_KEYS:
        raise _refused(f"`{ALL}` cannot be used with `{key}`", "ConditionTypeError")
    templates = tuple(value for value in values if has_variables(value))
    return ValueCondition(
        name=name,
        key=key,
        written=values,
        operator=found,
        tests=tuple(_make(name, found, value) for value in values if not has_variables(value)),
        templates=tuple(_template(name, value) for value in templates),
        needs_all=name.startswith(ALL),
        needs_any=name.startswith(ANY),
        holds_if_absent=name.endswith(IF_EXIST),
    )


def _find_operator(name: str) -> Operator:
    bare = name.removeprefix(ANY) if name.startswith(ANY) else name.removeprefix(ALL)
    found = OPERATORS.get(bare.removesuffix(IF_EXIST))
    if found is None:
        hint = ": write it without blanks" if name != name.strip() else ""
        raise _refused(f"the operator `{name}` is unknown{hint}", "ConditionTypeError")
    return found


def _read_null_condition(key: str, values: tuple[str, ...]) -> NullCondition:
    """Read the values of `null_equal`: `true` or the empty text, or `false` for the opposite."""
    wanted = {value.lower() for value in values}
    if wanted <= {"", "true"}:
        return NullCondition("null_equal", key, values, wants_null=True)
    if wanted == {"false"}:
        return NullCondition("null_equal", key, values, wants_null=False)
    raise _refused("`null_equal` takes `true` or `false`", "ConditionContentError")


def _make(name: str, found: Operator, value: str) -> Test:
    try:
        return found.make_test(value)
    except ValueError as error:
        why = f"`{value}` is no value for `{name}`: {error}"
        raise _refused(why, "ConditionContentError") from error


def _template(name: str, value: str) -> str:
    if not is_known_template(value):
        raise _refused(
            f"`{value}` of `{name}` has an unknown policy variable", "ConditionContentError"
        )
    return value


def _texts(written: object, *, name: str, key: str) -> tuple[str, ...]:
    values = written if isinstance(written, list) else [written]
    if not values:
        raise _refused(f"`{name}` has no value for `{key}`", "ConditionContentError")
    texts = []
    for value in values:
        if isinstance(value, bool):
            texts.append("true" if value else "false")
        elif isinstance(value, str | int) or (isinstance(value, float) and "e" not in str(value)):
            texts.append(str(value))
        else:
            why = f"a value of `{key}` under `{name}` is neither a string nor a plain number"
            raise _refused(why, "ConditionContentError")
    return tuple(texts)


def _refused(why: str, detail: str) -> InvalidParameter:
    return InvalidParameter(f"The policy's condition cannot be used: {why}.", detail=detail)
