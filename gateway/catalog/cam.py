"""CAM 2019-01-16: what each action is decided on.

The actions that administer users, groups, policies, roles, boundaries and keys; the ones of
consoles, single sign-on and message receivers are not in it.

Why: CAM's documents name its resources (`uin`, `groupid`, `policyid`, `role`, `roleName`) but no
table says which action is decided on which. An action is decided on everything it names and
changes. What is named in words that the call alone cannot turn into such a resource fails closed:
a user by Name is decided on `*`, a policy by PolicyName alone or the caller by an absent
TargetUin is a missing parameter. Whoever serves such an action looks the object up first, else a
deny on its number would not hold.

DescribeDecision is our own. Who made the call that it asks about is not in its parameters, so it
is decided as a list of users, and answered within what the caller may see of them.
"""

from gateway.catalog.actions import Table, codes

_DETAILS = """
ActionError ActionMiss ActionNotExist ActionServiceNotExist AttachmentFull ConditionContentError
ConditionError ConditionTypeError DescriptionLengthOverlimit EffectError NotSupportProduct
ParamError PolicyDocumentError PolicyDocumentLengthOverLimit PolicyNameError PrincipalError
PrincipalQcsError PrincipalQcsNotExist PrincipalServiceNotExist ResourceContentError ResourceError
ResourceProjectError ResourceQcsError ResourceRegionError ResourceServiceNotExist ResourceUinError
StatementError UserNotExist VersionError
"""

DOCUMENT_CODES = tuple(f"InvalidParameter.{detail}" for detail in _DETAILS.split())
"""What every action that takes a policy document may answer; `DOCUMENT` below."""

