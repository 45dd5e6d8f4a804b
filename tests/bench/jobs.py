"""Jobs: one task of many no-op instances through the whole API, beside xargs -P and GNU parallel.

Everything is on: durable states, the ledger, messages to a subscribed queue, log files. The
gateway runs them on an environment of as many nodes as the peers run at once.
"""

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.bench.measure import Result, cpu_seconds, in_turn, resident_mb, show
from tests.support.running import Gateway, running_gateway, wait_until

PLACEMENT = {"Zone": "ap-guangzhou-1"}
TOPIC = "bench"
EVENTS = ["JOB_SUCCEED", "TASK_INSTANCE_RUNNING", "TASK_INSTANCE_SUCCEED"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    count, at_once = options.instances, options.at_once
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        contenders: dict[str, Callable[[], Result]] = {
            "xargs -P": lambda: peer(["xargs", "-P", str(at_once), "-n", "1", "true"], count),
            "GNU parallel": lambda: peer(
                ["parallel", "--will-cite", "-j", str(at_once), "true"], count
            ),
        }
        for isolation in ("none", "sandbox"):
            home = folder / isolation
            home.mkdir()
            gateway = stack.enter_context(
                running_gateway(
                    home,
                    QCS_GATEWAY_ISOLATION=isolation,
                    QCS_GATEWAY_INSTANCES_PER_CORE=str(at_once),
                )
            )
            env_id = prepare(gateway, at_once)
            contenders[f"gateway, isolation {isolation}"] = job_runner(gateway, env_id, count)
        results = in_turn(contenders, rounds=options.rounds)
        print(f"{count} commands `true`, {at_once} at once")
        show(results, unit="commands", against=["xargs -P", "GNU parallel"])


def peer(command: list[str], count: int) -> Result:
    """Run `true` once for each line of input."""
    lines = "".join(f"{number}\n" for number in range(count))
    began = time.monotonic()
    subprocess.run(command, input=lines, text=True, check=True, stdout=subprocess.DEVNULL)
    return Result(count / (time.monotonic() - began), {})


def prepare(gateway: Gateway, nodes: int) -> str:
    """A topic with a subscribed queue, and an environment."""
    who = gateway.root
    gateway.tccli(who, "tdmq", "CreateCmqTopic", TopicName=TOPIC)
    gateway.tccli(who, "tdmq", "CreateCmqQueue", QueueName=TOPIC)
    gateway.tccli(
        who,
        *("tdmq", "CreateCmqSubscribe"),
        TopicName=TOPIC,
        SubscriptionName=TOPIC,
        Protocol="queue",
        Endpoint=TOPIC,
        NotifyContentFormat="SIMPLIFIED",
    )
    env = {
        "EnvName": "bench",
        "DesiredComputeNodeCount": nodes,
        "EnvData": {"InstanceType": "S1.SMALL1"},
    }
    made = gateway.tccli(who, "batch", "CreateComputeEnv", ComputeEnv=env, Placement=PLACEMENT)
    return str(made["EnvId"])


def job_runner(gateway: Gateway, env_id: str, count: int) -> Callable[[], Result]:
    """A function that submits the job, waits for its end, and removes it."""

    def run() -> Result:
        processes = [gateway.pid, executor_of(gateway)]
        used = cpu_seconds(processes)
        began = time.monotonic()
        job_id = submit(gateway, env_id, count)
        view: dict[str, Any] = {}

        def is_over() -> bool:
            view.update(gateway.tccli(gateway.root, "batch", "DescribeJob", JobId=job_id))
            return view["JobState"] in {"SUCCEED", "FAILED"}

        wait_until(is_over, at_most_s=600)
        took = time.monotonic() - began
        if view["JobState"] != "SUCCEED":
            raise SystemExit(f"the job failed: {view}")
        used = cpu_seconds(processes) - used
        memory = resident_mb(processes)
        gateway.tccli(gateway.root, "batch", "DeleteJob", JobId=job_id)
        return Result(count / took, {"CPU us/cmd": used / count * 1e6, "MB": memory})

    return run


def submit(gateway: Gateway, env_id: str, count: int) -> str:
    task = {
        "TaskName": "t",
        "TaskInstanceNum": count,
        "Application": {"DeliveryForm": "LOCAL", "Command": "true"},
        "EnvId": env_id,
    }
    configs = [{"EventName": name} for name in EVENTS]
    job = {
        "JobName": "bench",
        "Tasks": [task],
        "Notifications": [{"TopicName": TOPIC, "EventConfigs": configs}],
    }
    submitted = gateway.tccli(gateway.root, "batch", "SubmitJob", Job=job, Placement=PLACEMENT)
    return str(submitted["JobId"])


def executor_of(gateway: Gateway) -> int:
    """The pid of the executor, as the gateway logged it last."""
    lines = [line for line in gateway.log.splitlines() if "executor_connected" in line]
    return int(lines[-1].partition('"pid": ')[2].partition(",")[0])


if __name__ == "__main__":
    main()
