"""The action that tells what a task instance used while it ran."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import anyio.to_thread

from gateway.batch import datatypes as wire
from gateway.batch import jobs
from gateway.batch import statements as sql
from gateway.batch.attempts import Attempt
from gateway.batch.engines import Engine
from gateway.batch.executor.samples import Record, read_samples
from gateway.batch.monitoring import (
    DISK_DEFAULT,
    DISK_DIMENSION,
    data_points,
    find_metric,
    parse_moment,
    window,
)
from gateway.batch.naming import check_job_id
from gateway.batch.records import Instance, read_counts, read_instance
from gateway.call import Call, Grant
from gateway.clock import Clock
from gateway.errors import InvalidParameterValue, ResourceNotFound, UnsupportedOperation
from gateway.service import Operation
from gateway.store import Store, Tx


@dataclass(frozen=True, slots=True)
class MonitoringCalls:
    """The handler of what is asked of an instance's use of its node."""

    store: Store
    engine: Engine
    clock: Clock

    @property
    def operations(self) -> Mapping[str, Operation]:
        """Every action on samples."""
        return {
            "DescribeJobMonitorData": Operation(
                wire.DescribeJobMonitorDataRequest, self.describe_job_monitor_data
            ),
        }

    async def describe_job_monitor_data(
        self, call: Call, grant: Grant, request: wire.DescribeJobMonitorDataRequest
    ) -> wire.DescribeJobMonitorDataResponse:
        """What the attempts of an instance used, those before the last RetryJobs excepted.

        Why the plain ResourceNotFound for a task or an instance: of its details the vendor lists
        only that of the job for this action.
        """
        check_job_id(request.job_id)
        metric = find_metric(request.metric_name)
        disk = _disk(request.dimensions)
        start = _moment(request.start_time, member="StartTime")
        end = _moment(request.end_time, member="EndTime")
        if request.task_instance_index < 0:
            raise InvalidParameterValue("TaskInstanceIndex is negative.", detail="Negative")

        def read(tx: Tx) -> Instance:
            return _instance(tx, request, grant=grant, region=call.region)

        instance = await self.store.read_list(read)
        within = window(
            start, end, born=instance.created_at, last=instance.ended_at or self.clock()
        )
        folders = [
            self.engine.attempt_path(
                Attempt(instance.job_id, instance.position, instance.number, number).folder
            )
            for number in range(instance.first_attempt, instance.attempt + 1)
        ]
        records = await anyio.to_thread.run_sync(_read_all, folders)
        points = data_points(records, metric, within=within, disk=disk)
        return wire.DescribeJobMonitorDataResponse(
            period=points.period,
            data_points=wire.DataPointView(timestamps=points.timestamps, values=points.values),
        )


def _instance(
    tx: Tx, request: wire.DescribeJobMonitorDataRequest, *, grant: Grant, region: str
) -> Instance:
    """The instance asked for.

    Raises ResourceNotFound, or UnsupportedOperation if its nodes are those of an environment.
    """
    principal = grant.principal
    jobs.get_job(tx, request.job_id, principal=principal, region=region)
    keys = {"job_id": request.job_id, "name": request.task_name}
    task = tx.execute(sql.TASK_NAMED, keys).first()
    if task is None:
        raise ResourceNotFound(f"The job `{request.job_id}` has no task `{request.task_name}`.")
    if task.env_id:
        raise UnsupportedOperation(
            f"The task `{task.name}` runs in the environment `{task.env_id}`:"
            " only elastic tasks have monitor data."
        )
    number = request.task_instance_index
    place = {"job_id": task.job_id, "position": task.position, "numbers": [number]}
    if number >= read_counts(task).total:
        raise ResourceNotFound(f"The task `{task.name}` has no instance {number}.")
    return read_instance(tx.execute(sql.INSTANCES_AT, place).one())


def _moment(text: str | None, *, member: str) -> datetime | None:
    return None if text is None else parse_moment(text, member=member)


def _disk(dimensions: list[wire.Dimension]) -> str:
    """The disk that the dimensions name. Raises InvalidParameterValue."""
    disk = DISK_DEFAULT
    for each in dimensions:
        if each.name != DISK_DIMENSION:
            raise InvalidParameterValue(f"There is no dimension `{each.name}`.")
        disk = each.value
    return disk


def _read_all(folders: list[Path]) -> list[Record]:
    found = (read_samples(folder) for folder in folders)
    return [record for record in found if record is not None]
