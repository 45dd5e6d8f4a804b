"""The table of states, walked at random, and the law that nobody decides beside it."""

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch.states import (
    ACTIVITY,
    COUNTERS,
    EVENTS,
    FINAL,
    HOLDING,
    LAUNCHED,
    MOVES,
    NODE,
    OVER,
    WAITING,
    ActivityState,
    Counts,
    Kind,
    NodeState,
    NodeTrigger,
    State,
    Trigger,
    advance,
    can,
    outcome,
)
from gateway.batch.tables import task
from gateway.events.names import BATCH_EVENTS, Subject

ROOM = Path(__file__).parents[2] / "gateway" / "batch"
ASKS_FOR_ONE_STATE = {
    "reads.py",  # only a RUNNABLE job says what it waits for
    "scheduler.py",  # what is STARTING is started again, what is RUNNING is asked for
    "views.py",  # how a state is worded
}
ORDER = list(State)
counts = st.builds(Counts, **{state.value.lower(): st.integers(0, 5) for state in State})


@given(kind=st.sampled_from(Kind), triggers=st.lists(st.sampled_from(Trigger), max_size=60))
def test_no_walk_leaves_a_final_state_or_goes_back_unless_it_is_tried_again(
    kind: Kind, triggers: list[Trigger]
) -> None:
    state = State.SUBMITTED
    for trigger in triggers:
        if not can(state, trigger):
            continue
        after, event = advance(kind, state, trigger)
        assert state not in FINAL or (state, trigger) == (State.FAILED, Trigger.RESET)
        assert (
            trigger in {Trigger.RETRIED, Trigger.RESET}
            or ORDER.index(after) > ORDER.index(state)
            or ((state, after) == (State.FAILED_INTERRUPTED, State.FAILED))
        )
        assert (event is not None) == (after in OVER or after is State.RUNNING)
        state = after


@given(state=st.sampled_from(State), trigger=st.sampled_from(Trigger))
def test_a_move_that_is_not_in_the_table_is_refused(state: State, trigger: Trigger) -> None:
    if can(state, trigger):
        return
    with pytest.raises(KeyError):
        advance(Kind.JOB, state, trigger)


def test_every_state_is_reached_and_success_alone_is_never_left() -> None:
    assert set(MOVES.values()) == set(State)
    assert {state for state, _ in MOVES} == set(State) - {State.SUCCEED}


def test_only_what_failed_is_reset_and_it_begins_anew() -> None:
    resets = {move: after for move, after in MOVES.items() if move[1] is Trigger.RESET}
    assert resets == {(State.FAILED, Trigger.RESET): State.SUBMITTED}


def test_a_state_waits_or_is_launched_or_is_over() -> None:
    assert {State.STARTING, State.RUNNING} == LAUNCHED
    assert set(State) == WAITING | LAUNCHED | OVER


def test_whatever_has_a_node_is_launched_or_interrupted() -> None:
    assert {State.STARTING, State.RUNNING, State.FAILED_INTERRUPTED} == HOLDING


def test_every_state_has_a_counter_of_its_name_in_the_same_order() -> None:
    assert tuple(state.value.lower() for state in State) == COUNTERS
    assert set(COUNTERS) <= set(task.c.keys())


def test_whatever_is_not_final_can_fail() -> None:
    assert {state for state, trigger in MOVES if trigger is Trigger.FAILED} == set(State) - FINAL


def test_what_waits_has_not_been_started() -> None:
    assert not WAITING & (OVER | {State.STARTING, State.RUNNING})


def test_every_event_but_the_environments_own_tells_of_a_move() -> None:
    told = {*EVENTS.values(), *(event for _, event in NODE.values() if event is not None)}
    assert told == {name for name in BATCH_EVENTS if name.subject is not Subject.ENV}


@given(triggers=st.lists(st.sampled_from(NodeTrigger), max_size=30))
def test_a_node_that_is_deleted_stays_so_unless_it_is_made_again(
    triggers: list[NodeTrigger],
) -> None:
    state = NodeState.PENDING
    for trigger in triggers:
        if (state, trigger) not in NODE:
            continue
        assert state is not NodeState.DELETING or trigger is NodeTrigger.REPEATED
        state, event = NODE[state, trigger]
        if event is not None:
            assert event.value == f"COMPUTE_NODE_{state.value}"


def test_every_state_of_a_node_is_reached_and_left() -> None:
    assert {state for state, _ in NODE.values()} == set(NodeState)
    assert {state for state, _ in NODE} == set(NodeState)


def test_an_activity_goes_from_its_request_to_one_of_two_ends() -> None:
    under_way = {ActivityState.SUBMITTED, ActivityState.PROCESSING}
    assert {state for state, _ in ACTIVITY} == under_way
    assert set(ACTIVITY.values()) == set(ActivityState) - {ActivityState.SUBMITTED}


@given(parts=counts)
def test_a_whole_has_come_to_an_end_once_no_part_can_run(parts: Counts) -> None:
    open_parts = sum(getattr(parts, s.value.lower()) for s in State if s not in OVER)
    expected = (
        None
        if open_parts
        else Trigger.KEPT
        if parts.failed_interrupted
        else Trigger.FAILED
        if parts.failed
        else Trigger.SUCCEEDED
    )
    assert outcome(parts) is expected


@given(parts=counts, old=st.sampled_from(State), new=st.sampled_from(State))
def test_moving_a_part_keeps_the_total(parts: Counts, old: State, new: State) -> None:
    changes = {old: -1} if old is new else {old: -1, new: 1}
    after = parts.plus(changes)
    assert after.total == parts.total + sum(changes.values())
    assert after.in_any([old]) == parts.in_any([old]) - 1


def test_nobody_else_decides_by_comparing_a_state() -> None:
    def compares(path: Path) -> bool:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        sides = (
            side
            for node in ast.walk(tree)
            if isinstance(node, ast.If | ast.IfExp)
            for compare in ast.walk(node.test)
            if isinstance(compare, ast.Compare)
            for side in compare.comparators
        )
        return any(ast.unparse(side).startswith(("State.", "NodeState.")) for side in sides)

    found = {path.name for path in ROOM.glob("*.py") if compares(path)} - {"states.py"}
    assert found <= ASKS_FOR_ONE_STATE
