"""
Snapshots of reports: one at a time for each report in the whole fleet, and waited for outside of any worker.

A report is locked while a snapshot of it is generated (BIT-REP). The asset BN is a step of the command, so nothing
after it makes a second one, and what the fleet is generating is remembered: nobody asks in vain meanwhile. Looks
whether a snapshot is ready are parked in between (each raises `Busy`): a report that takes an hour holds nobody up.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, get_args

from tasks.barometerit.wire import Format
from worker.errors import Busy, NotFound, RelayError

if TYPE_CHECKING:
    from tasks.barometerit.client import Barometerit
    from worker.run import Run

GENERATING: Final = timedelta(minutes=10)
"""How long one request may take to generate: whether barometerIT answers before the snapshot is ready is unknown."""

POLL_LEAST: Final = timedelta(seconds=1)
POLL_MOST: Final = timedelta(seconds=60)
"""Between two looks whether a snapshot is ready: a quarter of the time that it took so far, within these."""

COURTESY: Final = timedelta(minutes=2)
"""How long others wait beyond a command's next look: it may be late, or gone for good."""

TURN_MOST: Final = timedelta(seconds=5)
"""The longest wait between two looks whether another command's snapshot is ready."""


@dataclass(frozen=True, slots=True)
class Asset:
    """
    A snapshot of a report: when it was asked for (aware), and until when it may be unfinished.

    `format` is the one that was asked for, `told` the one that barometerIT named.
    """

    bn: str
    format: Format | None
    since: datetime
    until: datetime
    report_bn: str | None = None
    told: str | None = None

    def unfinished(self, now: datetime, error: RelayError) -> RelayError:
        """Give what to raise where the snapshot is not there: `Busy` until its time is up."""
        if now < self.until:
            wait = min(max((now - self.since) / 4, POLL_LEAST), POLL_MOST)
            after = getattr(error, "after", None)
            return Busy(f"The snapshot {self.bn} is not ready yet.", after=max(wait, after or wait))
        waited = (now - self.since).total_seconds()
        return NotFound(
            f"The snapshot {self.bn} was not there within {waited:.0f} s (ready_within): it was never made, was "
            "deleted, or takes longer.",
            status=error.status,
            response=error.response,
        )


async def generate(run: Run, barometerit: Barometerit, report_bn: str, format: Format, patience: timedelta) -> Asset:
    """
    Give the command's snapshot, made once: a redelivery gets the same.

    No other command of the fleet has the report generate until this one is `finished` with it, as long as it comes back
    to look. Raises `Busy` while another does, and where barometerIT says so itself.
    """

    async def make() -> dict[str, str]:
        async with run.exclusive(f"report:{report_bn}"):
            mine = await _turn(run, report_bn)
            if mine is not None:  # made by this command, which was cut off before it could write that down
                return mine
            since = run.now().isoformat()
            snapshot = await barometerit.generate_report(report_bn, format, GENERATING)
            told = str(snapshot.get("file_format") or format).lower()
            made = {"asset_bn": snapshot["asset_bn"], "format": told, "since": since}
            if patience:
                await _hold(run, report_bn, made, COURTESY)
            return made

    made = await run.step("asset", make)
    since = datetime.fromisoformat(made["since"])
    return Asset(
        bn=made["asset_bn"],
        format=format,
        since=since,
        until=since + patience,
        report_bn=report_bn,
        told=made["format"] if made["format"] in get_args(Format) else None,
    )


async def _turn(run: Run, report_bn: str) -> dict[str, str] | None:
    """Raise `Busy` while the report's last snapshot is unfinished; give it where it is this command's own."""
    last = await run.recall(_memory(report_bn))
    if not last or run.now() >= datetime.fromisoformat(last["until"]):
        return None
    if last["by"] == run.command.key:
        return {name: last[name] for name in ("asset_bn", "format", "since")}
    waited = run.now() - datetime.fromisoformat(last["since"])
    raise Busy(
        f"A snapshot of the report {report_bn} is being generated for another command.",
        after=min(max(waited / 4, POLL_LEAST), TURN_MOST),
    )


async def _hold(run: Run, report_bn: str, made: dict[str, str], length: timedelta) -> None:
    until = (run.now() + length).isoformat()
    await run.remember(_memory(report_bn), {**made, "by": run.command.key, "until": until})


async def unfinished(run: Run, asset: Asset, error: RelayError) -> RelayError:
    """Give what to raise where a snapshot is not there: `Busy`, and the report stays this command's, or the end."""
    verdict = asset.unfinished(run.now(), error)
    if not isinstance(verdict, Busy):
        await finished(run, asset)
    elif asset.report_bn is not None:
        made = {"asset_bn": asset.bn, "format": str(asset.format), "since": asset.since.isoformat()}
        last = await run.recall(_memory(asset.report_bn))
        if not last or last["by"] == run.command.key:
            await _hold(run, asset.report_bn, made, (verdict.after or POLL_MOST) + COURTESY)
    return verdict


async def finished(run: Run, asset: Asset) -> None:
    """Say that a snapshot is ready, or never will be: the report's next one may be made."""
    if asset.report_bn is not None:
        last = await run.recall(_memory(asset.report_bn))
        if last and last["by"] == run.command.key:
            await run.remember(_memory(asset.report_bn), None)


def _memory(report_bn: str) -> str:
    return f"generating:{report_bn}"


async def awaited(run: Run, asset_bn: str, format: Format | None, patience: timedelta) -> Asset:
    """Give a snapshot that somebody else had made: it may be unfinished for `patience` from now."""

    async def since() -> str:
        return run.now().isoformat()

    began = datetime.fromisoformat(await run.step("since", since))
    return Asset(bn=asset_bn, format=format, since=began, until=began + patience)
