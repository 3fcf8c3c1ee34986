"""What became of one command, and why it is not running."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from worker.cli import FAILED, Setup
from worker.cli.look import ask_broker, ask_workers
from worker.cli.screen import clean, facts, instant, json_option, show_json, span

if TYPE_CHECKING:
    from config.settings import Settings
    from worker.throttle import GateView


@click.command()
@click.argument("command_id", metavar="ID")
@json_option
@click.pass_obj
def show(setup: Setup, command_id: str, *, as_json: bool) -> int:
    """Show what is known of the command ID, and why it is not running; exit status 1 where nothing is known."""
    from worker.app import state_url
    from worker.ledger import Ledger
    from worker.store import Store, connect

    settings = setup.settings

    async def look() -> tuple[list[dict[str, str]], dict[str, GateView]]:
        from worker.throttle import Throttle

        store = Store(connect(state_url(settings)))
        throttle = Throttle(store.redis, worker_id="show", ceiling=settings.retry.backoff_ceiling)
        try:
            found = await Ledger(store, owner="show", lease=settings.worker.lease).find(command_id)
            keys = {
                settings.connections[each["connection"]].limit_key
                for each in found
                if each.get("connection") in settings.connections
            }
            return found, {view.limit_key: view for view in await throttle.look(keys)}
        finally:
            await throttle.close()
            await store.close()

    entries, views = asyncio.run(look())
    now = datetime.now(UTC)
    letters: list[dict[str, Any]] | None = []
    if not entries or any(each["state"] == "dead" for each in entries):
        letters = _dead(setup, command_id, known=bool(entries))
    told = [entry_values(each, _view(settings, each, views), settings, now) for each in entries]
    if not told and not letters:
        why = _why_unknown(setup, command_id)
        if as_json:
            show_json({"id": command_id, "commands": [], "dead_letters": [], "why": why})
        else:
            click.echo(f"planrelay: {why}", err=True)
        return FAILED
    if as_json:
        show_json(setup.redact({"id": command_id, "commands": told, "dead_letters": letters}))
        return FAILED if letters is None else 0
    for value in told:
        _print_entry(setup.redact(value), now)
    for letter in letters or ():
        click.echo(f"Dead letter: {clean(setup.redact(letter['message']))} (kind {clean(letter['kind'])}).")
    if letters:
        click.echo(f"`planrelay dead show {command_id}` shows it, `planrelay dead replay {command_id}` runs it anew.")
    return FAILED if letters is None else 0


def _view(settings: Settings, entry: Mapping[str, str], views: Mapping[str, GateView]) -> GateView | None:
    connection = settings.connections.get(entry.get("connection", ""))
    return None if connection is None else views.get(connection.limit_key)


def _dead(setup: Setup, command_id: str, *, known: bool) -> list[dict[str, Any]] | None:
    """
    Find a command's dead letters: what was refused at once is nowhere else.

    None: they can't be looked at, which is said, where something else is `known` that can be told all the same.
    """
    from worker.cli.dead import open_shelf
    from worker.dead_letters import Occupied

    try:
        with open_shelf(setup.settings) as shelf:
            return [letter.show() for letter in shelf.letters() if letter.id == command_id]
    except (ConnectionError, Occupied) as error:
        if not known:
            raise
        reason = clean(setup.redact(str(error)))
        click.echo(f"planrelay: The dead letters can't be looked at ({reason}); see `planrelay status`.", err=True)
        return None


def _why_unknown(setup: Setup, command_id: str) -> str:
    """Say why nothing is known of a command: it may still wait in its queue."""
    found = ask_broker(setup)
    waiting = {each["queue"]: each["messages"] for each in found["queues"] if each["messages"]}
    if not waiting:
        return (
            f"Nothing is known of {command_id!r}: no worker has taken it, no queue holds anything, and no dead letter "
            "has this id; it was never published here, or is older than a week."
        )
    queues = ", ".join(f"{count} in {queue}" for queue, count in waiting.items())
    workers = len(ask_workers(setup)["workers"])
    remedy = "it has its turn after those before it" if workers else "start a worker with `planrelay worker`"
    return (
        f"No worker has taken {command_id!r} yet: it may be among the commands that wait ({queues}), and "
        f"{workers or 'no'} worker{'s' if workers > 1 else ''} answer{'' if workers > 1 else 's'}; {remedy}."
    )


def entry_values(entry: Mapping[str, str], gate: GateView | None, settings: Settings, now: datetime) -> dict[str, Any]:
    """Give what the ledger knows of a command as JSON values, with `why` in one sentence. `now`: aware."""
    event = json.loads(entry["event"]) if entry.get("event") else None
    data = event["data"] if event else {}
    received = _moment(entry.get("received"))
    state = entry["state"]
    limit = received + settings.retry.max_age if received and state not in {"done", "dead"} else None
    values: dict[str, Any] = {
        "source": entry.get("source"),
        "type": entry.get("type"),
        "connection": entry.get("connection"),
        "state": state,
        "run": int(entry.get("run") or 1),
        "attempts": data.get("attempts") or int(entry.get("attempts") or 0),
        "deferrals": data.get("deferrals") or int(entry.get("deferrals") or 0),
        "received_at": _iso(received),
        "changed_at": _iso(_moment(entry.get("changed"))),
        "dead_letter_after": _iso(limit),
        "parked_until": _iso(_moment(entry.get("until"))) if state == "parked" else None,
        "reason": entry.get("reason") if state in {"parked", "queued"} else None,
        "last_error": entry.get("error") or None,
        "worker": entry.get("owner"),
        "steps": {name[2:]: _loaded(value) for name, value in entry.items() if name.startswith("s:")},
        "unresolved": sorted(name[2:] for name in entry if name.startswith("i:") and f"s:once:{name[2:]}" not in entry),
        "result": data.get("result"),
        "error": data.get("error"),
        "event_id": event["id"] if event else None,
    }
    values["why"] = why(values, _moment(entry.get("lease")), gate, now)
    return values


_REASONS: Final = {
    "rate_limited": "the vendor's limit asked for the wait, or the connection's gate was closed",
    "busy": "the vendor was at work on that object",
    "unavailable": "the vendor could not answer",
    "running_elsewhere": "another worker was running the same command",
    "unresolved": "an earlier request was cut off, and what it did is looked up once it can no longer be running",
    "store_away": "the state store did not answer",
    "drained": "its worker was stopping and gave it back",
    "continued": "long work goes on where it was",
    "not_due": "it was not to start before then",
}


def why(values: Mapping[str, Any], lease: datetime | None, gate: GateView | None, now: datetime) -> str:
    """Say in one sentence why a command is where it is, and what to do about it."""
    state, reason = values["state"], values["reason"]
    cause = _REASONS.get(reason or "", f"the reason was {reason}") if reason else ""
    error = f"; the last error was: {values['last_error'].rstrip('.')}" if values["last_error"] else ""
    match state:
        case "done":
            return "It is done."
        case "dead":
            kind = (values["error"] or {}).get("kind")
            return f"It failed ({kind}); correct the cause, then `planrelay dead replay` runs it anew."
        case "running":
            if lease is not None and lease < now:
                return f"Its worker fell silent {span(now - lease)} ago; the broker gives it to another one."
            return "A worker is running it." + _gate_says(gate)
        case "parked":
            until = datetime.fromisoformat(values["parked_until"]) if values["parked_until"] else now
            left = f"for another {span(until - now)}" if until > now else f"and due since {span(now - until)}"
            return f"It is parked {left}: {cause}{error}.{_gate_says(gate)}"
        case _:
            return f"It waits in its queue for a worker{': ' + cause if cause else ''}{error}.{_gate_says(gate)}"


def _gate_says(gate: GateView | None) -> str:
    if gate is None or gate.closed_for is None:
        return ""
    if gate.closed_for >= timedelta.max:
        return f" Its gate is paused; `planrelay resume` with a connection of {gate.limit_key} opens it."
    return f" Its gate is {gate.phase} for another {span(gate.closed_for)}."


def _print_entry(value: Mapping[str, Any], now: datetime) -> None:
    def at(name: str) -> str:
        return instant(datetime.fromisoformat(value[name]), now) if value[name] else ""

    click.echo(clean(value["why"]))
    facts(
        [
            ("state", value["state"]),
            ("type", value["type"]),
            ("connection", value["connection"]),
            ("source", value["source"]),
            ("run", value["run"] if value["run"] > 1 else None),
            ("attempts", value["attempts"]),
            ("deferrals", value["deferrals"]),
            ("received", at("received_at")),
            ("last change", at("changed_at")),
            ("parked until", at("parked_until")),
            ("dead letter after", at("dead_letter_after")),
            ("worker", value["worker"]),
            ("last error", value["last_error"]),
            ("unresolved", ", ".join(value["unresolved"])),
            *_named("step", value["steps"]),
            ("result", _short(value["result"])),
            ("error", _short(value["error"])),
        ]
    )


def _named(what: str, steps: Mapping[str, Any]) -> Sequence[tuple[str, Any]]:
    return [(f"{what} {name}", _short(result)) for name, result in steps.items()]


def _short(value: Any) -> str:
    text = "" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 1000 else f"{text[:1000]}… (--json shows all)"


def _moment(milliseconds: str | None) -> datetime | None:
    return datetime.fromtimestamp(float(milliseconds) / 1000, UTC) if milliseconds else None


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="milliseconds")


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
