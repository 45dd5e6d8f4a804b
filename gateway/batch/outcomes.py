"""What an attempt's end means for its instance: the retry, the state, the words. Pure."""

from dataclasses import dataclass

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
    Cause.STORAGE: "Its output could not be stored.",
}


@dataclass(frozen=True, slots=True)
class Policy:
    """What the task says of failures. keeps_node: FailedAction INTERRUPT or FAST_INTERRUPT."""

    retries_max: int
    keeps_node: bool


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
