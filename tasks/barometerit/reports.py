"""What commands do with reports: bring a snapshot to its destination, remove it at the vendor, name documents."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from tasks.barometerit import documents
from tasks.barometerit.downloads import Fetch
from worker.errors import (
    Conflict,
    ContractBroken,
    Forbidden,
    Invalid,
    NotFound,
    RelayError,
    TransportError,
    Unavailable,
)

if TYPE_CHECKING:
    from tasks.barometerit.client import Barometerit
    from tasks.barometerit.models import Saving
    from tasks.barometerit.snapshots import Asset
    from worker.run import Run


async def save(run: Run, barometerit: Barometerit, wanted: Saving, asset: Asset, **ids: str) -> dict[str, Any]:
    """Fetch a snapshot to where the command wants it, once; then remove it at the vendor if the command says so."""
    place = run.artifacts.check(await run.destination(wanted.destination, **ids))
    result: dict[str, Any] = dict(await run.step("saved", Fetch(run, barometerit, asset, place, wanted).saved))
    if wanted.delete_asset:
        warning = await run.step("asset_removed", partial(_removed, run, barometerit, asset.bn))
        result |= {"asset_deleted": warning is None, **({"warnings": [warning]} if warning else {})}
    return result


async def _removed(run: Run, barometerit: Barometerit, asset_bn: str) -> str | None:
    """Remove a snapshot by reading it once more, to its end; gives a warning where that can't be done."""
    try:
        async with barometerit.download(asset_bn, delete=True) as download:
            async for _ in download.chunks():
                pass
    except NotFound:
        return None
    except (Invalid, Forbidden, Conflict, ContractBroken) as error:
        why = error.message
    except (Unavailable, TransportError) as error:
        if getattr(error, "after", None) is not None or not run.last_attempt:
            raise
        why = error.message
    else:
        return None
    return f"The snapshot {asset_bn} is saved and could not be removed: {why}"


async def uploaded(run: Run, barometerit: Barometerit, name: str, saved: str) -> dict[str, Any]:
    """Make a document of a saved file; an error says that the file is there."""
    try:
        return await documents.upload(run, barometerit, name, run.artifacts.check(saved))
    except RelayError as error:
        error.message = f"{error.message} The report is saved at {saved}; what failed is its upload."
        raise


def check_names(run: Run, *templates: str | None, **ids: str) -> None:
    """Fill names for a trial: what can't be filled is refused before anything is sent."""
    for template in templates:
        if template is not None:
            run.artifacts.fill(template, now=run.now(), tz=run.zone, **ids)


async def filled(run: Run, step: str, template: str, ids: Mapping[str, str]) -> str:
    """Fill a name, once per command."""

    async def fill() -> str:
        return run.artifacts.fill(template, now=run.now(), tz=run.zone, **ids)

    name: str = await run.step(step, fill)
    return name
