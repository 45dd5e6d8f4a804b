"""The Batch service: all its actions together."""

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.batch.calls.catalogue import CatalogueCalls
from gateway.batch.calls.environments import EnvironmentCalls
from gateway.batch.calls.jobs import JobCalls
from gateway.batch.calls.monitoring import MonitoringCalls
from gateway.batch.calls.nodes import NodeCalls
from gateway.batch.calls.tasks import TaskCalls
from gateway.batch.calls.templates import TemplateCalls
from gateway.batch.engines import Engine
from gateway.batch.jobs import TopicExists
from gateway.batch.rules import Rules
from gateway.batch.secrets import Vault
from gateway.batch.slots import Load
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
    vault: Vault
    rules: Rules
    load: Load

    @property
    def operations(self) -> Mapping[str, Operation]:
        """Every action served here."""
        return {
            **JobCalls(
                self.store,
                self.engine,
                self.topic_exists,
                clock=self.clock,
                new_id=self.new_id,
                vault=self.vault,
                rules=self.rules,
                load=self.load,
            ).operations,
            **TaskCalls(
                self.store, self.engine, clock=self.clock, new_id=self.new_id, load=self.load
            ).operations,
            **EnvironmentCalls(
                self.store,
                self.engine,
                self.topic_exists,
                clock=self.clock,
                new_id=self.new_id,
                vault=self.vault,
                rules=self.rules,
            ).operations,
            **NodeCalls(
                self.store, clock=self.clock, new_id=self.new_id, rules=self.rules
            ).operations,
            **TemplateCalls(
                self.store, clock=self.clock, new_id=self.new_id, rules=self.rules
            ).operations,
            **CatalogueCalls(self.rules).operations,
            **MonitoringCalls(self.store, self.engine, clock=self.clock).operations,
        }
