"""The actions on the tasks of a job and their instances."""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio.to_thread

from gateway.batch import datatypes as wire
from gateway.batch import interventions, jobs, reads
from gateway.batch.engines import Engine
from gateway.batch.lists import read_page
from gateway.batch.naming import check_job_id
from gateway.batch.reasons import Capacity
from gateway.batch.slots import Load
from gateway.batch.storage import trees
from gateway.batch.validation import check_task_name
from gateway.batch.views import LOG_PREFIX
from gateway.call import Call, Grant
from gateway.clock import Clock
from gateway.errors import InvalidParameterValue
from gateway.ids import NewId
from gateway.service import Empty, Operation
from gateway.store import Store, Tx

LOG_BYTES_MAX = 2_048


@dataclass(frozen=True, slots=True)
class TaskCalls:
    """The handlers of what is asked of one task."""

    store: Store
    engine: Engine
    clock: Clock
    new_id: NewId
    load: Load

    @property
    def operations(self) -> Mapping[str, Operation]:
        """Every action on a task."""
        return {
            "DescribeTask": Operation(
                wire.DescribeTaskRequest, self.describe_task, wire.prepare_filters
            ),
            "TerminateTaskInstance": Operation(
                wire.TerminateTaskInstanceRequest, self.terminate_task_instance
            ),
            "DescribeTaskLogs": Operation(wire.DescribeTaskLogsRequest, self.describe_task_logs),
        }

    async def describe_task(
        self, call: Call, grant: Grant, request: wire.DescribeTaskRequest
    ) -> wire.DescribeTaskResponse:
        """One task with a page of its instances."""
        check_job_id(request.job_id)
        page = read_page(request.offset, request.limit, default=100, most=1_000)
        states = reads.instance_states(request.filters)
        engine, owner_uin = self.engine, grant.principal.owner_uin
        capacity = Capacity(engine.capacity, engine.mem_gib, self.load, owner_uin=owner_uin)

        def read(tx: Tx) -> wire.DescribeTaskResponse:
            row = reads.get_task(
                tx, request.job_id, request.task_name, principal=grant.principal, region=call.region
            )
            return reads.describe_task(tx, row, states=states, page=page, capacity=capacity)

        return await self.store.read_list(read)

    async def terminate_task_instance(
        self, call: Call, grant: Grant, request: wire.TerminateTaskInstanceRequest
    ) -> Empty:
        """Ask for an instance's end."""
        check_job_id(request.job_id)
        await self.store.write(
            partial(
                interventions.terminate_instance,
                job_id=request.job_id,
                task_name=request.task_name,
                number=request.task_instance_index,
                principal=grant.principal,
                region=call.region,
                now=self.clock(),
                new_id=self.new_id,
            )
        )
        return Empty()

    async def describe_task_logs(
        self, call: Call, grant: Grant, request: wire.DescribeTaskLogsRequest
    ) -> wire.DescribeTaskLogsResponse:
        """The end of what instances wrote to stdout and stderr."""
        check_job_id(request.job_id)
        check_task_name(request.task_name)
        if request.task_instance_indexes and request.offset is not None:
            raise InvalidParameterValue("TaskInstanceIndexes and Offset exclude each other.")
        if len(request.task_instance_indexes) > 10:  # noqa: PLR2004  # the API's largest Limit
            raise InvalidParameterValue("There are more than 10 TaskInstanceIndexes.")
        if any(number < 0 for number in request.task_instance_indexes):
            raise InvalidParameterValue("A task instance index is negative.", detail="Negative")
        page = read_page(request.offset, request.limit, default=5, most=10)

        def read(tx: Tx) -> reads.LogSources:
            principal, region = grant.principal, call.region
            jobs.get_job(tx, request.job_id, principal=principal, region=region)
            row = reads.get_task(
                tx, request.job_id, request.task_name, principal=principal, region=region
            )
            return reads.log_sources(tx, row, numbers=request.task_instance_indexes, page=page)

        sources = await self.store.read_list(read)
        logs = [await self._log(source) for source in sources.instances]
        return wire.DescribeTaskLogsResponse(total_count=sources.total, task_instance_log_set=logs)

    async def _log(self, source: reads.LogSource) -> wire.TaskInstanceLog:
        tails = {
            stream: await anyio.to_thread.run_sync(
                _tail, self.engine.log_path(source.folder, stream)
            )
            for stream in ("stdout", "stderr")
        }
        redirect = source.redirect
        return wire.TaskInstanceLog(
            task_instance_index=source.number,
            stdout_log=LOG_PREFIX + b64encode(tails["stdout"]).decode(),
            stderr_log=LOG_PREFIX + b64encode(tails["stderr"]).decode(),
            stdout_redirect_path=redirect.stdout_redirect_path or "",
            stderr_redirect_path=redirect.stderr_redirect_path or "",
            stdout_redirect_file_name=redirect.stdout_redirect_file_name or "",
            stderr_redirect_file_name=redirect.stderr_redirect_file_name or "",
        )


def _tail(path: Path) -> bytes:
    """The last bytes of a log. Why the last: the API tells how many, and the end says more.

    Nothing of what is no file: without a sandbox a command may put a link or a pipe in its place.
    """
    try:
        with trees.open_file(path.parent, [path.name]) as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - LOG_BYTES_MAX))
            return file.read(LOG_BYTES_MAX)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError):
        return b""
