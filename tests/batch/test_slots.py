"""How a round divides the engine's room among the accounts, their jobs and their tasks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch.live import Live
from gateway.batch.slots import FreeNodes, QueuedTask, Room, Slots, reserve

Attempts = Sequence[tuple[str, int]]


def waits(
    job_id: str,
    count: int,
    mem_gib: int = 1,
    *,
    owner: str = "1",
    env_id: str | None = None,
    at_most: int = 0,
) -> QueuedTask:
    return QueuedTask(job_id, owner, env_id, count, at_most, 1 if at_most else 0, mem_gib)


def slots_of(places: int, mem_gib: int = 1_000, *, running: Attempts = ()) -> Slots:
    """An engine's room. running: the attempts that it has, each an account and its memory."""
    return live_with(running).slots(capacity=places, mem_gib=mem_gib, newcomers=set())


def live_with(running: Attempts) -> Live:
    live = Live()
    for number, (owner, gib) in enumerate(running):
        live.add(f"attempt-{number}", owner_uin=owner, mem_gib=gib)
    return live


def places(reserved: dict[str, Room]) -> dict[str, int]:
    return {job_id: room.places for job_id, room in reserved.items()}


# One account -----------------------------------------------------------------------------------


def test_places_are_reserved_for_the_most_urgent_first() -> None:
    slots = slots_of(10)
    waiting = [
        waits("job-a", 9, env_id="env-1"),
        waits("job-b", 5, at_most=4),
        waits("job-c", 9, env_id="env-1"),
        waits("job-d", 99),
    ]
    reserved = reserve(slots, waiting, free_nodes={"env-1": FreeNodes(2, 1)})
    assert places(reserved) == {"job-a": 2, "job-b": 3, "job-d": 5}
    assert slots.free.places == 0


def test_memory_is_reserved_in_the_same_order_and_held_for_a_large_one() -> None:
    slots = slots_of(10, 20)
    waiting = [waits("job-a", 1, 8), waits("job-b", 2, 10), waits("job-c", 5, 1)]
    reserved = reserve(slots, waiting, free_nodes={})
    assert [each.mem_gib for each in reserved.values()] == [8, 10]
    assert slots.held == {"1"}
    assert slots.take_rest("1").places == 0, "what is left waits for the second of job-b"


def test_a_task_that_waits_for_a_node_holds_nobody_up() -> None:
    slots = slots_of(10, 20)
    waiting = [waits("job-a", 1, env_id="env-1"), waits("job-b", 1, 5)]
    assert places(reserve(slots, waiting, free_nodes={})) == {"job-b": 1}
    assert not slots.held


def test_a_node_larger_than_the_whole_counts_as_the_whole() -> None:
    alone = slots_of(10, 16)
    assert reserve(alone, [waits("job-a", 3, 99)], free_nodes={})["job-a"] == Room(1, 16, 16)
    beside = slots_of(10, 16, running=[("1", 1)])
    assert reserve(beside, [waits("job-a", 3, 99)], free_nodes={}) == {}


def test_the_rest_is_taken_once_and_given_back() -> None:
    slots = slots_of(5)
    mine = slots.take_rest("1")
    assert (mine.places, slots.take_rest("1").places) == (5, 0)
    mine.take(2, mem_gib=3)
    slots.give_back("1", mine)
    assert slots.take_rest("1") == Room(3, 994, 1_000)


# Several accounts ------------------------------------------------------------------------------


def test_room_goes_to_the_account_that_has_least_of_what_it_has_most_of() -> None:
    running = [("1", 1)] * 4 + [("2", 60)] + [("3", 1)] * 3
    slots = slots_of(10, 100, running=running)
    waiting = [waits(f"job-{owner}", 9, owner=owner) for owner in "123"]
    assert places(reserve(slots, waiting, free_nodes={})) == {"job-3": 1, "job-1": 1}


def test_the_oldest_task_is_first_if_no_account_has_anything() -> None:
    waiting = [waits("job-b", 9, owner="2"), waits("job-a", 9, owner="1")]
    assert places(reserve(slots_of(3), waiting, free_nodes={})) == {"job-b": 2, "job-a": 1}


def test_a_turn_counts_in_the_next_round() -> None:
    live, waiting = Live(), [waits(f"job-{owner}", 9, owner=owner) for owner in "123"]
    order: list[str] = []
    for _ in range(6):
        slots = live.slots(capacity=1, mem_gib=8, newcomers=set())
        order += reserve(slots, waiting, free_nodes={})
    assert order == ["job-1", "job-2", "job-3"] * 2


