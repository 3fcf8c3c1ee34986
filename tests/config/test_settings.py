from __future__ import annotations

import base64
import contextlib
import json
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import config
from config.settings import ConfigError, Settings, load_settings

EXAMPLE = Path(config.__file__).with_name("planrelay.example.toml")
TOWER = """
[connections.tower]
system = "planpoint"
base_url = "https://app.planpoint.io"
token = "hunter2-token"
"""
NIGHTLY = """
[[schedules]]
name = "nightly"
cron = "0 2 * * *"
type = "planpoint.lead.list"
connection = "tower"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text: str = "", environ: Mapping[str, str] | None = None) -> Settings:
    """Read settings from a file's text and an environment."""
    Path("planrelay.toml").write_text(text, encoding="utf-8")
    return load_settings(environ=environ or {})


def problems(text: str = "", environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Give what is wrong with settings."""
    with pytest.raises(ConfigError) as caught:
        load(text, environ)
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert all("\n" not in problem for problem in caught.value.problems)
    return caught.value.problems


# --- What there is --------------------------------------------------------------------------------------------------


def test_everything_has_a_default() -> None:
    """Without a file and variables: the embedded Valkey, no connections, and the documented numbers."""
    made = load_settings(environ={})
    assert (made.broker.url, made.state.url, made.data_dir) == (None, None, Path("var"))
    assert made.worker.model_dump() == {
        "concurrency": 200,
        "drain_timeout": timedelta(seconds=25),
        "command_deadline": timedelta(minutes=30),
        "lease": timedelta(seconds=30),
        "metrics_port": 9464,
        "metrics_host": "127.0.0.1",
        "results": False,
        "max_memory": None,
        "include": ("tasks.barometerit", "tasks.planview_admin", "tasks.planpoint"),
    }
    assert made.http.model_dump() == {
        "connect_timeout": timedelta(seconds=10),
        "request_timeout": timedelta(seconds=60),
        "max_response": 16 * 2**20,
    }
    assert made.retry.model_dump() == {
        "max_attempts": 6,
        "backoff_initial": timedelta(seconds=1),
        "backoff_ceiling": timedelta(minutes=5),
        "inline_wait": timedelta(seconds=2),
        "max_retry_after": timedelta(hours=1),
        "max_age": timedelta(hours=24),
    }
    assert made.artifacts.allowed == ("./var/artifacts/",)
    assert (dict(made.connections), made.schedules) == ({}, ())


def test_the_example_is_the_defaults() -> None:
    """What the example shows is what one gets without it."""
    assert load_settings(EXAMPLE, environ={}) == load_settings(environ={})


def test_the_example_is_legal_with_everything_in_it(folder: Path) -> None:
    """Each line that is commented out is right as it stands."""
    prose, tables, settings = EXAMPLE.read_text(encoding="utf-8").partition("data_dir = ")
    uncommented = (line.removeprefix("# ") for line in settings.splitlines())
    code = (line for line in uncommented if not line.startswith("---"))
    text = (prose + tables + "\n".join(code)).replace("/run/secrets/pva", str(folder / "pva"))
    (folder / "pva").write_text("client-secret\n")
    made = load(text, {"ACME_BIT_PASSWORD": "bit-password", "PLANPOINT_TOKEN": "tower-token"})
    assert {name: each.system for name, each in made.connections.items()} == {
        "acme-bit": "barometerit",
        "acme-admin": "planview_admin",
        "tower": "planpoint",
    }
    assert made.connections["acme-admin"].limit_key == "acme"
    assert made.connections["acme-admin"].fields == {"last_login": "lastLogin"}
    assert made.connections["tower"].operations["unit.update"].path == "/api/units/{id}"
    assert made.schedules[0].zone.key == "Europe/Paris"
    assert {"bit-password", "client-secret", "tower-token"} <= made.secrets()


def test_a_connection_knows_its_name() -> None:
    """It is the name of its table."""
    assert load(TOWER).connections["tower"].name == "tower"


def test_settings_do_not_change() -> None:
    """They are values, all the way down."""
    made = load(TOWER)
    with pytest.raises(ValidationError, match="frozen"):
        made.worker.concurrency = 5  # type: ignore[misc] # that is the claim


# --- Where they come from -------------------------------------------------------------------------------------------


def test_the_file_may_be_named(folder: Path) -> None:
    """By argument, else by PLANRELAY_CONFIG, else planrelay.toml."""
    for name, count in (("a.toml", 1), ("b.toml", 2), ("planrelay.toml", 3)):
        (folder / name).write_text(f"[worker]\nconcurrency = {count}")
    named = {"PLANRELAY_CONFIG": str(folder / "b.toml")}
    assert load_settings(folder / "a.toml", named).worker.concurrency == 1
    assert load_settings(environ=named).worker.concurrency == 2
    assert load_settings(environ={}).worker.concurrency == 3
    assert load_settings(environ={"PLANRELAY_CONFIG": ""}).worker.concurrency == 3


def test_a_file_that_was_named_must_be_there(folder: Path) -> None:
    """A typing mistake must not run a worker on defaults."""
    for path, environ in ((folder / "x.toml", {}), (None, {"PLANRELAY_CONFIG": str(folder / "x.toml")})):
        with pytest.raises(ConfigError, match=r"x.toml: is not there"):
            load_settings(path, environ)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"[worker\n", "is not TOML: .*line 1"),
        (b"[worker]\nx = \n", "is not TOML: .*line 2"),
        (b"[worker]\n[worker]\n", "is not TOML: .*line 2"),
        (b"\xff\xfe", "is not UTF-8"),
    ],
)
def test_a_file_that_is_no_toml_says_where(folder: Path, content: bytes, rule: str) -> None:
    """With the line that tomllib names."""
    (folder / "planrelay.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=f"planrelay.toml: {rule}"):
        load_settings(environ={})


def test_a_folder_is_no_file(folder: Path) -> None:
    """Docker makes one where a mounted file is missing."""
    (folder / "planrelay.toml").mkdir()
    with pytest.raises(ConfigError, match=r"planrelay.toml: can't be read \(Is a directory\)"):
        load_settings(environ={})


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing need be passed in a real worker."""
    monkeypatch.setenv("PLANRELAY_WORKER__CONCURRENCY", "7")
    assert load_settings().worker.concurrency == 7


@pytest.mark.parametrize(
    ("variable", "text", "path", "value"),
    [
        ("PLANRELAY_DATA_DIR", "/srv/relay", ("data_dir",), Path("/srv/relay")),
        ("PLANRELAY_WORKER__CONCURRENCY", "50", ("worker", "concurrency"), 50),
        ("PLANRELAY_WORKER__METRICS_PORT", "0", ("worker", "metrics_port"), 0),
        ("PLANRELAY_WORKER__RESULTS", "true", ("worker", "results"), True),
        ("PLANRELAY_WORKER__LEASE", "45s", ("worker", "lease"), timedelta(seconds=45)),
        ("PLANRELAY_HTTP__MAX_RESPONSE", "1MiB", ("http", "max_response"), 2**20),
        ("PLANRELAY_WORKER__INCLUDE", '["tasks.planpoint"]', ("worker", "include"), ("tasks.planpoint",)),
        ("PLANRELAY_ARTIFACTS__ALLOWED", '["s3://b/p/"]', ("artifacts", "allowed"), ("s3://b/p/",)),
    ],
)
def test_variables_override_the_file(variable: str, text: str, path: tuple[str, ...], value: object) -> None:
    """Each kind of value, written as in the file, lists as JSON."""
    found: Any = load("[worker]\nconcurrency = 5\nresults = false", {variable: text})
    for name in path:
        found = getattr(found, name)
    assert found == value


@pytest.mark.parametrize(
    "variable",
    [
        "PLANRELAY_CONNECTIONS__ACME_BIT__PACE",
        "PLANRELAY_CONNECTIONS__acme-bit__pace",
        "PLANRELAY_CONNECTIONS__ACME-BIT__PACE",
    ],
)
def test_a_connection_is_found_without_regard_to_case_and_punctuation(variable: str) -> None:
    """Shells can't export a dash."""
    text = TOWER.replace("tower", "acme-bit")
    made = load(text, {variable: "5/s"})
    assert list(made.connections) == ["acme-bit"]
    pace = made.connections["acme-bit"].pace
    assert pace is not None
    assert pace.count == 5


def test_an_operation_is_found_likewise() -> None:
    """`unit.update` is `UNIT_UPDATE`."""
    text = TOWER + '[connections.tower.operations."unit.update"]\nmethod = "PATCH"'
    made = load(text, {"PLANRELAY_CONNECTIONS__TOWER__OPERATIONS__UNIT_UPDATE__METHOD": "PUT"})
    assert {name: each.method for name, each in made.connections["tower"].operations.items()} == {"unit.update": "PUT"}


def test_a_name_like_two_others_must_be_exact() -> None:
    """Nobody guesses which tenant is meant."""
    text = TOWER.replace("tower", "acme-bit") + TOWER.replace("tower", "acme.bit").replace("acme.bit", '"acme.bit"')
    assert problems(text, {"PLANRELAY_CONNECTIONS__ACME_BIT__PACE": "5/s"}) == (
        "PLANRELAY_CONNECTIONS__ACME_BIT__PACE: may mean acme-bit or acme.bit; write the name exactly",
    )
    made = load(text, {"PLANRELAY_CONNECTIONS__acme-bit__PACE": "5/s"})
    assert made.connections["acme.bit"].pace is None


def test_a_connection_may_be_all_environment() -> None:
    """Its name is then the variable's, in lower case."""
    made = load(
        environ={
            "PLANRELAY_CONNECTIONS__TOWER__SYSTEM": "planpoint",
            "PLANRELAY_CONNECTIONS__TOWER__BASE_URL": "https://app.planpoint.io",
            "PLANRELAY_CONNECTIONS__TOWER__TOKEN": "hunter2",
        }
    )
    assert made.connections["tower"].limit_key == "tower"


def test_a_secret_may_be_overridden_by_a_reference(folder: Path) -> None:
    """`…__FILE` and `…__ENV`, whatever the file has there."""
    (folder / "token").write_text("from-file")
    token = "PLANRELAY_CONNECTIONS__TOWER__TOKEN"  # a variable's name
    for text in (TOWER, TOWER.replace('"hunter2-token"', '{ env = "NOWHERE" }')):
        for environ, expected in (
            ({f"{token}__FILE": "token"}, "from-file"),
            ({f"{token}__ENV": "OTHER", "OTHER": "from-env"}, "from-env"),
            ({token: "literal"}, "literal"),
        ):
            found = load(text, environ).connections["tower"].token
            assert found is not None
            assert found.get_secret_value() == expected


def test_a_whole_section_may_be_json() -> None:
    """It replaces the file's, and single keys go on top of it."""
    environ = {"PLANRELAY_WORKER": '{"concurrency": 5, "lease": "9s"}', "PLANRELAY_WORKER__LEASE": "8s"}
    made = load("[worker]\nmetrics_port = 1", environ)
    assert (made.worker.concurrency, made.worker.lease, made.worker.metrics_port) == (5, timedelta(seconds=8), 9464)


def test_schedules_may_be_json() -> None:
    """As a list of tables."""
    rows = [{"name": "n", "cron": "@daily", "type": "planpoint.lead.list", "connection": "tower"}]
    assert load(TOWER, {"PLANRELAY_SCHEDULES": json.dumps(rows)}).schedules[0].name == "n"


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("PLANRELAY_WORKER__CONCURENCY", "is no setting; did you mean PLANRELAY_WORKER__CONCURRENCY?"),
        ("PLANRELAY_WORKER_CONCURRENCY", "is no setting; did you mean PLANRELAY_WORKER__CONCURRENCY?"),
        ("PLANRELAY_DATADIR", "is no setting; did you mean PLANRELAY_DATA_DIR?"),
        ("PLANRELAY_CONNECTIONS__TOWER__TOKN", "is no setting; did you mean PLANRELAY_CONNECTIONS__TOWER__TOKEN?"),
        ("PLANRELAY_ZZZZZZZZZZ", "is no setting; remove it"),
        ("PLANRELAY_", "is no setting; remove it"),
        ("PLANRELAY_WORKER__CONCURRENCY__X", "worker.concurrency is no table; leave out __X"),
        ("PLANRELAY_ARTIFACTS__ALLOWED__0", "artifacts.allowed is no table; leave out __0"),
        ("PLANRELAY_ARTIFACTS__ALLOWED", 'is a list or a table, which is written as JSON, like ["a", "b"]'),
    ],
)
def test_a_variable_that_leads_nowhere_is_an_error(variable: str, said: str) -> None:
    """It names the nearest setting, or what to write."""
    assert problems(TOWER, {variable: "x"}) == (f"{variable}: {said}",)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("PLANRELAY_TEST_AMQP", "amqp://localhost"),
        ("PLANRELAY_SERVICE_HOST", "10.0.0.1"),
        ("PLANRELAY_SERVICE_PORT", "9464"),
        ("PLANRELAY_SERVICE_PORT_METRICS", "9464"),
        ("PLANRELAY_PORT", "tcp://10.0.0.1:9464"),
        ("PLANRELAY_PORT_9464_TCP", "tcp://10.0.0.1:9464"),
        ("PLANRELAY_PORT_9464_TCP_ADDR", "10.0.0.1"),
        ("PLANRELAY_METRICS_SERVICE_HOST", "10.0.0.1"),
        ("PLANRELAY_METRICS_PORT", "tcp://10.0.0.1:9464"),
        ("PLANPOINT_TOKEN", "x"),
    ],
)
def test_variables_of_others_are_left_alone(variable: str, text: str) -> None:
    """Tests have theirs, and Kubernetes gives a container some for every service called planrelay-something."""
    assert load("", {variable: text}) == load()


