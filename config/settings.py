"""
The settings: what an operator may say, as frozen, validated values.

They come from `planrelay.toml` in the working directory or the file that `PLANRELAY_CONFIG` names, with `PLANRELAY_…`
variables over it (`config.environment`). Every problem is told at once, each with its key, the rule and the remedy, and
none with the value: it may be a secret.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import tomllib
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator

from config.connections import Connection
from config.environment import overlay
from config.problems import ConfigError, explain
from config.schedules import Schedule
from config.shape import Shape, nearest, shape_of
from config.values import Count, Duration, Flag, Port, PositiveDuration, Secret, Section, Size

__all__ = ["ConfigError", "Schedule", "Settings", "load_settings"]

DEFAULT_FILE: Final = "planrelay.toml"
FILE_VARIABLE: Final = "PLANRELAY_CONFIG"

SHORTEST_LEASE: Final = timedelta(seconds=2)

_AMQP: Final = frozenset({"amqp", "amqps", "pyamqp"})
_VALKEY: Final = frozenset({"redis", "rediss", "valkey", "valkeys", "unix"})

_SHORTEST_SECRET: Final = 4
"""Characters under which a text is no secret that could be looked for: it would be found everywhere."""

_PUBLIC_PASSWORDS: Final = frozenset({"guest"})
"""RabbitMQ's own default, accepted on loopback only: everybody knows it, and the word stands in ordinary text."""

_SLICES: Final = ("tasks.barometerit", "tasks.planview_admin", "tasks.planpoint")
_BATCH: Final = "planrelay.batch"


def _check_broker_url(value: SecretStr) -> SecretStr:
    for parts in _split_urls(value.get_secret_value()):
        if parts.scheme not in _AMQP | _VALKEY:
            raise ValueError("must be amqp://, amqps://, redis:// or rediss://; leave it out for the embedded Valkey")
    return value


def _check_state_url(value: SecretStr) -> SecretStr:
    for parts in _split_urls(value.get_secret_value()):
        if parts.scheme not in _VALKEY:
            raise ValueError("must be redis:// or rediss://; leave it out for the embedded Valkey")
    return value


def _split_urls(text: str) -> list[SplitResult]:
    """Split a broker's URL, which may be several to fail over between (`amqp://a;amqp://b`)."""
    try:
        urls = [urlsplit(one) for one in text.split(";")]
        whole = all(one.partition(":")[2].startswith("//") for one in text.split(";"))
        if whole and not any(parts.port == 0 for parts in urls):  # reading the port raises where it is no number
            return urls
    except ValueError:
        pass
    raise ValueError("must be a URL; percent-encode special characters of user and password")


class Broker(Section):
    """Where commands come from; no `url`: the embedded Valkey under `data_dir`."""

    url: Annotated[Secret, AfterValidator(_check_broker_url)] | None = None

    @property
    def is_amqp(self) -> bool:
        """Whether it is RabbitMQ, which validates its users and has an alternate exchange."""
        return self.url is not None and all(parts.scheme in _AMQP for parts in _split_urls(_shown(self.url)))

    @property
    def is_local(self) -> bool:
        """Whether only this host can reach it."""
        return self.url is None or all(_is_loopback(parts) for parts in _split_urls(_shown(self.url)))


class State(Section):
    """Where the fleet shares its ledger and gates; no `url`: the embedded Valkey under `data_dir`."""

    url: Annotated[Secret, AfterValidator(_check_state_url)] | None = None


def _check_lease(value: timedelta) -> timedelta:
    if value < SHORTEST_LEASE:
        raise ValueError('must be at least "2s": a third of it is all the time that a renewal has; make it longer')
    return value


class Worker(Section):
    """One worker process."""

    concurrency: Count = 200
    """Commands in flight in one process."""
    drain_timeout: Duration = timedelta(seconds=25)
    command_deadline: PositiveDuration = timedelta(minutes=30)
    """One command's whole run, waits in the broker not counted."""
    lease: Annotated[Duration, AfterValidator(_check_lease)] = timedelta(seconds=30)
    """How long the commands of a worker that fell silent stay its own."""
    metrics_port: Port = 9464
    """/metrics, /healthz and /readyz; 0: off."""
    metrics_host: str = Field(default="127.0.0.1", min_length=1)
    results: Flag = False
    """Whether Celery's `AsyncResult.get()` works, kept in the state store."""
    max_memory: Size | None = None
    """Memory above which a worker drains and exits, for its supervisor to start it again; None: no limit."""
    include: tuple[str, ...] = _SLICES
    """The slices to load."""


class Http(Section):
    """Requests to the vendors."""

    connect_timeout: PositiveDuration = timedelta(seconds=10)
    request_timeout: PositiveDuration = timedelta(seconds=60)
    """Until the whole answer is there; downloads: between two chunks."""
    max_response: Size = 16 * 1024 * 1024
    """Bytes of one answer; downloads excepted."""


