"""What topics and subscriptions refuse, where the classic API has a number of its own for it."""

from gateway.errors import FailedOperation, InvalidParameterValue, ResourceNotFound


class StillSubscribed(FailedOperation):
    """A topic cannot be deleted while it has subscriptions."""


class NoSubscription(FailedOperation):
    """Nobody is subscribed to the topic, so that nobody would get a message."""


class NobodyWants(FailedOperation):
    """No subscription's tags or binding keys pick the message."""


class NoSuchSubscription(ResourceNotFound):
    """The topic has no subscription of this name."""


class NeedsSimplified(InvalidParameterValue):
    """A queue holds the message itself and nothing around it."""
