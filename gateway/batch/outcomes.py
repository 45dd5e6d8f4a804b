"""What an attempt's end means for its instance: the retry, the state, the words. Pure."""

from dataclasses import dataclass

import msgspec

from gateway.batch.engines import Cause, Ended
from gateway.batch.states import Trigger
from gateway.batch.validation import TIMEOUT_DEFAULT_S
from gateway.call import Value

LOSSES_MAX = 3
"""How many lost attempts an instance may have and still be tried again."""

WORDS = {
    Cause.USER_EXIT: "The command ended with exit code {exit_code}.",
    Cause.SIGNAL: "The command was killed by a signal.",
    Cause.OOM: "The command used more memory than its node has.",
    Cause.TIMEOUT: "The command ran longer than its Timeout of {timeout_s} s.",
    Cause.TERMINATED: "It was terminated on request.",
    Cause.INFRA_LOST: "Its node was lost while the command ran; this is no failure of the command.",
    Cause.NODE_CREATION: "Its node could not be made.",
    Cause.PREDECESSOR_FAILED: "A task that it depends on did not end as required.",
    Cause.STORAGE: "Its files could not be fetched or stored.",
}


_KEEPING = frozenset({"INTERRUPT", "FAST_INTERRUPT"})


@dataclass(frozen=True, slots=True)
class RetryRules:
    """What the task says of failures and of its nodes.

    keeps_node: FailedAction INTERRUPT or FAST_INTERRUPT. Why no difference: both keep the node,
    and no attempt here is stopped slowly. restarts_node: an environment's node is restarted after
    each attempt. node_retries_max: how often it is tried again to make an elastic node, of the
    image image_id; "" for the default one. timeout_s: how long an attempt may run.
    """

    retries_max: int
    keeps_node: bool
    restarts_node: bool = False
    node_retries_max: int = 0
    image_id: str = ""
    timeout_s: int = TIMEOUT_DEFAULT_S


class _Part(msgspec.Struct, rename="pascal"):
    """Some members of what was submitted; all others are passed over."""


class _EnvData(_Part):
    image_id: str | None = None


class _ComputeEnv(_Part):
    env_data: _EnvData | None = None


class _Task(_Part):
    failed_action: str | None = None
    max_retry_count: int | None = None
    timeout: int | None = None
    restart_compute_node: bool | None = None
    resource_max_retry_count: int | None = None
    compute_env: _ComputeEnv | None = None


_decode = msgspec.json.Decoder(_Task).decode


def read_retry_rules(spec: bytes) -> RetryRules:
    """What a task's column `spec` says. It is cheap enough to be read whenever it is needed."""
    task = _decode(spec)
    data = task.compute_env.env_data if task.compute_env else None
    return RetryRules(
        retries_max=task.max_retry_count or 0,
        keeps_node=task.failed_action in _KEEPING,
        restarts_node=bool(task.restart_compute_node),
        node_retries_max=task.resource_max_retry_count or 0,
        image_id=(data.image_id if data else None) or "",
        timeout_s=TIMEOUT_DEFAULT_S if task.timeout is None else task.timeout,
    )


class Verdict(Value, frozen=True):
    """What becomes of an instance whose attempt ended."""

    trigger: Trigger
    failures: int
    losses: int


def judge(
    ended: Ended, *, failures: int, losses: int, retry_rules: RetryRules, terminating: bool
) -> Verdict:
    """Decide between success, another try, and failure.

    failures, losses: the counts before this end. A lost node is counted apart from the command's
    own failures, and cannot be kept; nor can one on which nothing ever ran. Termination is final,
    and so is output that cannot be stored, but not what could not be brought before.
    """
    if ended.cause is None:
        return Verdict(Trigger.SUCCEEDED, failures, losses)
    lost = ended.cause is Cause.INFRA_LOST
    failures, losses = failures + (not lost), losses + lost
    final = {Cause.TERMINATED, Cause.STORAGE} if ended.started else {Cause.TERMINATED}
    if terminating or ended.cause in final:
        return Verdict(Trigger.FAILED, failures, losses)
    if (losses <= LOSSES_MAX) if lost else (failures <= retry_rules.retries_max):
        return Verdict(Trigger.RETRIED, failures, losses)
    kept = retry_rules.keeps_node and not lost and ended.started
    return Verdict(Trigger.KEPT if kept else Trigger.FAILED, failures, losses)


def end_in_words(ended: Ended, *, verdict: Verdict, retry_rules: RetryRules) -> str:
    """Say why an attempt ended and, if no other follows, how many there were.

    Of a success, what it lacks; "" for nothing.
    """
    words = reason_of(
        ended.cause, exit_code=ended.exit_code, timeout_s=retry_rules.timeout_s, detail=ended.detail
    )
    attempts = verdict.failures + verdict.losses
    if ended.cause is None or verdict.trigger is Trigger.RETRIED or attempts <= 1:
        return words
    return f"{words} It was tried {attempts} times."


def reason_of(
    cause: Cause | None,
    *,
    exit_code: int | None,
    timeout_s: int = TIMEOUT_DEFAULT_S,
    detail: str = "",
) -> str:
    """Say in words why something ended; for success the detail alone."""
    if cause is None:
        return detail
    words = WORDS[cause].format(exit_code=exit_code, timeout_s=timeout_s)
    return f"{words} {detail}".strip() if detail else words
