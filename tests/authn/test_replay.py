"""A signature is good for what it was made for; compared with a model that forgets nothing."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.authn import Signature
from gateway.authn.replay import Claim, ReplayGuard, claim_of
from gateway.call import Call
from gateway.errors import AuthFailure
from tests.authn.requests import NOW

SIGNED_AT = int(NOW.timestamp())


@dataclass(frozen=True)
class Use:
    """One use of a signature: which, for what, and how long after the one before."""

    number: int
    claim: Claim
    wait_s: float


def describe(action: str = "DescribeJob", *, region: str = "ap-guangzhou") -> Claim:
    return Claim(action, "2017-03-12", region, mutating=False, repeatable=False)


def change(action: str = "TerminateJob", *, repeatable: bool = False) -> Claim:
    return Claim(action, "2017-03-12", "ap-guangzhou", mutating=True, repeatable=repeatable)


def allowed(guard: ReplayGuard, claim: Claim, *, after_s: float = 0, number: int = 0) -> bool:
    return passes(guard, Signature(f"{number:064x}", SIGNED_AT), claim, NOW, after_s)


def passes(
    guard: ReplayGuard, signature: Signature, claim: Claim, start: datetime, after_s: float
) -> bool:
    try:
        guard.check(signature, claim=claim, now=start + timedelta(seconds=after_s))
    except AuthFailure as refused:
        return refused.detail != "SignatureExpire"
    return True


def test_two_calls_of_one_second_may_share_a_signature() -> None:
    guard = ReplayGuard()
    assert allowed(guard, describe())
    assert allowed(guard, change(), after_s=2)
    assert allowed(guard, change(), after_s=2)


def test_later_another_action_or_region_is_refused_and_the_same_read_is_not() -> None:
    guard = ReplayGuard()
    assert allowed(guard, describe())
    assert not allowed(guard, change(), after_s=2.1)
    assert not allowed(guard, describe(region="ap-shanghai"), after_s=2.1)
    assert allowed(guard, describe(), after_s=299)


def test_later_a_change_is_repeated_only_with_a_client_token() -> None:
    guard = ReplayGuard()
    assert allowed(guard, change())
    assert not allowed(guard, change(), after_s=3)
    assert allowed(guard, change("SubmitJob", repeatable=True), number=1)
    assert allowed(guard, change("SubmitJob", repeatable=True), number=1, after_s=3)


def test_strict_refuses_another_action_at_once() -> None:
    guard = ReplayGuard(strict=True)
    assert allowed(guard, describe())
    assert not allowed(guard, change())
    assert allowed(guard, describe())


def test_a_client_token_must_be_something() -> None:
    call = Call("id", "batch", "2017-03-12", "SubmitJob", "r", {"ClientToken": ""}, "::1", NOW)
    assert claim_of(call, mutating=True) == Claim(
        "SubmitJob", "2017-03-12", "r", mutating=True, repeatable=False
    )


def test_when_memory_is_full_old_signatures_are_refused_and_not_forgotten() -> None:
    guard = ReplayGuard(capacity=3)
    older = [Signature(f"{n:064x}", SIGNED_AT - 20) for n in range(2)]
    newer = [Signature(f"{n:064x}", SIGNED_AT) for n in range(2, 5)]
    for signature in (older[0], *newer):
        assert passes(guard, signature, change(), NOW, 0)
    for signature in older:
        assert not passes(guard, signature, change(), NOW, 3)
    for signature in newer:
        assert not passes(guard, signature, change(), NOW, 3)
    assert passes(guard, Signature("5" * 64, SIGNED_AT + 20), change(), NOW, 3)


def test_memory_holds_only_what_is_fresh() -> None:
    guard = ReplayGuard(capacity=100)
    for minute in range(100):
        start = NOW + timedelta(minutes=minute)
        for number in range(10):
            signature = Signature(f"{minute:032x}{number:032x}", int(start.timestamp()))
            assert passes(guard, signature, change(), start, 0)


def test_one_signature_is_not_used_for_everything() -> None:
    guard = ReplayGuard()
    regions = [f"region-{n}" for n in range(100)]
    passed = [allowed(guard, describe(region=region)) for region in regions]
    assert passed == [True] * 64 + [False] * 36


uses = st.lists(
    st.builds(
        Use,
        number=st.integers(0, 3),
        claim=st.builds(
            Claim,
            action=st.sampled_from(["DescribeJob", "TerminateJob"]),
            version=st.just("2017-03-12"),
            region=st.sampled_from(["ap-guangzhou", "ap-shanghai"]),
            mutating=st.booleans(),
            repeatable=st.booleans(),
        ),
        wait_s=st.sampled_from([0, 0.5, 1, 2, 3, 9]),
    ),
    max_size=24,
)


def model_allows(history: list[tuple[float, Use]], at: float, use: Use, *, strict: bool) -> bool:
    """The rule once more, over everything that was ever allowed."""
    same = [(then, before) for then, before in history if before.number == use.number]
    if not same:
        return True
    in_grace = at - same[0][0] <= 2
    what = (use.claim.action, use.claim.region)
    if what in [(before.claim.action, before.claim.region) for _, before in same]:
        return in_grace or not use.claim.mutating or use.claim.repeatable
    return in_grace and not strict


@settings(max_examples=300)
@given(uses=uses, strict=st.booleans(), small=st.booleans())
def test_the_guard_agrees_with_the_model_and_a_full_one_is_only_stricter(
    uses: list[Use], strict: bool, small: bool
) -> None:
    guard = ReplayGuard(strict=strict, capacity=2 if small else 1_000)
    history: list[tuple[float, Use]] = []
    at = 0.0
    for use in uses:
        at += use.wait_s
        signature = Signature(f"{use.number:064x}", SIGNED_AT + 15 * use.number)
        passed = passes(guard, signature, use.claim, NOW, at)
        expected = model_allows(history, at, use, strict=strict)
        assert passed == expected or (small and expected)
        if passed:
            history.append((at, use))
