"""Policies to ask about, and the verbs to ask with."""

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from gateway.commands.policy import policy
from tests.support.policies import OWNER, allow, deny, write_policies

JOB = f"qcs::batch:ap-guangzhou:uin/{OWNER}:job"
READ, KILL, DROP = "batch:DescribeJob", "batch:TerminateJob", "batch:DeleteJob"
ANN = ("--user", "ann")
USERS = {
    "ann": [allow("batch:Describe*"), allow([KILL], f"{JOB}/*"), deny(KILL, f"{JOB}/job-shut")],
    "bob": [allow(READ, f"{JOB}/job-a*")],
}
"""Ann may read, and end all jobs but one; bob may read a few."""


def folder_of(path: Path, users: dict[str, list[dict[str, Any]]]) -> Path:
    path.mkdir(parents=True)
    write_policies(path, users)
    return path


def write(path: Path, *statements: dict[str, Any], **more: Any) -> Path:
    path.write_text(json.dumps({"version": "2.0", "statement": statements, **more}), "utf-8")
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(policy, [str(one) for one in arguments], catch_exceptions=False)
