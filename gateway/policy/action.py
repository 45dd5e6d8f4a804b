"""The action element: `batch:SubmitJob`, `name/batch:Describe*`, `*`."""

import re
from dataclasses import dataclass

from gateway.errors import InvalidParameter
from gateway.policy.pattern import Wildcard, has_variables

_FORM = re.compile(r"(?:name/)?(?P<action>[A-Za-z0-9_*-]+:[A-Za-z0-9_*-]+)")


@dataclass(frozen=True, slots=True)
class ActionPattern:
    """Which actions a statement speaks of.

    Why letter case does not count: the vendor does not say whether it does. A deny must hold
    although its writer typed `batch:submitjob`, and no two actions differ in case alone.
    """

    text: str
    folded: Wildcard

    @classmethod
    def read(cls, text: str) -> "ActionPattern":
        """Read one action; raises InvalidParameter.ActionError.

        Why `permid/…` and `actionName/…` are refused: they stand for sets of actions that only
        the vendor knows, so a deny that used them would be void without anybody noticing.
        """
        if text in {"*", "*:*"}:
            return cls(text, Wildcard.read("*"))
        form = _FORM.fullmatch(text)
        if form is None:
            hint = " A policy variable cannot stand here." if has_variables(text) else ""
            raise InvalidParameter(
                f"The action `{text}` is not `*` or `service:Action`.{hint}", detail="ActionError"
            )
        return cls(text, Wildcard.read(form["action"].lower()))

    def matches(self, action: str) -> bool:
        """Tell whether `action`, such as `batch:SubmitJob`, is meant."""
        return self.folded.matches(action.lower())
