"""What one signature is good for, and how often.

The SDK signs content-type, host, body and the second. So a DescribeJob and a TerminateJob of one
job in one second carry the same signature, and whoever sees the first on its way could send the
second. The rule, while a signature is fresh:

- for GRACE_S after it is first seen any action may use it, for an honest client cannot help it;
- later only a call it was used for before, and that call only if repeating it changes nothing:
  it reads, or it carries a ClientToken;
- with `signature_binding = "strict"` another action, version or region is refused at once.

An action that the signature covers (`x-tc-action` signed, or v1) cannot be another one with the
same signature, so no rule is needed for it. Nor for the token: a signature belongs to one key,
and a key to one token, which was checked before.

All this is kept in memory: a restart forgets it, and the signatures of the last five minutes may
be used once more.
"""

from dataclasses import dataclass, field
from datetime import datetime

from gateway.authn import Signature
from gateway.call import Call, Value
from gateway.errors import AuthFailure

GRACE_S = 2
KEPT_S = 360  # a signature is fresh for 300, and a request may wait before it comes here
SLOT_S = 10
CLAIMS_PER_SIGNATURE_MAX = 64

Bound = tuple[str, str, str]


class Claim(Value, frozen=True):
    """What a signature is used for.

    mutating: the action changes something. repeatable: it carries a ClientToken.
    """

    action: str
    version: str
    region: str
    mutating: bool
    repeatable: bool

    @property
    def bound(self) -> Bound:
        """The part that a signature is bound to."""
        return self.action, self.version, self.region


def claim_of(call: Call, *, mutating: bool) -> Claim:
    """Say what a call uses its signature for."""
    return Claim(
        action=call.action,
        version=call.version,
        region=call.region,
        mutating=mutating,
        repeatable=bool(call.params.get("ClientToken")),
    )


@dataclass(slots=True)
class _Slot:
    """The signatures made in one stretch of SLOT_S seconds.

    seen: by signature, when it was first seen, in seconds since 1970, and what it was used for.
    bounds: one object for each different use, so that a thousand like calls share it.
    """

    seen: dict[str, tuple[float, tuple[Bound, ...]]] = field(default_factory=dict)
    bounds: dict[Bound, tuple[Bound, ...]] = field(default_factory=dict)

    def share(self, bound: Bound) -> tuple[Bound, ...]:
        """A tuple of this use alone."""
        return self.bounds.setdefault(bound, (bound,))


class ReplayGuard:
    """Remembers the fresh signatures and what they were used for.

    capacity: how many signatures are remembered, about 0.3 kB each. If more are made within five
    minutes, the oldest are forgotten and no signature as old as they were is accepted any more:
    the time within which calls must arrive gets shorter, but nothing can be sent twice.
    """

    def __init__(self, *, strict: bool = False, capacity: int = 262_144) -> None:
        self._strict = strict
        self._capacity = capacity
        self._slots: dict[int, _Slot] = {}
        self._size = 0
        self._forgotten = -1

    def check(self, signature: Signature, *, claim: Claim, now: datetime) -> None:
        """Let a verified signature be used for the claim, and remember it.

        Raises AuthFailure.SignatureExpire if it may not. Why this code: the signature is right
        but used up, and the remedy is what the code's text says, to request again.
        """
        number = signature.signed_at // SLOT_S
        slot = self._slots.get(number)
        if slot is None:
            slot = self._open_slot(number, now=now)
        seen = slot.seen.get(signature.value)
        if seen is None:
            slot.seen[signature.value] = (now.timestamp(), slot.share(claim.bound))
            self._size += 1
            if self._size > self._capacity:
                self._forget_oldest()
            return
        first_seen, uses = seen
        self._check_again(uses, claim=claim, in_grace=now.timestamp() - first_seen <= GRACE_S)
        if claim.bound not in uses:
            slot.seen[signature.value] = (first_seen, (*uses, claim.bound))

    def _check_again(self, uses: tuple[Bound, ...], *, claim: Claim, in_grace: bool) -> None:
        if claim.bound not in uses:
            if self._strict or not in_grace:
                raise _used_up("it was made for another action, version or region")
            if len(uses) >= CLAIMS_PER_SIGNATURE_MAX:
                raise _used_up("it was used for too many different calls")
        elif claim.mutating and not claim.repeatable and not in_grace:
            raise _used_up("it was used before; a call with a ClientToken may be repeated")

    def _open_slot(self, number: int, *, now: datetime) -> _Slot:
        """Begin to remember a stretch of time; drop those whose signatures are no longer fresh."""
        if number <= self._forgotten:
            raise _used_up("too many newer ones have come in since")
        oldest_kept = (int(now.timestamp()) - KEPT_S) // SLOT_S
        for old in [each for each in self._slots if each < oldest_kept]:
            self._size -= len(self._slots.pop(old).seen)
        return self._slots.setdefault(number, _Slot())

    def _forget_oldest(self) -> None:
        oldest = min(self._slots)
        self._size -= len(self._slots.pop(oldest).seen)
        self._forgotten = max(self._forgotten, oldest)


def _used_up(why: str) -> AuthFailure:
    return AuthFailure(
        f"The signature is expired, please request again: {why}.", detail="SignatureExpire"
    )
