"""The words a policy can use and mean something: handed to whoever looks for mistakes."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from gateway.call import Effect
from gateway.policy.action import ActionPattern
from gateway.policy.lint.containment import can_name, names_exactly
from gateway.policy.pattern import fits
from gateway.policy.resource import REGIONS, ResourcePattern

LIKENESS = 0.75
"""How much of a word must be right for it to be taken for a misspelling: of six letters, two may
have changed places."""
_SERVICES = """
    antiddos apigateway as asr batch billing cam cbs cdb cdn cfs ckafka clb cloudaudit cls cmq
    cmqqueue cmqtopic cos cvm cynosdb dcdb dnspod domain dts ecm emr es finance gaap gme iai kms
    lighthouse live mariadb mongodb monitor mps nlp ocr organization postgres redis scf ses sms
    sqlserver ssl ssm sts tag tat tcaplusdb tcr tdmq tem tke tmt trtc tsf tts vod vpc waf wedata
"""
CLOUD_SERVICES = frozenset(_SERVICES.split())
"""Services of the vendor's whole cloud: not complete, but a name in it is no misspelling."""
_REGIONS = """
    ap-bangkok ap-beijing-fsi ap-chongqing ap-jakarta ap-mumbai ap-nanjing ap-qingyuan
    ap-shenzhen ap-taipei ap-tianjin ap-tokyo eu-moscow na-ashburn sa-saopaulo
"""
CLOUD_REGIONS = frozenset(REGIONS.values()) | frozenset(_REGIONS.split())
"""Regions of the vendor's whole cloud. One that is newer is told to be unknown."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Resources that an action is decided on, by the beginning of their path.

    is_whole: there is one such resource, and `path` is all of it: `*`, or `job/*` as asked by
    actions that make a job.
    """

    service: str
    path: str
    is_whole: bool

    def is_named_by(self, pattern: ResourcePattern) -> bool:
        """Whether a pattern matches one of them."""
        names = names_exactly if self.is_whole else can_name
        return names(pattern, self.service, self.path)

    @property
    def text(self) -> str:
        """As a policy names all of them."""
        return self.path if self.is_whole else f"{self.path}*"


@dataclass(frozen=True, slots=True)
class KnownAction:
    """An action that a call here can have. name: such as `batch:SubmitJob`.

    named: what it must be allowed on. denied: what besides is looked at for a deny only.
    """

    name: str
    named: frozenset[Kind]
    denied: frozenset[Kind]

    def kinds(self, effect: Effect) -> frozenset[Kind]:
        """What a statement of this effect can be about."""
        return self.named if effect is Effect.ALLOW else self.named | self.denied

    def is_unbound(self, effect: Effect) -> bool:
        """Whether it has no resource level: only `*` will do."""
        return all(kind.path == "*" for kind in self.kinds(effect))


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Everything known here. complete: services that have no actions but those in `actions`.

    served: services whose calls come here.
    """

    actions: tuple[KnownAction, ...]
    complete: frozenset[str]
    served: frozenset[str]

    def meant_by(self, pattern: ActionPattern) -> tuple[KnownAction, ...]:
        """The known actions that a pattern matches."""
        if pattern.is_set:
            return ()
        return tuple(one for one in self.actions if fits(pattern.folded, one.name.lower()))

    def is_closed(self, pattern: ActionPattern) -> bool:
        """Whether every action that the pattern matches is known."""
        service, _, name = pattern.folded.partition(":")
        return service in self.complete or ("*" not in service + name and self.knows(pattern))

    def knows(self, pattern: ActionPattern) -> bool:
        """Whether at least one known action is meant."""
        return bool(self.meant_by(pattern))

    def like_action(self, pattern: ActionPattern) -> str:
        """The known action of the same service that is spelt most alike, or nothing."""
        service, _, name = pattern.folded.partition(":")
        of_service = {
            one.name.partition(":")[2].lower(): one.name
            for one in self.actions
            if one.name.startswith(f"{service}:")
        }
        close = closest(name.strip("*"), of_service)
        return of_service.get(close, "")

    def starts(self, service: str) -> frozenset[str]:
        """The resource types of a service, such as `job/`."""
        kinds = {kind for one in self.actions for kind in one.named | one.denied}
        return frozenset(
            f"{kind.path.partition('/')[0]}/"
            for kind in kinds
            if kind.service == service and kind.path != "*"
        )


def closest(word: str, known: Iterable[str]) -> str:
    """The known word that is spelt most alike, or nothing."""
    return next(iter(get_close_matches(word, sorted(known), n=1, cutoff=LIKENESS)), "")
