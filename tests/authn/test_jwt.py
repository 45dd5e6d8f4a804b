"""Bearer tokens: only a trusted issuer's, signed its one way, for us, now, and not for long."""

import base64
import json
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from gateway.authn import Identity, authenticate
from gateway.authn.jwt import CACHED_MAX, Algorithm, Issuer, JwtAuthenticator
from gateway.call import HttpRequest, Principal
from gateway.config import SettingsError
from gateway.errors import AuthFailure
from tests.authn.requests import NOW, http_request

ISSUER, AUDIENCE, OWNER = "https://login.example.com", "qcs-gateway", "100000000001"
NOW_S = int(NOW.timestamp())
SECRET = "0123456789abcdef" * 4

RSA_KEY = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
OTHER_RSA_KEY = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
SIGNING: dict[Algorithm, Any] = {
    Algorithm.RS256: RSA_KEY,
    Algorithm.ES256: EC_KEY,
    Algorithm.EDDSA: ED_KEY,
    Algorithm.HS256: SECRET,
}


def pem(key: Any) -> str:
    if isinstance(key, str):
        return key
    encoded: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded.decode()


def key_set(*keys: tuple[str | None, Any], **members: str) -> str:
    entries = []
    for key_id, key in keys:
        entry = dict(jwt.get_algorithm_by_name("RS256").to_jwk(key.public_key(), as_dict=True))
        entries.append(entry | members | ({} if key_id is None else {"kid": key_id}))
    return json.dumps({"keys": entries})


def issuer(algorithm: Algorithm = Algorithm.RS256, **changes: Any) -> Issuer:
    fields: dict[str, Any] = {
        "name": ISSUER,
        "algorithm": algorithm,
        "key": pem(SIGNING[algorithm]),
        "audience": AUDIENCE,
        "owner_uins": frozenset({OWNER}),
        "max_lifetime_s": 3_600,
    }
    return Issuer(**(fields | changes))


def token(
    key: Any = RSA_KEY,
    algorithm: str = "RS256",
    *,
    headers: dict[str, Any] | None = None,
    **claims: Any,
) -> str:
    payload = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "iat": NOW_S,
        "exp": NOW_S + 600,
        "uin": "100000000101",
        "name": "alice",
    }
    kept = {name: value for name, value in (payload | claims).items() if value is not None}
    return jwt.encode(kept, key, algorithm=algorithm, headers=headers)


def bearing(text: str, *, after_s: int = 0, scheme: str = "Bearer") -> HttpRequest:
    return http_request(
        headers={"authorization": f"{scheme} {text}"},
        received_at=NOW + timedelta(seconds=after_s),
    )


def identify(authenticator: JwtAuthenticator, request: HttpRequest) -> Identity:
    try:
        authenticate(request, (authenticator,)).send(None)
    except StopIteration as finished:
        identity: Identity = finished.value
        return identity
    raise AssertionError("it waited for something")


def refusal(text: str, trusted: Issuer | None = None, *, after_s: int = 0) -> str:
    authenticator = JwtAuthenticator([trusted or issuer()])
    for _ in range(2):  # what was refused is not remembered as good
        with pytest.raises(AuthFailure) as refused:
            identify(authenticator, bearing(text, after_s=after_s))
        assert refused.value.code == "AuthFailure.TokenFailure"
    return refused.value.message


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_good_token_is_believed(algorithm: Algorithm) -> None:
    text = token(SIGNING[algorithm], algorithm.value)
    authenticator = JwtAuthenticator([issuer(algorithm)])
    for scheme in ("Bearer", "bearer"):
        identity = identify(authenticator, bearing(text, scheme=scheme))
        assert identity.principal == Principal(OWNER, "100000000101", "alice", bearer=True)
        assert identity.service is None
        assert identity.signature is None


def test_another_scheme_is_left_to_others() -> None:
    with pytest.raises(AuthFailure) as refused:
        identify(JwtAuthenticator([issuer()]), bearing(token(), scheme="Basic"))
    assert refused.value.detail == "InvalidAuthorization"


