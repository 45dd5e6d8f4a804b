"""A whole gateway whose PostgreSQL is frozen, or has become one that takes no changes."""

import itertools
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.app import DRAIN_S
from tests.support.raw_client import call
from tests.support.running import Gateway, running_gateway, wait_until
from tests.support.services import Postgresql, private_folder

pytestmark = pytest.mark.needs("postgresql")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgresql]:
    """A server of these tests' own, which nobody else waits for."""
    with private_folder("freezable") as folder, closing(Postgresql(folder)) as server:
        server.start()
        yield server


@pytest.fixture
def gateway(tmp_path: Path, server: Postgresql) -> Iterator[Gateway]:
    server.execute("DROP DATABASE IF EXISTS gateway WITH (FORCE)")
    server.execute("CREATE DATABASE gateway")
    url = server.url_of("gateway")
    with running_gateway(tmp_path, QCS_GATEWAY_DATABASE_URL=url) as running:
        yield running


def test_a_frozen_database_is_told_within_seconds_and_served_again_after(
    gateway: Gateway, server: Postgresql
) -> None:
    with server.frozen():
        for _ in range(2):  # management() gives up after five seconds
            status, text = gateway.management("/readyz")
            assert status == 503
            assert "the database does not answer" in text
        assert call(gateway, gateway.root, "DescribeJobs").code == "ServiceUnavailable"
    gateway.wait_ready()
    wait_until(lambda: call(gateway, gateway.root, "DescribeJobs").code == "")


def test_it_ends_in_time_though_its_database_is_frozen(
    gateway: Gateway, server: Postgresql
) -> None:
    assert call(gateway, gateway.root, "DescribeJobs").code == ""
    with server.frozen():
        began = time.monotonic()
        assert gateway.stop() == 0
        assert time.monotonic() - began < DRAIN_S


def test_a_database_that_takes_no_changes_ends_nothing(
    gateway: Gateway, server: Postgresql
) -> None:
    numbers = itertools.count()

    def create() -> str:
        """Make one more topic; the code of the answer, "" for none."""
        name = f"told-{next(numbers)}"
        return call(gateway, gateway.root, "CreateCmqTopic", TopicName=name).code

    assert create() == ""
    with server.standing_by():
        wait_until(lambda: gateway.management("/readyz")[0] == 503)
        assert create() == "ServiceUnavailable"
        shown = call(gateway, gateway.root, "DescribeCmqTopicDetail", TopicName="told-0")
        assert shown.code == "", "what is only read is answered; the decision on it waits"
        wait_until(lambda: gateway.log.count("messages_not_expanded") > 2)
        assert not gateway.ended
    gateway.wait_ready()
    wait_until(lambda: create() == "")
