"""Task templates as transactions: a task kept by name, which callers copy into their jobs."""

import re
from collections.abc import Sequence
from datetime import datetime

from gateway.batch import datatypes
from gateway.batch import statements as sql
from gateway.batch.jobs import store_tags
from gateway.batch.members import check_tags
from gateway.batch.naming import TEMPLATE_PREFIX
from gateway.batch.rules import Rules
from gateway.batch.secrets import encode_masked
from gateway.batch.validation import check_task
from gateway.call import Principal
from gateway.errors import (
    InvalidParameter,
    InvalidParameterAtLeastOneAttribute,
    LimitExceeded,
    ResourceNotFound,
)
from gateway.ids import NewId
from gateway.store import Tx

NAME_MAX = 60
DESCRIPTION_MAX = 200
TEMPLATES_MAX = 50  # the vendor's, of an account in a region
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f]+")


def check_new(request: datatypes.CreateTaskTemplateRequest, *, rules: Rules) -> None:
    """Check a CreateTaskTemplate request. Raises the public error of the first thing wrong."""
    _check_texts(request.task_template_name, request.task_template_description)
    check_task(request.task_template_info, rules=rules)
    check_tags(request.tags)


def check_change(request: datatypes.ModifyTaskTemplateRequest, *, rules: Rules) -> None:
    """Check a ModifyTaskTemplate request. Raises the public error of the first thing wrong."""
    name, description = request.task_template_name, request.task_template_description
    if name is None and description is None and request.task_template_info is None:
        raise InvalidParameterAtLeastOneAttribute(
            "One of TaskTemplateName, TaskTemplateDescription and TaskTemplateInfo is needed."
        )
    _check_texts(name, description)
    if request.task_template_info is not None:
        check_task(request.task_template_info, rules=rules)


def _check_texts(name: str | None, description: str | None) -> None:
    """Check what is given of the two; an absent one is fine.

    Why: the limits are characters for CreateTaskTemplate and bytes for ModifyTaskTemplate. They
    are characters here in both, so that what could be created can be written back. No source says
    which names are illegal: here the empty one is, and one with a control character.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise InvalidParameter(
            "TaskTemplateName is empty or has a control character.", detail="TaskTemplateName"
        )
    if len(name or "") > NAME_MAX:
        raise InvalidParameter(
            f"TaskTemplateName is longer than {NAME_MAX} characters.",
            detail="TaskTemplateNameTooLong",
        )
    if len(description or "") > DESCRIPTION_MAX:
        raise InvalidParameter(
            f"TaskTemplateDescription is longer than {DESCRIPTION_MAX} characters.",
            detail="TaskTemplateDescriptionTooLong",
        )


def create(
    tx: Tx,
    request: datatypes.CreateTaskTemplateRequest,
    *,
    principal: Principal,
    region: str,
    quotas: bool,
    now: datetime,
    new_id: NewId,
) -> str:
    """Store a template; returns its id. quotas: whether the vendor's number of them holds.

    Raises LimitExceeded.TaskTemplateQuota.

    Why an environment in it may be absent: ResourceNotFound.ComputeEnv is not documented here, and
    it is looked for when a job is made.
    """
    if quotas:
        _check_quota(tx, principal=principal, region=region)
    template_id = new_id(TEMPLATE_PREFIX)
    tx.execute(
        sql.ADD_TEMPLATE,
        {
            "id": template_id,
            "owner_uin": principal.owner_uin,
            "region": region,
            "created_by": principal.uin,
            "name": request.task_template_name,
            "description": request.task_template_description or "",
            "spec": encode_masked(request.task_template_info),
            "created_at": now,
        },
    )
    store_tags(tx, template_id, request.tags)
    return template_id


def _check_quota(tx: Tx, *, principal: Principal, region: str) -> None:
    """Refuse one template too many.

    Why no lock: two callers at the same moment may both take the last place, which the vendor's
    quota, a bound on clutter, survives.
    """
    keys = {"of_owner": principal.owner_uin, "in_region": region}
    if tx.execute(sql.COUNT_TEMPLATES, keys).scalar_one() >= TEMPLATES_MAX:
        raise LimitExceeded(
            f"An account has at most {TEMPLATES_MAX} task templates.", detail="TaskTemplateQuota"
        )


def modify(
    tx: Tx, request: datatypes.ModifyTaskTemplateRequest, *, principal: Principal, region: str
) -> None:
    """Change what is given of a template, and nothing else of it.

    Raises ResourceNotFound.TaskTemplate.
    """
    task = request.task_template_info
    values = {
        "of_id": request.task_template_id,
        "of_owner": principal.owner_uin,
        "in_region": region,
        "given_name": request.task_template_name,
        "given_description": request.task_template_description,
        "given_spec": None if task is None else encode_masked(task),
    }
    if tx.execute(sql.MODIFY_TEMPLATE, values).rowcount != 1:
        raise _no_such_template(request.task_template_id)


def delete(tx: Tx, template_ids: Sequence[str], *, principal: Principal, region: str) -> None:
    """Remove templates, all of them or none; one that is named twice counts once.

    Raises ResourceNotFound.TaskTemplate for the first that is not there.
    """
    keys = {"of_ids": template_ids, "of_owner": principal.owner_uin, "in_region": region}
    gone = set(tx.execute(sql.DROP_TEMPLATES, keys).scalars())
    for template_id in template_ids:
        if template_id not in gone:
            raise _no_such_template(template_id)  # which undoes what went before
    tx.execute(sql.DROP_TAGS, [{"of_id": template_id} for template_id in gone])


def _no_such_template(template_id: str) -> ResourceNotFound:
    return ResourceNotFound(
        f"The task template `{template_id}` does not exist.", detail="TaskTemplate"
    )
