"""Whatever is asked of the API, the answer is one that its document names, of the shape that it names."""

from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from scenarios import control, proposal
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi import checks
from stub import StubNode

from orchestrator.api import openapi
from orchestrator.api.access import Door
from orchestrator.api.app import Api
from orchestrator.daemon.clock import wall

CHECKS: list[CheckFunction] = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]
GROUPS = ["orders", "other"]


def test_every_answer_is_one_that_the_document_names(tmp_path: Path):
    stub = StubNode(tmp_path)
    api = Api(stub.node, Door(local=True)).app()
    document = openapi.document()
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation["parameters"]:
                if parameter["name"] == "group":
                    parameter["schema"] = {"enum": GROUPS}
    schema = schemathesis.openapi.from_dict(document)
    schema.app = api
    for result in schema.get_all_operations():
        _ask(stub, api, result.ok())


def _ask(stub: StubNode, api: Any, operation: Any) -> None:
    @given(case=operation.as_strategy())
    @settings(max_examples=6, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    def ask(case: Any) -> None:
        stub.say(control(proposal=proposal(expires_wall=wall() + 60.0)))
        case.validate_response(case.call(app=api), checks=CHECKS)

    ask()
