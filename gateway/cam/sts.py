"""The STS actions."""

from collections.abc import Mapping

from gateway.call import Call, Grant
from gateway.service import Empty, Operation, Wire


class GetCallerIdentityResponse(Wire):
    """What GetCallerIdentity answers."""

    arn: str
    account_id: str
    user_id: str
    principal_id: str
    type: str


async def get_caller_identity(
    call: Call, grant: Grant, request: Empty
) -> GetCallerIdentityResponse:
    """Who the caller is. Source: STS 2018-08-13."""
    principal = grant.principal
    return GetCallerIdentityResponse(
        arn=f"qcs::cam:{principal.owner_uin}:uin/{principal.uin}",
        account_id=principal.owner_uin,
        user_id=principal.uin,
        principal_id=principal.uin,
        type="CAMUser",
    )


OPERATIONS: Mapping[str, Operation] = {
    "GetCallerIdentity": Operation(Empty, get_caller_identity),
}
