"""What is kept of one decision, and how it is shown. Pure."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from gateway.call import Decision, Principal
from gateway.policy.decision import Explanation


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """One authenticated call and what was decided of it.

    action: as policies name it, "batch:SubmitJob". resources: everything it was decided on.
    """

    request_id: str
    time: datetime
    principal: Principal
    action: str
    region: str
    source_ip: str
    resources: tuple[str, ...]
    decision: Decision
    explanation: Explanation

    def public(self) -> dict[str, Any]:
        """The record as `decisions show --json` prints it."""
        miss = self.explanation.nearest_miss
        shadow = self.explanation.shadow
        return {
            "RequestId": self.request_id,
            "Time": self.time.replace(microsecond=0, tzinfo=None).isoformat() + "Z",
            "Principal": {
                "OwnerUin": self.principal.owner_uin,
                "Uin": self.principal.uin,
                "Name": self.principal.name,
            },
            "Action": self.action,
            "Region": self.region,
            "SourceIp": self.source_ip,
            "Resources": list(self.resources),
            "Effect": self.decision.effect.value,
            "Reason": self.decision.reason.value,
            "Determining": [_pascal(asdict(one)) for one in self.explanation.determining],
            "NearestMiss": None if miss is None else _pascal(asdict(miss)),
            "Shadow": None
            if shadow is None
            else {
                "Effect": shadow.decision.effect.value,
                "Reason": shadow.decision.reason.value,
                "Determining": [_pascal(asdict(one)) for one in shadow.determining],
            },
            "Generation": self.decision.generation,
        }


def _pascal(members: dict[str, Any]) -> dict[str, Any]:
    return {name.title().replace("_", ""): value for name, value in members.items()}