def test_a_secrets_variable_may_begin_like_a_setting() -> None:
    """What the file names by `{ env = … }` is no override."""
    text = TOWER.replace('"hunter2-token"', '{ env = "PLANRELAY_TOWER_TOKEN" }')
    token = load(text, {"PLANRELAY_TOWER_TOKEN": "hunter2"}).connections["tower"].token
    assert token is not None
    assert token.get_secret_value() == "hunter2"


# --- What is wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data_dri = 'x'", "data_dri: is not known; did you mean data_dir?"),
        ("[wroker]\n", "wroker: is not known; did you mean worker?"),
        (r'"wor\nker" = 5', r'"wor\nker": is not known; did you mean worker?'),
        ("[worker]\nconcurency = 5", "worker.concurency: is not known; did you mean concurrency?"),
        ("[broker]\nzzz = 5", "broker.zzz: is not known; known: url"),
        (TOWER + "max_inflight = 5", "connections.tower.max_inflight: is not known; did you mean max_in_flight?"),
        (TOWER + "name = 'x'", "connections.tower.name: is not known; a connection is called as its table: remove it"),
        (TOWER + "operations.'unit.update'.pth = '/'", None),
        (TOWER + NIGHTLY + "zone = 'UTC'", "schedules.nightly.zone: is not known; did you mean timezone?"),
    ],
)
def test_an_unknown_key_names_the_nearest(text: str, said: str | None) -> None:
    """At every depth."""
    assert problems(text) == (
        said or 'connections.tower.operations."unit.update".pth: is not known; did you mean path?',
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[worker]\nconcurrency = 0", "worker.concurrency: must be at least 1; change it"),
        ("[worker]\nconcurrency = 1.5", "worker.concurrency: must be a whole number"),
        ("[worker]\nconcurrency = true", "worker.concurrency: must be a whole number"),
        ("[worker]\nmetrics_port = 70000", "worker.metrics_port: must be at most 65535; change it"),
        ("[worker]\nmetrics_port = -1", "worker.metrics_port: must be at least 0; change it"),
        ("[worker]\nmetrics_host = ''", "worker.metrics_host: must not be empty; write it, or leave the key out"),
        ("[worker]\nmetrics_host = 5", "worker.metrics_host: must be text; write it in quotes"),
        ("[worker]\nresults = 1", "worker.results: must be true or false"),
        ("[worker]\ninclude = 'tasks.planpoint'", "worker.include: must be a list; write it in brackets"),
        (
            "[worker]\nlease = '1999ms'",
            'worker.lease: must be at least "2s": a third of it is all the time that a renewal has; make it longer',
        ),
        (
            "[worker]\nlease = 30",
            'worker.lease: must be a duration; write a number and ms, s, m, h or d in quotes, like "250ms" or "5m"',
        ),
        ("[worker]\ncommand_deadline = '0s'", 'worker.command_deadline: must be more than 0; write one like "5s"'),
        ("[http]\nmax_response = '0B'", "http.max_response: must be more than 0; change it"),
        ("[retry]\nmax_attempts = 0", "retry.max_attempts: must be at least 1; change it"),
        (
            "[retry]\nbackoff_initial = '10m'",
            "retry: has a backoff_ceiling below its backoff_initial; raise the one or lower the other",
        ),
        ("worker = 5", "worker: must be a table; write its keys under a heading in brackets"),
        ("connections = 5", "connections: must be a table; write its keys under a heading in brackets"),
        ("[connections]\ntower = 5", "connections.tower: must be a table; write its keys under a heading in brackets"),
        ("schedules = 5", "schedules: must be a list; write it in brackets"),
        (TOWER.replace("system = ", "#"), "connections.tower.system: is required; add it"),
        (TOWER.replace('planpoint"', 'planpiont"'), "connections.tower.system: is not known; did you mean planpoint?"),
        (
            TOWER.replace('planpoint"', 'zzz"'),
            "connections.tower.system: is not known; known: barometerit, planpoint, planview_admin",
        ),
        (TOWER + "auth = 'basic'", "connections.tower.auth: must be 'bearer' or 'raw'; write one of these in quotes"),
        (NIGHTLY, "schedules.nightly.connection: is not configured; configured: none"),
    ],
)
def test_a_wrong_value_is_told_with_its_rule_and_remedy(text: str, said: str) -> None:
    """One line, no more."""
    assert problems(text) == (said,)


