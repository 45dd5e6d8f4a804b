"""The actions of the catalogue that no service serves yet.

They are decided on and recorded like any other, then answered UnsupportedOperation. A name that
is built leaves this table; nothing is added to it.
"""

from collections.abc import Mapping

_NAMES: Mapping[str, str] = {
    "cam": """
        AddUser GetUser UpdateUser DeleteUser ListUsers DescribeSubAccounts
        ListCollaborators CreateGroup GetGroup UpdateGroup DeleteGroup ListGroups
        AddUserToGroup RemoveUserFromGroup ListUsersForGroup ListGroupsForUser CreatePolicy
        GetPolicy UpdatePolicy DeletePolicy ListPolicies CreatePolicyVersion
        DeletePolicyVersion GetPolicyVersion ListPolicyVersions SetDefaultPolicyVersion
        AttachUserPolicy DetachUserPolicy AttachGroupPolicy DetachGroupPolicy
        AttachRolePolicy DetachRolePolicy ListAttachedUserPolicies
        ListAttachedUserAllPolicies ListAttachedGroupPolicies ListAttachedRolePolicies
        ListEntitiesForPolicy ListPoliciesGrantingServiceAccess CreateRole GetRole
        DeleteRole DescribeRoleList UpdateAssumeRolePolicy UpdateRoleDescription
        UpdateRoleConsoleLogin UpdateRoleSessionDuration TagRole UntagRole
        CreateServiceLinkedRole DeleteServiceLinkedRole GetServiceLinkedRoleDeletionStatus
        CreateAccessKey UpdateAccessKey DeleteAccessKey ListAccessKeys GetSecurityLastUsed
        PutUserPermissionsBoundary DeleteUserPermissionsBoundary GetUserPermissionBoundary
        PutRolePermissionsBoundary DeleteRolePermissionsBoundary GetRolePermissionBoundary
        GetAccountSummary GetUserAppId
    """,
    "sts": """
        AssumeRoleWithSAML AssumeRoleWithWebIdentity GetSessionToken QueryApiKey
    """,
    "cmq": """
        DescribeQueueDetail DescribeTopicDetail
    """,
}

UNBUILT: frozenset[tuple[str, str]] = frozenset(
    (service, name) for service, names in _NAMES.items() for name in names.split()
)
"""Pairs of service and action name."""
