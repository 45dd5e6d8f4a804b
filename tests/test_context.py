"""What policies may know of a call."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, get_args, get_origin

import msgspec
import pytest

from gateway.batch import datatypes as batch_datatypes
from gateway.call import Call, HttpRequest, Principal
from gateway.cmq.tdmq import datatypes as cmq_datatypes
from gateway.config import Settings, SettingsError
from gateway.context import TAG_LISTS, TAGS_MAX, Edge, context_of
from gateway.errors import InvalidParameterValue

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ANN = Principal("100", "200", "ann")
PROXIED = Settings(trusted_proxies="10.0.0.0/8, ::1", vpc_header="X-Vpc-Id")


def request(source_ip: str, **headers: str) -> HttpRequest:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpRequest("POST", "/", "", named, b"", source_ip, NOON)


@pytest.mark.parametrize(
    ("peer", "forwarded", "seen"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.1", "198.51.100.7", "192.0.2.1"),
        ("10.1.1.1", "198.51.100.7", "198.51.100.7"),
        ("::1", "198.51.100.7", "198.51.100.7"),
        ("10.1.1.1", "1.2.3.4, 198.51.100.7", "198.51.100.7"),
        ("10.1.1.1", "198.51.100.7, 10.2.2.2", "198.51.100.7"),
        ("10.1.1.1", "10.3.3.3, 10.2.2.2", "10.3.3.3"),
        ("10.1.1.1", "", "10.1.1.1"),
        ("10.1.1.1", "198.51.100.7, unknown", "10.1.1.1"),
        ("::ffff:10.1.1.1", "::ffff:198.51.100.7", "198.51.100.7"),
        ("::ffff:192.0.2.1", "", "192.0.2.1"),
        ("10.1.1.1", "198.51.100.7, 10.2.2.2, -", "10.1.1.1"),
        ("", "198.51.100.7", ""),
    ],
)
def test_the_caller_is_the_last_hop_that_is_no_proxy(peer: str, forwarded: str, seen: str) -> None:
    headers = {"x_forwarded_for": forwarded} if forwarded else {}
    assert Edge.of(PROXIED).source_ip(request(peer, **headers)) == seen


def test_nobody_is_believed_unless_it_is_set() -> None:
    forged = request("10.1.1.1", x_forwarded_for="1.2.3.4", x_vpc_id="vpc-1")
    assert Edge.of(Settings()).source_ip(forged) == "10.1.1.1"
    assert Edge.of(Settings()).vpc(forged) == ()
    assert Edge.of(PROXIED).vpc(request("192.0.2.1", x_vpc_id="vpc-1")) == ()
    assert Edge.of(PROXIED).vpc(forged) == ("vpc-1",)
    assert Edge.of(PROXIED).vpc(request("10.1.1.1")) == ()


def test_what_is_no_network_is_refused_at_the_start() -> None:
    for wrong in ("10.0.0.1/8", "proxy", "10.0.0.0/33"):
        with pytest.raises(SettingsError, match="trusted_proxies"):
            Edge.of(Settings(trusted_proxies=wrong))


def known(params: dict[str, Any], principal: Principal = ANN) -> dict[str, tuple[str, ...]]:
    call = Call("r", "batch", "v", "SubmitJob", "gz", params, "192.0.2.1", NOON)
    return context_of(call, principal, vpc=())


def test_a_call_carries_who_when_and_from_where() -> None:
    assert known({}) == {
        "qcs:ip": ("192.0.2.1",),
        "qcs:current_time": ("2026-03-01T12:00:00Z",),
        "qcs:uin": ("200",),
        "qcs:owner_uin": ("100",),
        "qcs:mfa": ("false",),
        "mfa": ("0",),
    }
    proved = Principal("100", "200", "ann", mfa=True)
    assert (known({}, proved)["qcs:mfa"], known({}, proved)["mfa"]) == (("true",), ("1",))


@pytest.mark.parametrize(
    ("params", "tags"),
    [
        ({"Tags": [{"Key": "team", "Value": "a"}, {"Key": "x", "Value": "y"}]}, ("team&a", "x&y")),
        ({"Job": {"Tags": [{"Key": "team", "Value": "a"}]}}, ("team&a",)),
        ({"ComputeEnv": {"Tags": {"Key": "team", "Value": "a"}}}, ("team&a",)),
        ({"Tags": [{"TagKey": "team", "TagValue": "a"}]}, ("team&a",)),
        ({"Tags": [{"Key": "team"}]}, ("team&",)),
        ({"Tags": "team"}, None),
        ({"Job": 1}, None),
    ],
)
def test_the_tags_that_a_call_wants_to_give_are_known(
    params: dict[str, Any], tags: tuple[str, ...] | None
) -> None:
    assert known(params).get("qcs:request_tag") == tags


def test_more_tags_than_anything_can_have_are_refused() -> None:
    tags = [{"Key": str(number), "Value": "x"} for number in range(TAGS_MAX + 1)]
    assert len(known({"Tags": tags[1:]})["qcs:request_tag"]) == TAGS_MAX
    with pytest.raises(InvalidParameterValue):
        known({"Tags": tags})


def test_a_tag_whose_key_would_make_it_read_like_another_is_refused() -> None:
    assert known({"Tags": [{"Key": "a", "Value": "b&c"}]})["qcs:request_tag"] == ("a&b&c",)
    with pytest.raises(InvalidParameterValue, match="&"):
        known({"Tags": [{"Key": "a&b", "Value": "c"}]})


def tag_lists(kind: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where a request has tags: every member that is a list of structures named so."""
    for field in msgspec.structs.fields(kind):
        here = (*place, field.encode_name)
        for inner in (field.type, *get_args(field.type)):
            if get_origin(inner) is list and get_args(inner)[0].__name__ == "Tag":
                yield here
            elif isinstance(inner, type) and issubclass(inner, msgspec.Struct):
                yield from tag_lists(inner, here)


def test_no_request_has_tags_where_policies_do_not_see_them() -> None:
    requests = [
        kind
        for module in (batch_datatypes, cmq_datatypes)
        for name, kind in vars(module).items()
        if name.endswith("Request") and isinstance(kind, type)
    ]
    found = {place for kind in requests for place in tag_lists(kind)}
    assert found == set(TAG_LISTS)