def test_a_wrong_value_from_the_environment_names_its_variable() -> None:
    """The operator must know where to look."""
    assert problems(environ={"PLANRELAY_WORKER__CONCURRENCY": "0"}) == (
        "worker.concurrency (PLANRELAY_WORKER__CONCURRENCY): must be at least 1; change it",
    )


def test_every_problem_is_told_at_once() -> None:
    """Of the environment, of keys, of values, and between the parts, also where the parts are wrong in themselves."""
    text = """
        date_dir = "x"
        [broker]
        url = "amqp://u:p4ssw0rd@rabbit.example//"
        [worker]
        lease = "1s"
        [connections.a]
        system = "planpont"
        base_url = "ftp://x"
        [[schedules]]
        name = "n"
        cron = "0 2"
        type = "planpoint.lead.list"
        connection = "b"
        [[schedules]]
        name = "m"
        cron = "@daily"
        type = "planpoint.lead.list"
        connection = "b"
    """
    found = problems(text, {"PLANRELAY_ZZZZZZZZZZ": "1"})
    assert sorted(problem.partition(":")[0] for problem in found) == [
        "PLANRELAY_ZZZZZZZZZZ",
        "connections.a.base_url",
        "connections.a.system",
        "date_dir",
        "schedules.m.connection",
        "schedules.n.cron",
        "state.url",
        "worker.lease",
    ]


