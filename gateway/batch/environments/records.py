"""The rows of nodes and of what is done to them, as values. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import Enum
from types import MappingProxyType
from typing import Any

from sqlalchemy import Row

from gateway.batch.states import NodeState

HERE = "127.0.0.1"
"""The address of a node of the local engine, which has no machine of its own."""


class Origin(Enum):
    """Where the machine of a node comes from."""

    BATCH_CREATED = "BATCH_CREATED"
    USER_ATTACHED = "USER_ATTACHED"


class Fate(Enum):
    """What is to become of a node as soon as nothing runs there."""

    NONE = ""
    LOST = "LOST"
    RESTART = "RESTART"


class ActivityType(Enum):
    """What can be done to a node.

    Why more words than two: the API's text says "creation or destruction", and its one example
    shows the first. Who looks for CREATE_COMPUTE_NODE finds every creation, those of machines that
    are made again too; what the vendor has no word for gets one of the same form.
    """

    CREATE = "CREATE_COMPUTE_NODE"
    TERMINATE = "TERMINATE_COMPUTE_NODE"
    RESTART = "RESTART_COMPUTE_NODE"
    ATTACH = "ATTACH_COMPUTE_NODE"
    DETACH = "DETACH_COMPUTE_NODE"


LEAVING: Mapping[Origin, ActivityType] = MappingProxyType(
    {
        Origin.BATCH_CREATED: ActivityType.TERMINATE,
        Origin.USER_ATTACHED: ActivityType.DETACH,
    }
)
"""What giving up a node is called."""


@dataclass(frozen=True, slots=True)
class EnvNode:
    """A node of an environment as its row stands; the members are the columns."""

    id: str
    env_id: str
    state: NodeState
    instance_id: str
    cpu: int
    mem_gib: int
    busy_with: str
    fate: Fate
    origin: Origin
    failures: int
    retry_at: datetime | None
    reason: str
    address: str
    image_id: str
    created_at: datetime
    resource_created_at: datetime | None

    def row(self) -> dict[str, Any]:
        """The values of its columns."""
        values = {name: getattr(self, name) for name in _COLUMNS}
        enums = {name: values[name].value for name in ("state", "fate", "origin")}
        return {**values, **enums}


_COLUMNS = tuple(field.name for field in fields(EnvNode))


def read_node(row: Row[Any]) -> EnvNode:
    """A node from its row."""
    values = {name: getattr(row, name) for name in _COLUMNS}
    values["state"] = NodeState(row.state)
    values["fate"] = Fate(row.fate)
    values["origin"] = Origin(row.origin)
    return EnvNode(**values)
