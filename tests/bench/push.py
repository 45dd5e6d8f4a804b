"""Pushes over HTTP: a thousand subscribers, of whom ten are slow, each told by the real pusher.

Messages are published at a stated rate to ten topics of a hundred subscribers each, one slow in
each; a topic's turn comes after the others'. All subscribers are one process on loopback, which
logs what comes. Delays are from the commit of the message to its arrival at those who are well.
"""

import argparse
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_network
from pathlib import Path

import anyio
from cryptography.fernet import Fernet

from gateway import clock, ids
from gateway.cmq import subscribers, subscriptions, topics
from gateway.cmq.endpoints import Protocol
from gateway.cmq.push import pusher
from gateway.cmq.push.addresses import Reach
from gateway.cmq.push.schedules import Strategy
from gateway.cmq.push.secrets import Secrets
from gateway.cmq.push.webhooks import ContentFormat
from gateway.cmq.subscriptions import Subscription
from gateway.cmq.topics import Topic
from gateway.events import outbox, relay
from gateway.events.bus import TopicAddress
from gateway.store import Store, Tx, open_store
from gateway.store.migrations import migrate
from tests.bench.events import apart, peak_mb
from tests.bench.measure import Result, median, show
from tests.support.events import OWNER, REGION
from tests.support.running import ROOT, wait_until
from tests.support.services import LOOPBACK, Program, free_port
from tests.support.subscribers import SLOW

TOPICS = 10
BODY = b"e" * 593
REACH = Reach((ip_network(f"{LOOPBACK}/32"),))
WARM_UP = 0.2
WAIT_S = 120.0
PAUSE_AFTER_S = 3_600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subscribers", type=int, default=1_000)
    parser.add_argument("--slow", type=int, default=10)
    parser.add_argument("--rates", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    results = {}
    for rate in options.rates:
        run = partial(
            measure,
            count=options.subscribers,
            slow=options.slow,
            rate=rate,
            seconds=options.seconds,
        )
        found = [apart(run)() for _ in range(options.rounds)]
        results[f"{rate:g} messages/s"] = median(found)
    print(
        f"{options.subscribers} subscribers, {options.slow} slow, {TOPICS} topics: a message is"
        f" {options.subscribers // TOPICS} pushes; delays of those who are well"
    )
    show(results, unit="pushes", against=[])


def measure(*, count: int, slow: int, rate: float, seconds: float) -> Result:
    """One round, on a database and with subscribers of its own."""
    with tempfile.TemporaryDirectory() as name, _subscribers(Path(name)) as (log, port):
        url = f"sqlite:///{Path(name) / 'gateway.db'}"
        migrate(url)
        run = partial(
            _push, url, port=port, count=count, slow=slow, messages=round(rate * seconds), rate=rate
        )
        published, used, took, pushed = anyio.run(
            partial(run, log=log), backend_options={"use_uvloop": True}
        )
        delays = _delays(log, published)
    cuts = statistics.quantiles(delays, n=100)
    notes = {
        "p50 ms": cuts[49],
        "p99 ms": cuts[98],
        "max ms": max(delays),
        "CPU us/push": used / pushed * 1e6,
        "MB": peak_mb(),
    }
    return Result(pushed / took, notes)


@contextmanager
def _subscribers(folder: Path) -> Iterator[tuple[Path, int]]:
    """The subscribers' process: its log and its port."""
    log, port = folder / "arrivals", free_port()
    command = [sys.executable, "-m", "tests.support.subscribers"]
    command += ["--log", str(log), "--port", str(port)]
    program = Program(command, log=folder / "log", env={"PYTHONPATH": str(ROOT)})
    try:
        wait_until(log.exists)
        yield log, port
    finally:
        program.end(signal.SIGTERM)


async def _push(
    url: str, *, port: int, count: int, slow: int, messages: int, rate: float, log: Path
) -> tuple[dict[str, float], float, float, int]:
    """Publish at a rate while the pusher works, until all who are well have all.

    Returns when each message was committed, the processor time, the whole time, and the pushes.
    """
    sealer = Fernet(Fernet.generate_key())
    async with open_store(url) as store, anyio.create_task_group() as tasks:
        await _subscribe(store, port=port, count=count, slow=slow)
        await tasks.start(
            partial(
                pusher.run,
                store,
                secrets=Secrets(sealer.encrypt, sealer.decrypt),
                reach=REACH,
                clock=clock.now,
                fraction=ids.random_fraction,
                new_request_id=ids.new_request_id,
                pause_after_s=PAUSE_AFTER_S,
            )
        )
        await tasks.start(partial(relay.run, store, None, subscribers=subscribers, clock=clock.now))
        began, used = time.monotonic(), time.process_time()
        published = await _publish(store, messages=messages, rate=rate)
        wanted = messages * (count - slow) // TOPICS
        with anyio.fail_after(WAIT_S):
            while (pushed := _count(log)) < wanted:  # noqa: ASYNC110
                await anyio.sleep(0.05)
        figures = published, time.process_time() - used, time.monotonic() - began, pushed
        tasks.cancel_scope.cancel()
    return figures


async def _subscribe(store: Store, *, port: int, count: int, slow: int) -> None:
    """Make the topics and their subscriptions, the slow ones spread over them."""
    now = clock.now()

    def make(tx: Tx) -> None:
        made: list[Topic] = []
        for number in range(TOPICS):
            plain = OWNER, REGION, f"bench-{number}", 1_048_576, 1, 86_400, False, OWNER, now, now
            made.append(Topic(f"topic-{number}", *plain))
            topics.create(tx, made[-1])
        for number in range(count):
            path = f"{SLOW}-{number}" if number < slow else f"/well-{number}"
            subscription = Subscription(
                id=f"subsc-{number}",
                topic_id=f"topic-{number % TOPICS}",
                name=f"s-{number}",
                protocol=Protocol.HTTP,
                endpoint=f"http://{LOOPBACK}:{port}{path}",
                queue_id=None,
                notify_strategy=Strategy.EXPONENTIAL_DECAY_RETRY,
                notify_content_format=ContentFormat.SIMPLIFIED,
                filter_tags=(),
                binding_keys=(),
                created_at=now,
                modified_at=now,
            )
            subscriptions.subscribe(tx, made[number % TOPICS], subscription)

    await store.write(make)


async def _publish(store: Store, *, messages: int, rate: float) -> dict[str, float]:
    """Publish each message when it is due; returns the moments of their commits."""
    published: dict[str, float] = {}
    began = time.monotonic()
    for number in range(messages):
        await anyio.sleep(max(0.0, began + number / rate - time.monotonic()))
        address = TopicAddress(OWNER, REGION, f"bench-{number % TOPICS}")
        message_id = f"message-{number}"
        publish = partial(
            outbox.publish, topic=address, body=BODY, message_id=message_id, now=clock.now()
        )
        await store.write(publish)
        published[message_id] = time.monotonic()
    return published


def _count(log: Path) -> int:
    """How many arrivals those who are well have logged."""
    with log.open(encoding="utf-8") as lines:
        return sum(line.startswith("/well") for line in lines)


def _delays(log: Path, published: Mapping[str, float]) -> list[float]:
    """How long each message took to each of those who are well, in ms, after the warm-up."""
    warm = list(published)[int(len(published) * WARM_UP) :]
    first = set(warm)
    delays = []
    for line in log.read_text(encoding="utf-8").splitlines():
        path, message_id, _, at = line.split("\t")
        if path.startswith("/well") and message_id in first:
            delays.append((float(at) - published[message_id]) * 1e3)
    return delays


if __name__ == "__main__":
    main()
