"""Looking: what the fleet is doing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from worker.cli import FAILED, Setup
from worker.cli.screen import clean, facts, instant, json_option, show_json, span, table

if TYPE_CHECKING:
    from config.settings import Settings
    from worker.throttle import GateView

ANSWER_PATIENCE: Final = 1.0
"""Seconds in which workers answer."""

_ASKED: Final = {
    "broker": ("broker", "broker.url"),
    "workers": ("workers' broker", "broker.url"),
    "state": ("state store", "state.url"),
}


@click.command()
@json_option
@click.pass_obj
def status(setup: Setup, *, as_json: bool) -> int:
    """Show queues, workers, gates, what is in flight and what is dead; exit status 1 where something can't be asked."""
    _ = setup.settings, setup.slices  # what is wrong with them is no answer of anybody's
    with ThreadPoolExecutor(3) as threads:  # each waits for answers, and none for another
        asked = {
            "broker": threads.submit(ask_broker, setup),
            "workers": threads.submit(ask_workers, setup),
            "state": threads.submit(lambda: asyncio.run(_state(setup.settings))),
        }
        found: dict[str, Any] = {}
        problems: dict[str, str] = {}
        for name, answer in asked.items():
            try:
                found |= answer.result()
            except Exception as error:  # noqa: BLE001 - what can be told is told, and the rest is a problem by name
                problems[name] = f"{type(error).__name__}: {error}"
    if as_json:
        show_json(setup.redact({**found, "problems": problems}))
    else:
        _print_status(found)
        if "broker" in problems:  # through which the workers are asked
            problems.pop("workers", None)
        for name, problem in problems.items():
            who, key = _ASKED[name]
            reason = clean(setup.redact(problem)).rstrip(".")
            click.echo(f"planrelay: The {who} can't be asked ({reason}); start it, or correct {key}.", err=True)
    return FAILED if problems else 0


def ask_broker(setup: Setup) -> dict[str, Any]:
    """Ask the broker how full the queues are."""
    from worker import broker, topology
    from worker.app import broker_url, is_amqp_url, transport_options

    url = broker_url(setup.settings)
    amqp = is_amqp_url(url)
    with broker.connected(url, transport_options(amqp=amqp)) as connection:
        depths = broker.depths(connection, tuple(setup.slices.systems))
        ladder = broker.on_the_ladder(connection) if amqp else None
    dead = next((each for each in depths if each.queue == topology.DEAD), None)
    said: dict[str, Any] = {
        "broker": "rabbitmq" if amqp else "valkey",
        "queues": [
            {"queue": each.queue, "messages": each.messages, "consumers": each.consumers}
            for each in depths
            if each.queue != topology.DEAD
        ],
        "dead": 0 if dead is None else dead.messages,
        "dead_readers": None if dead is None else dead.consumers,  # what they hold meanwhile is not counted
    }
    if ladder is not None:
        said["parked"] = {"count": ladder, "next_due": None}
    return said


def ask_workers(setup: Setup) -> dict[str, Any]:
    """Ask the workers what they do, and who else is there."""
    from celery import Celery

    from worker.app import broker_url, is_amqp_url, transport_options
    from worker.broker import connected

    url = broker_url(setup.settings)
    app = Celery("planrelay-status", broker=url, set_as_current=False)
    options = app.conf.broker_transport_options = transport_options(amqp=is_amqp_url(url))
    with connected(url, options) as connection:
        answers = app.control.inspect(timeout=ANSWER_PATIENCE, connection=connection).stats() or {}
    app.close()
    workers = []
    for name, stats in sorted(answers.items()):
        pool = stats.get("pool", {})
        workers.append(
            {
                "worker": name,
                "pid": stats.get("pid"),
                "commands": pool.get("running"),  # those that await their turn or a permit included
                "loop_lag_s": pool.get("loop-lag"),
                "draining": pool.get("draining"),
                "uptime_s": stats.get("uptime"),
            }
        )
    return {"workers": workers, "in_flight": sum(each["commands"] or 0 for each in workers)}


