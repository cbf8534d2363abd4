"""The OpenAPI document of `/v1`, made from the shapes and from the acts themselves."""

from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from orchestrator import __version__
from orchestrator.api import shapes
from orchestrator.api.health import BY_NAME

REFUSALS: Final = {
    "401": "A token is needed, or the one that was shown does not count",
    "403": "The caller has not the right",
    "404": "There is no such group, act or role here",
    "409": "The word does not apply to the situation that stands now",
    "413": "The body is too long",
    "422": "Something in the request has the wrong shape; the text says what and where",
    "429": "Too often; Retry-After says when again",
    "503": "The mediator cannot be asked",
}
ACTS: Final = {
    "switchover": ("Make a standby primary, planned: no acknowledged write is lost", "operate"),
    "failover": ("Give the present primary up; writes that no standby has may be lost", "operate"),
    "confirm": ("Approve the open proposal of this id, for this epoch", "confirm"),
    "reject": ("Reject the open proposal of this id", "confirm"),
    "pause": ("No failover by itself until `resume`", "operate"),
    "resume": ("End a pause", "operate"),
    "adopt": ("Begin a new line of records after the mediator was emptied or restored", "operate"),
}
GROUP: Final = {"name": "group", "in": "path", "required": True, "schema": {"type": "string"}}
LAST: Final = {
    "name": "last",
    "in": "query",
    "description": "How many of the newest sentences",
    "schema": {"type": "integer", "minimum": 0, "maximum": 999_999_999, "default": 50},
}
ROLE: Final = {"name": "role", "in": "path", "required": True, "schema": {"enum": ["standby", *BY_NAME]}}
LAG: Final = {
    "name": "lag",
    "in": "query",
    "description": "Bytes that a standby may lack, as a number or a size such as 16MB",
    "schema": {"type": "string", "pattern": "^([0-9]{1,18}|[0-9]{1,9}(B|kB|MB|GB|TB))$"},
}


def document() -> dict[str, Any]:
    paths: dict[str, Any] = {
        "/v1/status": {"get": _read("Node, keeper, mediator and every group", shapes.NodeTold)},
        "/v1/groups/{group}": {"get": _read("One group as this node knows it", shapes.GroupTold, GROUP)},
        "/v1/groups/{group}/explain": {"get": _read("Why it is as it is", shapes.Explanation, GROUP, LAST)},
        "/v1/groups/{group}/history": {"get": _read("What was decided here, oldest first", list[shapes.Sentence], GROUP, LAST)},
        "/health/{group}/{role}": {"get": _health("200 when this node has the role, and it really works", GROUP, ROLE, LAG)},
    }
    for act, (summary, right) in ACTS.items():
        paths[f"/v1/groups/{{group}}/{act}"] = {"post": _act(act, summary, right)}
    for name in BY_NAME:
        paths[f"/{name}"] = {"get": _health("The same, of the only group here, by the name that Patroni gives it", LAG)}
    models = [each for each in vars(shapes).values() if isinstance(each, type) and issubclass(each, shapes.Shape)]
    _, definitions = models_json_schema([(each, "validation") for each in models], ref_template="#/components/schemas/{model}")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tanist",
            "version": __version__,
            "description": "Read without change; act with a token. Every act stands in the history under its token's name.",
        },
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _ref(shape: Any) -> dict[str, Any]:
    if isinstance(shape, type) and issubclass(shape, BaseModel):
        return {"$ref": f"#/components/schemas/{shape.__name__}"}
    return {"type": "array", "items": _ref(shape.__args__[0])}


def _answer(words: str, shape: Any) -> dict[str, Any]:
    return {"description": words, "content": {"application/json": {"schema": _ref(shape)}}}


def _refusals(*codes: str) -> dict[str, Any]:
    return {code: _answer(REFUSALS[code], shapes.Problem) for code in codes}


def _read(summary: str, shape: Any, *parameters: dict[str, Any]) -> dict[str, Any]:
    codes = ("401", "403", "404", "422", "429") if parameters else ("401", "403", "429")
    return {
        "summary": summary,
        "parameters": list(parameters),
        "responses": {"200": _answer("So it is", shape), **_refusals(*codes)},
    }


def _health(summary: str, *parameters: dict[str, Any]) -> dict[str, Any]:
    answers = {"200": _answer("It is so", shapes.Health), "503": _answer("It is not, and why", shapes.Health), **_refusals("404")}
    return {"summary": summary, "parameters": list(parameters), "responses": answers, "security": [{}]}


def _act(act: str, summary: str, right: str) -> dict[str, Any]:
    body = {"required": True, "content": {"application/json": {"schema": _ref(shapes.Word)}}}
    shape = shapes.Adopted if act == "adopt" else shapes.Said
    return {
        "summary": f"{summary}. Right: {right}",
        "parameters": [GROUP],
        "requestBody": body,
        "responses": {"200": _answer("Taken: it stands at the mediator", shape), **_refusals(*REFUSALS)},
        "security": [{"token": []}],
    }