def test_who_has_a_place_has_had_a_turn() -> None:
    live = live_with([("1", 1)])
    live.end(["attempt-0"])
    slots = live.slots(capacity=1, mem_gib=8, newcomers=set())
    waiting = [waits("job-a", 9, owner="1"), waits("job-b", 9, owner="2")]
    assert places(reserve(slots, waiting, free_nodes={})) == {"job-b": 1}


def test_who_waits_for_much_memory_stops_no_other_account() -> None:
    slots = slots_of(10, 16, running=[("1", 1)])
    waiting = [waits("job-a", 1, 99), waits("job-b", 1), waits("job-c", 9, owner="2")]
    assert places(reserve(slots, waiting, free_nodes={})) == {"job-c": 9}
    assert slots.held == {"1"}


def test_while_one_waits_within_its_part_no_other_takes_memory_beyond_its_own() -> None:
    running = [("2", 1)] * 7 + [("3", 2)]
    slots = slots_of(99, 12, running=running)
    waiting = [
        waits("job-a", 1, 4, owner="1"),
        waits("job-b", 9, owner="2"),
        waits("job-c", 9, owner="3"),
    ]
    assert places(reserve(slots, waiting, free_nodes={})) == {"job-c": 2}
    assert slots.held == {"1", "2", "3"}


def test_the_last_one_that_waits_takes_no_memory_that_is_kept() -> None:
    slots = slots_of(99, 12, running=[("2", 2), ("3", 7)])
    waiting = [waits("job-a", 1, 4, owner="1"), waits("job-b", 9, owner="2")]
    assert places(reserve(slots, waiting, free_nodes={})) == {"job-b": 2}


def test_who_waits_for_a_place_takes_none_that_is_given_back() -> None:
    slots = slots_of(2)
    waiting = [waits("job-a", 9, owner="1"), waits("job-b", 1, owner="2")]
    reserved = reserve(slots, waiting, free_nodes={})
    slots.give_back("2", reserved["job-b"])
    assert slots.take_rest("1").places == 0
    assert slots.take_rest("2").places == 1


def test_who_has_many_places_and_little_memory_goes_on_while_memory_is_kept() -> None:
    running = [("2", 1)] * 12 + [("3", 20)] * 4
    slots = slots_of(20, 99, running=running)
    waiting = [waits("job-a", 1, 30, owner="1"), waits("job-b", 9, owner="2")]
    assert places(reserve(slots, waiting, free_nodes={})) == {"job-b": 4}


def test_what_is_kept_is_not_taken_by_who_comes_before_and_asks_for_more() -> None:
    slots = slots_of(9, 10, running=[("1", 2)])
    waiting = [waits("job-b", 9, 6, owner="2"), waits("job-a", 1, 3, owner="1")]
    assert places(reserve(slots, waiting, free_nodes={})) == {"job-a": 1}


def test_no_account_takes_more_of_the_rest_than_makes_an_equal_part() -> None:
    live = live_with([("1", 1)] * 3)
    slots = live.slots(capacity=16, mem_gib=1_000, newcomers={"1", "2"})
    assert slots.take_rest("1") == Room(5, 497, 1_000)
    assert slots.take_rest("1").places == 0
    assert slots.take_rest("2") == Room(8, 500, 1_000)
    slots.give_back("2", Room(1, 1, 1_000))
    assert slots.take_rest("2") == Room(1, 1, 1_000)


def test_all_of_the_rest_is_taken_if_nobody_else_waits() -> None:
    live = live_with([("1", 1)] * 9 + [("2", 1)] * 5)
    slots = live.slots(capacity=16, mem_gib=1_000, newcomers={"1"})
    reserve(slots, [waits("job-b", 1, owner="2")], free_nodes={})
    assert slots.take_rest("1") == Room(1, 985, 1_000)


def test_an_account_of_which_everything_has_ended_has_no_part() -> None:
    live = live_with([("1", 1), ("2", 1), ("2", 1)])
    live.end(["attempt-1", "attempt-2", "unknown"])
    slots = live.slots(capacity=9, mem_gib=90, newcomers={"3"})
    assert slots.take_rest("1") == Room(3, 44, 90)


def test_an_engine_that_has_become_smaller_than_what_runs_has_no_room() -> None:
    slots = slots_of(2, 5, running=[("1", 2)] * 3)
    assert slots.free == Room(0, 0, 5)
    assert reserve(slots, [waits("job-b", 1, owner="2")], free_nodes={}) == {}


