from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from config.connections import Connection, Pace, parse_pace


def connection(**given: Any) -> Connection:
    """Make a connection from what a file may hold."""
    return Connection.model_validate(
        {"name": "tower", "system": "planpoint", "base_url": "https://app.planpoint.io", **given}
    )


def why(**given: Any) -> str:
    """Give the one sentence that refuses it."""
    with pytest.raises(ValidationError) as caught:
        connection(**given)
    found = caught.value.errors()
    assert len(found) == 1
    return str(found[0].get("ctx", {}).get("error", found[0]["msg"]))


def test_the_defaults() -> None:
    """Eight requests at once, no pace, open to all."""
    made = connection(token="secret")
    assert (made.max_in_flight, made.pace, made.auth, made.reserve) == (8, None, "bearer", 0.1)
    assert (made.allowed_users, made.allowed_types, made.protected_users) == (None, None, ())
    assert (made.api_prefix, dict(made.fields), dict(made.operations)) == (None, {}, {})


def test_the_limit_key_is_the_name_unless_given() -> None:
    """Connections share a gate only if told to."""
    assert connection().limit_key == "tower"
    assert connection(limit_key="acme").limit_key == "acme"


@pytest.mark.parametrize(
    ("text", "pace"),
    [
        ("20/s", Pace(20, timedelta(seconds=1))),
        ("100/m", Pace(100, timedelta(minutes=1))),
        ("5000/h", Pace(5000, timedelta(hours=1))),
        ("1/d", Pace(1, timedelta(days=1))),
    ],
)
def test_a_pace_is_requests_per_time(text: str, pace: Pace) -> None:
    """Per second, minute, hour or day."""
    assert connection(pace=text).pace == parse_pace(pace) == pace


@pytest.mark.parametrize("value", ["20", "0/s", "-1/s", "1.5/s", "20/sec", "20 / s", "/s", 20, True, "20/10s"])
def test_anything_else_is_no_pace(value: object) -> None:
    """The error shows how to write one."""
    assert why(pace=value).startswith("must be a pace; write requests per s, m, h or d in quotes")


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://app.planpoint.io", "https://app.planpoint.io"),
        ("https://app.planpoint.io/", "https://app.planpoint.io"),
        ("http://127.0.0.1:8080/sub/", "http://127.0.0.1:8080/sub"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_a_base_url_is_http_or_https(url: str, kept: str) -> None:
    """A slash at the end is dropped: paths begin with one."""
    assert connection(base_url=url).base_url == kept


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("app.planpoint.io", "must be an http or https URL"),
        ("ftp://app.planpoint.io", "must be an http or https URL"),
        ("file:///etc/passwd", "must be an http or https URL"),
        ("", "must be an http or https URL"),
        ("https://", "must name a host"),
        ("https:///x", "must name a host"),
        ("https://host:0", "must name a host"),
        ("https://host:port", "must be a URL"),
        ("https://host:99999", "must be a URL"),
        ("https://[::1", "must be a URL"),
        ("https://host?x=1", "must end with the host or a path"),
        ("https://host#x", "must end with the host or a path"),
        ("https://host?", "must end with the host or a path"),
        ("https://ho st", "must be a URL without spaces"),
        ("https://host\n", "must be a URL without spaces"),
    ],
)
def test_a_base_url_that_can_not_be_one_is_refused(url: str, rule: str) -> None:
    """Each with its rule and how to write it."""
    said = why(base_url=url)
    assert said.startswith(rule)
    assert "write it like https://acme.example.com" in said


def test_a_base_url_holds_no_credentials() -> None:
    """They would end up in logs; and the error does not repeat them."""
    said = why(base_url="https://relay:hunter2@host")
    assert said.startswith("must hold no credentials")
    assert "hunter2" not in said


@pytest.mark.parametrize(("prefix", "kept"), [("/api/c", "/api/c"), ("/api/", "/api"), ("", ""), ("/", "")])
def test_a_prefix_begins_with_a_slash_and_ends_without(prefix: str, kept: str) -> None:
    """Empty is a prefix too: none, whatever the system's default."""
    assert connection(api_prefix=prefix).api_prefix == kept


