"""What an attempt's end means for its instance: the retry, the state, the words. Pure."""

from dataclasses import dataclass

import msgspec

from gateway.batch.engines import Cause, Ended
from gateway.batch.states import Trigger

LOSSES_MAX = 3
"""How many lost attempts an instance may have and still be tried again."""

WORDS = {
    Cause.USER_EXIT: "The command ended with exit code {exit_code}.",
    Cause.SIGNAL: "The command was killed by a signal.",
    Cause.OOM: "The command used more memory than its node has.",
    Cause.TIMEOUT: "The command ran longer than its Timeout.",
    Cause.TERMINATED: "It was terminated on request.",
    Cause.INFRA_LOST: "Its node was lost while the command ran; this is no failure of the command.",
    Cause.NODE_CREATION: "Its node could not be made.",
    Cause.PREDECESSOR_FAILED: "A task that it depends on did not end as required.",
    Cause.STORAGE: "Its files could not be fetched or stored.",
}


_KEEPING = frozenset({"INTERRUPT", "FAST_INTERRUPT"})


@dataclass(frozen=True, slots=True)
class Policy:
    """What the task says of failures and of its nodes.

    keeps_node: FailedAction INTERRUPT or FAST_INTERRUPT. Why no difference: both keep the node,
    and no attempt here is stopped slowly. restarts_node: an environment's node is restarted after
    each attempt. node_retries_max: how often it is tried again to make an elastic node, of the
    image image_id; "" for the default one.
    """

    retries_max: int
    keeps_node: bool
    restarts_node: bool = False
    node_retries_max: int = 0
    image_id: str = ""


class _Part(msgspec.Struct, rename="pascal"):
    """Some members of what was submitted; all others are passed over."""


class _EnvData(_Part):
    image_id: str | None = None


class _ComputeEnv(_Part):
    env_data: _EnvData | None = None


class _Task(_Part):
    failed_action: str | None = None
    max_retry_count: int | None = None
    restart_compute_node: bool | None = None
    resource_max_retry_count: int | None = None
    compute_env: _ComputeEnv | None = None


_decode = msgspec.json.Decoder(_Task).decode


def read_policy(spec: bytes) -> Policy:
    """What a task's column `spec` says. It is cheap enough to be read whenever it is needed."""
    task = _decode(spec)
    data = task.compute_env.env_data if task.compute_env else None
    return Policy(
        retries_max=task.max_retry_count or 0,
        keeps_node=task.failed_action in _KEEPING,
        restarts_node=bool(task.restart_compute_node),
        node_retries_max=task.resource_max_retry_count or 0,
        image_id=(data.image_id if data else None) or "",
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of an instance whose attempt ended."""

    trigger: Trigger
    failures: int
    losses: int


def judge(
    ended: Ended, *, failures: int, losses: int, policy: Policy, terminating: bool
) -> Verdict:
    """Decide between success, another try, and failure.

    failures, losses: the counts before this end. A lost node is counted apart from the command's
    own failures, and cannot be kept. Output that cannot be stored, and termination, are final.
    """
    if ended.cause is None:
        return Verdict(Trigger.SUCCEEDED, failures, losses)
    lost = ended.cause is Cause.INFRA_LOST
    failures, losses = failures + (not lost), losses + lost
    if terminating or ended.cause in {Cause.TERMINATED, Cause.STORAGE}:
        return Verdict(Trigger.FAILED, failures, losses)
    if (losses <= LOSSES_MAX) if lost else (failures <= policy.retries_max):
        return Verdict(Trigger.RETRIED, failures, losses)
    kept = policy.keeps_node and not lost
    return Verdict(Trigger.KEPT if kept else Trigger.FAILED, failures, losses)


def reason_of(cause: Cause | None, *, exit_code: int | None, detail: str = "") -> str:
    """Say in words why something ended; "" for success."""
    if cause is None:
        return ""
    words = WORDS[cause].format(exit_code=exit_code)
    return f"{words} {detail}".strip() if detail else words
