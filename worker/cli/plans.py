"""Held plans on the command line."""

from __future__ import annotations

import asyncio
import getpass
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from worker.cli import Failure, Setup
from worker.cli.ask import reach_broker
from worker.cli.screen import clean, facts, json_option, show_json, table

if TYPE_CHECKING:
    from worker.plans import Plan, Plans

T = TypeVar("T")

by_option = click.option("--by", metavar="NAME", help="Who decides; you, as this machine knows you, if left out.")


@click.group()
def plan() -> None:
    """List, show, approve or reject the plans of users.reconcile and units.sync."""


def _ask(setup: Setup, question: Callable[[Plans], Awaitable[T]]) -> T:
    """Ask the store of plans."""
    from worker.app import state_url
    from worker.plans import Plans
    from worker.store import Store, connect

    async def run() -> T:
        store = Store(connect(state_url(setup.settings)))
        try:
            return await question(Plans(store))
        finally:
            await store.close()

    return asyncio.run(run())


@plan.command("list")
@click.option("--state", metavar="STATE", help="Only those that are planned, held, approved, rejected or applied.")
@json_option
@click.pass_obj
def list_(setup: Setup, state: str | None, *, as_json: bool) -> int:
    """List them, the newest first."""
    from worker.plans import PlanState

    try:
        wanted = None if state is None else PlanState(state)
    except ValueError:
        raise click.UsageError(f"No plan is {state!r}; write {', '.join(PlanState)}.") from None
    found = [each.show() for each in _ask(setup, lambda plans: plans.list(wanted))]
    if as_json:
        show_json(setup.redact(found))
    elif found:
        columns = ("id", "state", "type", "connection", "made", "items", "why")
        rows = [
            (
                each["id"],
                each["state"],
                each["type"],
                each["connection"],
                each["created_at"][:19],
                each["items"],
                "; ".join(each["reasons"]),
            )
            for each in found
        ]
        table(columns, rows)
    else:
        click.echo("There are no plans." if state is None else f"No plan is {state}.")
    return 0


@plan.command()
@click.argument("plan_id", metavar="ID")
@click.option("--limit", default=50, show_default=True, metavar="N", help="Items to print; --json prints all.")
@json_option
@click.pass_obj
def show(setup: Setup, plan_id: str, limit: int, *, as_json: bool) -> int:
    """Show one with what it would change."""

    async def whole(plans: Plans) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        found = await plans.load(plan_id)
        items: list[dict[str, Any]] = []
        async for item in plans.items(plan_id):
            if not as_json and len(items) == limit:
                break
            items.append(item)
        return found.show(), items

    found, items = setup.redact(_ask(setup, whole))
    if as_json:
        show_json({**found, "items": items})
        return 0
    facts([(name, "; ".join(value) if isinstance(value, list) else value) for name, value in found.items()])
    for item in items:
        click.echo(clean(item))
    if found["items"] > len(items):
        click.echo(f"… and {found['items'] - len(items)} more (--json shows all)")
    return 0


@plan.command()
@click.argument("plan_id", metavar="ID")
@by_option
@json_option
@click.pass_obj
def approve(setup: Setup, plan_id: str, by: str | None, *, as_json: bool) -> int:
    """Approve one: its command is published, and applies it as it was shown."""
    approved = _ask(setup, lambda plans: plans.approve(plan_id, by=by or _me(), now=datetime.now(UTC)))
    try:
        _publish(setup, approved)
    except (TimeoutError, ConnectionError) as error:
        raise Failure(
            f"The plan {plan_id} is approved, but the broker did not take its command ({str(error) or 'no confirm'}); "
            "start the broker, then approve it once more: it is the same command, and runs once."
        ) from None
    said = f"is approved by {approved.decided_by}; its command is {approved.command()['id']}"
    return _decided(setup, approved, said, as_json=as_json)


@plan.command()
@click.argument("plan_id", metavar="ID")
@by_option
@json_option
@click.pass_obj
def reject(setup: Setup, plan_id: str, by: str | None, *, as_json: bool) -> int:
    """Reject one: it can't be applied any more."""
    rejected = _ask(setup, lambda plans: plans.reject(plan_id, by=by or _me(), now=datetime.now(UTC)))
    return _decided(setup, rejected, f"is rejected by {rejected.decided_by}", as_json=as_json)


def _publish(setup: Setup, approved: Plan) -> None:
    """Publish the command that applies an approved plan: the same one each time, so that it is applied once."""
    from worker.client import Client

    reach_broker(setup.settings)
    command = approved.command()
    with Client(setup.settings, source=command["source"]) as client:
        client.send(
            command["type"], connection=command["connection"], data=command["data"], id=command["id"], answer=False
        )


def _decided(setup: Setup, decided: Plan, said: str, *, as_json: bool) -> int:
    if as_json:
        show_json(setup.redact(decided.show()))
    else:
        click.echo(f"The plan {decided.id} {said}.")
    return 0


def _me() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"
