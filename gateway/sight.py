"""What one reader of events may be told: each event is decided on what it is about.

Job, task and instance events, and those of a job's own nodes, are for whoever may describe the
job; those of an environment and its nodes, for whoever may describe the environment. Those of a
subscription are for whoever may describe the subscriptions of its topic, as long as it is there.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import anyio
from msgspec import structs

from gateway.call import Resource
from gateway.clock import Clock, wire_time
from gateway.pipeline import Attributes
from gateway.policy.condition import Context
from gateway.policy.decision_point import DecisionPoint
from gateway.policy.match import Query
from gateway.policy.snapshot import Snapshot

KNOWN_MAX = 1_024
KNOWN_FOR_S = 5.0  # how late it is seen that a tag has changed, or that a thing was deleted

About = tuple[str, Resource, tuple[Resource, ...]]
"""What decides on an event: its action, its resource, what must not be denied besides."""
FindSubscriptions = Callable[[Collection[str]], Awaitable[Collection[str]]]
"""Tells which of the subscriptions with these ids there still are."""


@dataclass(frozen=True, slots=True)
class Told:
    """One event of the ledger, and what one must be allowed in order to hear of it.

    data: the event as one line of JSON. action: the policy action that describes `resource`, such
    as "batch:DescribeJob".
    deny_only: what must not be denied to whom it is told, besides the resource.
    subscription_id: whose it is, or "".
    """

    position: int
    name: str
    data: bytes
    action: str
    resource: Resource
    deny_only: tuple[Resource, ...] = ()
    subscription_id: str = ""


class Sight:
    """What one reader may be told, as policies say at each moment.

    query: the one that opened the stream; its context holds for every event, but for the time.
    """

    def __init__(
        self,
        query: Query,
        *,
        lists: str | None,
        policies: DecisionPoint,
        attributes: Mapping[str, Attributes],
        find_subscriptions: FindSubscriptions,
        clock: Clock,
    ) -> None:
        self._opening = query
        self._lists = lists
        self._policies = policies
        self._attributes = attributes
        self._find_subscriptions = find_subscriptions
        self._clock = clock
        self._known: dict[Resource, Context] = {}
        self._known_until = 0.0
        self._snapshot: Snapshot | None = None
        self._time = ""
        self._verdicts: dict[About, bool] = {}
        self._may_open: bool | None = None

    def may_open(self) -> bool:
        """Whether the reader might still open the stream."""
        self._enter_moment()
        if self._may_open is None:
            self._may_open = self._decide_opening()
        return self._may_open

    async def visible(self, told: Sequence[Told]) -> list[Told]:
        """The events that the reader may be told, decided now."""
        await self._get_to_know(each.resource for each in told)
        told = await self._without_lost(told)
        self._enter_moment()
        return [each for each in told if self._shows(each)]

    def _enter_moment(self) -> None:
        """Forget what was decided under other policies, or in another second.

        Why seconds: conditions on the time know no smaller unit.
        """
        snapshot, time = self._policies.snapshot, wire_time(self._clock())
        if snapshot is not self._snapshot or time != self._time:
            self._snapshot, self._time = snapshot, time
            self._verdicts.clear()
            self._may_open = None

    def _decide_opening(self) -> bool:
        query = structs.replace(self._opening, context=self._context())
        if self._lists is None:
            return self._policies.decide(query).allowed
        region = query.resources[0].region
        decision, _ = self._policies.decide_list(query, resource_type=self._lists, region=region)
        return decision.allowed

    def _shows(self, told: Told) -> bool:
        about = (told.action, told.resource, told.deny_only)
        if about not in self._verdicts:
            self._verdicts[about] = self._decide(told)
        return self._verdicts[about]

    def _decide(self, told: Told) -> bool:
        """May they describe it? And is it not kept from the stream by a deny?

        Why what was deleted is told: who resumes must not miss how a job ended because somebody
        tidied up; ids come only once, so its name is enough to decide on. Where a policy asks what
        else was known of it, which is gone, it is not told.
        """
        known = self._known.get(told.resource)
        query = Query(
            principal=self._opening.principal,
            action=told.action,
            resources=(told.resource,),
            deny_only=(told.resource, *told.deny_only),
            context=self._context(),
            attributes={} if known is None else {told.resource: known},
            deny_only_action=self._opening.action,
        )
        is_gone = known is None and told.resource.service in self._attributes
        if is_gone and self._policies.reads_resources(query):
            return False
        return self._policies.decide(query).allowed

    def _context(self) -> Context:
        return {**self._opening.context, "qcs:current_time": (self._time,)}

    async def _without_lost(self, told: Sequence[Told]) -> Sequence[Told]:
        """Leave out what is told of subscriptions that are there no more.

        Why: policies know a topic by its name, and whoever makes one of that name anew, with other
        tags or none, must not be shown what was of the old one. A subscription's id comes only
        once, and no subscription outlives its topic. It is looked for after what the topic carries,
        and every time: the other way round the topic could be another one by then.
        """
        ids = {each.subscription_id for each in told if each.subscription_id}
        if not ids:
            return told
        there = await self._find_subscriptions(ids)
        return [each for each in told if not each.subscription_id or each.subscription_id in there]

    async def _get_to_know(self, resources: Iterable[Resource]) -> None:
        """Learn what resources carry; what does not exist is asked for again."""
        now_s = anyio.current_time()
        if now_s >= self._known_until or len(self._known) > KNOWN_MAX:
            self._known.clear()
            self._known_until = now_s + KNOWN_FOR_S
        unknown = dict.fromkeys(one for one in resources if one not in self._known)
        for service, attributes in self._attributes.items():
            asked = [one for one in unknown if one.service == service]
            if asked:
                self._known |= await attributes(asked)
                self._verdicts.clear()
