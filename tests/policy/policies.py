"""Small policy sets for the tests of this room."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.call import Principal, Resource
from gateway.policy.accounts import Account, CustomPolicy, Group, Mode, User
from gateway.policy.decision_point import DecisionPoint
from gateway.policy.document import Document, parse
from gateway.policy.enforcer import CasbinEvaluator
from gateway.policy.match import Query
from gateway.policy.plans import PlanEvaluator
from gateway.policy.snapshot import Snapshot, build_snapshot
from gateway.policy.verdict import Evaluator

FOLDER = Path(__file__).parents[2] / "policies"
MODEL = (FOLDER / "model.conf").read_text(encoding="utf-8")
OWNER, UIN = "100", "200"
ROOT = Principal(owner_uin=OWNER, uin=OWNER, name="root")
ANN = Principal(owner_uin=OWNER, uin=UIN, name="ann")
Statements = Sequence[dict[str, Any]]


def allow(action: str | list[str] = "*", resource: str | list[str] = "*", **more: Any) -> Any:
    return {"effect": "allow", "action": action, "resource": resource, **more}


def deny(action: str | list[str] = "*", resource: str | list[str] = "*", **more: Any) -> Any:
    return {"effect": "deny", "action": action, "resource": resource, **more}


def document(name: str, statements: Statements) -> Document:
    return parse(json.dumps({"version": "2.0", "statement": list(statements)}), name=name)


def snapshot_of(
    user: Statements = (),
    group: Statements = (),
    *,
    shadow: Statements = (),
    generation: int = 1,
) -> Snapshot:
    """One account with one user, ann, who is in one group; an empty list means no policy."""
    kinds = {"user": user, "group": group, "shadow": shadow}
    documents = {name: document(name, kind) for name, kind in kinds.items() if kind}
    modes = {"shadow": Mode.SHADOW}
    account = Account(
        uin=OWNER,
        policies=tuple(
            CustomPolicy(name, mode=modes.get(name, Mode.ENFORCE)) for name in documents
        ),
        groups=(Group("team", ("group",) if group else ()),),
        users=(User("ann", UIN, ("team",), tuple(one for one in documents if one != "group")),),
    )
    return build_snapshot([account], presets={}, custom={OWNER: documents}, generation=generation)


def evaluator() -> Evaluator:
    """The one that the environment asks for, as for a server; compiled if none."""
    if os.environ.get("QCS_GATEWAY_EVALUATOR") == "casbin":
        return CasbinEvaluator(MODEL)
    return PlanEvaluator()


def point_of(
    user: Statements = (), group: Statements = (), *, shadow: Statements = ()
) -> DecisionPoint:
    return DecisionPoint(evaluator(), snapshot_of(user, group, shadow=shadow))


def batch(path: str, *, region: str = "ap-guangzhou", owner: str = OWNER) -> Resource:
    return Resource("batch", region, owner, path)


def query(
    action: str,
    *resources: Resource,
    principal: Principal = ANN,
    deny_only: tuple[Resource, ...] = (),
    context: dict[str, tuple[str, ...]] | None = None,
) -> Query:
    return Query(principal, action, resources, deny_only, context or {})
