"""What decides is tested under both evaluators, by whoever asks for it."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", params=["compiled", "casbin"])
def each_evaluator(request: pytest.FixtureRequest) -> Iterator[None]:
    """Sets what `policies.evaluator` reads, as a server does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QCS_GATEWAY_EVALUATOR", request.param)
        yield