_cam = Table(
    "cam",
    "2019-01-16",
    source="CAM user guide, resource description; CAM API 2019-01-16, error codes",
    errors=codes(
        """
AddUser: AuthFailure.UnauthorizedOperation FailedOperation FailedOperation.ExistHighRiskOperations
  FailedOperation.ForbidAdd InvalidParameter.ParamError InvalidParameter.PasswordViolatedRules
  InvalidParameter.SubUserFull InvalidParameter.SubUserNameInUse InvalidParameter.UserNameIllegal
  RequestLimitExceeded.CreateUser
GetUser: AuthFailure.UnauthorizedOperation FailedOperation ResourceNotFound.UserNotExist
UpdateUser: AuthFailure.UnauthorizedOperation FailedOperation
  FailedOperation.ExistHighRiskOperations FailedOperation.Unmodifiable InvalidParameter
  InvalidParameter.PasswordViolatedRules InvalidParameter.UserNameIllegal
  ResourceNotFound.UserNotExist
DeleteUser: AuthFailure.UnauthorizedOperation FailedOperation FailedOperation.Unmodifiable
  OperationDenied.HaveKeys RequestLimitExceeded.UinLimitExceeded ResourceNotFound.UserNotExist
  UnauthorizedOperation.DeleteApiKey
ListUsers: FailedOperation
DescribeSubAccounts: FailedOperation InternalError.SystemError InvalidParameter
ListCollaborators: FailedOperation
CreateGroup: FailedOperation InvalidParameter.GroupFull InvalidParameter.GroupNameInUse
  InvalidParameter.ParamError
GetGroup: FailedOperation ResourceNotFound.UserNotExist
UpdateGroup: FailedOperation InvalidParameter.GroupNameInUse InvalidParameter.GroupNotExist
  InvalidParameter.ParamError ResourceNotFound.GroupNotExist
DeleteGroup: FailedOperation ResourceNotFound.UserNotExist
ListGroups: FailedOperation
AddUserToGroup: AuthFailure.UnauthorizedOperation FailedOperation InvalidParameter.GroupNotExist
  InvalidParameter.GroupUserFull InvalidParameter.UserGroupFull
  InvalidParameter.UserUinAndUinNotAllNull ResourceNotFound.UserNotExist
RemoveUserFromGroup: AuthFailure.UnauthorizedOperation FailedOperation
  InvalidParameter.UserUinAndUinNotAllNull ResourceNotFound.UserNotExist
ListUsersForGroup: FailedOperation ResourceNotFound.GroupNotExist
ListGroupsForUser: AuthFailure.UnauthorizedOperation FailedOperation ResourceNotFound.UserNotExist
CreatePolicy: DOCUMENT FailedOperation.PolicyFull FailedOperation.PolicyNameInUse
  InternalError.SystemError ResourceNotFound.GroupNotExist ResourceNotFound.NotFound
  ResourceNotFound.UserNotExist
GetPolicy: InternalError.SystemError InvalidParameter.ParamError InvalidParameter.PolicyIdError
  ResourceNotFound.PolicyIdNotFound
UpdatePolicy: DOCUMENT FailedOperation.OrganizationPolicyOperateError
  FailedOperation.PolicyNameInUse InternalError.SystemError InvalidParameter.PolicyIdError
  InvalidParameter.PolicyIdNotExist OperationDenied.PolicyTagConflict
  ResourceNotFound.GroupNotExist ResourceNotFound.NotFound ResourceNotFound.PolicyIdNotFound
  ResourceNotFound.UserNotExist
DeletePolicy: FailedOperation.OrganizationPolicyOperateError InternalError.SystemError
  InvalidParameter.OperatePoliciesOverLimit InvalidParameter.ParamError
  InvalidParameter.PolicyIdError InvalidParameter.PolicyIdNotExist ResourceNotFound.NotFound
  ResourceNotFound.PolicyIdNotFound
ListPolicies: FailedOperation.GetUserAreaError InternalError.SystemError
  InvalidParameter.GroupIdError InvalidParameter.KeywordError InvalidParameter.ParamError
  InvalidParameter.ScopeError InvalidParameter.SearchKeywordLengthError
  InvalidParameter.ServiceTypeError InvalidParameter.UinError
CreatePolicyVersion: DOCUMENT FailedOperation FailedOperation.OrganizationPolicyOperateError
  FailedOperation.PolicyFull FailedOperation.PolicyNameInUse FailedOperation.PolicyVersionFull
  InternalError.SystemError InvalidParameter.PolicyIdNotExist
  OperationDenied.CicPolicyOperationDenied OperationDenied.PolicyTagConflict
  ResourceNotFound.GroupNotExist ResourceNotFound.NotFound ResourceNotFound.UserNotExist
DeletePolicyVersion: FailedOperation FailedOperation.OrganizationPolicyOperateError
  FailedOperation.PolicyNameInUse FailedOperation.PolicyVersionAlreadyDefault
  InternalError.SystemError InvalidParameter.ActionError InvalidParameter.AttachmentFull
  InvalidParameter.ConditionError InvalidParameter.DescriptionLengthOverlimit
  InvalidParameter.EffectError InvalidParameter.NotSupportProduct InvalidParameter.ParamError
  InvalidParameter.PolicyDocumentError InvalidParameter.PolicyDocumentLengthOverLimit
  InvalidParameter.PolicyIdError InvalidParameter.PolicyIdNotExist InvalidParameter.PolicyNameError
  InvalidParameter.PolicyVersionNotExists InvalidParameter.PrincipalError
  InvalidParameter.ResourceError InvalidParameter.StatementError InvalidParameter.UserNotExist
  InvalidParameter.VersionError OperationDenied.CicPolicyOperationDenied
  ResourceNotFound.GroupNotExist ResourceNotFound.NotFound ResourceNotFound.PolicyIdNotFound
  ResourceNotFound.UserNotExist
GetPolicyVersion: InternalError.SystemError InvalidParameter.ParamError
  InvalidParameter.PolicyIdError InvalidParameter.PolicyVersionNotExists
  ResourceNotFound.PolicyIdNotFound
ListPolicyVersions: InternalError.SystemError InvalidParameter.ParamError
  InvalidParameter.PolicyIdNotExist ResourceNotFound.PolicyIdNotFound
SetDefaultPolicyVersion: DOCUMENT FailedOperation.OrganizationPolicyOperateError
  FailedOperation.PolicyNameInUse FailedOperation.PolicyVersionAlreadyDefault
  InternalError.SystemError InvalidParameter.PolicyIdError InvalidParameter.PolicyIdNotExist
  InvalidParameter.PolicyVersionNotExists OperationDenied.CicPolicyOperationDenied
  ResourceNotFound.GroupNotExist ResourceNotFound.NotFound ResourceNotFound.PolicyIdNotFound
  ResourceNotFound.UserNotExist
AttachUserPolicy: FailedOperation.OrganizationPolicyOperateError FailedOperation.PolicyFull
  InternalError.SystemError InvalidParameter.AttachmentFull InvalidParameter.ParamError
  InvalidParameter.PolicyIdError InvalidParameter.PolicyIdNotExist InvalidParameter.UserNotExist
  ResourceNotFound.PolicyIdNotFound ResourceNotFound.UserNotExist
DetachUserPolicy: FailedOperation.OrganizationPolicyOperateError InternalError.SystemError
  InvalidParameter.AttachmentFull InvalidParameter.ParamError InvalidParameter.PolicyIdError
  InvalidParameter.PolicyIdNotExist InvalidParameter.UserNotExist ResourceNotFound.PolicyIdNotFound
  ResourceNotFound.UserNotExist
AttachGroupPolicy: FailedOperation.OrganizationPolicyOperateError FailedOperation.PolicyFull
  InternalError.SystemError InvalidParameter.AttachmentFull InvalidParameter.ParamError
  InvalidParameter.PolicyIdError InvalidParameter.PolicyIdNotExist InvalidParameter.UserNotExist
  ResourceNotFound.GroupNotExist ResourceNotFound.PolicyIdNotFound ResourceNotFound.UserNotExist
DetachGroupPolicy: FailedOperation.OrganizationPolicyOperateError InternalError.SystemError
  InvalidParameter.ParamError InvalidParameter.PolicyIdError InvalidParameter.PolicyIdNotExist
  InvalidParameter.UserNotExist ResourceNotFound.GroupNotExist ResourceNotFound.UserNotExist
AttachRolePolicy: FailedOperation.OrganizationPolicyOperateError InternalError.SystemError
  InvalidParameter.AttachmentFull InvalidParameter.ParamError InvalidParameter.PolicyIdNotExist
  InvalidParameter.PolicyNameError InvalidParameter.RoleNotExist InvalidParameter.VersionError
DetachRolePolicy: FailedOperation.OrganizationPolicyOperateError InternalError.SystemError
  InvalidParameter.ParamError InvalidParameter.PolicyIdNotExist InvalidParameter.RoleNotExist
ListAttachedUserPolicies: InternalError.SystemError InvalidParameter.ParamError
ListAttachedUserAllPolicies: InvalidParameter.ParamError ResourceNotFound.UserNotExist
  UnauthorizedOperation
ListAttachedGroupPolicies: InternalError.SystemError InvalidParameter.ParamError
  InvalidParameter.SearchKeywordLengthError
ListAttachedRolePolicies: InternalError.SystemError InvalidParameter.ParamError
ListEntitiesForPolicy: InternalError.SystemError InvalidParameter.EntityFilterError
  InvalidParameter.ParamError InvalidParameter.PolicyIdError
ListPoliciesGrantingServiceAccess: InternalError InternalError.SystemError InvalidParameter
  InvalidParameter.ParamError
CreateRole: FailedOperation.TagResourceFailed InternalError.SystemError
  InvalidParameter.ActionError InvalidParameter.ActionMiss InvalidParameter.AttachmentFull
  InvalidParameter.ConditionContentError InvalidParameter.ConditionError
  InvalidParameter.ConditionTypeError InvalidParameter.DescriptionLengthOverlimit
  InvalidParameter.EffectError InvalidParameter.ParamError InvalidParameter.PrincipalError
  InvalidParameter.PrincipalQcsCrossError InvalidParameter.PrincipalQcsError
  InvalidParameter.PrincipalQcsNotExist InvalidParameter.PrincipalServiceNotExist
  InvalidParameter.RoleFull InvalidParameter.RoleNameError InvalidParameter.RoleNameInUse
  InvalidParameter.StatementError InvalidParameter.TagLimitExceeded InvalidParameter.TagParamError
  InvalidParameter.UserNotExist InvalidParameter.VersionError
GetRole: InternalError.SystemError InvalidParameter.ParamError InvalidParameter.RoleNotExist
DeleteRole: InternalError.SystemError InvalidParameter.OrganizationRoleOperateError
  InvalidParameter.ParamError InvalidParameter.PolicyNameError InvalidParameter.RoleNotExist
  InvalidParameter.TagParamError
DescribeRoleList: FailedOperation InternalError.SystemError InvalidParameter.ParamError
UpdateAssumeRolePolicy: InternalError.SystemError InvalidParameter.ActionError
  InvalidParameter.ActionMiss InvalidParameter.AttachmentFull
  InvalidParameter.ConditionContentError InvalidParameter.ConditionError
  InvalidParameter.ConditionTypeError InvalidParameter.EffectError InvalidParameter.ParamError
  InvalidParameter.PolicyDocumentLengthOverLimit InvalidParameter.PrincipalError
  InvalidParameter.PrincipalQcsCrossError InvalidParameter.PrincipalQcsError
  InvalidParameter.PrincipalQcsNotExist InvalidParameter.PrincipalServiceNotExist
  InvalidParameter.RoleNotExist InvalidParameter.StatementError InvalidParameter.UserNotExist
  InvalidParameter.VersionError
UpdateRoleDescription: InternalError.SystemError InvalidParameter.DescriptionLengthOverlimit
  InvalidParameter.ParamError InvalidParameter.RoleNotExist
UpdateRoleConsoleLogin: InternalError.SystemError InvalidParameter.ParamError
  InvalidParameter.RoleNotExist
UpdateRoleSessionDuration: InternalError.SystemError InvalidParameter.ParamError
  InvalidParameter.RoleNotExist
TagRole: AuthFailure.UnauthorizedOperation FailedOperation.TagResourceFailed InternalError
  InternalError.SystemError InvalidParameter InvalidParameter.ParamError
  InvalidParameter.RoleNotExist InvalidParameter.TagLimitExceeded InvalidParameter.TagParamError
UntagRole: AuthFailure.UnauthorizedOperation FailedOperation.UnTagResourceFailed InternalError
  InternalError.SystemError InvalidParameter InvalidParameter.ParamError
  InvalidParameter.RoleNameError InvalidParameter.RoleNotExist InvalidParameter.TagParamError
CreateServiceLinkedRole: FailedOperation.TagResourceFailed InternalError.SystemError
  InvalidParameter.ConditionContentError InvalidParameter.ConditionError
  InvalidParameter.ConditionTypeError InvalidParameter.DescriptionLengthOverlimit
  InvalidParameter.ParamError InvalidParameter.PolicyIdNotExist InvalidParameter.PrincipalError
  InvalidParameter.PrincipalQcsError InvalidParameter.PrincipalQcsNotExist
  InvalidParameter.PrincipalServiceNotExist InvalidParameter.RoleNameError
  InvalidParameter.RoleNameInUse InvalidParameter.TagLimitExceeded InvalidParameter.TagParamError
DeleteServiceLinkedRole: InternalError.SystemError InvalidParameter.ParamError
  InvalidParameter.RoleNotExist
GetServiceLinkedRoleDeletionStatus: InternalError.SystemError InvalidParameter.DeletionTaskNotExist
  InvalidParameter.ParamError
CreateAccessKey: AuthFailure.UnauthorizedOperation FailedOperation.Accesskey
  InvalidParameter.ParamError InvalidParameter.UserNotExist OperationDenied.AccessKeyOverLimit
  OperationDenied.SubUin OperationDenied.UinNotMatch
UpdateAccessKey: AuthFailure.UnauthorizedOperation FailedOperation.Accesskey
  InvalidParameter.ParamError InvalidParameter.UserNotExist OperationDenied.AccessKeyOverLimit
  OperationDenied.SubUin OperationDenied.UinNotMatch ResourceNotFound.SecretNotExist
DeleteAccessKey: AuthFailure.UnauthorizedOperation FailedOperation.Accesskey
  InvalidParameter.ParamError InvalidParameter.UserNotExist OperationDenied.AccessKeyOverLimit
  OperationDenied.SubUin OperationDenied.UinNotMatch ResourceNotFound.SecretNotExist
ListAccessKeys: AuthFailure.UnauthorizedOperation FailedOperation.Accesskey
  InternalError.UnknownError InvalidParameter.ParamError InvalidParameter.UserNotExist
  OperationDenied.AccessKeyOverLimit OperationDenied.SubUin OperationDenied.UinNotMatch
  ResourceNotFound.SecretNotExist
GetSecurityLastUsed: FailedOperation InvalidParameter
PutUserPermissionsBoundary: InternalError.SystemError InvalidParameter.OperateEntitiesOverLimit
  InvalidParameter.ParamError InvalidParameter.PolicyIdNotExist InvalidParameter.RoleNotExist
  InvalidParameter.ServiceLinkedPolicyCantInPermissionBoundary InvalidParameter.UserNotExist
  UnauthorizedOperation
DeleteUserPermissionsBoundary: InternalError.SystemError InvalidParameter.OperateEntitiesOverLimit
  InvalidParameter.ParamError InvalidParameter.RoleNotExist InvalidParameter.UserNotExist
  UnauthorizedOperation
GetUserPermissionBoundary: InternalError.SystemError InvalidParameter.ParamError
  InvalidParameter.PolicyIdNotExist ResourceNotFound.PolicyIdNotFound
PutRolePermissionsBoundary: InternalError.SystemError InvalidParameter.OperateEntitiesOverLimit
  InvalidParameter.ParamError InvalidParameter.PolicyIdNotExist InvalidParameter.RoleNotExist
  InvalidParameter.ServiceLinkedPolicyCantInPermissionBoundary
  InvalidParameter.ServiceLinkedRoleCantUsePermissionBoundary InvalidParameter.UserNotExist
  UnauthorizedOperation
DeleteRolePermissionsBoundary: InternalError.SystemError InvalidParameter.OperateEntitiesOverLimit
  InvalidParameter.ParamError InvalidParameter.PolicyIdNotExist InvalidParameter.RoleNotExist
  InvalidParameter.ServiceLinkedRoleCantUsePermissionBoundary InvalidParameter.UserNotExist
  UnauthorizedOperation
GetRolePermissionBoundary: InternalError.SystemError InvalidParameter.ParamError
  InvalidParameter.PolicyIdNotExist ResourceNotFound.PolicyIdNotFound
GetAccountSummary: InternalError.SystemError
GetUserAppId: FailedOperation InternalError.SystemError
DescribeDecision: ResourceNotFound.Decision
""",
        DOCUMENT=DOCUMENT_CODES,
    ),
)

