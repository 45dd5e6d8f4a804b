"""The actions on whole jobs."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import anyio.to_thread

from gateway.batch import datatypes as wire
from gateway.batch import interventions, jobs, reads
from gateway.batch.abilities import check_abilities
from gateway.batch.engines import Engine
from gateway.batch.lists import JOB_LIST, check_combination, list_resources, read_page
from gateway.batch.naming import check_job_id
from gateway.batch.reasons import Capacity
from gateway.batch.retention import SET_ASIDE, set_aside
from gateway.batch.rules import Rules
from gateway.batch.secrets import Vault
from gateway.batch.slots import Load
from gateway.batch.validation import TASKS_MAX, plan_job
from gateway.batch.views import job_view
from gateway.call import Call, Grant
from gateway.clock import Clock
from gateway.ids import NewId
from gateway.service import Empty, Operation
from gateway.store import Store, Tx


@dataclass(frozen=True, slots=True)
class JobCalls:
    """The handlers of SubmitJob and what follows it."""

    store: Store
    engine: Engine
    topic_exists: jobs.TopicExists
    clock: Clock
    new_id: NewId
    vault: Vault
    rules: Rules
    load: Load

    @property
    def operations(self) -> Mapping[str, Operation]:
        """Every action on a job."""
        return {
            "SubmitJob": Operation(wire.SubmitJobRequest, self.submit_job, wire.prepare_submit_job),
            "DescribeJob": Operation(wire.DescribeJobRequest, self.describe_job),
            "DescribeJobs": Operation(
                wire.DescribeJobsRequest, self.describe_jobs, wire.prepare_filters
            ),
            "DescribeJobSubmitInfo": Operation(
                wire.DescribeJobSubmitInfoRequest, self.describe_job_submit_info
            ),
            "RetryJobs": Operation(wire.RetryJobsRequest, self.retry_jobs),
            "TerminateJob": Operation(wire.TerminateJobRequest, self.terminate_job),
            "DeleteJob": Operation(wire.DeleteJobRequest, self.delete_job),
        }

    async def submit_job(
        self, call: Call, grant: Grant, request: wire.SubmitJobRequest
    ) -> wire.SubmitJobResponse:
        """Store a job; it is run from here on."""
        plan = plan_job(request, region=call.region, rules=self.rules)
        check_abilities(plan, self.engine.missing)

        def submit(tx: Tx) -> str:
            make = partial(
                jobs.submit,
                tx,
                plan,
                principal=grant.principal,
                region=call.region,
                placement=request.placement,
                topic_exists=self.topic_exists,
                vault=self.vault,
                now=self.clock(),
                new_id=self.new_id,
                jobs_max=jobs.JOBS_MAX if self.rules.quotas else None,
            )
            return jobs.once(
                tx,
                make,
                token=request.client_token,
                request=request,
                action=call.action,
                principal=grant.principal,
                region=call.region,
                vault=self.vault,
                now=self.clock(),
            )

        return wire.SubmitJobResponse(job_id=await self.store.write(submit))

    async def describe_job(
        self, call: Call, grant: Grant, request: wire.DescribeJobRequest
    ) -> wire.DescribeJobResponse:
        """One job with its tasks."""
        check_job_id(request.job_id)
        engine, owner_uin = self.engine, grant.principal.owner_uin
        capacity = Capacity(engine.capacity, engine.mem_gib, self.load, owner_uin=owner_uin)

        def read(tx: Tx, *, tasks_max: int) -> wire.DescribeJobResponse | None:
            return reads.describe_job(
                tx,
                request.job_id,
                principal=grant.principal,
                region=call.region,
                capacity=capacity,
                tasks_max=tasks_max,
            )

        found = await self.store.read_point(partial(read, tasks_max=reads.FEW_TASKS))
        if found is None:  # a large job may not hold up the event loop
            found = await self.store.read_list(partial(read, tasks_max=TASKS_MAX))
        if found is None:
            raise ValueError(f"{request.job_id} has more tasks than a job can have")
        return found

    async def describe_jobs(
        self, call: Call, grant: Grant, request: wire.DescribeJobsRequest
    ) -> wire.DescribeJobsResponse:
        """The jobs the caller may describe."""
        for job_id in request.job_ids:
            check_job_id(job_id)
        check_combination(request.job_ids, request.filters, name="JobIds")
        page = read_page(request.offset, request.limit, default=20, most=100)

        def read(tx: Tx) -> wire.DescribeJobsResponse:
            rows, total = list_resources(
                tx,
                JOB_LIST,
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
        check_job_id(request.job_id)

        def read(tx: Tx) -> wire.DescribeJobSubmitInfoResponse:
            row = jobs.get_job(tx, request.job_id, principal=grant.principal, region=call.region)
            return reads.describe_submission(tx, row)

        return await self.store.read_list(read)

    async def retry_jobs(self, call: Call, grant: Grant, request: wire.RetryJobsRequest) -> Empty:
        """Have what failed of jobs run again."""
        for job_id in request.job_ids:
            check_job_id(job_id)
        await self.store.write(
            partial(
                interventions.retry_jobs,
                job_ids=request.job_ids,
                principal=grant.principal,
                region=call.region,
            )
        )
        return Empty()

    async def terminate_job(
        self, call: Call, grant: Grant, request: wire.TerminateJobRequest
    ) -> Empty:
        """Ask for a job's end."""
        check_job_id(request.job_id)
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
        """Remove a finished job. Its files go later: there may be as many as a disk holds."""
        check_job_id(request.job_id)
        await self.store.write(
            partial(
                jobs.delete, job_id=request.job_id, principal=grant.principal, region=call.region
            )
        )
        await anyio.to_thread.run_sync(set_aside, self.engine, request.job_id)
        self.store.signals.wake([SET_ASIDE])
        return Empty()
