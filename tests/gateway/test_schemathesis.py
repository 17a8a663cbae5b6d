"""Schemathesis asks everything that the schema allows, and what it does not, of a gateway before real services in a small world."""

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
from tests.gateway import world
from tests.gateway.conftest import FAULTS, GRAPHQL, Open
from tests.gateway.engine.documents import SCALAR_VALUES
from tests.gateway.serving import serving

EXAMPLES = 3
"""Of each field of the query and the mutation, and of each kind."""
WHO = ("", "operator", "stf_guide", "con_anna")
SCALARS = {name: st.sampled_from(SCALAR_VALUES[name]).map(nodes.String) for name in ("DateTime", "Decimal")}
SCALARS["Long"] = st.integers(-(2**40), 2**40).map(nodes.Int)
NAMES = ["not_a_server_error", "response_schema_conformance", "negative_data_rejection", "positive_data_acceptance"]


class Trial:
    """A gateway at an address, and what Schemathesis found."""

    def __init__(self, url: str, tokens: dict[str, str]) -> None:
        self.tokens, self.session = tokens, requests.Session()
        self.schema = schemathesis.graphql.from_url(url)
        load_all_checks()
        self.checks = CHECKS.get_by_names(NAMES)
        self.found: dict[str, Failure] = {}
        self.asked = self.carried_out = 0

    def everything(self, mode: GenerationMode) -> None:
        """A few documents of each operation, by somebody each."""
        for result in self.schema.get_all_operations():
            operation = result.ok()

            @seed(1)
            @settings(max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
            @given(operation.as_strategy(generation_mode=mode), st.sampled_from(WHO))
            def asked(case: Any, who: str) -> None:
                self.ask(case, who)

            asked()

    def ask(self, case: Any, who: str) -> None:
        headers = {"accept": GRAPHQL} | ({"authorization": f"Bearer {self.tokens[who]}"} if who else {})
        response = case.call(session=self.session, headers=headers)
        self.asked += 1
        self.carried_out += "data" in response.json()
        try:
            case.validate_response(response, checks=self.checks, headers=headers)
        except FailureGroup as failed:
            self.found |= {f"{who} {case.body}": failure for failure in failed.exceptions if not expected(failure)}


def expected(failure: Exception) -> bool:
    """Whether what Schemathesis takes for a fault of ours is a refusal: it does not know our codes."""
    return isinstance(failure, GraphQLServerError) and not FAULTS & {error["extensions"].get("code", "") for error in failure.errors}


async def test_schemathesis_finds_nothing(open_gateway: Open) -> None:
    gateway = await open_gateway(*SERVICES)
    await world.build(gateway)
    for name, values in SCALARS.items():
        schemathesis.graphql.scalar(name, values)
    async with serving(gateway) as served:
        tokens = {who: gateway.token(who) for who in WHO if who}

        def tried() -> Trial:
            trial = Trial(f"http://{served.address}/graphql", tokens)
            for mode in GenerationMode:
                trial.everything(mode)
            return trial

        trial = await asyncio.to_thread(tried)
    assert not trial.found, "\n\n".join(f"{failure}\n{what}" for what, failure in list(trial.found.items())[:10])
    assert trial.carried_out > trial.asked / 4, "most of what is wrong is refused, and most else is not"
