"""What is looked for in a folder of policies: one table, with an example for each rule."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

ACCOUNTS = "accounts.toml"
POLICY = "policy.json"
TRUST = "trust.json"


class Severity(Enum):
    """How much a finding matters. The first two make the answer "no"."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to look at. line: from 1. statement: from 1, or 0 for the whole file.

    hint: what to do about it, or empty.
    """

    id: str
    severity: Severity
    file: str
    line: int
    statement: int
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """One file that shows a rule, and the folder around it."""

    file: str
    text: str

    def folder(self) -> Mapping[str, str]:
        """A whole folder of policies with the file in it; nothing else there is to be found."""
        return {**_SURROUNDINGS, self.file: self.text}


@dataclass(frozen=True, slots=True)
class Rule:
    """says: what is found, in a sentence. bad provokes this rule alone, good provokes none."""

    id: str
    severity: Severity
    says: str
    bad: Example
    good: Example


def _statements(*statements: dict[str, Any]) -> Example:
    return Example(POLICY, json.dumps({"version": "2.0", "statement": list(statements)}, indent=2))


def _allow(action: str | list[str], resource: str | list[str], **more: Any) -> dict[str, Any]:
    return {"effect": "allow", "action": action, "resource": resource, **more}


def _deny(action: str | list[str], resource: str | list[str], **more: Any) -> dict[str, Any]:
    return {**_allow(action, resource, **more), "effect": "deny"}


def _trust(**principal: str) -> Example:
    statement = {"effect": "allow", "action": "name/sts:AssumeRole", "principal": principal}
    return Example(TRUST, json.dumps({"version": "2.0", "statement": [statement]}, indent=2))


_ACCOUNTS = """
[[account]]
uin = "100000000001"
[[account.policy]]
name = "policy"
file = "policy.json"
[[account.group]]
name = "team"
[[account.user]]
name = "ann"
uin = "100000000101"
groups = ["team"]
policies = ["policy"]
[[account.role]]
name = "runner"
id = "100000000201"
trust = "trust.json"
policies = ["policy"]
"""
_SPARE = """[[account.policy]]
name = "spare"
file = "policy.json"
"""


def _accounts(old: str, new: str) -> Example:
    if old not in _ACCOUNTS:
        raise ValueError(f"no such text in the example: {old!r}")
    return Example(ACCOUNTS, _ACCOUNTS.replace(old, new))


def _in_groups(number: int) -> Example:
    names = [f"g{place}" for place in range(number)]
    declared = "\n".join(f'[[account.group]]\nname = "{name}"' for name in names)
    text = _ACCOUNTS.replace('[[account.group]]\nname = "team"', declared)
    return Example(ACCOUNTS, text.replace('["team"]', json.dumps(names)))


_JOB = "qcs::batch:ap-guangzhou:uin/100000000001:job/job-1"
_JOBS = "qcs::batch::uin/100000000001:job/*"
_READ = _allow("batch:DescribeJob", _JOBS)
_SURROUNDINGS: Mapping[str, str] = {
    ACCOUNTS: _ACCOUNTS,
    POLICY: _statements(_READ).text,
    TRUST: _trust(qcs="qcs::cam::uin/100000000001:root").text,
}
_FINE = Example(ACCOUNTS, _ACCOUNTS)
_ERROR, _WARNING, _NOTE = Severity

_TABLE = (
    Rule(
        "refused",
        _ERROR,
        "The file cannot be used; the gateway would not start with it.",
        bad=_statements(_allow("batch:DescribeJob", "qcs::batch:::job/${jobId}")),
        good=_statements(_allow("batch:DescribeJob", "qcs::batch:::job/${uin}-*")),
    ),
    Rule(
        "unknown-action",
        _ERROR,
        "The service has no action of this name.",
        bad=_statements(_allow("batch:DescribeJbo", _JOB)),
        good=_statements(_allow("batch:DescribeJob", _JOB)),
    ),
    Rule(
        "wildcard-without-action",
        _WARNING,
        "No action of the service fits the wildcard.",
        bad=_statements(_allow("batch:Descibe*", "*")),
        good=_statements(_allow("batch:Describe*", "*")),
    ),
    Rule(
        "unserved-action",
        _NOTE,
        "No call that comes here has this action, though the service is served.",
        bad=_statements(_allow("tdmq:CreateCmqTopik", "*")),
        good=_statements(_allow("tdmq:CreateCmqTopic", "*")),
    ),
    Rule(
        "unknown-service",
        _WARNING,
        "No service has this name, but one has a name that is spelt alike.",
        bad=_statements(_allow("bacth:DescribeJob", "*")),
        good=_statements(_allow("cvm:DescribeInstances", "*")),
    ),
    Rule(
        "unknown-region",
        _WARNING,
        "No region has this name.",
        bad=_statements(_allow("batch:DescribeJob", "qcs::batch:ap-guangzho::job/*")),
        good=_statements(
            _allow("batch:DescribeJob", ["qcs::batch:gz::job/*", "qcs::batch:eu-*::job/*"])
        ),
    ),
    Rule(
        "unknown-resource-type",
        _WARNING,
        "The service has no resources of this type.",
        bad=_statements(_allow("batch:DescribeJob", "qcs::batch:::jobs/*")),
        good=_statements(_allow("batch:DescribeJob", "qcs::batch:::job*")),
    ),
    Rule(
        "resource-without-action",
        _WARNING,
        "None of the statement's actions is ever decided on this resource.",
        bad=_statements(_allow("batch:DescribeComputeEnv", _JOBS)),
        good=_statements(_allow("batch:DescribeComputeEnv", "qcs::batch:::computeenv/*")),
    ),
    Rule(
        "action-without-resource",
        _WARNING,
        "This action, unlike others of the statement, is decided on none of its resources.",
        bad=_statements(_allow(["batch:DescribeJob", "batch:DescribeComputeEnv"], _JOBS)),
        good=_statements(_allow(["batch:DescribeJob", "batch:TerminateJob"], _JOBS)),
    ),
    Rule(
        "needs-every-resource",
        _WARNING,
        "The action has no resource level and needs the resource `*`.",
        bad=_statements(_allow(["batch:DescribeJob", "batch:DescribeInstanceCategories"], _JOBS)),
        good=_statements(_allow("batch:DescribeInstanceCategories", "*")),
    ),
    Rule(
        "other-account",
        _WARNING,
        "The resource is another account's than the policy; it never matches.",
        bad=_statements(_allow("batch:DescribeJob", "qcs::batch::uin/100000000002:job/*")),
        good=_statements(_allow("batch:DescribeJob", "qcs::batch::uin/-1:job/*")),
    ),
    Rule(
        "project-without-resource",
        _WARNING,
        "Resources are in the project 0 only; the pattern never matches.",
        bad=_statements(_allow("batch:DescribeJob", "qcs:id/7:batch:::job/*")),
        good=_statements(_allow("batch:DescribeJob", "qcs:id/0:batch:::job/*")),
    ),
    Rule(
        "contradiction",
        _WARNING,
        "The conditions on one key exclude each other; no call can meet them all.",
        bad=_statements(
            _allow(
                "batch:DescribeJob",
                _JOBS,
                condition={
                    "date_greater_than": {"qcs:current_time": "2026-02-01T00:00:00Z"},
                    "date_less_than": {"qcs:current_time": "2026-01-01T00:00:00Z"},
                },
            )
        ),
        good=_statements(
            _allow(
                "batch:DescribeJob",
                _JOBS,
                condition={
                    "ip_equal": {"qcs:ip": "10.0.0.0/8"},
                    "ip_not_equal": {"qcs:ip": "10.1.0.0/16"},
                },
            )
        ),
    ),
    Rule(
        "allow-inside-deny",
        _WARNING,
        "A deny of the same document covers the whole allow; it never has an effect.",
        bad=_statements(_allow("batch:TerminateJob", _JOB), _deny("batch:Terminate*", _JOBS)),
        good=_statements(_allow("batch:TerminateJob", _JOBS), _deny("batch:TerminateJob", _JOB)),
    ),
    Rule(
        "redundant",
        _WARNING,
        "Another statement of the document says this already.",
        bad=_statements(_allow("batch:Describe*", _JOBS), _allow("batch:DescribeJob", _JOB)),
        good=_statements(_allow("batch:Describe*", _JOBS), _allow("batch:TerminateJob", _JOB)),
    ),
    Rule(
        "too-wide",
        _WARNING,
        "Everything of a service, or of all services, is allowed on every resource.",
        bad=_statements(_allow("batch:*", "*")),
        good=_statements(_allow("batch:Describe*", "*")),
    ),
    Rule(
        "vendor-set",
        _WARNING,
        "A set of actions that only the vendor can resolve; here it means no action.",
        bad=_statements(_allow(["batch:DescribeJob", "permid/280649"], _JOBS)),
        good=_statements(_allow(["batch:DescribeJob", "name/batch:DescribeTask"], _JOBS)),
    ),
    Rule(
        "unknown-key",
        _ERROR,
        "No call carries the condition key; the gateway would not start with it.",
        bad=_statements(
            _allow("batch:DescribeJob", _JOBS, condition={"string_equal": {"qcs:user": "1"}})
        ),
        good=_statements(
            _allow("batch:DescribeJob", _JOBS, condition={"string_equal": {"qcs:uin": "1"}})
        ),
    ),
    Rule(
        "foreign-key",
        _NOTE,
        "The condition key belongs to a service that is not served; here it is always absent.",
        bad=_statements(
            _allow("batch:DescribeJob", _JOBS, condition={"string_equal": {"cvm:region": "gz"}})
        ),
        good=_statements(_allow("batch:DescribeJob", "qcs::batch:gz::job/*")),
    ),
    Rule(
        "unattached-policy",
        _WARNING,
        "The policy is declared and attached to nobody.",
        bad=_accounts("[[account.group]]", _SPARE + "[[account.group]]"),
        good=_FINE,
    ),
    Rule(
        "undeclared-document",
        _NOTE,
        "The document is used by no account and by no case of a test.",
        bad=Example("forgotten.json", _statements(_READ).text),
        good=Example("tests/x.toml", "# no cases yet"),
    ),
    Rule(
        "shadow-policy",
        _NOTE,
        "The policy is attached and only watched.",
        bad=_accounts('file = "policy.json"', 'file = "policy.json"\nmode = "shadow"'),
        good=_accounts('file = "policy.json"', 'file = "policy.json"\nmode = "enforce"'),
    ),
    Rule(
        "empty-group",
        _NOTE,
        "Nobody is in the group.",
        bad=_accounts('groups = ["team"]\n', ""),
        good=_FINE,
    ),
    Rule(
        "user-without-policy",
        _NOTE,
        "The user has no policy, not even by a group, and so may do nothing.",
        bad=_accounts('groups = ["team"]\npolicies = ["policy"]\n', 'groups = ["team"]\n'),
        good=_FINE,
    ),
    Rule(
        "role-for-nobody",
        _WARNING,
        "The role's trust policy admits nobody who is declared.",
        bad=_trust(service="cvm.cloud.tencent.com"),
        good=_trust(qcs="qcs::cam::uin/100000000001:uin/100000000101"),
    ),
    Rule(
        "over-quota",
        _ERROR,
        'Under `limits = "cloud"`: the cloud would not take so many, and neither does the gateway.',
        bad=_in_groups(11),
        good=_in_groups(10),
    ),
)
RULES: Mapping[str, Rule] = {rule.id: rule for rule in _TABLE}
