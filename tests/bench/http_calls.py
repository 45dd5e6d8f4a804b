"""HTTP: signed calls through the whole corridor, beside a bare Starlette echo and nginx.

wrk, 64 connections, keep-alive, one worker each; both cores are shared with wrk. The caller's
decision is made among 10,000 statements. A body of every kind of answer is checked first.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measure import Result, cpu_seconds, in_turn, resident_mb, show
from tests.support import raw_client
from tests.support.running import Credentials, Gateway, running_gateway, wait_until
from tests.support.services import LOOPBACK, Program, free_port

STATEMENTS = 10_000
STATEMENTS_PER_POLICY = 20
OWNER = "100000000001"
ECHO = """
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

async def echo(request: Request) -> Response:
    return Response(await request.body(), media_type="application/json")

app = Starlette(routes=[Route("/", echo, methods=["GET", "POST"])])
"""
NGINX = """
{user}daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream echo {{ server {host}:{echo}; keepalive 64; }}
  server {{
    listen {host}:{port};
    location / {{
      auth_request /auth;
      proxy_pass http://echo; proxy_http_version 1.1; proxy_set_header Connection "";
    }}
    location = /auth {{
      internal; proxy_pass http://echo/; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_pass_request_body off; proxy_set_header Content-Length "";
    }}
  }}
}}
"""
LUA = """
wrk.method = "POST"
wrk.body = [==[{body}]==]
{headers}
"""


@dataclass(frozen=True, eq=False)
class Request:
    """What wrk sends, again and again."""

    url: str
    headers: Mapping[str, str]
    body: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        echo, echo_port = stack.enter_context(start_echo(folder))
        nginx_port, nginx_pids = stack.enter_context(start_nginx(folder, echo_port))
        gateway = stack.enter_context(start_gateway(folder))
        reader, job_id = prepare(gateway)
        echo_request = Request(f"http://{LOOPBACK}:{echo_port}/", {}, json.dumps({"x": "y" * 230}))
        nginx_request = Request(f"http://{LOOPBACK}:{nginx_port}/", {}, echo_request.body)
        describe = signed(gateway, reader, "DescribeJob", {"JobId": job_id})
        denied = signed(gateway, reader, "DescribeComputeEnv", {"EnvId": "env-97zcl3wt"})
        expected_answers = {describe: '"JobState"', denied: '"UnauthorizedOperation"'}
        for request, expected in expected_answers.items():
            check(request, expect=expected)

        def run(request: Request, pids: list[int]) -> Callable[[], Result]:
            return lambda: wrk(
                request, pids, seconds=options.seconds, connections=options.connections
            )

        contenders = {
            "echo": run(echo_request, [echo.pid]),
            "nginx auth_request": run(nginx_request, [echo.pid, *nginx_pids]),
            "DescribeJob": run(describe, [gateway.pid]),
            "denied": run(denied, [gateway.pid]),
        }
        results = in_turn(contenders, rounds=options.rounds)
        for request, expected in expected_answers.items():
            check(request, expect=expected)  # still: a signature may be used up
        print(f"{STATEMENTS} statements, {options.connections} connections")
        show(results, unit="calls", against=["echo", "nginx auth_request"])


@contextmanager
def start_echo(folder: Path) -> Iterator[tuple[Program, int]]:
    (folder / "echo.py").write_text(ECHO)
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "echo:app", "--port", str(port), "--loop", "uvloop"]
    command += ["--http", "httptools", "--no-access-log", "--log-level", "warning"]
    program = Program(command, log=folder / "echo.log", env={"PYTHONPATH": str(folder)})
    try:
        wait_until(lambda: answers(port))
        yield program, port
    finally:
        program.end(signal.SIGTERM)


@contextmanager
def start_nginx(folder: Path, echo_port: int) -> Iterator[tuple[int, list[int]]]:
    port = free_port()
    user = "user root; " if os.geteuid() == 0 else ""  # only root's workers change their user
    (folder / "nginx.conf").write_text(
        NGINX.format(user=user, folder=folder, host=LOOPBACK, echo=echo_port, port=port)
    )
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin") or "nginx"
    command = [nginx, "-c", str(folder / "nginx.conf"), "-p", str(folder)]
    program = Program(command, log=folder / "nginx.log", env={})
    try:
        wait_until(lambda: answers(port))
        children = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
        yield port, [program.pid, *map(int, children)]
    finally:
        program.end(signal.SIGTERM)


@contextmanager
def start_gateway(folder: Path) -> Iterator[Gateway]:
    home = folder / "gateway"
    home.mkdir()
    write_policies(home / "policies")
    with running_gateway(home) as gateway:
        yield gateway


def write_policies(folder: Path, statements: int = STATEMENTS) -> None:
    """Statements, 20 a policy, 2 policies on each user; the first user may read jobs besides."""
    shutil.copytree(Path(__file__).parents[2] / "policies", folder)
    dice = random.Random(1)
    lines = [f'[[account]]\nuin = "{OWNER}"']
    count = statements // STATEMENTS_PER_POLICY
    for number in range(count):
        written = [statement(dice) for _ in range(STATEMENTS_PER_POLICY)]
        document = {"version": "2.0", "statement": written}
        (folder / f"examples/p{number}.json").write_text(json.dumps(document))
        lines.append(f'[[account.policy]]\nname = "p{number}"\nfile = "examples/p{number}.json"')
    lines.append('[[account.policy]]\nname = "read-jobs"\nfile = "examples/read-jobs.json"')
    for number in range(count // 2):
        policies = [f"p{2 * number}", f"p{2 * number + 1}"] + (["read-jobs"] if not number else [])
        uin = int(OWNER) + 1_000 + number
        lines.append(
            f'[[account.user]]\nname = "u{number}"\nuin = "{uin}"\ngroups = []\n'
            f"policies = {json.dumps(policies)}"
        )
    (folder / "accounts.toml").write_text("\n".join(lines))


def statement(dice: random.Random) -> dict[str, object]:
    action = dice.choice(["Describe*", "DescribeJob", "Create*", "SubmitJob", "Delete*"])
    kind = dice.choice(["job/job", "computeenv/env"])
    return {
        "effect": dice.choice(["allow", "allow", "allow", "deny"]),
        "action": [f"name/batch:{action}"],
        "resource": [f"qcs::batch:ap-guangzhou:uin/{OWNER}:{kind}-{dice.getrandbits(32):08x}"],
    }


def prepare(gateway: Gateway) -> tuple[Credentials, str]:
    """A caller with policies, and a finished job to describe."""
    task = {
        "TaskName": "t",
        "Application": {"DeliveryForm": "LOCAL", "Command": "true"},
        "ComputeEnv": {"EnvData": {"InstanceType": "S1.SMALL1"}},
    }
    submitted = gateway.tccli(
        gateway.root,
        *("batch", "SubmitJob"),
        Job={"JobName": "bench", "Tasks": [task]},
        Placement={"Zone": "ap-guangzhou-1"},
    )
    return gateway.create_key("u0"), str(submitted["JobId"])


def signed(
    gateway: Gateway, who: Credentials, action: str, parameters: Mapping[str, object]
) -> Request:
    """A call signed now. The same bytes may be sent for 300 s: it reads, or it is denied."""
    made = raw_client.signed(gateway, who, action, parameters)
    kept = {k: v for k, v in made.headers if k.lower() not in {"content-length", "connection"}}
    return Request(gateway.url + "/", kept, made.body.decode())


def check(request: Request, *, expect: str) -> None:
    """See that the answer is the one to be measured: wrk would count any."""
    asked = urllib.request.Request(
        request.url, data=request.body.encode(), headers=dict(request.headers)
    )
    with urllib.request.urlopen(asked) as answer:
        text = answer.read().decode()
    if expect not in text:
        sys.exit(f"expected {expect} in: {text}")


def answers(port: int) -> bool:
    try:
        asked = urllib.request.Request(f"http://{LOOPBACK}:{port}/", data=b"{}")
        with urllib.request.urlopen(asked, timeout=1):
            return True
    except OSError:
        return False


def wrk(request: Request, pids: list[int], *, seconds: int, connections: int) -> Result:
    headers = "\n".join(f'wrk.headers["{k}"] = "{v}"' for k, v in request.headers.items())
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(LUA.format(body=request.body, headers=headers))
        script.flush()
        before = cpu_seconds(pids)
        done = subprocess.run(
            [
                *("wrk", "-t1", f"-c{connections}", f"-d{seconds}s"),
                *("--latency", "-s", script.name, request.url),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        used = cpu_seconds(pids) - before
    text = done.stdout
    if "Non-2xx" in text or re.search(r"(connect|read|write) [1-9]", text):
        sys.exit(text)  # a call slower than wrk's own 2 s counts with the latencies
    count = int(re.search(r"(\d+) requests in", text)[1])  # type: ignore[index]
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])  # type: ignore[index]
    notes = {
        "p50 ms": latency(text, "50%"),
        "p99 ms": latency(text, "99%"),
        "CPU us/call": used / count * 1e6,
        "MB": resident_mb(pids),
    }
    return Result(rate, notes)


def latency(text: str, percentile: str) -> float:
    found = re.search(rf"{percentile}\s+([\d.]+)(us|ms|s)", text)
    if found is None:
        sys.exit(f"wrk printed no {percentile}: {text}")
    return float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[found[2]]


if __name__ == "__main__":
    main()
