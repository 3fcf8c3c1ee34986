"""Product environments by id or by name, as people write them in commands and rosters."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from worker.errors import BadCommand, Forbidden, Invalid, NotFound
from worker.natural_key import fold

if TYPE_CHECKING:
    from tasks.planview_admin.client import Admin


class Environments:
    """The product environments of a customer: asked for only where a name comes that is no id in use."""

    def __init__(self, ids: Collection[str], names: dict[str, list[str]] | None = None) -> None:
        self._ids = ids
        self._names = names

    @classmethod
    async def known(cls, admin: Admin, said: Iterable[str], in_use: Collection[str], *, page_size: int) -> Environments:
        """
        Give what it takes to understand `said`; `in_use` are the ids that users are known to have.

        Where the list can't be had (its path is assumed), what is said is taken to be ids.
        """
        if all(one in in_use for one in said):
            return cls(in_use)
        ids, names = set[str](), dict[str, list[str]]()
        try:
            async for product in admin.products(page_size=page_size).rows():
                ids.add(product["id"])
                if isinstance(product.get("name"), str):
                    names.setdefault(fold(product["name"]), []).append(product["id"])
        except (NotFound, Forbidden, Invalid):
            return cls(in_use)
        return cls(ids | set(in_use), names)

    def id(self, said: str) -> str:
        """Give the id of a product environment; what is neither an id nor one's name raises `BadCommand`."""
        if said in self._ids or self._names is None:
            return said
        found = self._names.get(fold(said), [])
        if len(found) == 1:
            return found[0]
        if found:
            raise BadCommand(
                f"{said!r} is the name of {len(found)} product environments ({', '.join(found)}): give an id."
            )
        raise BadCommand(f"{said!r} is neither the id nor the name of a product environment.")
