"""Queues behave like a small model of them, whatever is done in which order."""

import itertools
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.cmq import dead_letter_queues, queue_messages, queues
from gateway.cmq.queues import DeadLetterPolicy, Queue
from gateway.ids import new_id, new_secret
from gateway.store import Store, Tx
from tests.support.events import NOW, REGION

pytestmark = pytest.mark.anyio

VISIBILITY_S, RETENTION_S, DEAD_RETENTION_S, REWIND_S = 30, 600, 1_200, 300
RECEIVES_MAX, AGE_S_MAX = 2, 400
WORK, DEAD = "work", "dead"
Step = tuple[str, int]


@dataclass
class Message:
    """A message as the model knows it; times in seconds from the start."""

    order: int
    queue: str
    arrived: int
    visible: int
    expires: int
    count: int = 0
    handle: str = ""
    deleted: int | None = None


@dataclass
class Model:
    """Both queues, from the documents alone: one that is worked on, one for its dead letters."""

    policy: DeadLetterPolicy | None
    rewind_s: int
    now: int = 0
    messages: list[Message] = field(default_factory=list)

    def send(self, delay: int) -> None:
        order = max((each.order for each in self.messages), default=0) + 1
        new = Message(order, WORK, self.now, self.now + delay, self.now + delay + RETENTION_S)
        self.messages.append(new)

    def receive(self, queue: str, count: int) -> list[Message]:
        taken: list[Message] = []
        for each in self._there(queue):
            if len(taken) == count:
                break
            if each.visible > self.now or each.expires <= self.now:
                continue
            if self._is_dead(each):
                self._bury(each)
                continue
            each.count += 1
            each.visible = self.now + VISIBILITY_S
            taken.append(each)
        return taken

    def delete(self, handle: str) -> bool:
        for each in self._there(WORK):
            if each.handle == handle and each.visible > self.now and each.expires > self.now:
                each.deleted, each.handle = self.now, ""
                each.expires = self.now + self.rewind_s
                if not self.rewind_s:
                    self.messages.remove(each)
                return True
        return False

    def rewind(self, start: int) -> int:
        found = [each for each in self.messages if each.deleted is not None]
        found = [each for each in found if each.arrived >= start and each.expires > self.now]
        for each in found:
            each.deleted, each.count, each.visible = None, 0, self.now
            each.expires = self.now + RETENTION_S
        return len(found)

    def sweep(self) -> None:
        for each in self._there(WORK):
            is_over = self.policy is DeadLetterPolicy.RECEIVES and each.expires <= self.now
            if each.visible <= self.now and not is_over and self._is_dead(each):
                self._bury(each)
        self.messages = [
            each
            for each in self.messages
            if each.expires > self.now
            or (self.policy is DeadLetterPolicy.AGE and self._is_work(each))
        ]

    def clear(self) -> None:
        self.messages = [each for each in self.messages if each.queue == DEAD]

    def count(self, queue: str) -> tuple[int, int, int, int]:
        """Active, inactive, delayed; and deleted."""
        alive = [each for each in self._there(queue) if each.expires > self.now]
        active = sum(each.visible <= self.now for each in alive)
        inactive = sum(each.visible > self.now and each.handle != "" for each in alive)
        kept = [each for each in self.messages if each.queue == queue and each.deleted is not None]
        later = len(alive) - active - inactive
        return active, inactive, later, sum(each.expires > self.now for each in kept)

    def _there(self, queue: str) -> list[Message]:
        found = [each for each in self.messages if each.queue == queue and each.deleted is None]
        return sorted(found, key=lambda each: each.order)

    @staticmethod
    def _is_work(message: Message) -> bool:
        return message.queue == WORK and message.deleted is None

    def _is_dead(self, message: Message) -> bool:
        if message.queue == DEAD or self.policy is None:
            return False
        if self.policy is DeadLetterPolicy.RECEIVES:
            return message.count >= RECEIVES_MAX
        since = message.arrived if message.count else max(message.arrived, message.visible)
        return self.now - since >= AGE_S_MAX

    def _bury(self, message: Message) -> None:
        message.queue, message.handle, message.count = DEAD, "", 0
        message.arrived = message.visible = self.now
        message.expires = self.now + DEAD_RETENTION_S


def make(owner_uin: str, name: str) -> Queue:
    return Queue(
        id=new_id("queue"),
        owner_uin=owner_uin,
        region=REGION,
        name=name,
        created_by=owner_uin,
        created_at=NOW,
        modified_at=NOW,
    )


