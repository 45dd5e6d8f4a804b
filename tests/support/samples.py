"""For any action of the catalogue, the fewest parameters with which its resources can be named."""

from typing import Any

from gateway.catalog import Action
from gateway.catalog.resources import Form, Placeholder

SAMPLES = {
    "JobId": "job-00000000",
    "JobIds": "job-00000000",
    "EnvId": "env-00000000",
    "EnvIds": "env-00000000",
}


def sample_parameters(action: Action, *, owner_uin: str) -> dict[str, Any]:
    """Parameters for the first path of each group that the action is decided on."""
    parameters: dict[str, Any] = {}
    if action.is_list:
        return parameters
    for group in action.resource.named:
        for placeholder in group[0].placeholders:
            put(parameters, placeholder, owner_uin=owner_uin)
    return parameters


def put(parameters: dict[str, Any], placeholder: Placeholder, *, owner_uin: str) -> None:
    """Set the value that a placeholder leads to; every list on the way has one element."""
    if placeholder.form is Form.OWNER:
        return
    *outer, last = placeholder.steps
    node = parameters
    for step in outer:
        member = node.setdefault(step.name, [{}] if step.is_list else {})
        node = member[0] if step.is_list else member
    value = sample(last.name, placeholder.form, owner_uin=owner_uin)
    node[last.name] = [value] if last.is_list else value


def sample(name: str, form: Form, *, owner_uin: str) -> str:
    if form is Form.NUMBER:
        return "1"
    if form is Form.ROLE:
        return f"qcs::cam::uin/{owner_uin}:roleName/sample"
    return SAMPLES.get(name, "sample")