def test_a_schedule_of_a_broken_connection_is_not_blamed() -> None:
    """The connection is there; its own problem is told."""
    assert problems(TOWER + "pace = 'fast'" + NIGHTLY) == (
        'connections.tower.pace: must be a pace; write requests per s, m, h or d in quotes, like "20/s" or "100/m"',
    )


# --- Broker and state -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "amqp://guest:guest@localhost:5672//",
        "amqp://127.0.0.1",
        "amqp://127.9.9.9//",
        "amqps://[::1]//",
        "pyamqp://",
        "amqp://a@localhost//;amqp://b@127.0.0.1//",
    ],
)
def test_a_broker_on_loopback_needs_no_state_url(url: str) -> None:
    """One host keeps one ledger."""
    made = load(environ={"PLANRELAY_BROKER__URL": url})
    assert made.broker.is_amqp
    assert made.broker.is_local


@pytest.mark.parametrize(
    "url",
    [
        "amqp://rabbit//",
        "amqps://u:p@rabbit.example:5671/vhost",
        "amqp://10.0.0.1",
        "amqp://localhost.example",
        "amqp://localhost;amqp://rabbit",
    ],
)
def test_a_broker_elsewhere_needs_a_state_url(url: str) -> None:
    """Two hosts would keep two ledgers."""
    (said,) = problems(environ={"PLANRELAY_BROKER__URL": url})
    assert said.startswith("state.url: is required with a broker that is not on loopback")
    made = load(environ={"PLANRELAY_BROKER__URL": url, "PLANRELAY_STATE__URL": "redis://valkey:6379/0"})
    assert not made.broker.is_local


