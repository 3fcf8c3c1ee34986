"""What commands do with reports: bring a snapshot to its destination, remove it at the vendor, name documents."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from tasks.barometerit.downloads import Fetch
from worker.errors import Conflict, ContractBroken, Forbidden, Invalid, NotFound

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
        warning = await run.step("asset_removed", partial(_removed, barometerit, asset.bn))
        result |= {"asset_deleted": warning is None, **({"warnings": [warning]} if warning else {})}
    return result


async def _removed(barometerit: Barometerit, asset_bn: str) -> str | None:
    """Remove a snapshot by reading it once more, to its end; gives a warning where barometerIT refuses."""
    try:
        async with barometerit.download(asset_bn, delete=True) as download:
            async for _ in download.chunks():
                pass
    except NotFound:
        return None
    except (Invalid, Forbidden, Conflict, ContractBroken) as error:
        return f"The snapshot {asset_bn} is saved and could not be removed: {error.message}"
    return None


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
