"""From a message that waits to the subscriber that has it, over HTTP."""

import json
from datetime import timedelta

import anyio
import pytest

from gateway.cmq.push.schedules import Strategy
from gateway.cmq.push.webhooks import ContentFormat
from gateway.store import Store, open_store
from tests.support.events import OWNER, eventually
from tests.support.pushing import Pushing
from tests.support.receiver import Receiver, held_until, open_receiver, says, status

pytestmark = pytest.mark.anyio


@pytest.fixture
async def pushing(store: Store) -> Pushing:
    return await Pushing.open(store)


async def test_a_push_is_what_the_documents_show(pushing: Pushing) -> None:
    async with open_receiver() as receiver, pushing.running():
        await pushing.subscribe(receiver.url, notify_content_format=ContentFormat.JSON)
        (message_id,) = await pushing.publish(b"test message", tags=("a", "b"))
        await pushing.until_delivered(1)
    (request,) = receiver.requests
    assert (request.method, request.path) == ("POST", "/cgi")
    assert json.loads(request.body) == {
        "TopicOwner": int(OWNER),
        "topicName": "job-message",
        "subscriptionName": "s1",
        "msgId": message_id,
        "msgBody": "test message",
        "publishTime": int(pushing.now.timestamp()),
    }
    expected = {
        "host": f"127.0.0.1:{receiver.port}",
        "content-length": str(len(request.body)),
        "content-type": "text/plain",
        "user-agent": "Qcloud Notification Service Agent",
        "x-cmq-message-id": message_id,
        "x-cmq-message-tag": "a, b",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(pushing.now.timestamp())),
    }
    made_anew = {"x-cmq-request-id", "webhook-signature"}
    assert {k: v for k, v in request.headers.items() if k not in made_anew} == expected
    assert made_anew <= set(request.headers)


async def test_a_simplified_push_is_the_bare_message(pushing: Pushing) -> None:
    async with open_receiver() as receiver, pushing.running():
        await pushing.subscribe(receiver.url)
        await pushing.publish("héllo\n".encode())
        await pushing.until_delivered(1)
    assert receiver.bodies == ["héllo\n".encode()]
    assert "x-cmq-message-tag" not in receiver.requests[0].headers


async def test_messages_arrive_in_order_over_one_connection(pushing: Pushing) -> None:
    bodies = [f"body {number}".encode() for number in range(100)]
    async with open_receiver() as receiver:
        await pushing.subscribe(receiver.url)
        await pushing.publish(*bodies)
        async with pushing.running():
            await pushing.until_delivered(100)
    assert receiver.bodies == bodies
    assert receiver.connections == 1


async def test_a_page_of_large_messages_is_delivered_whole(pushing: Pushing) -> None:
    bodies = [bytes([65 + number]) * 200_000 for number in range(5)] + [b"small"]
    async with open_receiver() as receiver:
        await pushing.subscribe(receiver.url)
        await pushing.publish(*bodies)
        async with pushing.running():
            await pushing.until_delivered(6)
    assert receiver.bodies == bodies


