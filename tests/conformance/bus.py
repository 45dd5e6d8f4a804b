"""What every `Bus` does."""

from collections.abc import Callable
from dataclasses import replace

import anyio
import pytest
from msgspec import structs

from gateway.events.bus import Binding, Bus, BusRefused, Message, Outcome, Route
from tests.support.events import message

ReadIds = Callable[[str], list[str]]


def with_another_queue(route: Route) -> Route:
    """The same topic with two subscriptions, `first` and `second`, that want everything."""
    first = route.bindings[0]
    second = Binding(f"{first.queue}-2", "#")
    queues = {"first": first.queue, "second": second.queue}
    return Route(route.exchange, (first, second), queues)


class BusConformance:
    """Subclasses give `bus`, `route` (of names of its own) and `read_ids` (empties a queue)."""

    @pytest.mark.anyio
    async def test_messages_arrive_in_the_order_they_were_published(
        self, bus: Bus, route: Route, read_ids: ReadIds
    ) -> None:
        messages = [message(number) for number in range(1, 501)]
        await bus.declare(route)
        outcomes = await bus.publish(route, messages)
        assert outcomes == [Outcome.CONFIRMED] * 500
        assert read_ids(route.bindings[0].queue) == [each.id for each in messages]

    @pytest.mark.anyio
    async def test_declaring_again_changes_nothing(
        self, bus: Bus, route: Route, read_ids: ReadIds
    ) -> None:
        await bus.declare(route)
        await bus.publish(route, [message(1)])
        await bus.declare(route)
        assert read_ids(route.bindings[0].queue) == [message(1).id]

    @pytest.mark.anyio
    async def test_a_binding_key_picks_messages(
        self, bus: Bus, route: Route, read_ids: ReadIds
    ) -> None:
        queue = route.bindings[0].queue
        narrow = Route(route.exchange, (Binding(queue, "batch.job.#"),))
        await bus.declare(narrow)
        task = message(2, key="batch.task.TASK_RUNNING.job-00000001")
        outcomes = await bus.publish(narrow, [message(1), task, message(3)])
        assert outcomes == [Outcome.CONFIRMED] * 3
        assert read_ids(queue) == [message(1).id, message(3).id]

    @pytest.mark.anyio
    async def test_a_message_that_should_reach_a_queue_and_does_not_is_returned(
        self, bus: Bus, route: Route, read_ids: ReadIds
    ) -> None:
        await bus.declare(route)
        await bus.unbind(route.exchange, binding=route.bindings[0])
        assert await bus.publish(route, [message(1)]) == [Outcome.RETURNED]
        await bus.declare(route)
        assert await bus.publish(route, [message(1)]) == [Outcome.CONFIRMED]
        assert read_ids(route.bindings[0].queue) == [message(1).id]

    @pytest.mark.anyio
    async def test_without_a_subscriber_a_message_is_confirmed_all_the_same(
        self, bus: Bus, route: Route
    ) -> None:
        bare = replace(route, bindings=())
        await bus.declare(bare)
        assert await bus.publish(bare, [message(1)]) == [Outcome.CONFIRMED]

    @pytest.mark.anyio
    async def test_a_queue_may_have_no_binding_and_gets_what_is_for_it_alone(
        self, bus: Bus, route: Route, read_ids: ReadIds
    ) -> None:
        queue = route.bindings[0].queue
        unbound = Route(route.exchange, (), {"first": queue})
        await bus.declare(unbound)
        again = structs.replace(message(2), replay=1, only_subscription_id="first")
        assert await bus.publish(unbound, [message(1), again]) == [Outcome.CONFIRMED] * 2
        assert read_ids(queue) == [message(2).id]

    @pytest.mark.anyio
    async def test_a_replay_for_one_subscription_reaches_its_queue_alone(
        self, bus: Bus, route: Route, read_ids: ReadIds
    ) -> None:
        both = with_another_queue(route)
        await bus.declare(both)
        again = structs.replace(message(1), replay=1, only_subscription_id="second")
        outcomes = await bus.publish(both, [message(1), again])
        assert outcomes == [Outcome.CONFIRMED] * 2
        assert read_ids(both.queues["first"]) == [message(1).id]
        assert read_ids(both.queues["second"]) == [message(1).id] * 2

    @pytest.mark.anyio
    async def test_a_replay_ignores_which_messages_its_subscription_asks_for(
        self, bus: Bus, route: Route, read_ids: ReadIds
    ) -> None:
        queue = route.bindings[0].queue
        narrow = Route(route.exchange, (Binding(queue, "batch.task.#"),), {"first": queue})
        await bus.declare(narrow)
        again = structs.replace(message(1), replay=1, only_subscription_id="first")
        assert await bus.publish(narrow, [message(1), again]) == [Outcome.CONFIRMED] * 2
        assert read_ids(queue) == [message(1).id]

    @pytest.mark.anyio
    async def test_a_replay_whose_queue_is_gone_is_returned_and_it_alone(
        self, bus: Bus, route: Route, read_ids: ReadIds
    ) -> None:
        await bus.declare(route)
        route = replace(route, queues={"first": route.bindings[0].queue, "gone": "cmq.no.such"})
        again = structs.replace(message(1), replay=1, only_subscription_id="gone")
        outcomes = await bus.publish(route, [message(1), again, message(2)])
        assert outcomes == [Outcome.CONFIRMED, Outcome.RETURNED, Outcome.CONFIRMED]
        assert read_ids(route.queues["first"]) == [message(1).id, message(2).id]

    @pytest.mark.anyio
    async def test_what_is_published_once_all_is_written_comes_after_it(
        self, bus: Bus, route: Route, read_ids: ReadIds
    ) -> None:
        await bus.declare(route)
        pages = [[message(n) for n in range(at, at + 200)] for at in range(0, 1_000, 200)]
        outcomes: list[Outcome] = []

        async def publish(page: list[Message], written: anyio.Event) -> None:
            outcomes.extend(await bus.publish(route, page, written=written.set))

        async with anyio.create_task_group() as tasks:
            for page in pages:
                written = anyio.Event()
                tasks.start_soon(publish, page, written)
                await written.wait()
        assert outcomes == [Outcome.CONFIRMED] * 1_000
        expected = [each.id for page in pages for each in page]
        assert read_ids(route.bindings[0].queue) == expected

    @pytest.mark.anyio
    async def test_publishing_to_an_exchange_that_is_gone_is_lost_until_it_is_declared(
        self, bus: Bus, route: Route, read_ids: ReadIds
    ) -> None:
        await bus.declare(route)
        await bus.remove(route.exchange)
        assert await bus.publish(route, [message(1)]) == [Outcome.LOST]
        await bus.declare(route)
        assert await bus.publish(route, [message(1)]) == [Outcome.CONFIRMED]
        assert read_ids(route.bindings[0].queue) == [message(1).id]

    @pytest.mark.anyio
    async def test_unbinding_leaves_what_the_queue_holds(
        self, bus: Bus, route: Route, read_ids: ReadIds
    ) -> None:
        bare = replace(route, bindings=())
        await bus.declare(route)
        await bus.publish(route, [message(1)])
        await bus.unbind(route.exchange, binding=route.bindings[0])
        await bus.publish(bare, [message(2)])
        assert read_ids(route.bindings[0].queue) == [message(1).id]

    @pytest.mark.anyio
    async def test_removing_what_does_not_exist_is_no_error(self, bus: Bus, route: Route) -> None:
        await bus.remove(route.exchange)
        await bus.unbind(route.exchange, binding=route.bindings[0])

    @pytest.mark.anyio
    async def test_a_queue_that_is_something_else_is_refused(
        self, bus: Bus, route: Route, take_name: Callable[[str], None]
    ) -> None:
        take_name(route.bindings[0].queue)
        with pytest.raises(BusRefused):
            await bus.declare(route)
        bare = replace(route, bindings=())
        await bus.declare(bare)
        assert await bus.publish(bare, [message(1)]) == [Outcome.CONFIRMED]
