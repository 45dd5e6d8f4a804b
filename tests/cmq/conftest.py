"""The CMQ service on an empty database, without and with a broker."""

import pytest

from gateway.store import Store
from tests.support.cmq import Cmq
from tests.support.fake_bus import FakeBus


@pytest.fixture
def cmq(store: Store) -> Cmq:
    """Without a broker."""
    return Cmq(store, None)


@pytest.fixture
def brokered(store: Store) -> Cmq:
    """With a broker, in memory."""
    return Cmq(store, FakeBus())
