"""What decides is tested under both evaluators."""

import pytest


@pytest.fixture(autouse=True, params=["compiled", "casbin"])
def evaluator_in_force(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("QCS_GATEWAY_EVALUATOR", request.param)
    return str(request.param)
