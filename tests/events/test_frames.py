"""The bytes of a publish, read back by pamqp."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from pamqp import body, commands, frame, header

from gateway.events.bus import Message
from gateway.events.frames import publish_frames
from tests.support.events import message

FRAME_MAX = 131_072
words = st.text(max_size=60)
messages = st.builds(
    Message,
    position=st.integers(1),
    id=words,
    topic_key=st.builds("{}/{}/topic".format, st.integers(1), st.sampled_from(["r", "ap-x"])),
    shard=st.just(1),
    routing_key=words,
    body=st.binary(max_size=2_000),
    created_at=st.datetimes(
        min_value=datetime(2000, 1, 1),  # noqa: DTZ001  # the strategy adds the zone
        max_value=datetime(2100, 1, 1),  # noqa: DTZ001
        timezones=st.just(UTC),
    ),
    event_name=st.none() | words.filter(bool),
    seq=st.none() | st.integers(0, 2**63 - 1),
    traceparent=st.none() | words,
    replay=st.integers(0, 2**31 - 1),
)


def read(data: bytes) -> list[frame.FrameTypes]:
    found = []
    while data:
        size, channel, each = frame.unmarshal(data)
        assert channel == 7
        found.append(each)
        data = data[size:]
    return found


def publish(each: Message, *, frame_max: int = FRAME_MAX) -> list[frame.FrameTypes]:
    return read(
        publish_frames(
            each, 7, exchange="x", routing_key="key", mandatory=True, frame_max=frame_max
        )
    )


@given(messages)
def test_a_message_is_read_back_as_it_was(each: Message) -> None:
    method, head, *bodies = publish(each)
    assert isinstance(method, commands.Basic.Publish)
    assert (method.exchange, method.routing_key, method.mandatory) == ("x", "key", True)
    assert not method.immediate
    assert isinstance(head, header.ContentHeader)
    assert head.body_size == len(each.body)
    found = head.properties
    assert (found.message_id or "") == each.id
    assert found.message_type == each.event_name
    assert found.delivery_mode == 2
    assert found.timestamp is not None
    assert int(found.timestamp.timestamp()) == int(each.created_at.timestamp())
    assert found.content_type == ("application/json" if each.event_name else "text/plain")
    assert found.content_encoding == ("base64" if each.event_name else "utf-8")
    expected = {
        "uin": each.owner_uin,
        "region": each.region,
        "seq": each.seq,
        "replay": each.replay or None,
        "traceparent": each.traceparent,
    }
    assert found.headers == {name: value for name, value in expected.items() if value is not None}
    assert b"".join(_value(each) for each in bodies) == each.body


def _value(each: frame.FrameTypes) -> bytes:
    assert isinstance(each, body.ContentBody)
    assert each.value is not None
    return each.value


def test_a_body_larger_than_a_frame_is_cut() -> None:
    large = replace(message(1), body=bytes(range(256)) * 40)
    _, _, *bodies = publish(large, frame_max=4_096)
    assert [len(_value(each)) for each in bodies] == [4_088, 4_088, 2_064]
    assert b"".join(_value(each) for each in bodies) == large.body


def test_what_does_not_fit_a_short_string_is_refused() -> None:
    with pytest.raises(ValueError, match="256"):
        publish(replace(message(1), id="m" * 256))
