"""What each preset allows, action by action, in a file that a reviewer reads.

`GOLDEN=write` rewrites the file; its diff is the review.
"""

import os
from pathlib import Path

import pytest

from gateway import catalog
from gateway.call import Principal
from gateway.catalog import ACTIONS, Action
from gateway.policy.accounts import Account, User
from gateway.policy.decision_point import DecisionPoint
from gateway.policy.document import parse
from gateway.policy.match import Query
from gateway.policy.plans import PlanEvaluator
from gateway.policy.snapshot import build_snapshot
from tests.support.samples import sample_parameters

POLICIES = Path(__file__).parents[2] / "policies"
MATRIX = Path(__file__).with_name("matrix.txt")
NO_POLICY = "no policy at all"
OWNER = "100000000001"
REGION = "ap-guangzhou"


def test_every_preset_decides_on_every_action_as_the_golden_matrix_says() -> None:
    text = matrix()
    if os.environ.get("GOLDEN") == "write":
        MATRIX.write_text(text, encoding="utf-8")
    assert text == MATRIX.read_text(encoding="utf-8"), "GOLDEN=write rewrites it"


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: f"{action.service}-{action.name}")
def test_who_has_no_policy_may_do_nothing(action: Action) -> None:
    enforcer, users = people()
    assert verdict(enforcer, action, users[NO_POLICY]) in {"no", "-"}


def matrix() -> str:
    """One line per action and one column per preset, after what the columns and words mean."""
    enforcer, users = people()
    letters = dict(zip(users, "ABCDEFGH", strict=False))
    width = max(len(title(action)) for action in ACTIONS)
    lines = [
        *(f"{letter}  {name}" for name, letter in letters.items()),
        "",
        "yes  allowed      all  a list of everything",
        "no   denied       -    a list of nothing, which is denied",
        "",
        f"{'':{width}}  {'  '.join(f'{letter:3}' for letter in letters.values())}  decided on",
    ]
    for action in ACTIONS:
        answers = (verdict(enforcer, action, user) for user in users.values())
        cells = "  ".join(f"{answer:3}" for answer in answers)
        lines.append(f"{title(action):{width}}  {cells}  {decided_on(action)}")
    return "\n".join(lines) + "\n"


def people() -> tuple[DecisionPoint, dict[str, User]]:
    """One user for each preset, who has it and nothing else; and one who has nothing."""
    presets = {
        file.stem: parse(file.read_text(encoding="utf-8"), name=file.stem)
        for file in sorted((POLICIES / "presets").glob("*.json"))
    }
    users = {
        name: User(name=f"u{number}", uin=str(200 + number), policies=(name,))
        for number, name in enumerate(presets)
    }
    users[NO_POLICY] = User(name="nobody", uin="300")
    account = Account(uin=OWNER, users=tuple(users.values()))
    snapshot = build_snapshot([account], presets=presets, custom={}, generation=1)
    return DecisionPoint(PlanEvaluator(), snapshot), users


def title(action: Action) -> str:
    return f"{action.service} {action.version} {action.name}"


def named_by(action: Action) -> catalog.Named:
    parameters = sample_parameters(action, owner_uin=OWNER)
    return catalog.resources_of(action, params=parameters, owner_uin=OWNER, region=REGION)


def decided_on(action: Action) -> str:
    named = named_by(action)
    if named.lists is not None:
        return f"{action.policy_action} on the list of {named.lists}"
    return f"{action.policy_action} on {', '.join(map(str, named.resources))}"


def verdict(enforcer: DecisionPoint, action: Action, user: User) -> str:
    """What a user is answered: see the head of the matrix."""
    principal = Principal(OWNER, user.uin, user.name)
    named = named_by(action)
    query = Query(principal, action.policy_action, named.resources, named.deny_only)
    if named.lists is None:
        return "yes" if enforcer.decide(query).allowed else "no"
    scope = enforcer.scope(query, resource_type=named.lists, region=named.resources[0].region)
    if scope.is_everything:
        return "all"
    return "-" if scope.is_nothing else "part"
