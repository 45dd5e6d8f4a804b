"""The load of a campaign: careful users who submit jobs, end some of them, and read a queue.

A careful user gives every call that makes something a ClientToken, and says the same again after a
connection error, until there is an answer. Any other error is a surprise, and is kept.
"""

import http.client
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from gateway.events.names import BATCH_EVENTS
from tests.campaigns.witness import Witness
from tests.support.classic import NO_MESSAGE, ClassicClient, ClassicRefused
from tests.support.running import Gateway, Refused
from tests.support.sdk import PLACEMENT, SMALL, Sdk, task

T = TypeVar("T")
AGAIN_S = 0.1
BATCH = 16
LINE_BROKE = "ClientNetworkError"
MARK = "CAMPAIGN_MARK"


@dataclass
class Accepted:
    """What the users were promised.

    surprises: answers that no careful user expects. asking: set when a user begins to submit.
    """

    jobs: dict[str, str] = field(default_factory=dict)
    terminated: set[str] = field(default_factory=set)
    surprises: list[str] = field(default_factory=list)
    asking: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Workload:
    """What users ask for. mark: an environment variable of every command holds it."""

    witness: Witness
    notifications: list[dict[str, Any]]
    env_id: str
    mark: str
    pause_s: float


def prepare(
    sdk: Sdk, name: str, *, subscribers: Mapping[str, tuple[str, str]], nodes: int, hidden_s: int
) -> tuple[list[dict[str, Any]], str]:
    """Make a topic with its subscribers, and an environment that tells it of every event.

    name: of the topic and the environment. subscribers: protocol and endpoint of each, by name; the
    CMQ queues are made, too. hidden_s: how long a message that was received from one is hidden.
    Returns the notifications that jobs are to ask for, and the environment's id.
    """
    sdk("CreateCmqTopic", TopicName=name)
    for subscriber, (protocol, endpoint) in subscribers.items():
        if protocol == "queue":
            sdk("CreateCmqQueue", QueueName=endpoint, VisibilityTimeout=hidden_s)
        sdk(
            "CreateCmqSubscribe",
            TopicName=name,
            SubscriptionName=subscriber,
            Protocol=protocol,
            Endpoint=endpoint,
            NotifyContentFormat="SIMPLIFIED",
        )
    configs = [{"EventName": event.value} for event in BATCH_EVENTS]
    asked = [{"TopicName": name, "EventConfigs": configs}]
    env = {"EnvName": name, "DesiredComputeNodeCount": nodes, "Notifications": asked, **SMALL}
    return asked, sdk("CreateComputeEnv", ComputeEnv=env, Placement=PLACEMENT)["EnvId"]


class User:
    """One user, with a generator of random numbers of their own."""

    def __init__(self, gateway: Gateway, workload: Workload, *, seed: str) -> None:
        self._sdk = Sdk(gateway, gateway.root)
        self._workload = workload
        self._seed = seed
        self._random = Random(seed)  # noqa: S311  # repeatable on purpose

    def run(self, accepted: Accepted, stop: threading.Event) -> None:
        """Submit job after job; one that was begun when it is time to stop is seen through."""
        number = 0
        while not stop.wait(self._random.uniform(0, 2 * self._workload.pause_s)):
            number += 1
            token = f"{self._seed}-{number}"
            tasks, dependences = self._draw_job()
            accepted.asking.set()
            try:
                job_id = self._insist(self._submitter(token, tasks, dependences))
                accepted.jobs[token] = job_id
                if self._random.random() < 0.1:
                    self._terminate(job_id)
                    accepted.terminated.add(job_id)
            except Refused as refused:
                accepted.surprises.append(f"{token}: {refused.code} {refused.message}")

    def _submitter(self, token: str, tasks: list[Any], dependences: list[Any]) -> Callable[[], str]:
        return lambda: self._sdk.submit(
            *tasks,
            token=token,
            JobName=token,
            Dependences=dependences,
            Notifications=self._workload.notifications,
        )

    def _terminate(self, job_id: str) -> None:
        """End a job. One that nobody has looked at yet cannot be ended, so this is said again."""
        while True:
            try:
                self._insist(lambda: self._sdk("TerminateJob", JobId=job_id))
            except Refused as refused:
                if refused.code != "UnsupportedOperation":
                    raise
                threading.Event().wait(AGAIN_S)
            else:
                return

    def _insist(self, call: Callable[[], T]) -> T:
        while True:
            try:
                return call()
            except OSError:
                pass  # the answer was cut off, which the official client lets through as it is
            except Refused as refused:
                if refused.code != LINE_BROKE:
                    raise
            threading.Event().wait(AGAIN_S)

    def _draw_job(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """One to three tasks, one after the other or side by side."""
        names = ["a", "b", "c"][: self._random.randint(1, 3)]
        chained = self._random.random() < 0.7
        edges = [{"StartTask": a, "EndTask": b} for a, b in itertools.pairwise(names)]
        return [self._draw_task(name) for name in names], edges if chained else []

    def _draw_task(self, name: str) -> dict[str, Any]:
        chance = self._random.random
        tries = self._random.choice([0, 0, 1, 2])
        command = self._workload.witness.command(
            seconds=self._random.choice([0, 0.05, 0.2, 1.0]),
            failures=tries + (chance() < 0.05) if tries else 0,
            leaves_child=chance() < 0.2,
        )
        place = {"EnvId": self._workload.env_id} if chance() < 0.25 else {}
        return task(
            name,
            command,
            TaskInstanceNum=self._random.choice([1, 1, 2, 3]),
            MaxRetryCount=tries,
            EnvVars=[{"Name": MARK, "Value": self._workload.mark}],
            **place,
        )


class Reader:
    """A subscriber that reads a CMQ queue all the while, through every crash."""

    def __init__(self, gateway: Gateway, queue: str) -> None:
        self._classic = ClassicClient(gateway, gateway.root)
        self._queue = queue
        self.seen: list[tuple[str, bytes]] = []

    def run(self, stop: threading.Event) -> None:
        """Read until told to stop; a line that breaks is tried again."""
        while not stop.is_set():
            try:
                self.read()
            except (OSError, http.client.HTTPException):
                stop.wait(AGAIN_S)

    def read(self) -> int:
        """Receive some messages and delete them; returns how many they were, 0 within a second."""
        try:
            answer = self._classic(
                "BatchReceiveMessage",
                queueName=self._queue,
                numOfMsg=str(BATCH),
                pollingWaitSeconds="1",
            )
        except ClassicRefused as refused:
            if refused.code != NO_MESSAGE:
                raise
            return 0
        received = answer["msgInfoList"]
        self.seen += [(each["msgId"], each["msgBody"].encode()) for each in received]
        handles = {
            f"receiptHandle.{number}": each["receiptHandle"]
            for number, each in enumerate(received, 1)
        }
        self._classic("BatchDeleteMessage", queueName=self._queue, **handles)
        return len(received)


@contextmanager
def working(*works: Callable[[threading.Event], None]) -> Iterator[None]:
    """Do these in threads meanwhile; on leaving, they are told to stop and waited for."""
    stop = threading.Event()
    threads = [threading.Thread(target=work, args=(stop,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