@pytest.mark.parametrize(
    ("claims", "word"),
    [
        ({"exp": NOW_S}, "expired"),
        ({"exp": NOW_S - 1}, "expired"),
        ({"exp": NOW_S + 3_601}, "longer"),
        ({"exp": 10**30}, "longer"),
        ({"iat": NOW_S - 3_500, "exp": NOW_S + 101}, "longer"),
        ({"iat": NOW_S + 61}, "not valid yet"),
        ({"nbf": NOW_S + 61}, "not valid yet"),
        ({"exp": None}, "its claim `exp` is missing"),
        ({"iat": None}, "its claim `iat` is missing"),
        ({"aud": None}, "its claim `aud` is missing"),
        ({"iss": None}, "its claim `iss` is missing"),
        ({"aud": "another"}, "audience"),
        ({"iss": "https://evil.example.com"}, "issuer is not known"),
        ({"uin": "*"}, "not a uin"),
        ({"uin": "1/2"}, "not a uin"),
        ({"uin": True}, "not a uin"),
        ({"uin": None}, "not a uin"),
        ({"uin": None, "sub": "alice"}, "not a uin"),
        ({"uin": OWNER}, "root"),
        ({"owner_uin": "100000000002"}, "may not speak"),
        ({"owner_uin": ["100000000001"]}, "not a uin"),
    ],
)
def test_a_claim_that_is_wrong_is_refused(claims: dict[str, Any], word: str) -> None:
    assert word in refusal(token(**claims))


@pytest.mark.parametrize("claim", ["exp", "iat", "aud"])
def test_who_has_not_the_key_is_not_told_what_is_missing(claim: str) -> None:
    assert "signature" in refusal(token(OTHER_RSA_KEY, "RS256", **{claim: None}))


@pytest.mark.parametrize(
    ("methods", "mfa"), [(None, False), ([], False), (["pwd"], False), (["otp", "mfa"], True)]
)
def test_a_token_says_whether_more_than_one_thing_was_proved(methods: Any, mfa: bool) -> None:
    identity = identify(JwtAuthenticator([issuer()]), bearing(token(amr=methods)))
    assert identity.principal.mfa is mfa


@pytest.mark.parametrize("methods", ["mfa", {"mfa": True}, [["mfa"]], ["mfa", 1], True])
def test_methods_that_are_no_list_of_strings_are_refused(methods: Any) -> None:
    assert "`amr`" in refusal(token(amr=methods))


@pytest.mark.parametrize("value", ["Infinity", "NaN", '"1700000600"', "true", "1e400", "[]"])
def test_a_time_that_is_no_number_is_refused(value: str) -> None:
    claims = f'{{"iss":"{ISSUER}","aud":"{AUDIENCE}","iat":{NOW_S},"exp":{value},"uin":"1"}}'
    text = jwt.PyJWS().encode(claims.encode(), RSA_KEY, algorithm="RS256")
    assert "`exp` is not a time" in refusal(text)


@pytest.mark.parametrize(
    "header",
    [
        {"jku": "https://evil.example.com/keys"},
        {"x5u": "https://evil.example.com/chain"},
        {"jwk": {"kty": "oct", "k": "AAAA"}},
        {"x5c": ["AAAA"]},
        {"kid": "another"},
    ],
)
def test_a_token_does_not_choose_its_key(header: dict[str, Any]) -> None:
    assert refusal(token(headers=header), issuer(key=key_set(("one", RSA_KEY))))


def test_an_unsigned_token_is_refused() -> None:
    unsigned = jwt.encode({"iss": ISSUER, "aud": AUDIENCE}, "", algorithm="none")
    refusal(unsigned)
    header, payload, _ = token().split(".")
    refusal(f"{header}.{payload}.")


def test_the_public_key_is_no_secret_to_sign_with() -> None:
    encoded = pem(RSA_KEY)
    header, payload = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in (
            {"alg": "HS256", "typ": "JWT"},
            {"iss": ISSUER, "aud": AUDIENCE, "iat": NOW_S, "exp": NOW_S + 60, "uin": "1"},
        )
    )
    hs256 = jwt.get_algorithm_by_name("HS256")
    digest = hs256.sign(f"{header}.{payload}".encode(), encoded.encode())
    refusal(f"{header}.{payload}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}")


