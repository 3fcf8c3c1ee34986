"""Asking: publish a command, listen to the answers."""

from __future__ import annotations

import concurrent.futures
import contextlib
import difflib
import fnmatch
import json
import math
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from worker.cli import INTERRUPTED, TIMED_OUT, Failure, Setup
from worker.cli.screen import clean, json_option, show_json

if TYPE_CHECKING:
    from config.settings import Settings

PUBLISH_PATIENCE: Final = 30.0
"""Seconds for the broker's confirm."""


class Seconds(click.ParamType[float]):
    """A number of seconds."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it; what is no positive number is an error."""
        seconds = math.nan
        with contextlib.suppress(ValueError):
            seconds = float(str(value).removesuffix("s"))
        if not seconds >= 0:
            self.fail(f"{value!r} is no number of seconds; write --wait 30, or --wait as the last word.", param, ctx)
        return seconds


def types_like(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete a command type at a shell."""
    try:
        return [name for name in ctx.ensure_object(Setup).slices.operations if name.startswith(incomplete)]
    except (ValueError, click.UsageError):  # a configuration that can't be used is said when the command runs
        return []


def connections_like(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete a connection's name at a shell."""
    try:
        return [name for name in ctx.ensure_object(Setup).settings.connections if name.startswith(incomplete)]
    except ValueError:
        return []


@click.command()
@click.argument("type_", metavar="TYPE", shell_complete=types_like)
@click.option(
    "--connection",
    required=True,
    metavar="C",
    help="The name of a configured connection.",
    shell_complete=connections_like,
)
@click.option(
    "--data", default="{}", metavar="JSON|@file|-", help="The command's data: JSON, a file's, or standard input's."
)
@click.option("--id", "id_", metavar="ID", help="The command's id; the same id again is the same command.")
@click.option(
    "--wait",
    type=Seconds(),
    is_flag=False,
    flag_value=math.inf,
    metavar="[SECONDS]",
    help="Wait for the result event and print it: exit status 0 succeeded, 1 failed, 3 timed out.",
)
@json_option
@click.pass_obj
def send(
    setup: Setup, type_: str, connection: str, data: str, id_: str | None, wait: float | None, *, as_json: bool
) -> int:
    """Publish one command of TYPE; prints its id, or with --wait its result event."""
    value = read_data(data)
    check_connection(setup.settings, connection)
    from worker.client import Client

    reach_broker(setup.settings)
    with Client(setup.settings) as client:
        try:
            sent = client.send(
                type_, connection=connection, data=value, id=id_, answer=wait is not None, timeout=PUBLISH_PATIENCE
            )
        except (TimeoutError, concurrent.futures.TimeoutError):
            raise Failure(
                f"The broker did not confirm the command within {PUBLISH_PATIENCE:.0f} s and may or may not have it; "
                "start the broker or correct broker.url, then send it again with the same --id."
            ) from None
        if wait is None:
            if as_json:
                show_json({"id": sent.id})
            else:
                click.echo(sent.id)
            return 0
        try:
            event = sent.result(None if math.isinf(wait) else wait)
        except (TimeoutError, concurrent.futures.TimeoutError):
            click.echo(
                f"planrelay: No result of {sent.id} within {wait:g} s; `planrelay show {sent.id}` says why.", err=True
            )
            return TIMED_OUT
        except KeyboardInterrupt:
            click.echo(f"planrelay: {sent.id} goes on without you; `planrelay show {sent.id}` tells of it.", err=True)
            return INTERRUPTED
    show_json(event)
    return 0 if str(event["type"]).endswith(".succeeded") else 1


def reach_broker(settings: Settings) -> None:
    """Say at once that a broker is away, before anything waits for it."""
    from worker.app import broker_url, is_amqp_url, transport_options
    from worker.broker import connected

    url = broker_url(settings)
    with connected(url, transport_options(amqp=is_amqp_url(url))):
        pass


def read_data(given: str) -> dict[str, Any]:
    """Read a command's data as the command line gives it; what is no JSON object is an error."""
    where = "--data"
    if given == "-":
        given, where = sys.stdin.read(), "standard input"
    elif given.startswith("@"):
        where = given[1:]
        try:
            given = Path(where).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "is not UTF-8"
            raise click.UsageError(f"--data names the file {where}, which can't be read: {reason}.") from None
    try:
        value = json.loads(given)
    except ValueError as error:
        raise click.UsageError(f'{where} is not JSON: {error}; write an object like \'{{"id": "1"}}\'.') from None
    if not isinstance(value, dict):
        raise click.UsageError(f'{where} is not a JSON object; write one like \'{{"id": "1"}}\'.')
    return value


def check_connection(settings: Settings, name: str) -> None:
    """Refuse a connection that is not configured; a machine that only sends, to a broker it is told, need know none."""
    known = settings.connections
    if name in known or (not known and settings.broker.url is not None):
        return
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"configured: {', '.join(sorted(known))}."
    if not known:
        hint = "there is none: write planrelay.toml here, or go to where it is."
    raise click.UsageError(f"The connection {name!r} is not configured; {hint}")


@click.command()
@click.option("--type", "pattern", default="*", metavar="PATTERN", help="Only these types; * stands for any part.")
@json_option
@click.pass_obj
def events(setup: Setup, pattern: str, *, as_json: bool) -> int:  # noqa: ARG001 - it is JSON anyhow
    """Print result events as they come, one JSON a line, until SIGINT or SIGTERM."""
    settings = setup.settings
    from worker.client import listen

    reach_broker(settings)
    if sys.stdin.isatty() and sys.stdout.isatty():
        click.echo(f"planrelay: Listening for {pattern}; Ctrl-C ends it.", err=True)
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell had them ignored
        signal.signal(number, signal.default_int_handler)

    def say_loss(reason: str) -> None:
        lost = f"The broker went away ({clean(setup.redact(reason))}); events that it tells meanwhile are missed here."
        click.echo(f"planrelay: {lost}", err=True)

    heard = listen(settings, topic(pattern), on_loss=say_loss)
    try:
        for event in heard:
            if matches(pattern, str(event.get("type", ""))):
                click.echo(json.dumps(event, ensure_ascii=False, separators=(",", ":")))
                sys.stdout.flush()
    except KeyboardInterrupt:
        return 0
    finally:
        heard.close()  # type: ignore[attr-defined] # `listen` is a generator: closing it closes its connection
    return 0


def matches(pattern: str, type_: str) -> bool:
    """Whether an event's type, or the type of the command that it answers, fits a pattern."""
    command = type_.removesuffix(".succeeded").removesuffix(".failed")
    return fnmatch.fnmatchcase(type_, pattern) or fnmatch.fnmatchcase(command, pattern)


def topic(pattern: str) -> str:
    """Give the narrowest topic that has everything a pattern fits: its whole words up to the first wildcard."""
    words = []
    for word in pattern.split("."):
        if any(sign in word for sign in "*?["):
            break
        words.append(word)
    return ".".join([*words, "#"])