async def test_a_connection_that_was_closed_meanwhile_is_no_failure(pushing: Pushing) -> None:
    async with open_receiver() as receiver, pushing.running():
        await pushing.subscribe(receiver.url)
        receiver.always = says(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", then="close")
        for number in range(1, 6):
            await pushing.publish(b"again")
            await pushing.until_delivered(number)
    assert {row.attempts for row in await pushing.deliveries()} == {0}


@pytest.mark.parametrize(
    "answer", ["200 OK", "201 Created", "202 Accepted", "204 No Content", "299 -"]
)
async def test_every_two_hundred_is_a_success(pushing: Pushing, answer: str) -> None:
    async with open_receiver() as receiver, pushing.running():
        receiver.always = status(answer)
        await pushing.subscribe(receiver.url)
        await pushing.publish(b"one", b"two")
        await pushing.until_delivered(2)
    assert len(receiver.requests) == 2


async def test_an_answer_whose_body_never_ends_is_a_success(pushing: Pushing) -> None:
    endless = b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n" + b"x" * 100_000
    async with open_receiver() as receiver, pushing.running():
        receiver.always = says(endless, then="hang")
        await pushing.subscribe(receiver.url)
        await pushing.publish(b"one", b"two")
        await pushing.until_delivered(2)
    assert receiver.bodies == [b"one", b"two"]


async def test_a_retry_is_the_same_message_as_a_new_request(pushing: Pushing) -> None:
    async with open_receiver() as receiver, pushing.running():
        receiver.wrong.append(status("500 No"))
        await pushing.subscribe(receiver.url)
        await pushing.publish(b"one")
        failed = await pushing.until_failed(1)
        assert (failed.why, failed.next_at) == (
            "the answer was 500",
            pushing.now + timedelta(seconds=1),
        )
        pushing.pass_time(seconds=1)
        await pushing.until_delivered(1)
    first, second = receiver.requests
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.headers["x-cmq-request-id"] != second.headers["x-cmq-request-id"]


async def test_a_failing_message_holds_up_its_own_subscriber_alone(pushing: Pushing) -> None:
    async with open_receiver() as bad, open_receiver() as good, pushing.running():
        bad.wrong.extend([status("503 Later")] * 3)
        await pushing.subscribe(bad.url, "bad")
        await pushing.subscribe(good.url, "good")
        await pushing.publish(b"one", b"two", b"three")
        await pushing.until_delivered(3, subscription_id="subsc-good")
        for failures, gap_s in ((1, 1), (2, 2), (3, 4)):
            await pushing.until_failed(failures, subscription_id="subsc-bad")
            pushing.pass_time(seconds=gap_s)
        await pushing.until_delivered(3, subscription_id="subsc-bad")
    assert good.bodies == [b"one", b"two", b"three"]
    assert bad.bodies == [b"one"] * 4 + [b"two", b"three"]


async def test_a_subscriber_that_hangs_holds_up_nobody_else(pushing: Pushing) -> None:
    release = anyio.Event()
    async with open_receiver() as slow, open_receiver() as quick, pushing.running(answer_s=60):
        slow.always = held_until(release)
        await pushing.subscribe(slow.url, "slow")
        await pushing.subscribe(quick.url, "quick")
        await pushing.publish(b"one", b"two")
        await pushing.until_delivered(2, subscription_id="subsc-quick")
        assert await pushing.states("subsc-slow") == ["waiting", "waiting"]
        release.set()
        await pushing.until_delivered(2, subscription_id="subsc-slow")


async def test_backoff_gives_up_after_three_retries_and_goes_on(pushing: Pushing) -> None:
    async with open_receiver() as receiver, pushing.running(fraction=lambda: 0.5):
        receiver.wrong.extend([status("500 No")] * 4)
        await pushing.subscribe(receiver.url, notify_strategy=Strategy.BACKOFF_RETRY)
        await pushing.publish(b"one", b"two")
        for failures in (1, 2, 3):
            failed = await pushing.until_failed(failures)
            assert failed.next_at - failed.changed_at == timedelta(seconds=15)
            pushing.pass_time(seconds=15)
        await pushing.until_delivered(1)
    assert receiver.bodies == [b"one"] * 4 + [b"two"]
    (dead,) = await pushing.dead_letters()
    assert (dead.message_id, dead.attempts, dead.body) == ("message-1", 4, b"one")
    assert dead.why == "no retry is left; the last attempt: the answer was 500"
    assert (dead.subscription_name, dead.endpoint) == ("s1", receiver.url)
    assert await pushing.states() == ["delivered"]


async def test_what_is_too_old_is_given_up_without_another_attempt(pushing: Pushing) -> None:
    async with open_receiver() as receiver, pushing.running():
        receiver.wrong.append(status("500 No"))
        await pushing.subscribe(receiver.url)
        await pushing.publish(b"old 1", b"old 2")
        await pushing.until_failed(1)
        pushing.pass_time(days=1)
        await pushing.publish(b"new")
        await pushing.until_delivered(1)
    assert receiver.bodies == [b"old 1", b"new"]
    assert [(dead.body, dead.why) for dead in await pushing.dead_letters()] == [
        (b"old 1", "its life in the topic ended; the last attempt: the answer was 500"),
        (b"old 2", "its life in the topic ended"),
    ]


async def test_a_clock_that_steps_back_holds_nothing_up(pushing: Pushing) -> None:
    async with open_receiver() as receiver, pushing.running():
        receiver.wrong.append(status("500 No"))
        await pushing.subscribe(receiver.url)
        await pushing.publish(b"one")
        await pushing.until_failed(1)
        pushing.pass_time(days=-7)
        await pushing.until_delivered(1)


async def test_a_change_of_the_subscription_is_tried_at_once(pushing: Pushing) -> None:
    async with open_receiver() as receiver, pushing.running():
        receiver.wrong.extend([status("500 No")] * 3)
        await pushing.subscribe(receiver.url)
        await pushing.publish(b"one")
        for failures, gap_s in ((1, 1), (2, 2)):
            await pushing.until_failed(failures)
            pushing.pass_time(seconds=gap_s)
        await pushing.until_failed(3)
        pushing.pass_time(seconds=1)
        await pushing.modify()
        await pushing.until_delivered(1)


async def test_what_is_delivered_is_marked_when_the_pusher_is_told_to_end(
    pushing: Pushing,
) -> None:
    async with open_receiver() as receiver:
        await pushing.subscribe(receiver.url)
        await pushing.publish(b"one", b"two")
        async with pushing.running(answer_s=60):
            receiver.wrong.append(receiver.always)
            receiver.always = says(b"", then="hang")
            await eventually(lambda: len(receiver.requests) == 2)
    assert await pushing.states() == ["delivered", "waiting"]


async def test_what_a_held_up_page_has_delivered_is_marked_meanwhile(pushing: Pushing) -> None:
    release = anyio.Event()
    async with open_receiver() as receiver:
        await pushing.subscribe(receiver.url)
        await pushing.publish(b"one", b"two")
        receiver.wrong.extend([receiver.always, held_until(release)])
        async with pushing.running(answer_s=60):
            await pushing.until_delivered(1)
            assert len(receiver.requests) == 2
            release.set()
            await pushing.until_delivered(2)


async def test_a_replay_says_that_it_is_one(pushing: Pushing) -> None:
    async with open_receiver() as receiver, pushing.running():
        await pushing.subscribe(receiver.url)
        (message_id,) = await pushing.publish(b"one")
        await pushing.until_delivered(1)
        await pushing.replay(message_id)
        await pushing.until_delivered(2)
    first, second = receiver.requests
    assert (first.message_id, first.body) == (second.message_id, second.body)
    assert "x-cmq-replay" not in first.headers
    assert second.headers["x-cmq-replay"] == "1"


async def test_a_tag_with_a_line_break_cannot_make_a_header(pushing: Pushing) -> None:
    async with open_receiver() as receiver, pushing.running():
        await pushing.subscribe(receiver.url)
        await pushing.publish(b"one", tags=("a\r\nx-cmq-replay: 9", "重"))
        await pushing.until_delivered(1)
    (request,) = receiver.requests
    assert request.headers["x-cmq-message-tag"] == "a%0D%0Ax-cmq-replay: 9, %E9%87%8D"
    assert "x-cmq-replay" not in request.headers


async def test_a_message_that_is_written_by_another_process_is_seen(
    pushing: Pushing, migrated_url: str
) -> None:
    async with open_receiver() as receiver, open_store(migrated_url) as elsewhere:
        await pushing.subscribe(receiver.url)
        async with pushing.running():
            await Pushing(elsewhere).publish(b"one")
            await pushing.until_delivered(1)
    assert receiver.bodies == [b"one"]


class TestPausing:
    async def fail_for_an_hour(self, pushing: Pushing, receiver: Receiver) -> None:
        """One message fails until its subscriber is paused, on a schedule that gives up early."""
        receiver.always = status("500 No")
        await pushing.subscribe(receiver.url, notify_strategy=Strategy.BACKOFF_RETRY)
        await pushing.publish(b"one", b"two")
        await pushing.until_failed(1)
        pushing.pass_time(hours=1)
        await pushing.until_failed(2)

    async def test_a_subscriber_without_success_is_paused_and_an_event_says_so(
        self, pushing: Pushing
    ) -> None:
        async with open_receiver() as receiver, pushing.running():
            await self.fail_for_an_hour(pushing, receiver)
        row = await pushing.subscription()
        assert (row.paused_at, row.failing_since) == (pushing.now, pushing.now - timedelta(hours=1))
        (event,) = await pushing.events()
        assert (event.name, event.stream_id, event.seq) == ("SUBSCRIPTION_PAUSED", "subsc-s1", 1)
        assert json.loads(event.batch) == {
            "SubscriptionId": "subsc-s1",
            "SubscriptionName": "s1",
            "TopicName": "job-message",
            "Endpoint": receiver.url,
            "FailingSince": "2018-06-15T14:43:17Z",
            "Why": "the answer was 500",
            "Waiting": 2,
        }

    async def test_while_paused_it_is_probed_and_nothing_is_given_up_by_count(
        self, pushing: Pushing
    ) -> None:
        async with open_receiver() as receiver, pushing.running():
            await self.fail_for_an_hour(pushing, receiver)
            for failures in range(3, 12):
                pushing.pass_time(seconds=512)
                failed = await pushing.until_failed(failures)
                assert failed.next_at == pushing.now + timedelta(seconds=512)
            assert await pushing.dead_letters() == []
        assert set(receiver.bodies) == {b"one"}

    async def test_a_success_resumes_it_and_an_event_says_so(self, pushing: Pushing) -> None:
        async with open_receiver() as receiver, pushing.running():
            await self.fail_for_an_hour(pushing, receiver)
            receiver.always = status("200 OK")
            pushing.pass_time(seconds=512)
            await pushing.until_delivered(2)
        row = await pushing.subscription()
        assert (row.paused_at, row.failing_since) == (None, None)
        assert [event.name for event in await pushing.events()] == [
            "SUBSCRIPTION_PAUSED",
            "SUBSCRIPTION_RESUMED",
        ]

    async def test_the_end_of_life_still_applies(self, pushing: Pushing) -> None:
        async with open_receiver() as receiver, pushing.running():
            await self.fail_for_an_hour(pushing, receiver)
            pushing.pass_time(days=1)

            async def is_given_up() -> bool:
                return len(await pushing.dead_letters()) == 2

            await eventually(is_given_up)
        assert await pushing.states() == []


async def test_what_waits_for_a_deleted_subscription_becomes_dead_letters(
    pushing: Pushing,
) -> None:
    async with open_receiver() as receiver, pushing.running():
        receiver.always = status("500 No")
        await pushing.subscribe(receiver.url)
        await pushing.publish(b"one", b"two")
        await pushing.until_failed(1)
        await pushing.unsubscribe()
    assert [(dead.body, dead.why) for dead in await pushing.dead_letters()] == [
        (b"one", "the subscription was deleted; the last attempt: the answer was 500"),
        (b"two", "the subscription was deleted"),
    ]
    assert await pushing.deliveries() == []


async def test_a_subscription_that_is_deleted_during_its_push_ends_quietly(
    pushing: Pushing,
) -> None:
    release = anyio.Event()
    async with open_receiver() as receiver, open_receiver() as other, pushing.running():
        receiver.always = held_until(release)
        await pushing.subscribe(receiver.url)
        await pushing.publish(b"one")
        await eventually(lambda: len(receiver.requests) == 1)
        await pushing.unsubscribe()
        release.set()
        await pushing.subscribe(other.url, "s2")
        await pushing.publish(b"two")
        await pushing.until_delivered(1, subscription_id="subsc-s2")
    assert [dead.body for dead in await pushing.dead_letters()] == [b"one"]
