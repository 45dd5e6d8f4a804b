"""The forms of ids that callers send. Pure."""

from gateway import ids
from gateway.errors import InvalidParameter

TEMPLATE_PREFIX = "task-tmpl"


def check_job_id(job_id: str) -> None:
    """Refuse what cannot be a job's id."""
    _check(job_id, "job", member="JobId")


def check_env_id(env_id: str) -> None:
    """Refuse what cannot be an environment's id."""
    _check(env_id, "env", member="EnvId")


def check_node_id(node_id: str) -> None:
    """Refuse what cannot be a compute node's id."""
    _check(node_id, "node", member="ComputeNodeId")


def check_template_id(template_id: str) -> None:
    """Refuse what cannot be a task template's id."""
    _check(template_id, TEMPLATE_PREFIX, member="TaskTemplateId")


def _check(text: str, prefix: str, *, member: str) -> None:
    if not ids.is_id(text, prefix):
        raise InvalidParameter(f"{member} `{text}` is malformed.", detail=f"{member}Malformed")
