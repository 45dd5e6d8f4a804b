"""Judges made-up questions by every evaluator beside the model; one disagreement is a failure.

`scripts/differential --cases N --seed S` prints the shares of the reasons and, on a disagreement,
the smallest world that still shows it. `--exhaustive` judges the small world of patterns instead.
"""

import argparse
import json
import math
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from gateway.call import Principal, Resource
from gateway.policy.accounts import Account, CustomPolicy, Group, Role, User
from gateway.policy.decision_point import DecisionPoint
from gateway.policy.document import Document, parse
from gateway.policy.enforcer import CasbinEvaluator
from gateway.policy.match import Query
from gateway.policy.plans import PlanEvaluator
from gateway.policy.snapshot import Snapshot, build_snapshot, policy_key
from gateway.policy.trust import Trust
from gateway.policy.verdict import Evaluator
from tests.campaigns import small_world
from tests.campaigns.policy_worlds import (
    BOUNDARY,
    CALLERS,
    EVERYONE,
    GROUP,
    OWN,
    OWNER,
    ROOT_OWNER,
    Question,
    Statement,
    World,
    ask,
    make_world,
)
from tests.support import policy_model

MODEL = Path(__file__).parents[2] / "policies" / "model.conf"
QUESTIONS_OF_A_WORLD = 60
ASKING = ("root", *3 * ("user", "bounded user"), *2 * ("role", "bounded role", "bounded root"))
CHUNK = 20_000
"""Cases that one process judges in a row; each chunk has a seed of its own."""
CASBIN_EVERY = 1
"""casbin judges the questions of one world in so many."""

EVALUATORS: dict[str, Callable[[], Evaluator]] = {
    "plan": PlanEvaluator,
    "casbin": lambda: CasbinEvaluator(MODEL.read_text(encoding="utf-8")),
}


def _base() -> Snapshot:
    """Everybody who asks, with policies that say nothing yet."""
    names = (OWN, GROUP, EVERYONE, BOUNDARY)
    policies = tuple(CustomPolicy(name) for name in names)
    empty = {name: Document(name, 1, ()) for name in names}
    uin_of = {name: uin for name, (_, uin) in CALLERS.items()}
    people = Account(
        OWNER,
        policies=policies,
        groups=(Group("team", (GROUP,)),),
        users=(
            User("user", uin_of["user"], ("team",), (OWN,)),
            User("bounded user", uin_of["bounded user"], ("team",), (OWN,), BOUNDARY),
        ),
        roles=(
            Role("role", uin_of["role"], "", (OWN,)),
            Role("bounded role", uin_of["bounded role"], "", (OWN,), BOUNDARY),
        ),
        everyone=(EVERYONE,),
    )
    return build_snapshot(
        [people, Account(ROOT_OWNER, policies=policies, boundary=BOUNDARY)],
        presets={},
        custom={OWNER: empty, ROOT_OWNER: empty},
        trusts={OWNER: {role.name: Trust(role.name, ()) for role in people.roles}},
        generation=1,
    )


BASE = _base()


def text_of(statements: list[Statement]) -> str:
    """A policy document; one without statements cannot be read."""
    return json.dumps({"version": "2.0", "statement": statements}) if statements else ""


def snapshot_of(world: World, *, before: Snapshot = BASE) -> Snapshot:
    """Change the documents of a snapshot, as an edited folder of policies does."""
    documents: dict[str, Document] = {}
    for name in (OWN, GROUP, EVERYONE, BOUNDARY):
        statements: list[Statement] = getattr(world, name)
        document = Document(name, 1, ())
        if statements:
            document = parse(text_of(statements), name=name)
        documents |= {policy_key(owner, name): document for owner in (OWNER, ROOT_OWNER)}
    return before.with_documents(documents, generation=before.generation + 1)


