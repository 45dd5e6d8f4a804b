"""An address in an endpoint is judged when it is subscribed; a name, when it is pushed to."""

from ipaddress import ip_network

import pytest

from gateway.cmq.push.addresses import Reach
from gateway.errors import ClassicError, InvalidParameterValue
from gateway.store import Store
from tests.support.cmq import Cmq

pytestmark = pytest.mark.anyio
TOPIC = {"TopicName": "job-message"}


async def subscribe(cmq: Cmq, endpoint: str) -> None:
    await cmq.call("CreateCmqTopic", **TOPIC)
    await cmq.call("CreateCmqSubscribe", **cmq.subscription("s1", endpoint, "http"))


@pytest.mark.parametrize("host", ["10.0.0.1", "127.0.0.1:80", "[::1]", "[::ffff:10.0.0.1]:80"])
async def test_an_address_that_is_never_pushed_to_makes_no_subscription(
    store: Store, host: str
) -> None:
    cmq = Cmq(store, None, reach=Reach((ip_network("192.168.1.0/24"),)))
    with pytest.raises(InvalidParameterValue, match="not public"):
        await subscribe(cmq, f"http://{host}/")
    asked = {"topicName": "job-message", "subscriptionName": "s1", "protocol": "http"}
    with pytest.raises(ClassicError, match="not public") as refused:
        await cmq.classic("Subscribe", {**asked, "endpoint": f"https://{host}/hook"})
    assert (refused.value.number, refused.value.module) == (4000, 10630)
    shown = await cmq.call("DescribeCmqSubscriptionDetail", **TOPIC)
    assert shown["TotalCount"] == 0


@pytest.mark.parametrize("host", ["8.8.8.8", "192.168.1.7:80", "localhost", "inside.example"])
async def test_an_allowed_address_and_any_name_may_be_subscribed(store: Store, host: str) -> None:
    cmq = Cmq(store, None, reach=Reach((ip_network("192.168.1.0/24"),)))
    await subscribe(cmq, f"http://{host}/")
    shown = await cmq.call("DescribeCmqSubscriptionDetail", **TOPIC)
    assert shown["SubscriptionSet"][0]["Endpoint"] == f"http://{host}/"
