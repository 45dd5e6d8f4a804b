"""The action element: `batch:SubmitJob`, `name/batch:Describe*`, `*`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from gateway.errors import InvalidParameter
from gateway.policy.pattern import fits, has_variables, reduced

KnownActions = Mapping[str, frozenset[str]]
"""The actions of every service whose actions are all known, in lower case."""

_FORM = re.compile(r"(?:name/)?(?P<service>[^:/]*):(?P<action>[A-Za-z0-9_*-]+)")
_SERVICE = re.compile(r"[A-Za-z0-9_*-]+")
_SET = re.compile(r"(?:permid/[0-9]+|actionName/[^\s]+)")


@dataclass(frozen=True, slots=True)
class ActionPattern:
    """Which actions a statement speaks of. folded: in lower case, without `name/`.

    Why letter case does not count: the vendor does not say whether it does. A deny must hold
    although its writer typed `batch:submitjob`, and no two actions differ in case alone.
    """

    text: str
    folded: str

    @classmethod
    @lru_cache(maxsize=16_384)
    def read(cls, text: str) -> "ActionPattern":
        """Read one action; raises InvalidParameter.ActionError or .ActionServiceNotExist."""
        if text in {"*", "*:*"}:
            return cls(text, "*")
        if _SET.fullmatch(text):
            return cls(text, "")
        form = _FORM.fullmatch(text)
        if form is None:
            hint = " A policy variable cannot stand here." if has_variables(text) else ""
            raise InvalidParameter(
                f"The action `{text}` is not `*` or `service:Action`.{hint}", detail="ActionError"
            )
        if not _SERVICE.fullmatch(form["service"]):
            raise InvalidParameter(
                f"The service of the action `{text}` cannot exist.", detail="ActionServiceNotExist"
            )
        return cls(text, reduced(f"{form['service']}:{form['action']}".lower()))

    @property
    def is_set(self) -> bool:
        """Whether this is `permid/…` or `actionName/…`, a set that only the vendor can resolve.

        Why an allow may have one and a deny may not: here it means no action. An allow then
        grants less than its writer meant; a deny would be void without anybody noticing.
        """
        return not self.folded

    def check_known(self, known: KnownActions) -> None:
        """Refuse an action that a service does not have: InvalidParameter.ActionNotExist.

        A wildcard is left alone, and so are services that are not in `known`: a policy may speak
        of the whole cloud.
        """
        service, _, name = self.folded.partition(":")
        if "*" not in self.folded and service in known and name not in known[service]:
            raise InvalidParameter(
                f"The action `{self.text}` does not exist.", detail="ActionNotExist"
            )

    def matches(self, action: str) -> bool:
        """Tell whether `action`, such as `batch:SubmitJob`, is meant."""
        return _fits(self.folded, action)


@lru_cache(maxsize=65_536)
def _fits(folded: str, action: str) -> bool:
    """Few patterns meet few actions again and again, whenever a principal is new."""
    return fits(folded, action.lower())
