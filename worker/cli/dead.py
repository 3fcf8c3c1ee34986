"""Dead letters on the command line."""

from __future__ import annotations

import fnmatch
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from worker.cli import FAILED, Setup
from worker.cli.screen import clean, facts, json_option, progress, show_json, table

if TYPE_CHECKING:
    from config.settings import Settings
    from worker.dead_letters import DeadLetter, Replayed, Shelf

AT_ONCE: Final = 50
"""Letters whose copies are under way to the broker together."""

REMOVED_AT_ONCE: Final = 1_000
"""Letters that are dropped together."""

REPLAY_PATIENCE: Final = 30.0
"""Seconds for the broker's confirms."""

BODY_SHOWN: Final = 4_000
"""Characters of a letter's body that `show` prints for people."""


@click.group()
def dead() -> None:
    """Look at dead letters, put them back or remove them; looking never changes the queue."""


def _chosen(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what chooses letters: ids, --all, --type."""
    command = click.option("--type", "pattern", metavar="PATTERN", help="Only of these types; * is any part.")(command)
    command = click.option("--all", "every", is_flag=True, help="All of them (with --type: all that fit).")(command)
    return click.argument("ids", nargs=-1, metavar="[COMMAND_ID]…")(command)


def choose(ids: Sequence[str], pattern: str | None, *, every: bool) -> Callable[[DeadLetter], bool]:
    """Give what tells whether a letter is meant: one of the ids, or with `every` any; and of a type that fits."""
    wanted = frozenset(ids)

    def chosen(letter: DeadLetter) -> bool:
        if pattern is not None and not fnmatch.fnmatchcase(letter.type or "", pattern):
            return False
        return every or letter.id in wanted

    return chosen


def _must_choose(ids: Sequence[str], pattern: str | None, *, every: bool) -> bool:
    """Say whether all are meant; a command that changes something must be told which."""
    if ids and every:
        raise click.UsageError("Name command ids or say --all, not both.")
    if not ids and not every and pattern is None:
        raise click.UsageError("Say which: name command ids, or say --type PATTERN or --all.")
    return every or not ids


@dead.command("list")
@_chosen
@json_option
@click.pass_obj
def list_(setup: Setup, ids: tuple[str, ...], pattern: str | None, *, every: bool, as_json: bool) -> int:
    """List them, the oldest first."""
    meant = choose(ids, pattern, every=every or not ids)
    with open_shelf(setup.settings) as shelf:
        found = [setup.redact(letter.show()) for letter in shelf.letters() if meant(letter)]
        missing = shelf.count if not found else 0
    if as_json:
        show_json(found)
    elif found:
        columns = ("id", "type", "connection", "kind", "attempts", "first seen", "message")
        rows = [
            (
                each["id"] or "(no id)",
                each["type"],
                each["connection"],
                each["kind"],
                each["attempts"],
                (each["first_seen"] or "")[:19],
                each["message"],
            )
            for each in found
        ]
        table(columns, rows)
    else:
        click.echo("No dead letter fits." if missing else "There are no dead letters.")
    return 0


@dead.command()
@_chosen
@json_option
@click.pass_obj
def show(setup: Setup, ids: tuple[str, ...], pattern: str | None, *, every: bool, as_json: bool) -> int:
    """Show them whole, with the message's own bytes."""
    meant = choose(ids, pattern, every=_must_choose(ids, pattern, every=every))
    with open_shelf(setup.settings) as shelf:
        found = [_whole(setup, letter) for letter in shelf.letters() if meant(letter)]
    if as_json:
        show_json(found)
    else:
        for value in found:
            body = value.pop("body")
            headers = value.pop("headers")
            facts([*value.items(), *((f"header {name}", text) for name, text in headers.items())])
            click.echo(clean(body[:BODY_SHOWN]) + (" … (--json shows all)" if len(body) > BODY_SHOWN else ""))
            click.echo()
    return _unfound(ids, {value["id"] for value in found})


def _whole(setup: Setup, letter: DeadLetter) -> dict[str, Any]:
    value: dict[str, Any] = setup.redact(
        {
            **letter.show(),
            "content_type": letter.delivery.content_type,
            "headers": {str(name): str(text) for name, text in letter.delivery.headers.items()},
            "body": letter.delivery.body.decode("utf-8", "backslashreplace"),
        }
    )
    return value


@dead.command()
@_chosen
@click.option("--dry-run", is_flag=True, help="Only say what would go back.")
@json_option
@click.pass_obj
def replay(
    setup: Setup, ids: tuple[str, ...], pattern: str | None, *, every: bool, dry_run: bool, as_json: bool
) -> int:
    """Put them back where they came from, with attempts counted anew and a new result event."""
    meant = choose(ids, pattern, every=_must_choose(ids, pattern, every=every))
    if dry_run:
        with open_shelf(setup.settings) as shelf:
            found = [setup.redact(letter.show()) for letter in shelf.letters() if meant(letter)]
        _print_done(found, [], as_json=as_json, verb="would go back")
        return _unfound(ids, {each["id"] for each in found})
    done: list[dict[str, Any]] = []
    problems: list[dict[str, Any]] = []
    try:
        for outcome in _replayed(setup, meant):
            shown = setup.redact({**outcome.letter.show(), "run": outcome.run, "problem": outcome.problem})
            (done if outcome.problem is None else problems).append(shown)
    except BaseException:
        if done or problems:  # what went back before it broke off did go back
            _print_done(done, problems, as_json=as_json, verb="went back")
        raise
    _print_done(done, problems, as_json=as_json, verb="went back")
    unfound = _unfound(ids, {each["id"] for each in (*done, *problems)})
    return FAILED if problems else unfound


def _replayed(setup: Setup, meant: Callable[[DeadLetter], bool]) -> Iterator[Replayed]:
    """Put back what is meant, some at a time; a letter is removed when its copy is confirmed."""
    import asyncio

    from worker.app import broker_url, is_amqp_url, state_url, transport_options
    from worker.bridge import process_loop
    from worker.dead_letters import Replayed, replay
    from worker.events import Publisher
    from worker.ledger import Ledger
    from worker.store import Store, connect

    settings = setup.settings
    loop = process_loop()
    url = broker_url(settings)
    options = transport_options(amqp=is_amqp_url(url))
    publisher = Publisher(url, systems=tuple(setup.slices.systems), options=options, name="replay")
    publisher.start(loop.loop)
    store = Store(connect(state_url(settings)))
    ledger = Ledger(store, owner="replay", lease=settings.worker.lease)

    async def put_back(letters: list[DeadLetter]) -> list[Replayed]:
        replays = (replay(letter, ledger, publisher, now=datetime.now(UTC)) for letter in letters)
        async with asyncio.timeout(REPLAY_PATIENCE):
            return await asyncio.gather(*replays)

    try:
        if not publisher.ready.wait(REPLAY_PATIENCE):  # its own user is known from then on
            raise ConnectionError(publisher.last_error or "no answer")
        with open_shelf(settings) as shelf, progress("replayed", shelf.count) as step:
            for letters in _batches(shelf.letters(), AT_ONCE, step):
                chosen = [letter for letter in letters if meant(letter)]
                try:
                    outcomes = loop.wait_for(put_back(chosen)) if chosen else []
                except TimeoutError:
                    problem = "the broker did not confirm it in time, so it stays; replay it again"
                    yield from (Replayed(letter, problem=problem) for letter in chosen)
                    return
                shelf.remove([outcome.letter for outcome in outcomes if outcome.problem is None])
                yield from outcomes
    finally:
        publisher.stop()
        loop.wait_for(store.close())


def _batches(letters: Iterable[DeadLetter], size: int, step: Callable[[], None]) -> Iterator[list[DeadLetter]]:
    remaining = iter(letters)
    while batch := list(itertools.islice(remaining, size)):
        yield batch
        for _ in batch:
            step()


@dead.command()
@_chosen
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@json_option
@click.pass_obj
def drop(
    setup: Setup, ids: tuple[str, ...], pattern: str | None, *, every: bool, dry_run: bool, yes: bool, as_json: bool
) -> int:
    """Remove them for good."""
    meant = choose(ids, pattern, every=_must_choose(ids, pattern, every=every))
    asked: Counter[bytes] = Counter()
    found = []
    with open_shelf(setup.settings) as shelf:
        for letter in filter(meant, shelf.letters()):
            asked[letter.fingerprint()] += 1
            found.append(setup.redact(letter.show()))
    if not dry_run and found:
        # Asked with nothing in hand: however long the answer takes, nobody is kept from the letters.
        if sys.stdin.isatty() and not yes:
            many = f"{len(found)} dead letter{'s' if len(found) != 1 else ''}"
            click.confirm(f"Remove {many} for good?", abort=True, err=True)
        asked_for, found = len(found), []
        with open_shelf(setup.settings) as shelf, progress("removed", asked_for) as step:
            # Those that were asked about and no others: some may have gone meanwhile, and others died.
            for letters in _batches(_those(asked, shelf.letters()), REMOVED_AT_ONCE, step):
                shelf.remove(letters)
                found += [setup.redact(letter.show()) for letter in letters]
    _print_done(found, [], as_json=as_json, verb="would be removed" if dry_run else "removed")
    return _unfound(ids, {each["id"] for each in found})


def _those(asked: Counter[bytes], letters: Iterable[DeadLetter]) -> Iterator[DeadLetter]:
    """Give those of the letters that were asked about, each as often as it was."""
    for letter in letters:
        same = letter.fingerprint()
        if asked[same] > 0:
            asked[same] -= 1
            yield letter


def _print_done(done: list[dict[str, Any]], problems: list[dict[str, Any]], *, as_json: bool, verb: str) -> None:
    if as_json:
        show_json({verb.replace(" ", "_"): done, "problems": problems})
        return
    for each in done:
        click.echo(f"{clean(each['id'] or '(no id)')}  {clean(each['type'] or '')}  {verb}".replace("    ", "  "))
    if not done and not problems:
        click.echo("No dead letter fits.")
    for each in problems:
        click.echo(
            f"planrelay: {clean(each['id'] or 'A letter without id')} stays: {clean(each['problem'])}.", err=True
        )


def _unfound(ids: Sequence[str], found: set[str | None]) -> int:
    missing = [each for each in ids if each not in found]
    if not missing:
        return 0
    names = ", ".join(missing)
    click.echo(f"planrelay: No dead letter has the id {names}; `planrelay dead list` shows what is there.", err=True)
    return FAILED


def open_shelf(settings: Settings) -> Shelf:
    """Give the place of the dead letters, to be used in a `with` block."""
    from worker.app import broker_url, is_amqp_url, queue_store_url
    from worker.dead_letters import RabbitShelf, ValkeyShelf

    url = broker_url(settings)
    return RabbitShelf(url) if is_amqp_url(url) else ValkeyShelf(queue_store_url(settings))