def query_of(world: World, question: Question) -> Query:
    """The question as the gateway asks it."""
    owner, uin = CALLERS[question.caller]
    session = "" if world.session is None else text_of(world.session) or "{}"
    principal = Principal(
        owner_uin=owner,
        uin=uin,
        name=question.caller,
        role=question.caller if "role" in question.caller else "",
        session_policy=session,
    )
    resource = Resource(*question.resource)
    return Query(
        principal,
        question.action,
        (resource,),
        context=question.context,
        attributes={resource: question.attributes},
    )


def model_reason(world: World, question: Question) -> str:
    """The reason by the model."""
    owner, uin = CALLERS[question.caller]
    known = {**question.context, **question.attributes}
    asked = policy_model.Asked(owner, uin, question.action, question.resource, known)
    layers = world.layers(question.caller)
    return policy_model.verdict(layers, asked, root="root" in question.caller)


@dataclass(frozen=True)
class Disagreement:
    """One question that is not answered alike."""

    world: World
    question: Question
    reasons: Mapping[str, str]

    def reproduction(self) -> str:
        """As JSON, to be put into a test."""
        return json.dumps({**asdict(self.world), **asdict(self.question), **self.reasons})


@dataclass
class Report:
    """What a run found. judged: cases by evaluator."""

    judged: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    disagreements: list[Disagreement] = field(default_factory=list)

    @property
    def cases(self) -> int:
        """Questions asked."""
        return self.reasons.total()

    def add(self, other: "Report") -> None:
        """Take in what another part of the run found."""
        self.judged += other.judged
        self.reasons += other.reasons
        self.disagreements += other.disagreements


def judge_once(world: World, question: Question, evaluators: Iterable[str]) -> dict[str, str]:
    """Ask everybody afresh; the reasons by evaluator."""
    reasons = {}
    for name in evaluators:
        if name == "model":
            reasons[name] = model_reason(world, question)
        else:
            point = DecisionPoint(EVALUATORS[name](), snapshot_of(world))
            reasons[name] = point.decide(query_of(world, question)).reason.value
    return reasons


def run_chunk(seed: str, *, cases: int, evaluators: tuple[str, ...], casbin_every: int) -> Report:
    """Judge questions about one world after another, each put in force over the one before."""
    random = Random(seed)  # noqa: S311  # a case that was found must be found again
    report = Report()
    points = {
        name: DecisionPoint(EVALUATORS[name](), BASE) for name in evaluators if name != "model"
    }
    worlds = 0
    while report.cases < cases:
        world = make_world(random)
        asked = {
            name: point
            for name, point in points.items()
            if name != "casbin" or worlds % casbin_every == 0
        }
        for point in asked.values():
            point.swap(snapshot_of(world, before=point.snapshot))
        for _ in range(min(QUESTIONS_OF_A_WORLD, cases - report.cases)):
            question = ask(random, world, caller=random.choice(ASKING))
            _judge(report, world, question, asked=asked, has_model="model" in evaluators)
        worlds += 1
    return report


def _judge(
    report: Report,
    world: World,
    question: Question,
    *,
    asked: Mapping[str, DecisionPoint],
    has_model: bool,
) -> None:
    query = query_of(world, question)
    reasons = {name: point.decide(query).reason.value for name, point in asked.items()}
    if has_model:
        reasons["model"] = model_reason(world, question)
    report.judged.update(reasons.keys())
    report.reasons[next(iter(reasons.values()))] += 1
    if len(set(reasons.values())) > 1:
        report.disagreements.append(Disagreement(world, question, reasons))


def run(
    *,
    cases: int,
    seed: int,
    evaluators: tuple[str, ...] = ("plan", "casbin", "model"),
    casbin_every: int = CASBIN_EVERY,
    jobs: int = 1,
    at_most_s: float = math.inf,
) -> Report:
    """Judge so many questions, in so many processes.

    Ends early after the chunk in which there is a disagreement, or when the time is over.
    """
    ends_at = time.monotonic() + at_most_s
    chunks = [
        (f"{seed}.{number}", min(CHUNK, cases - at))
        for number, at in enumerate(range(0, cases, CHUNK))
    ]
    judge = partial(_run_one, evaluators=evaluators, casbin_every=casbin_every)
    report = Report()
    for part in _in_turn(judge, chunks, jobs=jobs):
        report.add(part)
        if report.disagreements or time.monotonic() > ends_at:
            break
    return report


