"""Signing in: what each flow asks, and what it reads from the answer."""

import base64
import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.auth import DEFAULT_LIFETIME, LONGEST_LIFETIME, Basic, Bearer, ClientCredentials, Flow, Login, Token
from worker.errors import ContractBroken
from worker.rest import Headers, Request, Response

NOW = datetime(2026, 5, 20, 8, 0, tzinfo=UTC)


def drive(flow: Flow, *answers: Any, headers: dict[str, str] | None = None) -> tuple[list[Request], Token]:
    """Run a flow against answers; gives what it asked and the token."""
    asked = []
    running = flow.token(NOW)
    try:
        asked.append(next(running))
        for answer in answers:
            body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            asked.append(running.send(Response(status=200, headers=Headers(headers or {}), body=body)))
    except StopIteration as done:
        return asked, done.value
    raise AssertionError("the flow asks more than it was answered")


def a_jwt(**claims: Any) -> str:
    """Make a JWT whose signature nobody checks."""
    parts = [{"alg": "none"}, claims]
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, "signature"])


CREDENTIALS = ClientCredentials("the id", "s3cret:é")


def test_basic_asks_nobody() -> None:
    """Basic is the credentials in UTF-8 and base64 (RFC 7617, the example with £)."""
    asked, token = drive(Basic("test", "123£"))

    assert asked == []
    assert token == Token("Basic dGVzdDoxMjPCow==")


@pytest.mark.parametrize(("style", "header"), [("bearer", "Bearer k3y"), ("raw", "k3y")])
def test_a_fixed_token_goes_as_the_connection_says(style: Any, header: str) -> None:
    """`auth = "raw"` sends the key alone, as Planpoint's older documentation shows."""
    assert drive(Bearer("k3y", style)) == ([], Token(header))


def test_client_credentials_are_a_form_and_basic() -> None:
    """The token request is the seed's: POST, form body, the client's credentials as Basic."""
    asked, token = drive(CREDENTIALS, {"id_token": "abc", "expires_in": 300})

    (request,) = asked
    assert (request.method, request.path) == ("POST", "/io/v1/oauth2/token")
    assert request.form == {"grant_type": "client_credentials"}
    basic = base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")).decode()
    assert basic == "the id:s3cret:é"
    assert token == Token("Bearer abc", timedelta(seconds=300))


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ({"id_token": "one", "access_token": "two"}, "one"),
        ({"access_token": "two"}, "two"),
        ({"id_token": "", "access_token": "two"}, "two"),
        ({"id_token": None, "access_token": " two\n"}, "two"),
    ],
)
def test_the_id_token_comes_first(answer: Any, value: str) -> None:
    """Planview's bearer is the `id_token`; an `access_token` serves where there is none."""
    assert drive(CREDENTIALS, answer)[1].authorization == f"Bearer {value}"


@pytest.mark.parametrize(
    ("answer", "lifetime"),
    [
        ({"id_token": "x", "expires_in": 3600}, timedelta(hours=1)),
        ({"id_token": "x", "expires_in": "3600"}, timedelta(hours=1)),
        ({"id_token": "x"}, DEFAULT_LIFETIME),
        ({"id_token": "x", "expires_in": None}, DEFAULT_LIFETIME),
        ({"id_token": "x", "expires_in": -5}, DEFAULT_LIFETIME),
        ({"id_token": "x", "expires_in": "soon"}, DEFAULT_LIFETIME),
        ({"id_token": "x", "expires_in": 10**30}, LONGEST_LIFETIME),
        ({"id_token": a_jwt(exp=NOW.timestamp() + 900)}, timedelta(minutes=15)),
        ({"id_token": a_jwt(exp=NOW.timestamp() + 900), "expires_in": 60}, timedelta(minutes=1)),
        ({"id_token": a_jwt(exp=NOW.timestamp() - 1)}, DEFAULT_LIFETIME),
        ({"id_token": a_jwt(exp=NOW.timestamp() + 900), "expires_in": 0}, timedelta(minutes=15)),
        ({"id_token": a_jwt(exp="never")}, DEFAULT_LIFETIME),
        ({"id_token": a_jwt()}, DEFAULT_LIFETIME),
        ({"id_token": "a.%%%.c"}, DEFAULT_LIFETIME),
        ({"id_token": "a.bm8.c"}, DEFAULT_LIFETIME),
    ],
)
def test_a_tokens_life_is_told_by_the_answer_then_the_jwt_then_assumed(answer: Any, lifetime: timedelta) -> None:
    """`expires_in`, else the JWT's `exp`, else ten minutes; what makes no sense is as if it were absent."""
    assert drive(CREDENTIALS, answer)[1].lifetime == lifetime


