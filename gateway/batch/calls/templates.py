"""The actions on task templates."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from gateway.batch import datatypes as wire
from gateway.batch import reads, templates
from gateway.batch.lists import TEMPLATE_LIST, check_combination, list_resources, read_page
from gateway.batch.naming import check_template_id
from gateway.batch.rules import Rules
from gateway.batch.views import template_view
from gateway.call import Call, Grant
from gateway.clock import Clock
from gateway.errors import InvalidParameterValue
from gateway.ids import NewId
from gateway.service import Empty, Operation
from gateway.store import Store, Tx


@dataclass(frozen=True, slots=True)
class TemplateCalls:
    """The handlers of CreateTaskTemplate and what follows it."""

    store: Store
    clock: Clock
    new_id: NewId
    rules: Rules

    @property
    def operations(self) -> Mapping[str, Operation]:
        """Every action on a task template."""
        return {
            "CreateTaskTemplate": Operation(wire.CreateTaskTemplateRequest, self.create_template),
            "DescribeTaskTemplates": Operation(
                wire.DescribeTaskTemplatesRequest, self.describe_templates, wire.prepare_filters
            ),
            "ModifyTaskTemplate": Operation(wire.ModifyTaskTemplateRequest, self.modify_template),
            "DeleteTaskTemplates": Operation(
                wire.DeleteTaskTemplatesRequest, self.delete_templates
            ),
        }

    async def create_template(
        self, call: Call, grant: Grant, request: wire.CreateTaskTemplateRequest
    ) -> wire.CreateTaskTemplateResponse:
        """Store a task, to be copied into jobs."""
        templates.check_new(request, rules=self.rules)
        template_id = await self.store.write(
            partial(
                templates.create,
                request=request,
                principal=grant.principal,
                region=call.region,
                quotas=self.rules.quotas,
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
            check_template_id(template_id)
        check_combination(request.task_template_ids, request.filters, name="TaskTemplateIds")
        page = read_page(request.offset, request.limit, default=20, most=100, least=1)

        def read(tx: Tx) -> wire.DescribeTaskTemplatesResponse:
            rows, total = list_resources(
                tx,
                TEMPLATE_LIST,
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
        check_template_id(request.task_template_id)
        templates.check_change(request, rules=self.rules)
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
            check_template_id(template_id)
        await self.store.write(
            partial(
                templates.delete,
                template_ids=request.task_template_ids,
                principal=grant.principal,
                region=call.region,
            )
        )
        return Empty()
