"""STS 2018-08-13: what each action is decided on.

A role is asked for by its whole name, so that is what the call is decided on; of the rest the
tables say nothing, and they are decided on `*`.
"""

from gateway.catalog.actions import Table, codes

_sts = Table(
    "sts",
    "2018-08-13",
    source="CAM user guide, roles; STS API 2018-08-13, error codes",
    errors=codes("""
AssumeRole: FailedOperation.CheckMFAError FailedOperation.MFATypeNotSupported InternalError.DbError
  InternalError.EncryptError InternalError.GetAppIdError InternalError.GetRoleError
  InternalError.GetSeedTokenError InternalError.IllegalRole InternalError.PbSerializeError
  InternalError.SystemError InternalError.UnknownError InvalidParameter.AccountNotAvaliable
  InvalidParameter.ExtendStrategyOverSize InvalidParameter.GrantOtherResource
  InvalidParameter.OverLimit InvalidParameter.OverTimeError InvalidParameter.ParamError
  InvalidParameter.PolicyTooLong InvalidParameter.ResouceError InvalidParameter.StrategyFormatError
  InvalidParameter.StrategyInvalid InvalidParameter.TempCodeNotAvaliable
  ResourceNotFound.RoleNotFound UnauthorizedOperation UnsupportedOperation
AssumeRoleWithSAML: InternalError.DbError InternalError.EncryptError InternalError.GetAppIdError
  InternalError.GetRoleError InternalError.GetSeedTokenError InternalError.IllegalRole
  InternalError.PbSerializeError InternalError.SystemError InternalError.UnknownError
  InvalidParameter.AccountNotAvaliable InvalidParameter.ExtendStrategyOverSize
  InvalidParameter.GrantOtherResource InvalidParameter.OverLimit InvalidParameter.OverTimeError
  InvalidParameter.ParamError InvalidParameter.PolicyTooLong InvalidParameter.ResouceError
  InvalidParameter.StrategyFormatError InvalidParameter.StrategyInvalid
  InvalidParameter.TempCodeNotAvaliable RequestLimitExceeded ResourceNotFound.RoleNotFound
  UnauthorizedOperation
AssumeRoleWithWebIdentity: InternalError.GetRoleError InternalError.SystemError
  InternalError.UnknownError InvalidParameter.OverLimit InvalidParameter.ParamError
  InvalidParameter.WebIdentityTokenError RequestLimitExceeded UnauthorizedOperation
GetCallerIdentity: AuthFailure.AccessKeyIllegal InternalError.GetSeedTokenError
  InvalidParameter.AccessKeyNotSupport
GetFederationToken: InternalError.DbError InternalError.EncryptError InternalError.GetAppIdError
  InternalError.GetSeedTokenError InternalError.SystemError InvalidParameter.AccountNotAvaliable
  InvalidParameter.ExtendStrategyOverSize InvalidParameter.GrantOtherResource
  InvalidParameter.OverTimeError InvalidParameter.ParamError InvalidParameter.PolicyTooLong
  InvalidParameter.ResouceError InvalidParameter.StrategyFormatError
  InvalidParameter.StrategyInvalid InvalidParameter.TempCodeNotAvaliable
  ResourceNotFound.RoleNotFound UnauthorizedOperation UnsupportedOperation
GetSessionToken: FailedOperation.CheckMFAError FailedOperation.MFATypeNotSupported
  FailedOperation.TempKeyNotAllowed InternalError.DbError InternalError.EncryptError
  InternalError.GetSeedTokenError InternalError.PbSerializeError InternalError.SystemError
  InternalError.UnknownError InvalidParameter.AccountNotAvaliable InvalidParameter.OverTimeError
  InvalidParameter.ParamError UnauthorizedOperation
QueryApiKey: InternalError.SystemError InternalError.UnknownError InvalidParameter.ParamError
"""),
)

_ROLE = "${RoleArn:role}"

ACTIONS = (
    _sts.write("AssumeRole", _ROLE),
    _sts.write("AssumeRoleWithSAML", _ROLE),
    _sts.write("AssumeRoleWithWebIdentity", _ROLE),
    _sts.read("GetCallerIdentity", "*"),
    _sts.write("GetFederationToken", "*"),
    _sts.write("GetSessionToken", "*"),
    _sts.read("QueryApiKey", "*"),
)