@pytest.mark.parametrize("url", ["redis://valkey:6379/0", "rediss://valkey", "valkey://v", "unix:///run/valkey.sock"])
def test_a_broker_may_be_valkey(url: str) -> None:
    """It then holds the state too, unless told otherwise."""
    made = load(environ={"PLANRELAY_BROKER__URL": url})
    assert not made.broker.is_amqp


@pytest.mark.parametrize(
    "url", ["http://rabbit", "rabbit:5672", "localhost", "sqs://", "amqp:guest", "amqp://host:port"]
)
def test_another_broker_is_refused(url: str) -> None:
    """The error says which there are, and not what was given."""
    (said,) = problems(environ={"PLANRELAY_BROKER__URL": url})
    assert said.startswith("broker.url (PLANRELAY_BROKER__URL): must be ")
    assert url not in said


@pytest.mark.parametrize("url", ["amqp://localhost", "http://x", "valkey"])
def test_the_state_store_is_valkey(url: str) -> None:
    """RabbitMQ can't keep a ledger."""
    (said,) = problems(environ={"PLANRELAY_STATE__URL": url})
    assert said.startswith("state.url (PLANRELAY_STATE__URL): must be ")


def test_a_password_that_must_be_encoded_says_so() -> None:
    """An unescaped # or / cuts a URL in two."""
    for url in ("amqp://u:pa#ss@localhost//", "amqp://u:pa/ss@localhost//"):
        (said,) = problems(environ={"PLANRELAY_BROKER__URL": url})
        assert "percent-encode" in said


