"""
barometerIT's filter strings: made by POST /filter and /operablefilter, read back from the query of GET /entities.

The text is URL-encoded JSON and goes into the URL as it is (Filter_Service, the example's response); encoded a second
time it is no filter any more.
"""

import json
from collections.abc import Callable
from urllib.parse import quote

from sandbox.wire import JSON, Object, Refusal

Test = Callable[[Object], bool]
Value = Callable[[Object, str], str | None]
"""`value(entity, filterBn)`: the BN or id that the entity has there; KeyError for a filter BN nobody knows."""

_EQUAL = frozenset({"=", "EQ", "EQUALS", "EQUAL_TO", "IS"})
_UNEQUAL = frozenset({"!=", "NE", "NOT_EQUALS", "NOT_EQUAL_TO", "IS_NOT"})


def encoded(value: Object) -> str:
    """The text that the filter services answer with."""
    return quote(json.dumps(value, separators=(",", ":")), safe="")


def checked_filter(said: Object) -> Object:
    """A filter's JSON, put in order; a Refusal names what is wrong with it."""
    params = said.get("params", [])
    if not isinstance(params, list) or not all(
        isinstance(one, dict) and all(isinstance(values, list) for values in one.values()) for one in params
    ):
        raise Refusal(400, "params must be a list of objects, each a filter BN with a list of value BNs")
    return {"params": params, "searchString": _search_string(said)}


def checked_operable(said: Object) -> Object:
    """An operable filter's JSON, put in order; a Refusal names what is wrong with it."""
    params = said.get("params", [])
    if not isinstance(params, list) or not all(
        isinstance(one, dict) and {"keyBn", "operator", "valueBn"} <= set(one) for one in params
    ):
        raise Refusal(400, "params must be a list of objects with keyBn, operator and valueBn")
    joining = said.get("joiningOperator") or "AND"
    if joining not in ("AND", "OR"):
        raise Refusal(400, "joiningOperator must be AND or OR")
    for one in params:
        if str(one["operator"]).upper() not in _EQUAL | _UNEQUAL:
            raise Refusal(400, f"there is no operator {one['operator']!r}")
    return {"params": params, "joiningOperator": joining, "searchString": _search_string(said)}


def read_filter(text: str, value: Value) -> Test:
    """What a `filter` parameter lets through: each of its filters, and the search string."""
    said = checked_filter(_decoded("filter", text))
    tests = [_among(bn, values, value) for one in said["params"] for bn, values in one.items()]
    return _all([*tests, _searching(said["searchString"])])


def read_operable(text: str, value: Value) -> Test:
    """What an `operableFilter` parameter lets through."""
    said = checked_operable(_decoded("operableFilter", text))
    tests = [_comparing(one, value) for one in said["params"]]
    joined = _any(tests) if said["joiningOperator"] == "OR" and tests else _all(tests)
    return _all([joined, _searching(said["searchString"])])


def _decoded(name: str, text: str) -> Object:
    try:
        said = json.loads(text)
    except ValueError as error:
        again = " (is it encoded twice?)" if text.startswith("%7B") else ""
        raise Refusal(400, f"{name} is not a string that POST /{name.lower()} made{again}") from error
    if not isinstance(said, dict):
        raise Refusal(400, f"{name} is not a string that POST /{name.lower()} made")
    return said


def _search_string(said: Object) -> str | None:
    value = said.get("searchString")
    if value is not None and not isinstance(value, str):
        raise Refusal(400, "searchString must be a text")
    return value


def _among(bn: str, values: list[JSON], value: Value) -> Test:
    def test(entity: Object) -> bool:
        held = _held(value, entity, bn)
        return held is not None and (not values or held in values)

    return test


def _comparing(param: Object, value: Value) -> Test:
    wanted = str(param["operator"]).upper() in _EQUAL

    def test(entity: Object) -> bool:
        return (_held(value, entity, param["keyBn"]) == param["valueBn"]) is wanted

    return test


def _held(value: Value, entity: Object, bn: str) -> str | None:
    try:
        return value(entity, bn)
    except KeyError as error:
        raise Refusal(400, f"there is no filter {bn} for this entity type") from error


def _searching(text: str | None) -> Test:
    part = (text or "").casefold()
    return lambda entity: (
        not part or any(part in str(entity.get(name) or "").casefold() for name in ("bn", "name", "description"))
    )


def _all(tests: list[Test]) -> Test:
    return lambda entity: all(test(entity) for test in tests)


def _any(tests: list[Test]) -> Test:
    return lambda entity: any(test(entity) for test in tests)
