"""The Batch actions: each decodes nothing and decides nothing, it calls a transaction."""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio.to_thread

from gateway import ids
from gateway.batch import datatypes as wire
from gateway.batch import environments, jobs, reads, templates
from gateway.batch.engines import Engine
from gateway.batch.lists import (
    ENVS,
    JOBS,
    TEMPLATES,
    check_combination,
    list_resources,
    read_page,
)
from gateway.batch.validation import check_task_name, plan_job
from gateway.batch.views import LOG_PREFIX, job_view, template_view
from gateway.call import Call, Grant
from gateway.clock import Clock
from gateway.errors import InvalidParameter, InvalidParameterValue
from gateway.ids import NewId
from gateway.service import Empty, Operation
from gateway.store import Store, Tx

LOG_BYTES_MAX = 2_048


@dataclass(frozen=True, slots=True)
class BatchApi:
    """The handlers of the Batch service."""

    store: Store
    engine: Engine
    topic_exists: jobs.TopicExists
    clock: Clock
    new_id: NewId

    @property
    def operations(self) -> Mapping[str, Operation]:
        """Every action served here."""
        filters = wire.prepare_filters
        return {
            "SubmitJob": Operation(wire.SubmitJobRequest, self.submit_job, wire.prepare_submit_job),
            "DescribeJob": Operation(wire.DescribeJobRequest, self.describe_job),
            "DescribeJobs": Operation(wire.DescribeJobsRequest, self.describe_jobs, filters),
            "DescribeJobSubmitInfo": Operation(
                wire.DescribeJobSubmitInfoRequest, self.describe_job_submit_info
            ),
            "DescribeTask": Operation(wire.DescribeTaskRequest, self.describe_task, filters),
            "DescribeTaskLogs": Operation(wire.DescribeTaskLogsRequest, self.describe_task_logs),
            "TerminateJob": Operation(wire.TerminateJobRequest, self.terminate_job),
            "DeleteJob": Operation(wire.DeleteJobRequest, self.delete_job),
            "CreateComputeEnv": Operation(
                wire.CreateComputeEnvRequest, self.create_env, wire.prepare_create_compute_env
            ),
            "DescribeComputeEnv": Operation(wire.DescribeComputeEnvRequest, self.describe_env),
            "DescribeComputeEnvs": Operation(
                wire.DescribeComputeEnvsRequest, self.describe_envs, filters
            ),
            "DeleteComputeEnv": Operation(wire.DeleteComputeEnvRequest, self.delete_env),
            "TerminateComputeNode": Operation(
                wire.TerminateComputeNodeRequest, self.terminate_node
            ),
            "TerminateComputeNodes": Operation(
                wire.TerminateComputeNodesRequest, self.terminate_nodes
            ),
            "CreateTaskTemplate": Operation(wire.CreateTaskTemplateRequest, self.create_template),
            "DescribeTaskTemplates": Operation(
                wire.DescribeTaskTemplatesRequest, self.describe_templates, filters
            ),
            "ModifyTaskTemplate": Operation(wire.ModifyTaskTemplateRequest, self.modify_template),
            "DeleteTaskTemplates": Operation(
                wire.DeleteTaskTemplatesRequest, self.delete_templates
            ),
        }

    async def submit_job(
        self, call: Call, grant: Grant, request: wire.SubmitJobRequest
    ) -> wire.SubmitJobResponse:
        """Store a job; it is run from here on."""
        plan = plan_job(request, region=call.region)

        def submit(tx: Tx) -> str:
            make = partial(
                jobs.submit,
                tx,
                plan,
                principal=grant.principal,
                region=call.region,
                placement=request.placement,
                topic_exists=self.topic_exists,
                now=self.clock(),
                new_id=self.new_id,
            )
            return self._once(tx, make, call=call, grant=grant, request=request)

        return wire.SubmitJobResponse(job_id=await self.store.write(submit))

    async def describe_job(
        self, call: Call, grant: Grant, request: wire.DescribeJobRequest
    ) -> wire.DescribeJobResponse:
        """One job with its tasks."""
        _check_job_id(request.job_id)

        def read(tx: Tx) -> wire.DescribeJobResponse:
            row = jobs.get_job(tx, request.job_id, principal=grant.principal, region=call.region)
            return reads.describe_job(tx, row, capacity=self.engine.capacity)

        return await self.store.read_point(read)

    async def describe_jobs(
        self, call: Call, grant: Grant, request: wire.DescribeJobsRequest
    ) -> wire.DescribeJobsResponse:
        """The jobs the caller may describe."""
        for job_id in request.job_ids:
            _check_job_id(job_id)
        check_combination(request.job_ids, request.filters, name="JobIds")
        page = read_page(request.offset, request.limit, default=20, most=100)

        def read(tx: Tx) -> wire.DescribeJobsResponse:
            rows, total = list_resources(
                tx,
                JOBS,
                principal=grant.principal,
                region=call.region,
                ids=request.job_ids,
                filters=request.filters,
                scope=grant.scope,
                page=page,
            )
            found = [row.id for row in rows]
            counts, tags = reads.task_counts(tx, found), reads.tags_of(tx, found)
            views = [job_view(r, counts=counts[r.id], tags_on=tags.get(r.id, [])) for r in rows]
            return wire.DescribeJobsResponse(job_set=views, total_count=total)

        return await self.store.read_list(read)

    async def describe_job_submit_info(
        self, call: Call, grant: Grant, request: wire.DescribeJobSubmitInfoRequest
    ) -> wire.DescribeJobSubmitInfoResponse:
        """A job as it was submitted."""
        _check_job_id(request.job_id)

        def read(tx: Tx) -> wire.DescribeJobSubmitInfoResponse:
            row = jobs.get_job(tx, request.job_id, principal=grant.principal, region=call.region)
            return reads.describe_submission(tx, row)

        return await self.store.read_list(read)

    async def describe_task(
        self, call: Call, grant: Grant, request: wire.DescribeTaskRequest
    ) -> wire.DescribeTaskResponse:
        """One task with a page of its instances."""
        _check_job_id(request.job_id)
        page = read_page(request.offset, request.limit, default=100, most=1_000)
        states = reads.instance_states(request.filters)

        def read(tx: Tx) -> wire.DescribeTaskResponse:
            row = reads.get_task(
                tx, request.job_id, request.task_name, principal=grant.principal, region=call.region
            )
            return reads.describe_task(
                tx, row, states=states, page=page, capacity=self.engine.capacity
            )

        return await self.store.read_list(read)

    async def describe_task_logs(
        self, call: Call, grant: Grant, request: wire.DescribeTaskLogsRequest
    ) -> wire.DescribeTaskLogsResponse:
        """The end of what instances wrote to stdout and stderr."""
        _check_job_id(request.job_id)
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
        redirect = source.redirect or wire.RedirectInfo()
        return wire.TaskInstanceLog(
            task_instance_index=source.number,
            stdout_log=LOG_PREFIX + b64encode(tails["stdout"]).decode(),
            stderr_log=LOG_PREFIX + b64encode(tails["stderr"]).decode(),
            stdout_redirect_path=redirect.stdout_redirect_path or "",
            stderr_redirect_path=redirect.stderr_redirect_path or "",
            stdout_redirect_file_name=redirect.stdout_redirect_file_name or "",
            stderr_redirect_file_name=redirect.stderr_redirect_file_name or "",
        )

    async def terminate_job(
        self, call: Call, grant: Grant, request: wire.TerminateJobRequest
    ) -> Empty:
        """Ask for a job's end."""
        _check_job_id(request.job_id)
        await self.store.write(
            partial(
                jobs.terminate,
                job_id=request.job_id,
                principal=grant.principal,
                region=call.region,
            )
        )
        return Empty()

    async def delete_job(self, call: Call, grant: Grant, request: wire.DeleteJobRequest) -> Empty:
        """Remove a finished job, then its files."""
        _check_job_id(request.job_id)
        await self.store.write(
            partial(
                jobs.delete, job_id=request.job_id, principal=grant.principal, region=call.region
            )
        )
        await self.engine.discard(request.job_id)
        return Empty()

    async def create_env(
        self, call: Call, grant: Grant, request: wire.CreateComputeEnvRequest
    ) -> wire.CreateComputeEnvResponse:
        """Store an environment; its nodes are made from here on."""
        environments.check_env(request, region=call.region)

        def create(tx: Tx) -> str:
            make = partial(
                environments.create_env,
                tx,
                request,
                principal=grant.principal,
                region=call.region,
                topic_exists=self.topic_exists,
                now=self.clock(),
                new_id=self.new_id,
            )
            return self._once(tx, make, call=call, grant=grant, request=request)

        return wire.CreateComputeEnvResponse(env_id=await self.store.write(create))

    async def describe_env(
        self, call: Call, grant: Grant, request: wire.DescribeComputeEnvRequest
    ) -> wire.DescribeComputeEnvResponse:
        """One environment with its nodes."""
        _check_env_id(request.env_id)

        def read(tx: Tx) -> wire.DescribeComputeEnvResponse:
            row = environments.get_env(
                tx, request.env_id, principal=grant.principal, region=call.region
            )
            return reads.describe_env(tx, row)

        return await self.store.read_list(read)

    async def describe_envs(
        self, call: Call, grant: Grant, request: wire.DescribeComputeEnvsRequest
    ) -> wire.DescribeComputeEnvsResponse:
        """The environments the caller may describe."""
        for env_id in request.env_ids:
            _check_env_id(env_id)
        check_combination(request.env_ids, request.filters, name="EnvIds")
        page = read_page(request.offset, request.limit, default=20, most=100)

        def read(tx: Tx) -> wire.DescribeComputeEnvsResponse:
            rows, total = list_resources(
                tx,
                ENVS,
                principal=grant.principal,
                region=call.region,
                ids=request.env_ids,
                filters=request.filters,
                scope=grant.scope,
                page=page,
            )
            return wire.DescribeComputeEnvsResponse(
                compute_env_set=reads.env_views(tx, rows), total_count=total
            )

        return await self.store.read_list(read)

    async def delete_env(
        self, call: Call, grant: Grant, request: wire.DeleteComputeEnvRequest
    ) -> Empty:
        """Remove an environment without nodes."""
        _check_env_id(request.env_id)
        await self.store.write(
            partial(
                environments.delete_env,
                env_id=request.env_id,
                principal=grant.principal,
                region=call.region,
                now=self.clock(),
            )
        )
        return Empty()

    async def terminate_node(
        self, call: Call, grant: Grant, request: wire.TerminateComputeNodeRequest
    ) -> Empty:
        """Give one node up."""
        return await self._terminate_nodes(call, grant, request.env_id, [request.compute_node_id])

    async def terminate_nodes(
        self, call: Call, grant: Grant, request: wire.TerminateComputeNodesRequest
    ) -> Empty:
        """Give several nodes up, all or none."""
        return await self._terminate_nodes(call, grant, request.env_id, request.compute_node_ids)

    async def _terminate_nodes(
        self, call: Call, grant: Grant, env_id: str, node_ids: list[str]
    ) -> Empty:
        _check_env_id(env_id)
        if not 0 < len(node_ids) <= 100:  # noqa: PLR2004  # the API's limit
            raise InvalidParameterValue("ComputeNodeIds must name from 1 to 100 nodes.")
        await self.store.write(
            partial(
                environments.terminate_nodes,
                env_id=env_id,
                node_ids=node_ids,
                principal=grant.principal,
                region=call.region,
                now=self.clock(),
            )
        )
        return Empty()

    async def create_template(
        self, call: Call, grant: Grant, request: wire.CreateTaskTemplateRequest
    ) -> wire.CreateTaskTemplateResponse:
        """Store a task, to be copied into jobs."""
        templates.check_new(request)
        template_id = await self.store.write(
            partial(
                templates.create,
                request=request,
                principal=grant.principal,
                region=call.region,
                now=self.clock(),
                new_id=self.new_id,
            )
        )
        return wire.CreateTaskTemplateResponse(task_template_id=template_id)

    async def describe_templates(
        self, call: Call, grant: Grant, request: wire.DescribeTaskTemplatesRequest
    ) -> wire.DescribeTaskTemplatesResponse:
        """The task templates the caller may describe."""
        for template_id in request.task_template_ids:
            _check_template_id(template_id)
        check_combination(request.task_template_ids, request.filters, name="TaskTemplateIds")
        page = read_page(request.offset, request.limit, default=20, most=100, least=1)

        def read(tx: Tx) -> wire.DescribeTaskTemplatesResponse:
            rows, total = list_resources(
                tx,
                TEMPLATES,
                principal=grant.principal,
                region=call.region,
                ids=request.task_template_ids,
                filters=request.filters,
                scope=grant.scope,
                page=page,
            )
            tags = reads.tags_of(tx, [row.id for row in rows])
            views = [template_view(row, tags_on=tags.get(row.id, [])) for row in rows]
            return wire.DescribeTaskTemplatesResponse(task_template_set=views, total_count=total)

        return await self.store.read_list(read)

    async def modify_template(
        self, call: Call, grant: Grant, request: wire.ModifyTaskTemplateRequest
    ) -> Empty:
        """Change a template; the jobs made from it stay as they are."""
        _check_template_id(request.task_template_id)
        templates.check_change(request)
        await self.store.write(
            partial(
                templates.modify, request=request, principal=grant.principal, region=call.region
            )
        )
        return Empty()

    async def delete_templates(
        self, call: Call, grant: Grant, request: wire.DeleteTaskTemplatesRequest
    ) -> Empty:
        """Remove templates, all or none; the jobs made from them stay."""
        if not 0 < len(request.task_template_ids) <= 100:  # noqa: PLR2004  # the API's limit
            raise InvalidParameterValue("TaskTemplateIds must name from 1 to 100 templates.")
        for template_id in request.task_template_ids:
            _check_template_id(template_id)
        await self.store.write(
            partial(
                templates.delete,
                template_ids=request.task_template_ids,
                principal=grant.principal,
                region=call.region,
            )
        )
        return Empty()

    def _once(
        self,
        tx: Tx,
        make: partial[str],
        *,
        call: Call,
        grant: Grant,
        request: wire.SubmitJobRequest | wire.CreateComputeEnvRequest,
    ) -> str:
        return jobs.once(
            tx,
            make,
            token=request.client_token,
            request=request,
            action=call.action,
            principal=grant.principal,
            region=call.region,
            now=self.clock(),
        )


def _check_job_id(job_id: str) -> None:
    if not ids.is_id(job_id, "job"):
        raise InvalidParameter(f"JobId `{job_id}` is malformed.", detail="JobIdMalformed")


def _check_env_id(env_id: str) -> None:
    if not ids.is_id(env_id, "env"):
        raise InvalidParameter(f"EnvId `{env_id}` is malformed.", detail="EnvIdMalformed")


def _check_template_id(template_id: str) -> None:
    if not ids.is_id(template_id, templates.PREFIX):
        raise InvalidParameter(
            f"TaskTemplateId `{template_id}` is malformed.", detail="TaskTemplateIdMalformed"
        )


def _tail(path: Path) -> bytes:
    """The last bytes of a log. Why the last: the API tells how many, and the end says more."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - LOG_BYTES_MAX))
            return file.read(LOG_BYTES_MAX)
    except FileNotFoundError:
        return b""