_GROUP = "groupid/${GroupId:number}"
_MEMBERS = "groupid/${Info[].GroupId:number} & uin/${Info[].Uin:number}"
_POLICY = "policyid/${PolicyId:number}"
_ROLE = "role/${RoleId} | roleName/${RoleName}"
_ROLE_NUMBER = "role/${RoleId:number} | roleName/${RoleName}"
_USER = "uin/${TargetUin:number}"
_GRANTED = "uin/${TargetUin:number} | role/${RoleId:number} | groupid/${GroupId:number}"

ACTIONS = (
    _cam.write("AddUser", "uin/*"),
    _cam.read("GetUser", "*"),
    _cam.write("UpdateUser", "*"),
    _cam.write("DeleteUser", "*"),
    _cam.read("ListUsers", "*"),
    _cam.read("DescribeSubAccounts", "uin/${FilterSubAccountUin[]:number}"),
    _cam.read("ListCollaborators", "*"),
    _cam.write("CreateGroup", "groupid/*"),
    _cam.read("GetGroup", _GROUP),
    _cam.write("UpdateGroup", _GROUP),
    _cam.write("DeleteGroup", _GROUP),
    _cam.read("ListGroups", "*"),
    _cam.write("AddUserToGroup", _MEMBERS),
    _cam.write("RemoveUserFromGroup", _MEMBERS),
    _cam.read("ListUsersForGroup", _GROUP),
    _cam.read("ListGroupsForUser", "uin/${SubUin:number}"),
    _cam.write("CreatePolicy", "policyid/*"),
    _cam.read("GetPolicy", _POLICY),
    _cam.write("UpdatePolicy", _POLICY),
    _cam.write("DeletePolicy", "policyid/${PolicyId[]:number}"),
    _cam.read("ListPolicies", "*"),
    _cam.write("CreatePolicyVersion", _POLICY),
    _cam.write("DeletePolicyVersion", _POLICY),
    _cam.read("GetPolicyVersion", _POLICY),
    _cam.read("ListPolicyVersions", _POLICY),
    _cam.write("SetDefaultPolicyVersion", _POLICY),
    _cam.write("AttachUserPolicy", _POLICY + " & uin/${AttachUin:number}"),
    _cam.write("DetachUserPolicy", _POLICY + " & uin/${DetachUin:number}"),
    _cam.write("AttachGroupPolicy", _POLICY + " & groupid/${AttachGroupId:number}"),
    _cam.write("DetachGroupPolicy", _POLICY + " & groupid/${DetachGroupId:number}"),
    _cam.write(
        "AttachRolePolicy", _POLICY + " & role/${AttachRoleId} | roleName/${AttachRoleName}"
    ),
    _cam.write(
        "DetachRolePolicy", _POLICY + " & role/${DetachRoleId} | roleName/${DetachRoleName}"
    ),
    _cam.read("ListAttachedUserPolicies", _USER),
    _cam.read("ListAttachedUserAllPolicies", _USER),
    _cam.read("ListAttachedGroupPolicies", "groupid/${TargetGroupId:number}"),
    _cam.read("ListAttachedRolePolicies", _ROLE),
    _cam.read("ListEntitiesForPolicy", _POLICY),
    _cam.read("ListPoliciesGrantingServiceAccess", _GRANTED),
    _cam.write("CreateRole", "roleName/${RoleName}"),
    _cam.read("GetRole", _ROLE),
    _cam.write("DeleteRole", _ROLE),
    _cam.read("DescribeRoleList", "*"),
    _cam.write("UpdateAssumeRolePolicy", _ROLE),
    _cam.write("UpdateRoleDescription", _ROLE),
    _cam.write("UpdateRoleConsoleLogin", _ROLE_NUMBER),
    _cam.write("UpdateRoleSessionDuration", _ROLE_NUMBER),
    _cam.write("TagRole", _ROLE),
    _cam.write("UntagRole", _ROLE),
    _cam.write("CreateServiceLinkedRole", "role/tencentcloudServiceRole/*"),
    _cam.write("DeleteServiceLinkedRole", "role/tencentcloudServiceRoleName/${RoleName}"),
    _cam.read("GetServiceLinkedRoleDeletionStatus", "*"),
    _cam.write("CreateAccessKey", _USER),
    _cam.write("UpdateAccessKey", _USER),
    _cam.write("DeleteAccessKey", _USER),
    _cam.read("ListAccessKeys", _USER),
    _cam.read("GetSecurityLastUsed", "*"),
    _cam.write("PutUserPermissionsBoundary", _POLICY + " & " + _USER),
    _cam.write("DeleteUserPermissionsBoundary", _USER),
    _cam.read("GetUserPermissionBoundary", _USER),
    _cam.write("PutRolePermissionsBoundary", _POLICY + " & " + _ROLE),
    _cam.write("DeleteRolePermissionsBoundary", _ROLE),
    _cam.read("GetRolePermissionBoundary", "role/${RoleId}"),
    _cam.read("GetAccountSummary", "*"),
    _cam.read("GetUserAppId", "*"),
    _cam.read("DescribeDecision", "uin/*", is_list=True),
)