async def _state(settings: Settings) -> dict[str, Any]:
    """Ask the state store how the gates stand, and on Valkey what is parked."""
    from worker.app import is_amqp_url, queue_store_url, state_url
    from worker.parking import waiting
    from worker.store import Store, connect

    store = Store(connect(state_url(settings)))
    said: dict[str, Any] = {"gates": await gates(settings, store.redis)}
    await store.close()
    if settings.broker.url is None or not is_amqp_url(settings.broker.url.get_secret_value()):
        queues = Store(connect(queue_store_url(settings)))
        parked = await waiting(queues)
        await queues.close()
        said["parked"] = {
            "count": parked.count,
            "next_due": parked.next_due.isoformat() if parked.next_due else None,
        }
    return said


async def gates(settings: Settings, redis: Any) -> list[dict[str, Any]]:
    """Say how the gate of each limit key stands, with the connections that share it."""
    from worker.throttle import Throttle

    sharing: dict[str, list[str]] = {}
    for connection in settings.connections.values():
        sharing.setdefault(connection.limit_key, []).append(connection.name)
    throttle = Throttle(redis, worker_id="status", ceiling=settings.retry.backoff_ceiling)
    try:
        views = await throttle.look(sharing)
    finally:
        await throttle.close()
    return [{"connections": sharing[view.limit_key], **gate_values(view)} for view in views]


def gate_values(view: GateView) -> dict[str, Any]:
    """Give a gate as JSON values; `closed_for_s` None while it is open, "paused" until somebody resumes it."""
    closed: float | str | None = None
    if view.closed_for is not None:
        closed = "paused" if view.closed_for >= timedelta.max else round(view.closed_for.total_seconds(), 3)
    return {
        "limit_key": view.limit_key,
        "phase": view.phase,
        "closed_for_s": closed,
        "points": view.points,
        "in_flight": view.in_flight,
        "waiting": view.waiting,
        "workers": view.workers,
    }


def _print_status(found: Mapping[str, Any]) -> None:
    now = datetime.now(UTC)
    if "queues" in found:
        _print_queues(found["queues"])
    if "workers" in found:
        _print_workers(found["workers"])
    if "gates" in found:
        _print_gates(found["gates"])
    parked = found.get("parked")
    due = datetime.fromisoformat(parked["next_due"]) if parked and parked["next_due"] else None
    dead = found.get("dead")
    soon = f", the next due {instant(due, now)}" if due else ""
    hint = "; see `planrelay dead list`" if dead else ""
    if found.get("dead_readers"):
        hint = " beside those that somebody is reading just now"
    facts(
        [
            ("in flight", found.get("in_flight")),
            ("parked", None if parked is None else f"{parked['count']}{soon}"),
            ("dead letters", None if dead is None else f"{dead}{hint}"),
        ]
    )


def _print_queues(queues: Sequence[Mapping[str, Any]]) -> None:
    rows = [(each["queue"], each["messages"], each["consumers"]) for each in queues]
    if rows:
        table(("queue", "waiting", "consumers"), rows)
    else:
        click.echo("No queue is there yet; the first worker declares them.")
    click.echo()


def _print_workers(workers: Sequence[Mapping[str, Any]]) -> None:
    columns = ("worker", "commands", "lag", "up", "")
    rows = [
        (
            each["worker"],
            each["commands"],
            span(_seconds(each["loop_lag_s"])),
            span(_seconds(each["uptime_s"])),
            "draining" if each["draining"] else "",
        )
        for each in workers
    ]
    if rows:
        table(columns, rows)
    else:
        click.echo("No worker answers; start one with `planrelay worker`.")
    click.echo()


def _print_gates(gates: Sequence[Mapping[str, Any]]) -> None:
    columns = ("connection", "gate", "opens in", "points", "requests in flight", "waiting")
    rows = [
        (
            ", ".join(each["connections"]),
            each["phase"].replace("_", " "),
            _opens(each["closed_for_s"]),
            "" if each["points"] is None else round(each["points"]),
            each["in_flight"],
            each["waiting"],
        )
        for each in gates
    ]
    if rows:
        table(columns, rows)
    else:
        click.echo("No connection is configured; name one in planrelay.toml.")
    click.echo()


def _opens(closed_for: float | str | None) -> str:
    if isinstance(closed_for, str):
        return "`planrelay resume`"
    return "" if closed_for is None else span(timedelta(seconds=closed_for))


def _seconds(value: Any) -> timedelta | None:
    return timedelta(seconds=value) if isinstance(value, int | float) else None
