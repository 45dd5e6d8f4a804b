"""The resources of this room that carry tags: jobs, environments and task templates."""

from collections.abc import Mapping

from gateway.attributes import Attributes, Kind
from gateway.batch.tables import compute_env, job, tag, task_template
from gateway.store import Store

JOB = Kind.by_id(job, tag)
ENV = Kind.by_id(compute_env, tag)
TEMPLATE = Kind.by_id(task_template, tag)
KINDS: Mapping[str, Kind] = {"job": JOB, "computeenv": ENV, "tasktemplate": TEMPLATE}


def attributes_of(store: Store) -> Attributes:
    """Tells the decision what they carry."""
    return Attributes(store, service="batch", kinds=KINDS)
