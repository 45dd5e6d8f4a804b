"""What is in a request: the body's two forms, the headers, the signatures."""

from base64 import b64decode, b64encode
from datetime import datetime
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from gateway.clock import now
from gateway.cmq.push.webhooks import Addressee, ContentFormat, Letter, body_of, headers_of, sign
from tests.support.events import NOW, OWNER

KEY, OLD_KEY = bytes(range(32)), bytes(range(32, 64))
LETTER = Letter("job-00000001-1-0", b"body", (), NOW)


def addressee(content_format: str) -> Addressee:
    return Addressee(OWNER, "MyTopic", "mysubscription", ContentFormat(content_format))


def headers(
    letter: Letter = LETTER, *, keys: tuple[bytes, ...] = (KEY,), at: datetime = NOW
) -> dict[str, str]:
    return dict(headers_of(letter, letter.body, request_id="r-1", keys=keys, now=at))


def test_the_json_form_names_everything_in_the_spelling_of_the_documents() -> None:
    assert body_of(LETTER, addressee("JSON")) == (
        b'{"TopicOwner":100000000001,"topicName":"MyTopic","subscriptionName":"mysubscription",'
        b'"msgId":"job-00000001-1-0","msgBody":"body","publishTime":1529073797}'
    )


def test_the_simplified_form_is_the_bytes_themselves() -> None:
    letter = Letter("m", b"\xff\x00raw", (), NOW)
    assert body_of(letter, addressee("SIMPLIFIED")) == b"\xff\x00raw"


@pytest.mark.parametrize(
    ("tags", "header"),
    [
        (("a", "b"), "a, b"),
        (("two words", "a;b=c"), "two words, a;b=c"),
        (("50%",), "50%25"),
        (("a, b",), "a%2C b"),
        ((" a ", " "), "%20a%20, %20"),
        (("a\r\nHost: b",), "a%0D%0AHost: b"),
        (("重要",), "%E9%87%8D%E8%A6%81"),
        (("a\x00b\x7f",), "a%00b%7F"),
    ],
)
def test_tags_are_joined_and_cannot_break_out(tags: tuple[str, ...], header: str) -> None:
    assert headers(Letter("m", b"", tags, NOW))["x-cmq-message-tag"] == header


@given(tags=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), min_size=1))
def test_a_reader_finds_the_very_tags(tags: list[str]) -> None:
    header = headers(Letter("m", b"", tuple(tags), NOW))["x-cmq-message-tag"]
    assert [unquote(each.strip()) for each in header.split(",")] == tags


def test_what_is_not_there_has_no_header() -> None:
    assert not {"x-cmq-message-tag", "x-cmq-replay"} & set(headers())
    assert headers(Letter("m", b"", (), NOW, replay=3))["x-cmq-replay"] == "3"


def test_a_signature_is_the_one_that_was_worked_out_by_hand() -> None:
    """By `openssl dgst -sha256 -mac HMAC -macopt hexkey:0001…1f` over `id.timestamp.body`."""
    expected = "v1,YDJ0AD5jEv1dB3JlqBaxvTZAOkbGNYQkrA8Nuzum0dA="
    assert sign(KEY, "job-00000001-1-0", seconds=1_529_073_797, body=b"body") == expected
    assert headers()["webhook-signature"] == expected


@pytest.mark.parametrize("key", [KEY, OLD_KEY])
def test_during_a_rotation_both_secrets_verify(key: bytes) -> None:
    sent = headers(keys=(KEY, OLD_KEY), at=now())
    secret = "whsec_" + b64encode(key).decode()
    Webhook(secret).verify(LETTER.body, sent, json_parse=False)
    assert len(sent["webhook-signature"].split(" ")) == 2


def test_another_body_does_not_verify() -> None:
    secret = "whsec_" + b64encode(KEY).decode()
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(secret).verify(b"other", headers(at=now()), json_parse=False)


def test_a_signature_has_thirty_two_bytes() -> None:
    version, _, signature = headers()["webhook-signature"].partition(",")
    assert (version, len(b64decode(signature))) == ("v1", 32)
