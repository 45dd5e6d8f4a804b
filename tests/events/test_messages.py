"""Messages: the guide's own one, byte for byte, and how a subscriber picks it."""

import base64
import json

from gateway.events.messages import Event, encode, routing_key
from gateway.events.names import EventName
from tests.support.events import NOW, REGION, job_event

GUIDE_EVENT = Event(
    EventName.COMPUTE_NODE_CREATED,
    "node-0iy7wxyo",
    {
        "ComputeNodeId": "node-0iy7wxyo",
        "EnvId": "env-ptoxdb1t",
        "ComputeNodeState": "CREATED",
        "Mem": 8,
        "ResourceCreatedTime": "2018-06-15T14:43:18Z",
        "EnvName": "batch-env",
        "ComputeNodeInstanceId": "ins-9rikj9kw",
        "Cpu": 4,
    },
)
GUIDE_MESSAGE = (
    '{"Events":[{"EventVersion":"1.0","EventTime":"2018-06-15T14:43:17Z",'
    '"Region":"ap-guangzhou","Batch":{"ComputeNodeId":"node-0iy7wxyo",'
    '"EnvId":"env-ptoxdb1t","ComputeNodeState":"CREATED","Mem":8,'
    '"ResourceCreatedTime":"2018-06-15T14:43:18Z","EnvName":"batch-env",'
    '"ComputeNodeInstanceId":"ins-9rikj9kw","Cpu":4},'
    '"EventName":"COMPUTE_NODE_CREATED","EventVars":[]}]}'
)


def test_the_guides_message_is_made_byte_for_byte() -> None:
    body = encode(GUIDE_EVENT, time=NOW, region=REGION)
    assert base64.b64decode(body, validate=True).decode() == GUIDE_MESSAGE


def test_event_vars_are_given_back_in_their_order() -> None:
    event_vars = (("jobSucceed", "Success"), ("again", "Über \u2713"))
    body = encode(job_event(1), time=NOW, region=REGION, event_vars=event_vars)
    assert json.loads(base64.b64decode(body))["Events"][0]["EventVars"] == [
        {"Name": "jobSucceed", "Value": "Success"},
        {"Name": "again", "Value": "Über \u2713"},
    ]


def test_a_routing_key_says_what_it_is_about() -> None:
    assert routing_key(GUIDE_EVENT) == "batch.node.COMPUTE_NODE_CREATED.node-0iy7wxyo"
    assert routing_key(job_event(1)) == "batch.job.JOB_RUNNING.job-00000001"