class Retry(Section):
    """How patient the worker is."""

    max_attempts: Count = 6
    backoff_initial: PositiveDuration = timedelta(seconds=1)
    backoff_ceiling: PositiveDuration = timedelta(minutes=5)
    inline_wait: Duration = timedelta(seconds=2)
    """Waits up to this long happen in the call; longer ones are parked in the broker."""
    max_retry_after: Duration = timedelta(hours=1)
    """A vendor that asks for more fails the command."""
    max_age: PositiveDuration = timedelta(hours=24)
    """Since a worker first received it; then it is dead-lettered as expired."""

    @model_validator(mode="after")
    def _check_order(self) -> Retry:
        if self.backoff_initial > self.backoff_ceiling:
            raise ValueError("has a backoff_ceiling below its backoff_initial; raise the one or lower the other")
        return self


def _check_allowed(value: str) -> str:
    scheme, separator, rest = value.partition("://")
    remedy = "write ./var/artifacts/, file:///an/absolute/path/ or s3://bucket/prefix/"
    if not value.strip() or (separator and scheme not in {"file", "s3", "gs", "az"}):
        raise ValueError(f"must be a folder or a prefix in an object store; {remedy}")
    if separator and (not rest or (scheme == "file") != rest.startswith("/")):
        raise ValueError(f"must name a place after {scheme}://; {remedy}")
    if ".." in value.split("/"):
        raise ValueError(f"must not hold ..; {remedy}")
    return value if value.endswith("/") else value + "/"  # "…/art" must not allow "…/artifice"


class Artifacts(Section):
    """Where files may be written and read: anything outside these is refused. Relative to the working directory."""

    allowed: tuple[Annotated[str, AfterValidator(_check_allowed)], ...] = ("./var/artifacts/",)