def test_another_algorithm_is_refused_though_rightly_signed() -> None:
    refusal(token(algorithm="RS512"))
    refusal(token(algorithm="PS256"))
    refusal(token(SECRET, "HS512"), issuer(Algorithm.HS256))


def test_another_key_and_a_changed_token_are_refused() -> None:
    refusal(token(OTHER_RSA_KEY))
    header, payload, signature = token().split(".")
    _, other_payload, _ = token(uin="100000000102").split(".")
    assert payload != other_payload
    refusal(f"{header}.{other_payload}.{signature}")


def test_keys_of_a_set_are_found_by_their_id() -> None:
    both = issuer(key=key_set(("one", OTHER_RSA_KEY), ("two", RSA_KEY)))
    authenticator = JwtAuthenticator([both])
    assert identify(authenticator, bearing(token(headers={"kid": "two"})))
    refusal(token(headers={"kid": "one"}), both)
    refusal(token(), both)


def test_a_verified_token_is_remembered_until_it_expires() -> None:
    authenticator = JwtAuthenticator([issuer()])
    text = token()
    first = identify(authenticator, bearing(text))
    assert identify(authenticator, bearing(text, after_s=599)) is first
    for _ in range(2):
        with pytest.raises(AuthFailure, match="expired"):
            identify(authenticator, bearing(text, after_s=600))


def test_no_more_tokens_are_remembered_than_stated() -> None:
    trusted = issuer(Algorithm.HS256)
    authenticator = JwtAuthenticator([trusted])
    first_text = token(SECRET, "HS256")
    first = identify(authenticator, bearing(first_text))
    for number in range(CACHED_MAX):
        identify(authenticator, bearing(token(SECRET, "HS256", jti=str(number))))
    again = identify(authenticator, bearing(first_text))
    assert again == first
    assert again is not first


def test_an_issuer_of_several_accounts_must_say_which() -> None:
    several = issuer(owner_uins=frozenset({OWNER, "100000000002"}))
    assert "owner_uin" in refusal(token(), several)
    identity = identify(JwtAuthenticator([several]), bearing(token(owner_uin=100000000002)))
    assert identity.principal.owner_uin == "100000000002"


def test_a_name_that_could_not_stand_in_a_log_is_not_taken() -> None:
    identity = identify(JwtAuthenticator([issuer()]), bearing(token(name="a\nb")))
    assert identity.principal.name == "100000000101"


@pytest.mark.parametrize(
    "unusable",
    [
        {"key": ""},
        {"key": "not a key"},
        {"key": "{"},
        {"key": '{"keys": []}'},
        {"key": '{"keys": [1]}'},
        {"key": '{"keys": [{"kty": "oct", "k": "AAAA"}]}'},
        {"key": key_set(("one", RSA_KEY), use="enc")},
        {"key": key_set(("one", RSA_KEY), alg="RS512")},
        {"key": key_set(("one", RSA_KEY), ("one", OTHER_RSA_KEY))},
        {"key": pem(EC_KEY)},
        {"algorithm": Algorithm.HS256, "key": pem(RSA_KEY)},
        {"algorithm": Algorithm.HS256, "key": "too short"},
    ],
)
def test_a_key_that_cannot_be_used_is_an_error_at_the_start(unusable: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        JwtAuthenticator([issuer(**unusable)])


def test_two_issuers_of_one_name_are_an_error_at_the_start() -> None:
    with pytest.raises(SettingsError):
        JwtAuthenticator([issuer(), issuer(Algorithm.ES256)])


NAMES: list[Any] = [ISSUER, [], {}, 1, None]
segments = st.binary(max_size=40) | st.sampled_from(
    [b'{"alg":"RS256"}', b'{"alg":["RS256"]}', b'{"alg":null,"kid":1}', b"[]", b"[" * 5_000]
    + [json.dumps({"iss": name}).encode() for name in NAMES]
)


@given(parts=st.lists(segments, max_size=4), raw=st.text(max_size=30), encoded=st.booleans())
def test_nothing_hostile_does_more_than_be_refused(
    parts: list[bytes], raw: str, encoded: bool
) -> None:
    text = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
    with pytest.raises(AuthFailure):
        identify(JwtAuthenticator([issuer()]), bearing(text if encoded else raw))