@pytest.mark.parametrize("prefix", ["api", "https://x", "/a?b", "/a b", "/a#b"])
def test_what_is_no_path_is_no_prefix(prefix: str) -> None:
    """The rule is the same for the paths of operations."""
    assert why(api_prefix=prefix).startswith("must be a path that begins with /")
    assert why(operations={"unit.update": {"path": prefix}}).startswith("must be a path that begins with /")


def test_an_operation_may_be_overridden() -> None:
    """Method, path and field names, each alone or together; a method in any case."""
    made = connection(operations={"unit.update": {"method": "put", "path": "/api/v2/units/{id}", "fields": {"a": "b"}}})
    override = made.operations["unit.update"]
    assert (override.method, override.path, dict(override.fields)) == ("PUT", "/api/v2/units/{id}", {"a": "b"})


def test_a_method_that_is_none_is_refused() -> None:
    """Only what HTTP APIs use."""
    assert "'GET', 'POST', 'PUT', 'PATCH' or 'DELETE'" in why(operations={"unit.update": {"method": "FETCH"}})


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"username": "relay"}, "has username without password; add password"),
        ({"password": "x"}, "has password without username; add username"),
        ({"client_id": "relay"}, "has client_id without client_secret; add client_secret"),
        ({"client_secret": "x"}, "has client_secret without client_id; add client_id"),
        ({"token": "x", "username": "a", "password": "b"}, "signs in by username and password and also by token"),
        ({"token": "x", "client_id": "a", "client_secret": "b"}, "signs in by client_id and client_secret and also by"),
    ],
)
def test_credentials_are_whole_and_of_one_kind(given: dict[str, str], rule: str) -> None:
    """Half of a pair signs nobody in, and of two ways nobody knows which is meant."""
    assert why(**given).startswith(rule)


@pytest.mark.parametrize("name", ["max_in_flight"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "many"])
def test_counts_are_whole_and_positive(name: str, value: object) -> None:
    """None would stop everything; half of one makes no sense."""
    assert why(**{name: value})


@pytest.mark.parametrize("value", [-0.1, 1, 5, "half"])
def test_a_reserve_is_a_share(value: object) -> None:
    """From 0 up to but not all."""
    assert why(reserve=value)


@pytest.mark.parametrize("name", ["allowed_users", "allowed_types"])
def test_an_empty_list_of_the_allowed_is_refused(name: str) -> None:
    """It would allow nobody, which nobody wants to configure."""
    assert why(**{name: []}) == "must name at least one; leave it out to allow all"


@pytest.mark.parametrize("pattern", ["planpoint.unit.read", "planpoint.*", "planpoint.unit*", "*", "planrelay.batch"])
def test_allowed_types_are_types_or_their_beginnings(pattern: str) -> None:
    """A `*` stands for any ending."""
    assert connection(allowed_types=[pattern]).allowed_types == (pattern,)


@pytest.mark.parametrize("pattern", ["", "Planpoint.unit", "*.read", "planpoint.*.read", "a b"])
def test_other_patterns_of_types_are_refused(pattern: str) -> None:
    """A pattern that never matches would lock out without a word."""
    assert why(allowed_types=[pattern]).startswith("must be command types, or how they begin and *")


@pytest.mark.parametrize("value", ["", "id:", " "])
def test_a_protected_user_is_named(value: str) -> None:
    """An empty pattern protects nobody."""
    assert why(protected_users=["*@acme.example", value]).startswith("must be user names or ids")


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "a:b", "a" * 101, "\u00fc"])
def test_a_name_is_short_and_plain(name: str) -> None:
    """It becomes a metric's label and a part of keys."""
    assert why(limit_key=name).startswith("must be a name")


def test_secrets_are_not_shown() -> None:
    """Neither printed nor dumped."""
    made = connection(username="relay", password="hunter2")
    assert "hunter2" not in f"{made!r} {made} {made.model_dump()} {made.model_dump_json()}"
    assert [secret.get_secret_value() for secret in made.secrets()] == ["hunter2"]


def test_a_connection_does_not_change() -> None:
    """It is a value."""
    with pytest.raises(ValidationError, match="frozen"):
        connection().base_url = "https://elsewhere"  # type: ignore[misc] # that is the claim
