"""How answers of the decision point are printed: for people, and as JSON."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from gateway.call import AttributeTest, Clause, Principal, Scope
from gateway.policy.comparison import Comparison, Difference, Kind
from gateway.policy.decision import Determinant, Explanation
from gateway.policy.question import Question
from gateway.policy.record import public_explanation
from gateway.policy.simulation import Row

TABLE = ("caller", "action", "resource", "effect", "reason", "settled by", "change")


def explanation_text(explanation: Explanation, scope: Scope | None) -> str:
    """The answer in the first line, below it everything it rests on."""
    decision = explanation.decision
    settled = "  ".join(_names(explanation.determining))
    lines = [f"{decision.effect.value}  {decision.reason.value}  {settled}".rstrip()]
    if decision.resource is not None and not decision.allowed:
        lines.append(printable(f"  on        {decision.resource}"))
    if scope is not None:
        lines += [f"  {line}" for line in _scope_lines(scope)]
    return "\n".join([*lines, *why_lines(public_explanation(explanation))])


def printable(text: str) -> str:
    """Text for a terminal: what does not print stands as its escape.

    Why: resources are named by callers, who might write a line that looks like another decision.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def why_lines(public: Mapping[str, Any]) -> Iterator[str]:
    """What a decision rests on, from its public form: a call's own, or one that was asked for.

    Older records have no fix, and of a statement neither its file nor how the caller has it.
    """
    for one in public["Determining"]:
        yield printable(f"  settled   {_statement_text(one)}: {one['Pattern']}")
    miss = public["NearestMiss"]
    if miss is not None:
        yield f"  nearest   {_statement_text(miss)}"
        yield printable(f"            its {miss['Element']} is {miss['Wanted']}")
        yield printable(f"            the call has {miss['Found'] or 'nothing'}")
    for fix in public.get("Fix", ()):
        caution = f" (caution: it {fix['Caution']})" if fix["Caution"] else ""
        yield f"  fix       {fix['AttachTo']}{caution}:"
        yield json.dumps(fix["Policy"], indent=2)
    shadow = public["Shadow"]
    if shadow is not None:
        settled = [f"{one['Policy']}/{one['Statement']}" for one in shadow["Determining"]]
        words = [shadow["Effect"], shadow["Reason"], *dict.fromkeys(settled)]
        yield f"  shadow    {'  '.join(words)}"


def _statement_text(one: Mapping[str, Any]) -> str:
    version = f"version {one['Version']}"
    place = f"{one['File']}, {version}" if one.get("File") else version
    via = f" via {one['Via']}" if "Via" in one else ""
    return f"{one['Policy']}/{one['Statement']} ({place}){via}"


def explanation_members(
    question: Question, explanation: Explanation, scope: Scope | None
) -> dict[str, Any]:
    """The answer as JSON, with the names that decision records use."""
    query, decision = question.query, explanation.decision
    return {
        "Principal": _caller_members(query.principal),
        "Action": query.action,
        "Resources": [str(one) for one in query.resources],
        "DenyOnly": [str(one) for one in query.deny_only],
        "Listed": question.lists or None,
        "Effect": decision.effect.value,
        "Reason": decision.reason.value,
        "Resource": None if decision.resource is None else str(decision.resource),
        **public_explanation(explanation),
        "Scope": None if scope is None else _scope_members(scope),
    }


def row_members(row: Row) -> dict[str, Any]:
    """One row of a simulation as JSON."""
    query, decision = row.question.query, row.explanation.decision
    return {
        "Principal": _caller_members(query.principal),
        "Action": query.action,
        "Resources": [str(one) for one in query.resources],
        "Listed": row.question.lists or None,
        "Effect": decision.effect.value,
        "Reason": decision.reason.value,
        **public_explanation(row.explanation),
        "Change": None if row.shift is None else row.shift.value,
    }


def rows_text(rows: Sequence[Row]) -> str:
    """A simulation as a table."""
    return table_text([TABLE, *(_row_cells(row) for row in rows)])


def _row_cells(row: Row) -> tuple[str, ...]:
    query, decision = row.question.query, row.explanation.decision
    return (
        _holder_text(query.principal.name, role=query.principal.role),
        query.action,
        " ".join(str(one) for one in query.resources),
        decision.effect.value,
        decision.reason.value,
        " ".join(_names(row.explanation.determining)) or "-",
        "" if row.shift is None else row.shift.value,
    )


def table_text(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need be."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def comparison_text(comparison: Comparison) -> str:
    """What differs, a line for calls that are alike; empty if nothing does."""
    rows = [_difference_cells(one) for one in comparison.differences]
    return table_text(rows) if rows else ""


def _difference_cells(one: Difference) -> tuple[str, ...]:
    kind = one.kind
    return (
        kind.shift.value,
        str(one.calls),
        caller_text(_caller_members(kind)),
        kind.action,
        f"{kind.before.value} -> {kind.after.value}",
        f"such as {one.example}",
    )


def comparison_members(comparison: Comparison) -> dict[str, Any]:
    """A comparison as JSON."""
    return {
        "Calls": comparison.calls,
        "Partial": comparison.partial,
        "OtherwiseRecorded": comparison.otherwise_recorded,
        "Differences": [
            {
                "Shift": one.kind.shift.value,
                "Calls": one.calls,
                "Principal": _caller_members(one.kind),
                "Action": one.kind.action,
                "ReasonBefore": one.kind.before.value,
                "ReasonAfter": one.kind.after.value,
                "Example": one.example,
            }
            for one in comparison.differences
        ],
    }


def caller_text(public: Mapping[str, Any]) -> str:
    """Who calls, from the public form; older records name neither role nor session."""
    name = _holder_text(public["Name"], role=public.get("Role", ""))
    session = public.get("Session", "")
    who = f"{name} ({public['OwnerUin']}/{public['Uin']})"
    return f"{who} session {session}" if session else who


def _holder_text(name: str, *, role: str) -> str:
    return f"role/{role}" if role else name


def _names(determining: Iterable[Determinant]) -> list[str]:
    """Each statement once, however many of its patterns matched."""
    return list(dict.fromkeys(f"{one.policy}/{one.statement}" for one in determining))


def _caller_members(caller: Principal | Kind) -> dict[str, str]:
    return {
        "OwnerUin": caller.owner_uin,
        "Uin": caller.uin,
        "Name": caller.name,
        "Role": caller.role,
    }


def _scope_lines(scope: Scope) -> Iterator[str]:
    if scope.is_nothing or scope.is_everything:
        yield f"shows     {'nothing' if scope.is_nothing else '*'}"
        return
    for number, layer in enumerate(scope.allow):
        word = "shows     " if number == 0 else "of these  "
        yield word + ", ".join(_clause_text(one) for one in layer)
    for clause in scope.deny:
        yield f"hides     {_clause_text(clause)}"


def _clause_text(clause: Clause) -> str:
    tests = " and ".join(_test_text(test) for test in clause.tests)
    return f"{clause.pattern} if {tests}" if tests else clause.pattern


def _test_text(test: AttributeTest) -> str:
    return f"{test.operator} {test.key} {' or '.join(test.values)}"


def _scope_members(scope: Scope) -> dict[str, Any]:
    return {
        "Allow": [[_clause_members(one) for one in layer] for layer in scope.allow],
        "Deny": [_clause_members(one) for one in scope.deny],
    }


def _clause_members(clause: Clause) -> dict[str, Any]:
    return {
        "Pattern": clause.pattern,
        "Tests": [
            {"Operator": one.operator, "Key": one.key, "Values": list(one.values)}
            for one in clause.tests
        ],
    }
