"""Whether the nodes that an environment is to have from now on are on offer. Pure."""

from typing import Any

from sqlalchemy import Row

from gateway.batch import bare_metal, datatypes
from gateway.batch.env_data import check_offer, refuse_env, zones_of
from gateway.batch.environments.specs import read_spec, with_types
from gateway.batch.rules import Rules


def rules_for_change(
    request: datatypes.ModifyComputeEnvRequest, env: Row[Any], *, rules: Rules
) -> Rules:
    """Check a change against what is offered where the environment is; returns the rules there.

    Raises InvalidParameterValue.InstanceType for types, or for more nodes, that cannot be had. Of
    bare metal nothing is told by the catalogue.
    """
    spec = read_spec(env.created, resource_type=env.resource_type)
    if request.env_data is not None:
        spec = with_types(spec, request.env_data.instance_types)
    if isinstance(spec, bare_metal.NamedCpmComputeEnv):
        return rules
    here = rules.at(zones_of(spec.env_data, zone=env.zone))
    wanted = request.desired_compute_node_count
    if request.env_data is not None or (wanted is not None and wanted > env.desired_count):
        data = spec.env_data or datatypes.EnvData()
        check_offer(data, refuse=refuse_env, catalogue=here.catalogue)
    return here