class World:
    """The real queues beside their model; `play` does the same to both and compares."""

    def __init__(self, tx: Tx, policy: DeadLetterPolicy | None, *, can_rewind: bool) -> None:
        self.tx = tx
        self.model = Model(policy, REWIND_S if can_rewind else 0)
        owner_uin = new_id("owner")
        dead = replace(make(owner_uin, DEAD), retention_s=DEAD_RETENTION_S)
        work = replace(
            make(owner_uin, WORK),
            visibility_s=VISIBILITY_S,
            retention_s=RETENTION_S,
            rewind_s=self.model.rewind_s,
        )
        if policy is not None:
            work = replace(
                work,
                dead_letter_queue_id=dead.id,
                dead_letter_policy=policy,
                max_receive_count=RECEIVES_MAX,
                max_time_to_live_s=AGE_S_MAX,
            )
        self.queues = {DEAD: dead, WORK: work}
        for queue in (dead, work):
            queues.create(tx, queue)
        self.ids: dict[int, str] = {}
        self.handles = ["1-forged"]
        self.numbers = itertools.count(1)

    @property
    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.model.now)

    def play(self, step: Step) -> None:
        name, number = step
        getattr(self, name)(number)
        held = queue_messages.count_messages(self.tx, list(self.queues.values()), now=self.now)
        for queue in (WORK, DEAD):
            found = held[self.queues[queue].id]
            shown = (found.active, found.inactive, found.delayed, found.kept)
            assert shown == self.model.count(queue), (step, queue)

    def send(self, delay: int) -> None:
        name = f"message-{next(self.numbers)}"
        body = [(name, name.encode())]
        queue_messages.send(self.tx, self.queues[WORK], body, now=self.now, delay_s=delay)
        self.model.send(delay)
        self.ids[id(self.model.messages[-1])] = name

    def receive(self, count: int) -> None:
        self._receive(WORK, count)

    def receive_dead(self, count: int) -> None:
        self._receive(DEAD, count)

    def _receive(self, queue: str, count: int) -> None:
        taken = queue_messages.receive(
            self.tx, self.queues[queue], count=count, now=self.now, new_secret=new_secret
        )
        expected = self.model.receive(queue, count)
        assert [(each.id, each.body, each.dequeue_count) for each in taken.messages] == [
            (self.ids[id(each)], self.ids[id(each)], each.count) for each in expected
        ]
        for message, received in zip(expected, taken.messages, strict=True):
            message.handle = received.receipt
            self.handles.append(received.receipt)

    def delete(self, which: int) -> None:
        receipt = self.handles[-1 - which % len(self.handles)]
        done = queue_messages.delete(self.tx, self.queues[WORK], receipt=receipt, now=self.now)
        assert done == self.model.delete(receipt)

    def wait(self, seconds: int) -> None:
        self.model.now += seconds

    def rewind(self, seconds: int) -> None:
        start_at = self.now - timedelta(seconds=seconds)
        count = queue_messages.rewind(self.tx, self.queues[WORK], start_at=start_at, now=self.now)
        assert count == self.model.rewind(self.model.now - seconds)

    def sweep(self, _: int) -> None:
        for queue in dead_letter_queues.list_bound_queues(self.tx):
            dead = dead_letter_queues.list_dead(self.tx, queue, now=self.now, at_most=1_000)
            dead_letter_queues.sweep(self.tx, queue, dead, now=self.now)
        queue_messages.drop_expired(self.tx, now=self.now)
        self.model.sweep()

    def clear(self, _: int) -> None:
        while queue_messages.clear(self.tx, self.queues[WORK], now=self.now):
            pass
        self.model.clear()


def step(name: str, numbers: st.SearchStrategy[int]) -> st.SearchStrategy[Step]:
    return st.tuples(st.just(name), numbers)


WAITS = st.sampled_from([1, VISIBILITY_S - 1, VISIBILITY_S, 100, REWIND_S, AGE_S_MAX, RETENTION_S])
SENDS = step("send", st.sampled_from([0, 0, 0, 10, 450]))
RECEIVES = step("receive", st.integers(1, 4))
STEPS = st.one_of(
    SENDS,
    SENDS,
    RECEIVES,
    RECEIVES,
    step("delete", st.integers(0, 5)),
    step("delete", st.integers(0, 1)),
    step("wait", WAITS),
    step("wait", WAITS),
    step("rewind", st.sampled_from([0, 100, 10_000])),
    step("receive_dead", st.integers(1, 4)),
    step("sweep", st.just(0)),
    step("clear", st.just(0)),
)
POLICIES = st.sampled_from([None, *DeadLetterPolicy])
TAKEN: list[Step] = [("send", 0), ("receive", 1)]
RECEIVED_TOO_OFTEN: list[Step] = [("send", 0), *[("receive", 1), ("wait", 30)] * 3]
LATE_AND_TOO_OLD: list[Step] = [("send", 450), ("wait", 450), ("receive", 1), ("wait", 30)]
RECEIVED_WHEN_IT_EXPIRES: list[Step] = [("send", 450), ("wait", 599), ("receive", 1), ("wait", 11)]
DELETED_LATE: list[Step] = [("send", 0), ("wait", 500), ("receive", 1), ("delete", 0)]
BACK_AFTER_ITS_RETENTION: list[Step] = [("wait", 200), ("rewind", 10_000), ("wait", 300)]


@settings(
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@example(DeadLetterPolicy.RECEIVES, True, [*RECEIVED_TOO_OFTEN, ("receive_dead", 1)])
@example(DeadLetterPolicy.AGE, False, [*LATE_AND_TOO_OLD, ("sweep", 0), ("receive_dead", 1)])
@example(
    DeadLetterPolicy.AGE,
    False,
    [*RECEIVED_WHEN_IT_EXPIRES, ("sweep", 0), ("wait", 30), ("sweep", 0), ("receive_dead", 1)],
)
@example(None, True, [*DELETED_LATE, *BACK_AFTER_ITS_RETENTION, ("receive", 1)])
@example(None, False, [*TAKEN, ("wait", 30), ("delete", 0)])
@given(POLICIES, st.booleans(), st.lists(STEPS, max_size=30))
async def test_queues_do_what_the_model_does(
    store: Store,
    policy: DeadLetterPolicy | None,
    can_rewind: bool,
    steps: list[Step],
) -> None:
    def play(tx: Tx) -> None:
        world = World(tx, policy, can_rewind=can_rewind)
        for each in steps:
            world.play(each)

    await store.write(play)
