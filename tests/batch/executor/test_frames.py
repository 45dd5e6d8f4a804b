"""Frames survive any cut of the stream, and rubbish is refused."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch.executor import frames
from tests.support.attempts import launch

SAID = [
    frames.Hello(isolation="sandbox"),
    frames.Start(launches=[launch("echo ä", environment={"A": "1"})]),
    frames.Stop(attempt_ids=["a", "b"]),
    frames.Acknowledge(attempt_ids=[]),
    frames.Acknowledge(attempt_ids=["d"], loss=True),
    frames.Reconcile(attempt_ids=["c"]),
]


@given(cuts=st.lists(st.integers(0, 400), max_size=20))
def test_frames_are_whole_again_however_the_stream_is_cut(cuts: list[int]) -> None:
    stream = b"".join(frames.encode(frame) for frame in SAID)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    unframer = frames.Unframer()
    heard = [
        frames.decode_from_gateway(body)
        for begin, end in itertools.pairwise(edges)
        for body in unframer.feed(stream[begin:end])
    ]
    assert heard == SAID


def test_a_length_beyond_the_limit_is_refused_before_the_bytes_come() -> None:
    with pytest.raises(frames.FrameError):
        list(frames.Unframer().feed(b"\xff\xff\xff\xff"))


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x81\xa4kind\xa4none", b"\x80"])
def test_a_body_that_says_nothing_known_is_refused(body: bytes) -> None:
    with pytest.raises(frames.FrameError):
        frames.decode_from_gateway(body)


def test_many_launches_are_split_into_frames_within_the_limit() -> None:
    launches = [launch("x" * 1_000) for _ in range(100)]
    parts = list(frames.start_frames(launches, bytes_max=20_000))
    assert all(len(part) <= 20_000 + frames.LENGTH_BYTES for part in parts)
    heard = [frames.decode_from_gateway(body) for body in frames.Unframer().feed(b"".join(parts))]
    again = [each for frame in heard if isinstance(frame, frames.Start) for each in frame.launches]
    assert again == launches


def test_a_launch_that_no_frame_can_hold_is_refused() -> None:
    with pytest.raises(frames.FrameError):
        list(frames.start_frames([launch("x" * 1_000)], bytes_max=500))
