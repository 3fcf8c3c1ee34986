"""Schedules on the command line."""

from __future__ import annotations

import asyncio
import difflib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from worker.cli import Setup
from worker.cli.screen import instant, json_option, show_json, table

if TYPE_CHECKING:
    from config.settings import Schedule, Settings


@click.group()
def schedule() -> None:
    """List schedules, or run one now."""


@schedule.command("list")
@json_option
@click.pass_obj
def list_(setup: Setup, *, as_json: bool) -> int:
    """List them with their next and last runs."""
    settings = setup.settings
    if not settings.schedules:
        if as_json:
            show_json([])
        else:
            click.echo("No schedule is configured; add [[schedules]] to planrelay.toml.")
        return 0
    now = datetime.now(UTC)
    found = _listed(settings, now)
    if as_json:
        show_json(found)
        return 0
    columns = ("name", "when", "next", "last run", "state", "last tick", "type", "connection")
    rows = [
        (
            each["name"],
            f"{each['cron']} {each['timezone']}",
            instant(_moment(each["next"]), now),
            instant(_moment(each["last_run"]), now),
            each["state"],
            each["last_tick_was"],
            each["type"],
            each["connection"],
        )
        for each in found
    ]
    table(columns, rows)
    return 0


def _listed(settings: Settings, now: datetime) -> list[dict[str, Any]]:
    from redis import Redis

    from worker import ticks
    from worker.app import state_url
    from worker.schedule import Memories

    with Redis.from_url(state_url(settings), decode_responses=True, socket_timeout=5) as redis:
        memories = {each.name: Memories(redis).load(each) for each in settings.schedules}
    states = asyncio.run(_states(settings, {name: memory.run for name, memory in memories.items() if memory}))
    found = []
    for each in settings.schedules:
        memory = memories[each.name]
        coming = ticks.look(each, since=memory.since if memory else now, now=now)
        due = coming.tick or coming.next
        found.append(
            {
                "name": each.name,
                "cron": each.cron,
                "timezone": each.timezone,
                "type": each.type,
                "connection": each.connection,
                "next": due.isoformat() if due else None,
                "last_run": memory.run.isoformat() if memory and memory.run else None,
                "last_id": ticks.command_id(each, memory.run) if memory and memory.run else None,
                "state": states.get(each.name),
                "last_tick_was": memory.outcome if memory else None,
            }
        )
    return found


async def _states(settings: Settings, runs: dict[str, datetime | None]) -> dict[str, str]:
    """Ask the ledger how each schedule's last run stands; one that it doesn't know is left out."""
    from worker import ticks
    from worker.app import state_url
    from worker.ledger import Ledger
    from worker.store import Store, connect

    store = Store(connect(state_url(settings)))
    ledger = Ledger(store, owner="list", lease=settings.worker.lease)
    states = {}
    try:
        for each in settings.schedules:
            run = runs.get(each.name)
            if run is None:
                continue
            for entry in await ledger.find(ticks.command_id(each, run)):
                if entry.get("source") == f"{ticks.SOURCE}{each.name}":
                    states[each.name] = entry["state"]
    finally:
        await store.close()
    return states


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


@schedule.command()
@click.argument("name")
@json_option
@click.pass_obj
def run(setup: Setup, name: str, *, as_json: bool) -> int:
    """Publish the command of the schedule NAME now, beside its ticks; prints the command's id."""
    found = {each.name: each for each in setup.settings.schedules}.get(name)
    if found is None:
        names = [each.name for each in setup.settings.schedules]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names) or 'none'}."
        raise click.UsageError(f"There is no schedule {name!r}; {hint}")
    id_ = _publish(setup, found)
    if as_json:
        show_json({"id": id_})
    else:
        click.echo(id_)
    return 0


def _publish(setup: Setup, found: Schedule) -> str:
    from worker.cli.check import schedule_problem
    from worker.schedule import Desk

    problem = schedule_problem(found, setup.slices)
    if problem is not None:
        raise click.UsageError(f"schedules.{found.name}: {problem}")
    now = datetime.now(UTC)
    id_ = f"{found.name}-now-{now:%Y%m%dT%H%M%S%fZ}"
    desk = Desk(setup.settings, setup.slices.systems)
    try:
        desk.publish(found, id_, now)
    except TimeoutError as error:
        raise ConnectionError(str(error) or "no confirm") from None
    finally:
        desk.close()
    return id_
