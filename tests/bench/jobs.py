"""Jobs: one task of many no-op instances through the whole API, beside programs that only run them.

Everything is on: durable states, the ledger, messages to a subscribed queue, log files. The
gateway runs them on an environment of as many nodes as the peers run at once. Its peers keep
nothing, save HyperQueue, which keeps the logs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.batch.executor.executors import servers_of
from tests.bench.measure import Result, in_turn, peak_mb, private_mb, show, used_seconds
from tests.support import raw_client
from tests.support.classic import NO_MESSAGE, ClassicClient, ClassicRefused
from tests.support.running import ROOT, Gateway, running_gateway

PLACEMENT = {"Zone": "ap-guangzhou-1"}
EVENTS = {
    "all": ["JOB_SUCCEED", "TASK_INSTANCE_RUNNING", "TASK_INSTANCE_SUCCEED"],
    "over": ["JOB_SUCCEED", "JOB_FAILED"],
}
"""What is told of the job, by topic. Each has a queue of the same name."""
PEERS = ROOT / ".venv" / "peers"
HYPERQUEUE = """
import sys, time
from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig

count, at_once = int(sys.argv[1]), int(sys.argv[2])
with LocalCluster(worker_config=WorkerConfig(cores=at_once)) as cluster:
    client = cluster.client()
    job = Job("work")
    for _ in range(count):
        job.program(["true"])
    began = time.monotonic()
    client.wait_for_jobs([client.submit(job)])
    print(time.monotonic() - began)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, nargs="+", default=[10_000])
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--isolation", nargs="+", default=["none", "sandbox"])
    parser.add_argument("--slow-peers", type=int, default=10_000, help="commands they run at most")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        gateways = {}
        for isolation in options.isolation:
            home = folder / isolation
            home.mkdir()
            gateways[isolation] = stack.enter_context(
                running_gateway(
                    home,
                    QCS_GATEWAY_ISOLATION=isolation,
                    QCS_GATEWAY_INSTANCES_PER_CORE=str(options.at_once),
                    QCS_GATEWAY_MEMORY_GIB=str(options.at_once),  # else fewer run at once
                )
            )
        envs = {name: prepare(each, options.at_once) for name, each in gateways.items()}
        for count in options.instances:
            contenders = peers(count, options.at_once, slow_max=options.slow_peers)
            for name, gateway in gateways.items():
                contenders[f"gateway, {name}"] = job_runner(gateway, envs[name], count)
            results = in_turn(contenders, rounds=options.rounds)
            print(f"{count} commands `true`, {options.at_once} at once")
            show(results, unit="commands", against=["xargs -P", "GNU parallel", "HyperQueue"])


def peers(count: int, at_once: int, *, slow_max: int) -> dict[str, Callable[[], Result]]:
    """What the gateway is held against; the slow ones have fewer commands to run, if need be."""
    few = min(count, slow_max)
    parallel = ["parallel", "--will-cite", "-j", str(at_once), "true"]
    return {
        "xargs -P": lambda: peer(["xargs", "-P", str(at_once), "-n", "1", "true"], count),
        "GNU parallel": lambda: peer(parallel, few),
        "HyperQueue": lambda: hyperqueue(few, at_once),
    }


def peer(command: list[str], count: int) -> Result:
    """Run `true` once for each line of input."""
    lines = "".join(f"{number}\n" for number in range(count))
    began = time.monotonic()
    subprocess.run(command, input=lines, text=True, check=True, stdout=subprocess.DEVNULL)
    return Result(count / (time.monotonic() - began), {})


def hyperqueue(count: int, at_once: int) -> Result:
    """A server and a worker of its own, started before the time is taken."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", HYPERQUEUE, str(count), str(at_once)],
            env={"PATH": os.environ["PATH"], "HOME": folder, "PYTHONPATH": str(PEERS)},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
        )
    return Result(count / float(done.stdout.split()[-1]), {})


def prepare(gateway: Gateway, nodes: int) -> str:
    """The topics, each with a subscribed queue, and an environment."""
    who = gateway.root
    for name in EVENTS:
        gateway.tccli(who, "tdmq", "CreateCmqTopic", TopicName=name)
        gateway.tccli(who, "tdmq", "CreateCmqQueue", QueueName=name)
        gateway.tccli(
            who,
            *("tdmq", "CreateCmqSubscribe"),
            TopicName=name,
            SubscriptionName=name,
            Protocol="queue",
            Endpoint=name,
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
    """A function that submits the job and waits until a message says that it is over.

    Why the job stays: an ext4 that has just lost many files is slow to make new ones for seconds.
    """

    def run() -> Result:
        executor = executor_of(gateway)
        servers = servers_of(executor)
        pids = {"gateway": [gateway.pid], "executor": [executor, *servers]}
        used = {name: sum(map(used_seconds, each)) for name, each in pids.items()}
        began = time.monotonic()
        job_id = submit(gateway, env_id, count)
        wait_for_message(gateway)
        took = time.monotonic() - began
        view = call(gateway, "DescribeJob", JobId=job_id)
        if view["JobState"] != "SUCCEED":
            raise SystemExit(f"the job did not succeed: {view}")
        notes = {
            f"{name} us/cmd": (sum(map(used_seconds, each)) - used[name]) / count * 1e6
            for name, each in pids.items()
        }
        memory = peak_mb(gateway.pid) + peak_mb(executor) + sum(map(private_mb, servers))
        return Result(count / took, {**notes, "peak MB": memory})

    return run


def submit(gateway: Gateway, env_id: str, count: int) -> str:
    task = {
        "TaskName": "t",
        "TaskInstanceNum": count,
        "Application": {"DeliveryForm": "LOCAL", "Command": "true"},
        "EnvId": env_id,
    }
    notifications = [
        {"TopicName": topic, "EventConfigs": [{"EventName": name} for name in names]}
        for topic, names in EVENTS.items()
    ]
    job = {"JobName": "bench", "Tasks": [task], "Notifications": notifications}
    return str(call(gateway, "SubmitJob", Job=job, Placement=PLACEMENT)["JobId"])


def wait_for_message(gateway: Gateway) -> None:
    """Wait for what the queue `over` gets."""
    receive = ClassicClient(gateway, gateway.root)
    while True:
        try:
            receive.drain("over", count=1)
        except ClassicRefused as refused:
            if refused.code != NO_MESSAGE:
                raise
        else:
            return


def call(gateway: Gateway, action: str, **parameters: Any) -> dict[str, Any]:
    answer = raw_client.call(gateway, gateway.root, action, **parameters).members
    if "Error" in answer:
        raise SystemExit(f"{action} was refused: {answer}")
    return answer


def executor_of(gateway: Gateway) -> int:
    """The pid of the executor, as the gateway logged it last."""
    lines = [line for line in gateway.log.splitlines() if "executor_connected" in line]
    return int(lines[-1].partition('"pid": ')[2].partition(",")[0])


if __name__ == "__main__":
    main()
