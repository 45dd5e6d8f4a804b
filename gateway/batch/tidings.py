"""What each event says: the members of `Batch`, family by family. Pure.

Source: the guide shows the members of COMPUTE_NODE_* alone; the other families have the members
of the same names in the answers of DescribeJob, DescribeTask and DescribeComputeEnv.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Row

from gateway.batch.environments.records import EnvNode
from gateway.batch.records import Instance, Task
from gateway.batch.states import NodeState, State
from gateway.clock import optional_wire_time, wire_time
from gateway.events.messages import Event
from gateway.events.names import EventName


def job_event(
    name: EventName, job: Row[Any], *, state: State, reason: str, ended_at: datetime | None
) -> Event:
    """A job is in a new state."""
    return Event(
        name,
        job.id,
        {
            "JobId": job.id,
            "JobName": job.name,
            "JobState": state.value,
            "Priority": job.priority,
            "CreateTime": wire_time(job.created_at),
            "EndTime": optional_wire_time(ended_at),
            "StateReason": reason,
        },
    )


def task_event(name: EventName, job: Row[Any], task: Task) -> Event:
    """A task is in a new state."""
    return Event(
        name,
        job.id,
        {
            "JobId": job.id,
            "JobName": job.name,
            "TaskName": task.name,
            "TaskState": task.state.value,
            "CreateTime": wire_time(task.created_at),
            "EndTime": optional_wire_time(task.ended_at),
        },
    )


def instance_event(name: EventName, job: Row[Any], task: Task, instance: Instance) -> Event:
    """A task instance is in a new state."""
    return Event(
        name,
        job.id,
        {
            "JobId": job.id,
            "JobName": job.name,
            "TaskName": task.name,
            "TaskInstanceIndex": instance.number,
            "TaskInstanceState": instance.state.value,
            "ExitCode": instance.exit_code,
            "StateReason": instance.reason,
            "ComputeNodeInstanceId": instance.machine,
            "CreateTime": wire_time(instance.created_at),
            "LaunchTime": optional_wire_time(instance.launched_at),
            "RunningTime": optional_wire_time(instance.running_at),
            "EndTime": optional_wire_time(instance.ended_at),
        },
    )


def elastic_node_event(name: EventName, task: Task, instance: Instance) -> Event:
    """A node made for one instance is in a new state; it belongs to no environment."""
    return Event(
        name,
        instance.node_id,
        {
            "ComputeNodeId": instance.node_id,
            "EnvId": "",
            "ComputeNodeState": _node_state(name),
            "Mem": task.mem_gib,
            "ResourceCreatedTime": optional_wire_time(instance.launched_at),
            "EnvName": "",
            "ComputeNodeInstanceId": instance.node_instance_id,
            "Cpu": task.cpu,
        },
    )


def unmade_node_event(name: EventName, task: Task, *, node_id: str) -> Event:
    """A node for an instance of this task could not be made; it never had a machine."""
    return Event(
        name,
        node_id,
        {
            "ComputeNodeId": node_id,
            "EnvId": "",
            "ComputeNodeState": _node_state(name),
            "Mem": task.mem_gib,
            "ResourceCreatedTime": None,
            "EnvName": "",
            "ComputeNodeInstanceId": "",
            "Cpu": task.cpu,
        },
    )


def node_event(name: EventName, env: Row[Any], node: EnvNode) -> Event:
    """A node of a named environment is in a new state."""
    return Event(
        name,
        node.id,
        {
            "ComputeNodeId": node.id,
            "EnvId": env.id,
            "ComputeNodeState": _node_state(name),
            "Mem": node.mem_gib,
            "ResourceCreatedTime": optional_wire_time(node.resource_created_at),
            "EnvName": env.name,
            "ComputeNodeInstanceId": node.instance_id,
            "Cpu": node.cpu,
        },
    )


def env_event(name: EventName, env: Row[Any]) -> Event:
    """An environment was created or deleted."""
    return Event(
        name,
        env.id,
        {
            "EnvId": env.id,
            "EnvName": env.name,
            "CreateTime": wire_time(env.created_at),
            "DesiredComputeNodeCount": env.desired_count,
        },
    )


def _node_state(name: EventName) -> str:
    return NodeState[name.value.removeprefix("COMPUTE_NODE_")].value