# Any number of them ----------------------------------------------------------------------------


@dataclass
class Model:
    """The rule as it is written, one attempt after the other, with everything looked at anew."""

    capacity: int
    whole_gib: int
    used: dict[str, list[int]]
    line: dict[str, list[QueuedTask]]
    nodes: dict[str, FreeNodes]
    running: Attempts
    got: dict[str, list[int]] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    turns: list[str] = field(default_factory=list)
    is_kept: bool = False

    def divide(self) -> None:
        # What ran before is read in some order: it tells who had a turn, not when the last was.
        self.turns = list(dict.fromkeys(owner for owner, _ in self.running))
        accounts = self.used.keys() | self.line.keys()
        self.used = {owner: self.used.get(owner, [0, 0]) for owner in [*self.line, *self.used]}
        while self.places_left() > 0:
            ready = [owner for owner in self.line if owner not in self.held and self.next(owner)]
            if not ready:
                return
            owner = min(ready, key=lambda owner: self.order(owner, len(accounts)))
            beyond = self.order(owner, len(accounts))[0]
            task, size = self.next(owner) or (None, 0)
            assert task is not None
            others = (self.used[owner][1] + size) * len(accounts) > self.whole_gib
            if size > self.memory_left() or (self.is_kept and others):
                self.is_kept |= size > self.memory_left() and not beyond
                self.held.add(owner)
            else:
                self.give(owner, task, size)
        self.held |= {owner for owner in self.line if self.next(owner)}

    def order(self, owner: str, accounts: int) -> tuple[bool, Fraction, int, int]:
        _task, size = self.next(owner) or (None, 0)
        places, gib = self.used[owner]
        turn = max((at for at, each in enumerate(self.turns) if each == owner), default=-1)
        after = self.share(places + 1, gib + size)
        return (
            after > Fraction(1, accounts),
            self.share(places, gib),
            turn,
            list(self.line).index(owner),
        )

    def next(self, owner: str) -> tuple[QueuedTask, int] | None:
        """The first task of which one more could start if there were room, and its node's size."""
        for task in self.line[owner]:
            at_most = task.concurrent_max - task.busy if task.concurrent_max else task.runnable
            free = self.nodes.get(task.env_id or "", FreeNodes(0, 0))
            if task.env_id is not None:
                at_most = min(at_most, free.number)
            if min(at_most, task.runnable) > 0:
                gib = task.mem_gib if task.env_id is None else free.mem_gib
                return task, min(gib, self.whole_gib)
        return None

    def give(self, owner: str, task: QueuedTask, size: int) -> None:
        place = self.line[owner].index(task)
        busy = task.busy + 1 if task.concurrent_max else 0
        self.line[owner][place] = task._replace(runnable=task.runnable - 1, busy=busy)
        if task.env_id is not None:
            free = self.nodes[task.env_id]
            self.nodes[task.env_id] = free._replace(number=free.number - 1)
        for room in (self.used[owner], self.got.setdefault(task.job_id, [0, 0])):
            room[0] += 1
            room[1] += size
        self.turns.append(owner)

    def share(self, places: int, gib: int) -> Fraction:
        return max(Fraction(places, self.capacity), Fraction(gib, self.whole_gib))

    def places_left(self) -> int:
        return self.capacity - sum(places for places, _ in self.used.values())

    def memory_left(self) -> int:
        return self.whole_gib - sum(gib for _, gib in self.used.values())


OWNERS = st.sampled_from("1234")
SIZES = st.integers(0, 1) | st.integers(1, 4) | st.integers(1, 60)


