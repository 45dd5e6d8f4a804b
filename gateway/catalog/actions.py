"""What an action is, and how the tables of this room write one down in a line."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from gateway.catalog.resources import ResourceTemplate, template


class Access(Enum):
    """Whether an action only looks, or changes something."""

    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class Action:
    """One action of a service's API.

    policy_action: the name policies use, such as "batch:SubmitJob".
    deny_only_action: a further name under which a deny on the `deny_only` resources holds, or
    None. For the classic CMQ API it is the one of old policies, "cmqqueue:SendMessage"; for calls
    that name topics to be told on, "tdmq:PublishCmqMsg", for that is what they will do.
    is_list: without ids it shows what the caller may see, instead of being allowed or denied.
    parts: the type of the parts of its resource that it lists, such as "subscription", or "". It is
    decided on the whole, and leaves out the parts that are explicitly denied.
    errors: the public codes documented for it, the common ones left out.
    """

    service: str
    version: str
    name: str
    access: Access
    resource: ResourceTemplate
    is_list: bool
    errors: tuple[str, ...]
    source: str
    policy_action: str
    deny_only_action: str | None = None
    parts: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """What all actions of one version of a service have in common."""

    service: str
    version: str
    source: str
    errors: Mapping[str, tuple[str, ...]]

    def read(
        self, name: str, resource: str, *, deny_only: tuple[str, ...] = (), is_list: bool = False
    ) -> Action:
        """An action that changes nothing. resource, deny_only: see `resources.template`."""
        return self._action(name, Access.READ, template(resource, *deny_only), is_list=is_list)

    def write(self, name: str, resource: str, *, deny_only: tuple[str, ...] = ()) -> Action:
        """An action that changes something. resource, deny_only: see `resources.template`."""
        return self._action(name, Access.WRITE, template(resource, *deny_only), is_list=False)

    def _action(
        self, name: str, access: Access, resource: ResourceTemplate, *, is_list: bool
    ) -> Action:
        return Action(
            service=self.service,
            version=self.version,
            name=name,
            access=access,
            resource=resource,
            is_list=is_list,
            errors=self.errors.get(name, ()),
            source=self.source,
            policy_action=f"{self.service}:{name}",
        )


def codes(text: str, **groups: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Read lines of `Action: Code Code …`; a line that starts with a blank goes on.

    groups: words of the text that stand for several codes.
    """
    found: dict[str, tuple[str, ...]] = {}
    for entry in re.split(r"\n(?! )", text.strip()):
        name, _, words = entry.partition(":")
        found[name] = tuple(code for word in words.split() for code in groups.get(word, (word,)))
    return found
