"""What a classic call on a topic or a subscription asks for, and the numbers of its refusals."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from gateway.call import Call, Grant, Scope
from gateway.cmq import refusals
from gateway.cmq.classic.answers import Classic
from gateway.cmq.classic.parameters import (
    Params,
    check_names,
    failure,
    required,
)
from gateway.errors import ApiError, InvalidParameterValue, UnsupportedOperation
from gateway.events.bus import TopicAddress

_PAGE = frozenset({"searchWord", "offset", "limit"})
_ATTRIBUTES = frozenset({"notifyStrategy", "notifyContentFormat"})
_PICKED = frozenset({"filterTag", "bindingKey"})
_NONE: frozenset[str] = frozenset()
_NAMES: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "CreateTopic": (frozenset({"maxMsgSize", "filterType"}), _NONE),
    "ListTopic": (_PAGE, _NONE),
    "GetTopicAttributes": (_NONE, _NONE),
    "SetTopicAttributes": (frozenset({"maxMsgSize"}), _NONE),
    "DeleteTopic": (_NONE, _NONE),
    "PublishMessage": (frozenset({"msgBody", "routingKey"}), frozenset({"msgTag"})),
    "BatchPublishMessage": (frozenset({"routingKey"}), frozenset({"msgBody", "msgTag"})),
    "Subscribe": (frozenset({"subscriptionName", "protocol", "endpoint"}) | _ATTRIBUTES, _PICKED),
    "Unsubscribe": (frozenset({"subscriptionName"}), _NONE),
    "ClearSubscriptionFilterTags": (frozenset({"subscriptionName"}), _NONE),
    "ListSubscriptionByTopic": (_PAGE, _NONE),
    "GetSubscriptionAttributes": (frozenset({"subscriptionName"}), _NONE),
    "SetSubscriptionAttributes": (frozenset({"subscriptionName"}) | _ATTRIBUTES, _PICKED),
}
"""The parameters of each action: those with one value, those with a list."""
_ALWAYS = frozenset({"topicName", "clientRequestId"})
_PAIRS: Mapping[type[ApiError], tuple[int, int]] = {
    refusals.NeedsSimplified: (4000, 10640),
    refusals.NobodyWants: (6030, 10730),
    refusals.NoSubscription: (6030, 10650),
    refusals.NoSuchSubscription: (4440, 10600),
    refusals.StillSubscribed: (4000, 10540),
}
_PAIRS_OF_CODES: Mapping[str, tuple[int, int]] = {
    "LimitExceeded.Subscriptions": (4500, 10480),
    "LimitExceeded.Topics": (4450, 10610),
    "ResourceInUse.Subscription": (4490, 10470),
    "ResourceNotFound.Topic": (4440, 10600),
}
"""Source: CMQ 2017 error table, "topic". It has no pair for a subscription that does not exist; the
one of its topic is the nearest."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One call, as the handlers take it. created_by: the uin of who makes it."""

    owner_uin: str
    created_by: str
    region: str
    scope: Scope | None
    params: Params

    @classmethod
    def of(cls, call: Call, grant: Grant, params: Params) -> "Asked":
        """Read the call and who makes it."""
        caller = grant.principal
        return cls(caller.owner_uin, caller.uin, call.region, grant.scope, params)

    @property
    def topic(self) -> TopicAddress:
        """The topic it names. Raises ClassicError 4000/10390."""
        return TopicAddress(self.owner_uin, self.region, required(self.params, "topicName"))

    @property
    def place(self) -> dict[str, str]:
        """The topic it names, as the functions on topics take it. Raises ClassicError."""
        topic = self.topic
        return {"owner_uin": topic.owner_uin, "region": topic.region, "name": topic.name}


Handler = Callable[[Asked], Awaitable[Classic]]


@contextmanager
def told_as(number: int, module: int) -> Iterator[None]:
    """Turn the refusal of a parameter into a numbered error, with the same sentence."""
    try:
        yield
    except (InvalidParameterValue, UnsupportedOperation) as error:
        raise failure(number, module, error.message) from error


async def answer(handler: Handler, action: str, asked: Asked) -> Classic:
    """Serve a call; a refusal that has numbers of its own is told by them. Raises ApiError."""
    single, repeatable = _NAMES[action]
    check_names(asked.params, single=single | _ALWAYS, repeatable=repeatable)
    try:
        return await handler(asked)
    except ApiError as error:
        pair = _PAIRS.get(type(error)) or _PAIRS_OF_CODES.get(error.code)
        if pair is None:
            raise
        raise failure(*pair, error.message) from error