def test_the_vendors_clock_measures_its_own_exp() -> None:
    """Where the answer has a Date, `exp` counts from that: our clock may be wrong by an hour."""
    hour_ahead = {"Date": "Wed, 20 May 2026 09:00:00 GMT"}
    answer = {"id_token": a_jwt(exp=NOW.timestamp() + 3600 + 300)}

    assert drive(CREDENTIALS, answer, headers=hour_ahead)[1].lifetime == timedelta(minutes=5)


def test_a_login_is_json_and_its_token_lasts_until_it_is_refused() -> None:
    """Planpoint's login: user name and password as JSON; how long the token lives is not known."""
    asked, token = drive(Login("zoe@example.com", "pw"), {"message": "ok", "access_token": "abc"})

    (request,) = asked
    assert (request.method, request.path) == ("POST", "/api/users/login")
    assert request.json == {"username": "zoe@example.com", "password": "pw"}
    assert token == Token("Bearer abc", None)


def test_a_login_of_the_older_kind_gives_token() -> None:
    """Generation A answers with a large user object that holds `token`."""
    assert drive(Login("u", "p", "raw"), {"token": "abc", "resetToken": "no"})[1] == Token("abc", None)


def test_a_login_whose_token_tells_its_end_is_renewed_before() -> None:
    """A JWT's `exp` is believed here too."""
    token = drive(Login("u", "p"), {"access_token": a_jwt(exp=NOW.timestamp() + 600)})[1]

    assert token.lifetime == timedelta(minutes=10)


@pytest.mark.parametrize("flow", [CREDENTIALS, Login("u", "p")])
@pytest.mark.parametrize("answer", [{}, {"message": "hidden"}, {"id_token": 5, "access_token": [], "token": ""}])
def test_an_answer_without_a_token_breaks_the_contract(flow: Flow, answer: Any) -> None:
    """Success without a token names what was looked for and keeps the answer, which may hold secrets, to itself."""
    with pytest.raises(ContractBroken, match="answered with success and no") as caught:
        drive(flow, answer)

    assert "hidden" not in str(caught.value)
    assert caught.value.response is None


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null"])
def test_an_answer_that_is_no_object_breaks_the_contract(body: bytes) -> None:
    """A token page that is HTML is no token."""
    with pytest.raises(ContractBroken):
        drive(CREDENTIALS, body)


@given(st.text(), st.one_of(st.none(), st.text(), st.integers(), st.floats(), st.booleans()))
def test_no_answer_makes_a_flow_fail_otherwise(value: str, expires_in: Any) -> None:
    """Whatever stands in the two fields, there is a token with a sane life, or a broken contract."""
    try:
        token = drive(CREDENTIALS, json.dumps({"id_token": value, "expires_in": expires_in}).encode())[1]
    except ContractBroken:
        no_json = isinstance(expires_in, float) and not math.isfinite(expires_in)  # Python writes NaN and Infinity
        assert no_json or not value.strip()
    else:
        assert token.lifetime is not None
        assert timedelta(0) <= token.lifetime <= LONGEST_LIFETIME


@pytest.mark.parametrize(
    "secret", [CREDENTIALS, Basic("u", "s3cret"), Bearer("s3cret"), Login("u", "s3cret"), Token("s3cret")]
)
def test_no_secret_shows_in_a_representation(secret: Any) -> None:
    """A flow or a token in a log line or a traceback tells nothing."""
    assert "s3cret" not in repr(secret)
