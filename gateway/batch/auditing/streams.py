"""The audit of one stream of events: of a job, of an environment, or of anything else.

It goes in steps, each in a consistent read of its own that is soon over, however large the job is:
a step first takes in the events that came since the last one, and compares rows only when it has
all there are. So each row is held against the ledger of the same moment. What retention may have
taken is looked up in each step, too: it goes on meanwhile.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Integer, Row, bindparam, select, tuple_

from gateway.batch import statements as sql
from gateway.batch.auditing.fold import NOTHING, THERE, Discrepancy, Findings, Flaw, Fold
from gateway.batch.auditing.messages import judge_messages
from gateway.batch.notices import load_notifications
from gateway.batch.records import read_counts
from gateway.batch.states import HOLDING, NodeState, State
from gateway.batch.tables import compute_env, compute_node, job, task, task_instance
from gateway.events import inspection, ledger
from gateway.events.inspection import Counted, Deliveries, Recorded, StoredMessage
from gateway.events.messages import Notification
from gateway.events.names import Subject
from gateway.store import Tx

PAGE = 500

JOB = select(job.c.state, job.c.notifications, job.c.created_at).where(
    job.c.id == bindparam("stream_id")
)
ENV = select(compute_env.c.notifications, compute_env.c.created_at).where(
    compute_env.c.id == bindparam("stream_id")
)
NODES = select(compute_node.c.id, compute_node.c.state).where(
    compute_node.c.env_id == bindparam("stream_id")
)
_PLACE = task_instance.c.position, task_instance.c.number
INSTANCES = (
    select(*_PLACE, task_instance.c.state, task_instance.c.node_id, task.c.name, task.c.env_id)
    .join(
        task,
        (task.c.job_id == task_instance.c.job_id) & (task.c.position == task_instance.c.position),
    )
    .where(
        task_instance.c.job_id == bindparam("stream_id"),
        tuple_(*_PLACE)
        > tuple_(bindparam("position", type_=Integer), bindparam("number", type_=Integer)),
    )
    .order_by(*_PLACE)
    .limit(PAGE)
)
HELD = (
    select(task_instance.c.node_id)
    .join(
        task,
        (task.c.job_id == task_instance.c.job_id) & (task.c.position == task_instance.c.position),
    )
    .where(
        task_instance.c.job_id == bindparam("stream_id"),
        task_instance.c.state.in_([state.value for state in HOLDING]),
        task.c.env_id.is_(None),
    )
)
_SUBJECTS = {"job": (Subject.JOB, JOB), "env": (Subject.ENV, ENV)}
"""By how the id of a stream begins: whose it is, and where its row is found."""


def judge_deliveries(
    tx: Tx, messages: Sequence[StoredMessage], *, stream_id: str, deliveries: Deliveries
) -> Findings:
    """Hold messages against what became of them."""
    return Findings.of(
        Discrepancy(
            stream_id,
            Flaw.DELIVERY_MISSING,
            f"message {message.id} was never delivered to {subscription_id}",
        )
        for message, subscription_id in deliveries.list_undelivered(tx, messages)
    )


class StreamAudit:
    """One audit, on its way. deliveries: what became of messages.

    events, messages: how many were compared. unexpanded: whether some message had its deliveries
    still to come, and so must be looked at again.
    """

    def __init__(self, stream_id: str, *, deliveries: Deliveries) -> None:
        self.stream_id = stream_id
        self.done = False
        self._deliveries = deliveries
        self._removed_before: datetime | None = None
        self._begin()

    def _begin(self) -> None:
        """Know nothing yet, or nothing any more."""
        self.events = 0
        self.messages = 0
        self.unexpanded = False
        self._told = NOTHING
        self._fold: Fold | None = None
        self._place = -1, -1

    @property
    def found(self) -> Findings:
        """What is wrong, as far as is known."""
        return self._fold.found + self._told if self._fold else self._told

    def step(self, tx: Tx) -> None:
        """Go on for a page, until it is done."""
        subject, statement = _SUBJECTS.get(self.stream_id.split("-", 1)[0], (None, None))
        row = None
        if statement is not None:
            row = tx.execute(statement, {"stream_id": self.stream_id}).one_or_none()
        stream = inspection.find_stream(tx, self.stream_id)
        self._look_at_retention(tx, stream)
        if self._fold is None:
            self._fold = Fold(self.stream_id, may_be_beheaded=self._may_be_beheaded(row))
        fold = self._fold
        if stream is not None and not self._catch_up(tx, fold, stream=stream, row=row):
            return
        fold.judge_count(stream.seq if stream else 0)
        if subject is None:  # a subscription's; its state is told, not kept
            self.done = True
        elif row is None:
            fold.judge_gone(subject)
            self.done = True
        elif subject is Subject.ENV:
            self._judge_env(tx, fold)
        else:
            self._judge_job(tx, fold, row)

    def _look_at_retention(self, tx: Tx, stream: Counted | None) -> None:
        """See how far it has gone; begin again if it has just taken what would be read next."""
        before, self._removed_before = self._removed_before, ledger.find_removed_before(tx)
        if self._fold is None or stream is None or self._removed_before == before:
            return
        following = inspection.list_events(tx, stream.id, after=self._fold.reached, limit=1)
        if (following[0].seq if following else stream.seq + 1) > self._fold.reached + 1:
            self._begin()

    def _may_be_beheaded(self, row: Row[Any] | None) -> bool:
        """Whether retention may have taken the beginning of the stream."""
        since = self._removed_before
        return since is not None and (row is None or row.created_at < since)

    def _catch_up(self, tx: Tx, fold: Fold, *, stream: Counted, row: Row[Any] | None) -> bool:
        """Take in a page of events; True if there are no more now."""
        events = inspection.list_events(tx, stream.id, after=fold.reached, limit=PAGE)
        was_all = len(events) < PAGE
        first = fold.reached + 1
        for event in events:
            fold.take(event)
        if events:
            first = events[0].seq if fold.beheaded else first
            last = stream.seq if was_all else fold.reached
            asked = None if row is None else load_notifications(row.notifications)
            messages = inspection.list_messages(tx, stream.id, first=first, last=last)
            self._judge_messages(tx, stream, events=events, messages=messages, asked=asked)
        self.events += len(events)
        return was_all

    def _judge_messages(
        self,
        tx: Tx,
        stream: Counted,
        *,
        events: Sequence[Recorded],
        messages: Sequence[StoredMessage],
        asked: Sequence[Notification] | None,
    ) -> None:
        self.messages += len(messages)
        self.unexpanded |= any(message.expanded_at is None for message in messages)
        if stream.id.split("-", 1)[0] not in _SUBJECTS:
            asked = ()
        judged = judge_messages(
            stream, events, messages=messages, asked=asked, kept_since=self._removed_before
        )
        self._told += Findings.of(judged)
        self._told += judge_deliveries(
            tx, messages, stream_id=stream.id, deliveries=self._deliveries
        )

    def _judge_env(self, tx: Tx, fold: Fold) -> None:
        fold.judge_whole(Subject.ENV, THERE)
        nodes = tx.execute(NODES, {"stream_id": self.stream_id}).all()
        for node in nodes:
            fold.judge_node(node.id, NodeState(node.state))
        fold.judge_strangers({}, nodes={node.id for node in nodes})
        self.done = True

    def _judge_job(self, tx: Tx, fold: Fold, row: Row[Any]) -> None:
        """A page of instances; with the last one the tasks, the nodes and the job itself."""
        position, number = self._place
        keys = {"stream_id": self.stream_id, "position": position, "number": number}
        page = tx.execute(INSTANCES, keys).all()
        for each in page:
            state = State(each.state)
            fold.judge_instance(each.name, each.number, state=state)
            if each.env_id is None and state in HOLDING:
                made = NodeState.CREATED if state is State.STARTING else NodeState.RUNNING
                fold.judge_node(each.node_id, made)
        if len(page) == PAGE:
            self._place = page[-1].position, page[-1].number
            return
        tasks = tx.execute(sql.TASKS, {"job_id": self.stream_id}).all()
        for each in tasks:
            fold.judge_task(each.name, State(each.state))
        held = set(tx.execute(HELD, {"stream_id": self.stream_id}).scalars())
        fold.judge_strangers({each.name: read_counts(each).total for each in tasks}, nodes=held)
        fold.judge_whole(Subject.JOB, State(row.state))
        self.done = True
