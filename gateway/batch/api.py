"""The Batch service: all its actions together."""

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.batch.calls.environments import EnvironmentCalls
from gateway.batch.calls.jobs import JobCalls
from gateway.batch.calls.tasks import TaskCalls
from gateway.batch.calls.templates import TemplateCalls
from gateway.batch.engines import Engine
from gateway.batch.jobs import TopicExists
from gateway.clock import Clock
from gateway.ids import NewId
from gateway.service import Operation
from gateway.store import Store


@dataclass(frozen=True, slots=True)
class BatchApi:
    """The handlers of the Batch service."""

    store: Store
    engine: Engine
    topic_exists: TopicExists
    clock: Clock
    new_id: NewId

    @property
    def operations(self) -> Mapping[str, Operation]:
        """Every action served here."""
        return {
            **JobCalls(
                self.store, self.engine, self.topic_exists, clock=self.clock, new_id=self.new_id
            ).operations,
            **TaskCalls(self.store, self.engine).operations,
            **EnvironmentCalls(
                self.store, self.topic_exists, clock=self.clock, new_id=self.new_id
            ).operations,
            **TemplateCalls(self.store, clock=self.clock, new_id=self.new_id).operations,
        }