class Settings(Section):
    """Everything an operator may say."""

    data_dir: Path = Path("var")
    """The embedded Valkey and artifacts."""
    broker: Broker = Field(default_factory=Broker)
    state: State = Field(default_factory=State)
    worker: Worker = Field(default_factory=Worker)
    http: Http = Field(default_factory=Http)
    retry: Retry = Field(default_factory=Retry)
    artifacts: Artifacts = Field(default_factory=Artifacts)
    connections: Mapping[str, Connection] = Field(default_factory=dict)
    schedules: tuple[Schedule, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _name_connections(cls, given: Any) -> Any:
        """Tell each connection its name, which is its table's."""
        if not isinstance(given, Mapping) or not isinstance(tables := given.get("connections"), Mapping):
            return given
        return {**given, "connections": {name: _named(name, table) for name, table in tables.items()}}

    @model_validator(mode="after")
    def _check_together(self) -> Settings:
        problems = list(_contradictions(self.broker, self.state, dict(self.connections), list(self.schedules)))
        if problems:
            raise ConfigError(problems)
        return self

    def secrets(self) -> frozenset[str]:
        """
        Give every text that must never be shown, for redaction.

        All configured secrets, the passwords in URLs (as written and decoded), and what Basic sign-in makes of user and
        password. Left out is what would be found in ordinary text: under 4 characters, and RabbitMQ's public `guest`.
        """
        found = {_shown(secret) for connection in self.connections.values() for secret in connection.secrets()}
        for connection in self.connections.values():
            if connection.username is not None and connection.password is not None:
                pair = f"{connection.username}:{_shown(connection.password)}"
                found.add(base64.b64encode(pair.encode()).decode())
        for url in (self.broker.url, self.state.url):
            for parts in _split_urls(_shown(url)) if url is not None else ():
                found |= {parts.password or "", unquote(parts.password or "")}
        return frozenset(text for text in found if len(text) >= _SHORTEST_SECRET) - _PUBLIC_PASSWORDS


def load_settings(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """
    Read the settings from file and environment; raises `ConfigError` with every problem found.

    The file is `path`, else what `PLANRELAY_CONFIG` names, else `planrelay.toml` in the working directory if it is
    there: without one, everything has its default and there are no connections.
    """
    variables = os.environ if environ is None else environ
    layered = overlay(_read_file(path, variables), variables, _shape())
    problems = [*layered.problems, *_named_inside(layered.raw)]
    context = {"environ": variables, "systems": _systems(layered.raw)}
    try:
        settings = Settings.model_validate(layered.raw, context=context)
    except ValidationError as error:
        problems += explain(error, layered, _shape())
        problems += (one for one in _contradictions_in(layered.raw, context) if one not in problems)
    else:
        if not problems:
            return settings
    # Outside the except block: the error's own text, and what it is chained to, may hold what was given.
    raise ConfigError(problems)


def _contradictions(
    broker: Broker | None,
    state: State | None,
    connections: Mapping[str, Connection | None],
    schedules: list[Schedule | None],
) -> Iterator[str]:
    """Tell what is wrong between the parts; a part that is None is wrong in itself, and is not held against others."""
    if broker is not None and state is not None and broker.is_amqp and not broker.is_local and state.url is None:
        yield (
            "state.url: is required with a broker that is not on loopback, because two hosts would keep two ledgers; "
            'give every worker the same one, like "redis://valkey.internal:6379/0"'
        )
    for connection in filter(None, connections.values()):
        key = f"connections.{connection.name}"
        if connection.allowed_users is not None and broker is not None and not broker.is_amqp:
            yield (
                f"{key}.allowed_users: needs RabbitMQ, the only broker that says who published a message; "
                "set broker.url to an amqp URL, or leave it out"
            )
    for index, schedule in enumerate(schedules):
        if schedule is not None:
            earlier = {each.name for each in schedules[:index] if each is not None}
            yield from _schedule_contradictions(schedule, earlier, connections)


def _schedule_contradictions(
    schedule: Schedule, earlier: set[str], connections: Mapping[str, Connection | None]
) -> Iterator[str]:
    key = f"schedules.{schedule.name}"
    if schedule.name in earlier:
        yield f"{key}.name: is taken by an earlier schedule; give each its own"
    if schedule.connection not in connections:
        near = nearest(schedule.connection, connections)
        hint = f"did you mean {near}?" if near else f"configured: {', '.join(sorted(connections)) or 'none'}"
        yield f"{key}.connection: is not configured; {hint}"
        return
    connection = connections[schedule.connection]
    if connection is not None and schedule.type.partition(".")[0] not in {connection.system, _BATCH.partition(".")[0]}:
        yield f"{key}.type: is no command of {connection.system}, its connection's system; correct one of the two"


def _contradictions_in(raw: Mapping[str, Any], context: Mapping[str, Any]) -> Iterator[str]:
    """Tell what is wrong between the parts of settings that have parts wrong in themselves."""
    tables, rows = raw.get("connections"), raw.get("schedules")
    connections = tables if isinstance(tables, Mapping) else {}
    return _contradictions(
        _valid(Broker, raw.get("broker", {}), context),
        _valid(State, raw.get("state", {}), context),
        {name: _valid(Connection, _named(name, table), context) for name, table in connections.items()},
        [_valid(Schedule, row, context) for row in (rows if isinstance(rows, list) else [])],
    )


def _systems(raw: Mapping[str, Any]) -> frozenset[str]:
    """Give the systems that there can be: those built in, also where this worker loads only some, and those loaded."""
    worker = _valid(Worker, raw.get("worker", {}), {})
    return frozenset(module.rpartition(".")[2] for module in (*_SLICES, *(worker.include if worker else ())))


_Part = TypeVar("_Part", bound=Section)


def _valid(section: type[_Part], raw: Any, context: Mapping[str, Any]) -> _Part | None:
    try:
        return section.model_validate(raw, context=context)
    except ValidationError:
        return None


def _named(name: str, table: Any) -> Any:
    return {**table, "name": name} if isinstance(table, Mapping) else table


def _named_inside(raw: Mapping[str, Any]) -> Iterator[str]:
    tables = raw.get("connections")
    for name, table in tables.items() if isinstance(tables, Mapping) else ():
        if isinstance(table, Mapping) and "name" in table:
            yield f"connections.{name}.name: is not known; a connection is called as its table: remove it"


def _read_file(path: Path | None, environ: Mapping[str, str]) -> dict[str, Any]:
    asked = path or (Path(environ[FILE_VARIABLE]) if environ.get(FILE_VARIABLE) else None)
    file = asked or Path(DEFAULT_FILE)
    try:
        return tomllib.loads(file.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        if asked is None:
            return {}
        raise ConfigError([f"{file}: is not there; write it, or correct {FILE_VARIABLE}"]) from None
    except OSError as error:
        raise ConfigError([f"{file}: can't be read ({error.strerror}); make it a readable file"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{file}: is not UTF-8; save it as UTF-8"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{file}: is not TOML: {error}; correct it there"]) from None


@cache
def _shape() -> Shape:
    shape = shape_of(Settings)
    connection = shape.fields["connections"].each
    if connection is not None:  # a connection's name is its table's, and no key in it
        known = {name: inner for name, inner in connection.fields.items() if name != "name"}
        shape = Shape("table", {**shape.fields, "connections": Shape("named", each=Shape("table", known))})
    return shape


def _is_loopback(parts: SplitResult) -> bool:
    host = parts.hostname
    if parts.scheme == "unix" or host is None or host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(secret: SecretStr) -> str:
    return secret.get_secret_value()
