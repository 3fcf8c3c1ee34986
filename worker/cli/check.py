"""Checking the configuration, and what it leads to."""

from __future__ import annotations

import asyncio
import difflib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click

from worker.cli import FAILED, Setup
from worker.cli.screen import clean, json_option, show_json

if TYPE_CHECKING:
    from config.connections import Connection
    from config.settings import Schedule, Settings
    from worker.app import Slices
    from worker.rest import Endpoint


_PLACE: Final = re.compile(r"\{[^{}]*\}?|\}")
"""Where an id stands in a path, and braces that belong to none."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: `problem` None where all is well."""

    what: str
    said: str
    problem: str | None = None


@click.command()
@click.option("--connect", is_flag=True, help="Also ask broker, state store and each vendor.")
@json_option
@click.pass_obj
def check(setup: Setup, *, connect: bool, as_json: bool) -> int:
    """Validate the configuration, one line each; exit status 1 if anything fails."""
    findings = []
    for found in _findings(setup, connect=connect):
        finding = _redacted(setup, found)
        findings.append(finding)
        if not as_json:
            mark = "ok  " if finding.problem is None else "FAIL"
            click.echo(clean(f"{mark}  {finding.what}: {finding.said if finding.problem is None else finding.problem}"))
    if as_json:
        show_json([{"what": each.what, "said": each.said, "problem": each.problem} for each in findings])
    return FAILED if any(each.problem is not None for each in findings) else 0


def _redacted(setup: Setup, finding: Finding) -> Finding:
    """Take secrets out of what a broker or a vendor said; without settings there is none to take out."""
    from config.settings import ConfigError

    try:
        redact = setup.redact
    except ConfigError:
        return finding
    return Finding(redact(finding.what), redact(finding.said), redact(finding.problem))


def _findings(setup: Setup, *, connect: bool) -> Iterator[Finding]:
    from config.settings import ConfigError

    where = os.environ.get("PLANRELAY_CONFIG") or "planrelay.toml"
    try:
        settings = setup.settings
    except ConfigError as error:
        yield from (Finding("settings", where, problem) for problem in error.problems)
        return
    yield Finding("settings", where if os.path.exists(where) else "defaults alone (there is no planrelay.toml)")  # noqa: PTH110 - a question, no path of ours
    try:
        slices = setup.slices
    except click.UsageError as error:
        yield Finding("worker.include", "", error.message)
        return
    for connection in settings.connections.values():
        yield Finding(
            f"connection {connection.name}",
            _described(connection, slices),
            "; ".join(_wrong(connection, slices)) or None,
        )
    for schedule in settings.schedules:
        said = f"{schedule.cron} {schedule.timezone}, {schedule.type}"
        yield Finding(f"schedule {schedule.name}", said, schedule_problem(schedule, slices))
    if connect:
        yield from _answering(settings, slices, setup.redactor.learn)


def _described(connection: Connection, slices: Slices) -> str:
    way = "token" if connection.token else "client credentials" if connection.client_id else "user and password"
    endpoints = _endpoints(connection, slices).values()
    assumed = sum(each.evidence == "assumed" and each.name not in connection.operations for each in endpoints)
    known = f"{assumed} of {len(endpoints)} calls assumed, {len(connection.operations)} configured"
    return f"{connection.system} at {connection.base_url}, {way}; {known} (`planrelay operations {connection.system}`)"


def _endpoints(connection: Connection, slices: Slices) -> dict[str, Endpoint]:
    mine = [each for each in slices.operations.values() if each.system == connection.system]
    return {endpoint.name: endpoint for operation in mine for endpoint in operation.uses}


def _wrong(connection: Connection, slices: Slices) -> Iterator[str]:
    """Say what the settings alone could not know to be wrong: it takes the slice."""
    system = slices.systems.get(connection.system)
    if system is None:
        yield f"its system {connection.system} is not loaded; name it in worker.include"
        return
    try:
        system.auth(connection)
    except ValueError as error:
        yield str(error)
    mine = [each for each in slices.operations.values() if each.system == connection.system]
    endpoints = _endpoints(connection, slices)
    for name, override in connection.operations.items():
        if name in endpoints:
            yield from _wrong_path(endpoints[name], override.path)
        else:
            near = difflib.get_close_matches(name, endpoints, n=1)
            hint = (
                f"did you mean {near[0]}?" if near else f"`planrelay operations {connection.system} --json` lists them"
            )
            yield f"operations.{name} is no endpoint of {connection.system}; {hint}"
    for pattern in connection.allowed_types or ():
        stem = pattern.removesuffix("*")
        if not any(each.type == pattern or (stem != pattern and each.type.startswith(stem)) for each in mine):
            yield f"allowed_types has {pattern}, which is no command of {connection.system}; correct it"


def _wrong_path(endpoint: Endpoint, path: str | None) -> Iterator[str]:
    """Say which of a call's ids a configured path lacks, or which it has that the call does not know."""
    wanted, given = (sorted(set(_PLACE.findall(each))) for each in (endpoint.path, path or endpoint.path))
    if wanted != given:
        known = " and ".join(wanted) or "no place in braces"
        yield f"operations.{endpoint.name}: path {path} must have {known}, each where its id stands"


