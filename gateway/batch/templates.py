"""Task templates as transactions: a task kept by name, which callers copy into their jobs."""

import re
from collections.abc import Sequence
from datetime import datetime

import msgspec

from gateway.batch import datatypes
from gateway.batch import statements as sql
from gateway.batch.jobs import store_tags
from gateway.batch.naming import TEMPLATE_PREFIX
from gateway.batch.placement import mask_passwords
from gateway.batch.validation import check_tags, check_task
from gateway.call import Principal
from gateway.errors import (
    InvalidParameter,
    InvalidParameterAtLeastOneAttribute,
    ResourceNotFound,
)
from gateway.ids import NewId
from gateway.store import Tx

NAME_MAX = 60
DESCRIPTION_MAX = 200
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f]+")


def check_new(request: datatypes.CreateTaskTemplateRequest) -> None:
    """Check a CreateTaskTemplate request. Raises the public error of the first thing wrong."""
    _check_texts(request.task_template_name, request.task_template_description)
    check_task(request.task_template_info)
    check_tags(request.tags)


def check_change(request: datatypes.ModifyTaskTemplateRequest) -> None:
    """Check a ModifyTaskTemplate request. Raises the public error of the first thing wrong."""
    name, description = request.task_template_name, request.task_template_description
    if name is None and description is None and request.task_template_info is None:
        raise InvalidParameterAtLeastOneAttribute(
            "One of TaskTemplateName, TaskTemplateDescription and TaskTemplateInfo is needed."
        )
    _check_texts(name, description)
    if request.task_template_info is not None:
        check_task(request.task_template_info)


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
    now: datetime,
    new_id: NewId,
) -> str:
    """Store a template; returns its id.

    Why an environment in it may be absent: ResourceNotFound.ComputeEnv is not documented here, and
    it is looked for when a job is made.
    """
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
            "spec": _encode(request.task_template_info),
            "created_at": now,
        },
    )
    store_tags(tx, template_id, request.tags)
    return template_id


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
        "given_spec": None if task is None else _encode(task),
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


def _encode(task: datatypes.Task) -> bytes:
    masked = mask_passwords(task.compute_env)
    return msgspec.json.encode(msgspec.structs.replace(task, compute_env=masked))