@pytest.mark.parametrize("url", [None, "redis://localhost"])
def test_allowed_users_need_rabbitmq(url: str | None) -> None:
    """No other broker says who published a message, so the rule would be a promise that nobody keeps."""
    environ = {"PLANRELAY_BROKER__URL": url} if url else {}
    (said,) = problems(TOWER + "allowed_users = ['crm']", environ)
    assert said.startswith("connections.tower.allowed_users: needs RabbitMQ")
    amqp = load(TOWER + "allowed_users = ['crm']", {"PLANRELAY_BROKER__URL": "amqp://localhost"})
    assert amqp.connections["tower"].allowed_users == ("crm",)


# --- Artifacts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "kept"),
    [
        ("./out/", "./out/"),
        ("./out", "./out/"),
        ("out", "out/"),
        ("file:///srv/out", "file:///srv/out/"),
        ("s3://bucket", "s3://bucket/"),
        ("gs://bucket/prefix", "gs://bucket/prefix/"),
        ("az://container/p/", "az://container/p/"),
    ],
)
def test_an_allowed_place_is_a_folder(place: str, kept: str) -> None:
    """It ends in a slash, so that `out` does not allow `outside`."""
    assert load(f"[artifacts]\nallowed = ['{place}']").artifacts.allowed == (kept,)


@pytest.mark.parametrize(
    "place", ["", " ", "ftp://x/", "http://x/", "s3://", "file://relative", "s3:///x", "../out", "a/../b"]
)
def test_what_is_no_place_is_refused(place: str) -> None:
    """With how to write one."""
    (said,) = problems(f"[artifacts]\nallowed = ['{place}']")
    assert said.startswith("artifacts.allowed.0: must ")
    assert "write ./var/artifacts/" in said