def schedule_problem(schedule: Schedule, slices: Slices) -> str | None:
    """Say what is wrong with a schedule's command; None: a worker would take it."""
    from worker.errors import BadCommand

    operation = slices.operations.get(schedule.type)
    if operation is None:
        near = difflib.get_close_matches(schedule.type, slices.operations, n=1)
        hint = f"did you mean {near[0]}?" if near else "`planrelay operations` lists them"
        return f"type {schedule.type} is no command; {hint}"
    try:
        operation.validate(schedule.data)
    except BadCommand as error:
        return error.message
    return None


def _answering(settings: Settings, slices: Slices, learn: Callable[[str], None]) -> Iterator[Finding]:
    from worker.embedded import EmbeddedError

    try:
        yield from _check_broker(settings, slices)
        state = asyncio.run(_check_state(settings))
    except EmbeddedError as error:
        yield Finding("embedded Valkey", "", str(error))
        return
    yield state
    if state.problem is not None:
        return  # without it no gate can be asked, and no vendor may be called
    yield from asyncio.run(_check_vendors(settings, slices, learn))


def _check_broker(settings: Settings, slices: Slices) -> Iterator[Finding]:
    from worker import broker
    from worker.app import broker_url, is_amqp_url, transport_options

    url = broker_url(settings)
    where = _without_secrets(url)
    try:
        with broker.connected(url, transport_options(amqp=is_amqp_url(url))) as connection:
            yield Finding("broker", f"{where} answers")
            found = broker.differences(connection, tuple(slices.systems))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        yield Finding("broker", where, f"{where} does not answer ({error}); start it, or correct broker.url")
        return
    if found is None:
        yield Finding("topology", "is not there yet: the first worker declares it")
    elif found:
        yield from (Finding("topology", "", each) for each in found)
    else:
        yield Finding("topology", "is as this version declares it")


async def _check_state(settings: Settings) -> Finding:
    from redis.exceptions import RedisError

    from worker.app import state_url
    from worker.store import connect

    url = state_url(settings)
    where = _without_secrets(url)
    redis: Any = connect(url)
    try:
        await redis.ping()
        policy = (await redis.config_get("maxmemory-policy")).get("maxmemory-policy", "noeviction")
    except (RedisError, OSError) as error:
        return Finding("state store", where, f"{where} does not answer ({error}); start it, or correct state.url")
    finally:
        await redis.aclose()
    if policy != "noeviction":
        return Finding(
            "state store",
            where,
            f"{where} may forget what each command has done (maxmemory-policy {policy}); set it to noeviction",
        )
    return Finding("state store", f"{where} answers")


async def _check_vendors(settings: Settings, slices: Slices, learn: Callable[[str], None]) -> list[Finding]:
    """Try each connection's credentials with its system's cheapest read, all side by side."""
    from random import SystemRandom

    from worker.app import state_url
    from worker.gateway import Wire
    from worker.store import connect
    from worker.task import utc_now
    from worker.telemetry import Metrics

    redis = connect(state_url(settings))
    wire = Wire(
        settings=settings,
        systems=slices.systems,
        redis=redis,
        worker_id="check",
        observer=Metrics(),
        clock=utc_now,
        rng=SystemRandom(),
        learn=learn,
    )
    await wire.start()
    try:
        loaded = [each for each in settings.connections.values() if each.system in slices.systems]
        return list(await asyncio.gather(*(_try(wire, slices, connection) for connection in loaded)))
    finally:
        await wire.close()
        await redis.aclose()


async def _try(wire: Any, slices: Slices, connection: Connection) -> Finding:
    from worker.errors import Crowded, RateLimited, RelayError
    from worker.gateway import Gateway
    from worker.task import utc_now

    system = slices.systems[connection.system]
    what, call = f"credentials {connection.name}", f"{system.cheapest.method} {system.cheapest.path}"
    deadline = utc_now() + wire.request_timeout * 2
    try:
        gateway = Gateway(wire, connection, attempt=1, bulk=False, deadline=deadline)
        await gateway.send(system.cheapest, query=system.cheapest_query)
    except RateLimited as error:
        if isinstance(error, Crowded) or error.status is None:
            return Finding(what, "were not tried: its gate is closed or crowded; see `planrelay status`")
        return Finding(what, "are accepted: the vendor's limit answered")
    except RelayError as error:
        return Finding(what, call, f"{call}: {error.message.rstrip('.')}; correct connections.{connection.name}")
    return Finding(what, f"{call} is answered")


def _without_secrets(url: str) -> str:
    """Write a URL (or several) without user and password."""
    shown = []
    for one in url.split(";"):
        parts = urlsplit(one)
        host = parts.netloc.rpartition("@")[2]
        shown.append(f"{parts.scheme}://{host}{parts.path}")
    return ";".join(shown)