def _run_one(chunk: tuple[str, int], *, evaluators: tuple[str, ...], casbin_every: int) -> Report:
    seed, cases = chunk
    return run_chunk(seed, cases=cases, evaluators=evaluators, casbin_every=casbin_every)


def _in_turn(
    judge: Callable[[tuple[str, int]], Report], chunks: list[tuple[str, int]], *, jobs: int
) -> Iterator[Report]:
    if jobs == 1:
        yield from map(judge, chunks)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(judge, chunks)


def minimal(found: Disagreement) -> Disagreement:
    """Leave statements and parts of them away as long as the evaluators still disagree.

    A disagreement that only shows after a change of policies stays as it is.
    """
    names = tuple(found.reasons)

    def disagrees(world: World, question: Question) -> bool:
        try:
            return len(set(judge_once(world, question, names).values())) > 1
        except ValueError:
            return False

    if not disagrees(found.world, found.question):
        return found
    world, question = found.world, found.question
    while smaller := next((one for one in _smaller(world, question) if disagrees(*one)), None):
        world, question = smaller
    return Disagreement(world, question, judge_once(world, question, names))


def _smaller(world: World, question: Question) -> Iterator[tuple[World, Question]]:
    for name, statements in asdict(world).items():
        if name == "session" and statements is not None:
            yield replace(world, session=None), question
        for at, statement in enumerate(statements or []):
            rest = [*statements[:at], *statements[at + 1 :]]
            yield replace(world, **{name: rest}), question
            for less in _smaller_statements(statement):
                changed = [*statements[:at], less, *statements[at + 1 :]]
                yield replace(world, **{name: changed}), question
    for kind in ("context", "attributes"):
        known = getattr(question, kind)
        for key in known:
            left = {other: known[other] for other in known if other != key}
            changes: dict[str, Any] = {kind: left}
            yield world, replace(question, **changes)


def _smaller_statements(statement: Statement) -> Iterator[Statement]:
    if "condition" in statement:
        yield {key: value for key, value in statement.items() if key != "condition"}
        for operator in statement["condition"] if len(statement["condition"]) > 1 else ():
            kept = {key: one for key, one in statement["condition"].items() if key != operator}
            yield {**statement, "condition": kept}
    for element in ("action", "resource"):
        values: Any = statement[element]
        if isinstance(values, list) and len(values) > 1:
            for at in range(len(values)):
                yield {**statement, element: [*values[:at], *values[at + 1 :]]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=180_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--evaluators", default="plan,casbin,model")
    parser.add_argument("--casbin-every", type=int, default=CASBIN_EVERY, help="worlds")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--at-most-s", type=float, default=math.inf)
    parser.add_argument("--exhaustive", action="store_true", help="the small world of patterns")
    options = parser.parse_args()
    if options.exhaustive:
        return small_world.main(jobs=options.jobs)
    began = time.monotonic()
    report = run(
        cases=options.cases,
        seed=options.seed,
        evaluators=tuple(options.evaluators.split(",")),
        casbin_every=options.casbin_every,
        jobs=options.jobs,
        at_most_s=options.at_most_s,
    )
    return show(report, seconds=time.monotonic() - began)


def show(report: Report, *, seconds: float) -> int:
    """Print what was found; the exit code."""
    judged = ", ".join(f"{name} {count:,}" for name, count in report.judged.items())
    shares = ", ".join(
        f"{reason} {count / report.cases:.1%}" for reason, count in report.reasons.most_common()
    )
    lines = [
        f"{report.cases:,} cases in {seconds:.0f} s, {report.cases / seconds:,.0f} a second",
        f"judged by: {judged}",
        f"reasons: {shares}",
        f"{len(report.disagreements):,} disagreements",
        *(minimal(one).reproduction() for one in report.disagreements[:3]),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if report.disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