# --- Schedules ------------------------------------------------------------------------------------------------------


def test_a_schedule_has_defaults() -> None:
    """UTC, no jitter, never two runs at once, one catch-up."""
    (made,) = load(TOWER + NIGHTLY).schedules
    assert (made.timezone, made.jitter, made.overlap, made.catch_up) == ("UTC", timedelta(0), "skip", "once")
    assert dict(made.data) == {}
    assert made.ticks.hours == {2}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "timezone = 'Europe/Pariss'",
            "timezone: must be a time zone of the IANA database; did you mean Europe/Paris?",
        ),
        ("timezone = 'Europe'", None),
        ("timezone = '../../etc/passwd'", None),
        ("timezone = ''", None),
        ("timezone = '/etc/localtime'", None),
        ("overlap = 'wait'", "overlap: must be 'skip' or 'queue'; write one of these in quotes"),
        ("catch_up = 'all'", "catch_up: must be 'once' or 'skip'; write one of these in quotes"),
        (
            "data = { at = 2026-01-01 }",
            "data: has a TOML date or time at data.at, which JSON has no word for; write it in quotes",
        ),
        (
            "data = { a = [{ b = nan }] }",
            "data: has nan or inf at data.a.0.b, which JSON has no word for; write a number",
        ),
        ("data = 5", "data: must be a table; write its keys under a heading in brackets"),
    ],
)
def test_a_wrong_schedule_is_told_by_name(line: str, said: str | None) -> None:
    """Field, rule and remedy."""
    (found,) = problems(TOWER + NIGHTLY + line)
    if said is None:
        assert found.startswith("schedules.nightly.timezone: must be a time zone of the IANA database")
    else:
        assert found == f"schedules.nightly.{said}"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"0 2 * * *"', '"0 2 * * mo"', "cron: has 'mo' as day of the week"),
        ('"planpoint.lead.list"', '"lead list"', "type: must be a command type"),
        ('"planpoint.lead.list"', '"barometerit.search"', "type: is no command of planpoint"),
        ('connection = "tower"', 'connection = "towr"', "connection: is not configured; did you mean tower?"),
    ],
)
def test_a_schedule_fits_its_connection(old: str, new: str, said: str) -> None:
    """What could never run is refused at the start."""
    (found,) = problems(TOWER + NIGHTLY.replace(old, new))
    assert found.startswith(f"schedules.nightly.{said}")


def test_a_batch_may_be_scheduled() -> None:
    """It belongs to no system."""
    assert (
        load(TOWER + NIGHTLY.replace("planpoint.lead.list", "planrelay.batch")).schedules[0].type == "planrelay.batch"
    )


def test_two_schedules_have_two_names() -> None:
    """Ids of commands are derived from them."""
    assert problems(TOWER + NIGHTLY + NIGHTLY) == (
        "schedules.nightly.name: is taken by an earlier schedule; give each its own",
    )


def test_a_schedule_without_a_name_is_told_by_number() -> None:
    """There is nothing else to call it by."""
    assert problems(TOWER + NIGHTLY.replace('name = "nightly"', "")) == ("schedules.0.name: is required; add it",)


# --- Secrets --------------------------------------------------------------------------------------------------------


def test_secrets_are_everything_that_must_not_be_shown() -> None:
    """Credentials, passwords in URLs as written and decoded, and what Basic makes of user and password."""
    text = """
        [broker]
        url = "amqp://relay:br%40ker-pw@localhost//;amqp://relay:second-pw@localhost//"
        [state]
        url = "redis://:state-pw@localhost"
        [connections.a]
        system = "barometerit"
        base_url = "https://a.example"
        username = "svc"
        password = "basic-pw"
        [connections.b]
        system = "planview_admin"
        base_url = "https://b.example"
        client_id = "relay"
        client_secret = "client-pw"
    """
    assert load(text + TOWER).secrets() == {
        *("br%40ker-pw", "br@ker-pw", "second-pw", "state-pw", "basic-pw", "client-pw", "hunter2-token"),
        base64.b64encode(b"svc:basic-pw").decode(),
    }


