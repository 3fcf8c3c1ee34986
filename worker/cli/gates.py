"""Closing and opening gates by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from worker.cli import Setup
from worker.cli.ask import check_connection, connections_like
from worker.cli.screen import json_option, show_json, span

if TYPE_CHECKING:
    from worker.throttle import Throttle


class Duration(click.ParamType[timedelta]):
    """A duration as in the settings: 30s, 10m, 2h."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read it; what is no duration is an error."""
        from config.values import parse_duration

        try:
            found: timedelta = parse_duration(value)
        except ValueError as error:
            self.fail(f"{value!r} {error}.", param, ctx)
        if found <= timedelta(0):
            self.fail(f"{value!r} is no time to wait; write one like 10m.", param, ctx)
        return found


@click.command()
@click.argument("connection", shell_complete=connections_like)
@click.option("--for", "duration", type=Duration(), metavar="DURATION", help="Open it again after this (10m, 2h).")
@json_option
@click.pass_obj
def pause(setup: Setup, connection: str, duration: timedelta | None, *, as_json: bool) -> int:
    """Close CONNECTION's gate for the whole fleet: nothing more is sent, commands wait parked."""

    async def close(throttle: Throttle, limit_key: str) -> None:
        await throttle.pause(limit_key, duration)

    said = f"is paused for {span(duration)}" if duration else f"is paused until `planrelay resume {connection}`"
    return _turn(setup, connection, close, said, as_json=as_json)


@click.command()
@click.argument("connection", shell_complete=connections_like)
@json_option
@click.pass_obj
def resume(setup: Setup, connection: str, *, as_json: bool) -> int:
    """Open CONNECTION's gate for the whole fleet, whoever closed it."""

    async def open_(throttle: Throttle, limit_key: str) -> None:
        await throttle.resume(limit_key)

    return _turn(setup, connection, open_, "is open", as_json=as_json)


def _turn(
    setup: Setup, name: str, turn: Callable[[Throttle, str], Awaitable[None]], said: str, *, as_json: bool
) -> int:
    """Turn the gate that a connection shares with all those of its limit key, and say which these are."""
    settings = setup.settings
    if name not in settings.connections:
        check_connection(settings, name)
        raise click.UsageError(f"The connection {name!r} is not configured; name it in planrelay.toml.")
    limit_key = settings.connections[name].limit_key
    sharing = sorted(each.name for each in settings.connections.values() if each.limit_key == limit_key)

    async def run() -> dict[str, Any]:
        from worker.app import state_url
        from worker.cli.look import gate_values
        from worker.store import Store, connect
        from worker.throttle import Throttle

        store = Store(connect(state_url(settings)))
        throttle = Throttle(store.redis, worker_id="cli", ceiling=settings.retry.backoff_ceiling)
        try:
            await turn(throttle, limit_key)
            (view,) = await throttle.look([limit_key])
        finally:
            await throttle.close()
            await store.close()
        return {"connections": sharing, **gate_values(view)}

    gate = asyncio.run(run())
    if as_json:
        show_json(gate)
    else:
        click.echo(f"The gate of {', '.join(sharing)} {said}.")
    return 0
