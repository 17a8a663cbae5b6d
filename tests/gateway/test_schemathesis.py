"""Schemathesis: valid and invalid operations of the schema, sent to a gateway in front of real services with a small world."""

import asyncio
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.graphql import nodes
from schemathesis.graphql.checks import GraphQLServerError

from services.kit.runtime.runtime import SERVICES
from tests.gateway import small_world
from tests.gateway.conftest import FAULTS, GRAPHQL, Open
from tests.gateway.engine.documents import SCALAR_VALUES
from tests.gateway.live_gateway import serve

EXAMPLES = 3
"""Schemathesis generates this many valid and invalid operations for each field of the query and the mutation."""
SUBJECTS = ("", "operator", "stf_guide", "con_anna")
SCALARS = {name: st.sampled_from(SCALAR_VALUES[name]).map(nodes.String) for name in ("DateTime", "Decimal")}
SCALARS["Long"] = st.integers(-(2**40), 2**40).map(nodes.Int)
NAMES = ["not_a_server_error", "response_schema_conformance", "negative_data_rejection", "positive_data_acceptance"]


class Trial:
    """A run of Schemathesis against a gateway, and the failures that it found."""

    def __init__(self, url: str, tokens: dict[str, str]) -> None:
        self.tokens, self.session = tokens, requests.Session()
        self.schema = schemathesis.graphql.from_url(url)
        load_all_checks()
        self.checks = CHECKS.get_by_names(NAMES)
        self.found: dict[str, Failure] = {}
        self.sent = self.executed = 0

    def run(self, mode: GenerationMode) -> None:
        """Sends a few documents of each operation, each by one of the subjects."""
        for result in self.schema.get_all_operations():
            operation = result.ok()

            @seed(1)
            @settings(max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
            @given(operation.as_strategy(generation_mode=mode), st.sampled_from(SUBJECTS))
            def send_case(case: Any, subject: str) -> None:
                self.send(case, subject)

            send_case()

    def send(self, case: Any, subject: str) -> None:
        headers = {"accept": GRAPHQL} | ({"authorization": f"Bearer {self.tokens[subject]}"} if subject else {})
        response = case.call(session=self.session, headers=headers)
        self.sent += 1
        self.executed += "data" in response.json()
        try:
            case.validate_response(response, checks=self.checks, headers=headers)
        except FailureGroup as failed:
            self.found |= {f"{subject} {case.body}": failure for failure in failed.exceptions if not is_refusal(failure)}


def is_refusal(failure: Exception) -> bool:
    """Returns whether a failure is a refusal by its codes, which Schemathesis does not know."""
    return isinstance(failure, GraphQLServerError) and not FAULTS & {error["extensions"].get("code", "") for error in failure.errors}


async def test_schemathesis_finds_nothing(open_gateway: Open) -> None:
    gateway = await open_gateway(*SERVICES)
    await small_world.build(gateway)
    for name, values in SCALARS.items():
        schemathesis.graphql.scalar(name, values)
    async with serve(gateway) as served:
        tokens = {subject: gateway.token(subject) for subject in SUBJECTS if subject}

        def run_trial() -> Trial:
            trial = Trial(f"http://{served.address}/graphql", tokens)
            for mode in GenerationMode:
                trial.run(mode)
            return trial

        trial = await asyncio.to_thread(run_trial)
    assert not trial.found, "\n\n".join(f"{failure}\n{what}" for what, failure in list(trial.found.items())[:10])
    assert trial.executed > trial.sent / 4, "most invalid operations are refused, and most others are executed"