@pytest.mark.parametrize("password", ["abc", "guest"])
def test_what_stands_in_ordinary_text_is_no_secret(password: str) -> None:
    """Redacting it would spoil every log: under four characters, and RabbitMQ's public password."""
    assert load(environ={"PLANRELAY_BROKER__URL": f"amqp://u:{password}@localhost//"}).secrets() == frozenset()


def test_settings_show_no_secret() -> None:
    """Neither printed nor dumped."""
    made = load(TOWER, {"PLANRELAY_BROKER__URL": "amqp://u:hunter2@localhost//"})
    assert "hunter2" not in f"{made!r} {made} {made.model_dump()} {made.model_dump_json()}"


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        ("[broker]\nurl = 'amqp://u:hunter2@rabbit//'", {}),
        ("[broker]\nurl = 'amqpp://u:hunter2@localhost//'", {}),
        ("[broker]\nurl = ['hunter2']", {}),
        ("[broker]\nurl = { hunter2 = 'x' }", {}),
        ("[state]\nurl = 'amqp://u:hunter2@localhost//'", {}),
        (TOWER + "username = 'a'\npassword = 'hunter2'", {}),
        (TOWER + "client_secret = 'hunter2'", {}),
        (TOWER.replace('"hunter2-token"', '["hunter2"]'), {}),
        (TOWER.replace('"hunter2-token"', "{ env = 'A', file = 'hunter2' }"), {}),
        (TOWER.replace("https://app", "https://u:hunter2@app"), {}),
        (TOWER + "pace = 'hunter2'\nlimit_key = 'hunter2 '\nauth = 'hunter2'\nmax_in_flight = 'hunter2'", {}),
        ("[worker]\nlease = 'hunter2'\nresults = 'hunter2'\ninclude = 'hunter2'", {}),
        ("[http]\nmax_response = 'hunter2'", {}),
        ("", {"PLANRELAY_BROKER__URL": "hunter2"}),
        ("", {"PLANRELAY_BROKER": '{"url": "hunter2"'}),
        ("", {"PLANRELAY_CONNECTIONS__X": "hunter2"}),
        ("", {"PLANRELAY_NO_SUCH_PASSWORD": "hunter2"}),
        (TOWER, {"PLANRELAY_CONNECTIONS__TOWER__TOKEN__VAULT": "hunter2"}),
    ],
)
def test_no_error_shows_a_secret(text: str, environ: dict[str, str]) -> None:
    """Not in the text, nor in what the error is chained to."""
    with pytest.raises(ConfigError) as caught:
        load(text, environ)
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__


def test_a_programs_own_mistake_shows_no_secret_either() -> None:
    """Also pydantic's error, for those who make Settings themselves."""
    tower = {**tomllib.loads(TOWER)["connections"]["tower"], "password": "hunter2", "zzz": "hunter2"}
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"connections": {"tower": tower}})
    assert "hunter2" not in str(caught.value)


# --- Anything at all ------------------------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
paths = st.sampled_from(
    [
        *(
            "WORKER",
            "WORKER__LEASE",
            "CONNECTIONS",
            "CONNECTIONS__X",
            "CONNECTIONS__X__TOKEN",
            "SCHEDULES",
            "BROKER__URL",
        ),
        *("CONNECTIONS__X__OPERATIONS__Y", "CONNECTIONS__X__FIELDS__Z", "ARTIFACTS__ALLOWED", "DATA_DIR", "STATE"),
        *("CONNECTIONS__X__BASE_URL", "CONNECTIONS__X__SYSTEM", "CONNECTIONS__X__PACE", "RETRY__MAX_AGE"),
    ]
)


@given(
    variables=st.dictionaries(
        paths | st.text(alphabet="ABCDEFGHIJKLMNOPQRSTUVWXYZ_", max_size=20),
        st.text(max_size=20) | values.map(json.dumps),
        max_size=5,
    )
)
def test_no_environment_raises_anything_else(variables: dict[str, str]) -> None:
    """It is settings, or a ConfigError with at least one problem."""
    with contextlib.suppress(ConfigError):
        load_settings(environ={f"PLANRELAY_{name}": text for name, text in variables.items() if name != "CONFIG"})