@st.composite
def rounds(draw: st.DrawFn, sizes: st.SearchStrategy[int]) -> tuple[Slots, list[QueuedTask], Model]:
    """An engine with something running, and what waits: tasks with nodes of their own or an
    environment's, of which each account has one.
    """
    capacity, whole_gib = draw(st.integers(1, 24)), draw(st.integers(4, 48))
    running: list[tuple[str, int]] = []
    for owner, gib in draw(st.lists(st.tuples(OWNERS, sizes), max_size=capacity)):
        if sum(size for _, size in running) + gib <= whole_gib:
            running.append((owner, gib))
    waiting = [
        QueuedTask(
            f"job-{draw(st.integers(0, 2))}-{owner}",
            owner,
            f"env-{owner}" if draw(st.integers(0, 3)) == 0 else None,
            draw(st.integers(1, 30)),
            *draw(st.sampled_from([(0, 0), (0, 3), (4, 1), (9, 2)])),
            draw(sizes),
        )
        for owner in draw(st.lists(OWNERS, max_size=8))
    ]
    nodes = {f"env-{owner}": FreeNodes(draw(st.integers(1, 9)), draw(sizes)) for owner in "123"}
    used: dict[str, list[int]] = {}
    line: dict[str, list[QueuedTask]] = {}
    for owner, gib in running:
        before = used.get(owner, [0, 0])
        used[owner] = [before[0] + 1, before[1] + gib]
    for task in waiting:
        line.setdefault(task.owner_uin, []).append(task)
    model = Model(capacity, whole_gib, used, line, nodes, running)
    return slots_of(capacity, whole_gib, running=running), waiting, model


@given(rounds(SIZES))
def test_room_is_divided_as_the_rule_says(made: tuple[Slots, list[QueuedTask], Model]) -> None:
    slots, waiting, model = made
    reserved = reserve(slots, waiting, free_nodes=dict(model.nodes))
    model.divide()
    assert {job: [room.places, room.mem_gib] for job, room in reserved.items()} == model.got
    assert slots.held == model.held
    left = Room(model.places_left(), model.memory_left(), model.whole_gib)
    assert slots.free == left


@given(rounds(st.just(1)))
def test_nobody_who_could_start_something_has_less_than_another_by_more_than_one(
    made: tuple[Slots, list[QueuedTask], Model],
) -> None:
    slots, waiting, model = made
    before = {owner: used[0] for owner, used in model.used.items()}
    reserve(slots, waiting, free_nodes=dict(model.nodes))
    after = {owner: room.places for owner, room in slots.used.items()}
    served = [owner for owner, count in after.items() if count > before.get(owner, 0)]
    for poor in slots.held:
        assert all(after[rich] <= after[poor] + 1 for rich in served)
    assert not slots.held or 0 in {slots.free.places, slots.free.mem_gib}


@given(rounds(SIZES), st.lists(OWNERS, max_size=6))
def test_the_rest_takes_nothing_from_who_waits_within_its_part(
    made: tuple[Slots, list[QueuedTask], Model], takers: list[str]
) -> None:
    slots, waiting, model = made
    reserve(slots, waiting, free_nodes=dict(model.nodes))
    for owner in takers:
        free, used = slots.free.places, slots.used_by(owner).mem_gib
        rest = slots.take_rest(owner)
        assert min(rest.places, rest.mem_gib) >= 0
        assert slots.free.places == free - rest.places
        assert not rest.places or owner not in slots.held
        within = slots.used_by(owner).mem_gib * len(slots.accounts) <= slots.free.whole_gib
        assert within or slots.used_by(owner).mem_gib == used or not slots.held


@pytest.mark.parametrize("accounts", [2, 3, 5])
def test_an_account_gets_its_part_however_the_others_take_turns(accounts: int) -> None:
    """Nodes of an equal part of the memory, against small ones that end and start again."""
    live = live_with([("2", 1)] * 60)
    owners = [str(number + 1) for number in range(accounts)]
    waiting = [waits(f"job-{owner}", 99, 1, owner=owner) for owner in owners[1:]]
    waiting.append(waits("job-1", 1, 60 // accounts, owner="1"))
    ended = iter(range(60))
    for round_number in range(60):
        live.end([f"attempt-{next(ended)}"])
        slots = live.slots(capacity=99, mem_gib=60, newcomers=set())
        reserved = reserve(slots, waiting, free_nodes={})
        if "job-1" in reserved:
            break
        for job_id, room in reserved.items():
            for number in range(room.places):
                name = f"{job_id}-{round_number}-{number}"
                live.add(name, owner_uin=job_id[-1], mem_gib=room.mem_gib // room.places)
    assert "job-1" in reserved


def test_whose_turn_it_was_does_not_follow_from_what_the_engine_is_given() -> None:
    live = Live()
    slots = live.slots(capacity=2, mem_gib=64, newcomers=set())
    reserve(slots, [waits("job-a", 1, owner="a"), waits("job-b", 1, owner="b")], free_nodes={})
    for owner_uin in ("b", "a"):
        live.add(f"attempt-of-{owner_uin}", owner_uin=owner_uin, mem_gib=1)
    live.clear()
    assert slots.turns.last("a") < slots.turns.last("b")
