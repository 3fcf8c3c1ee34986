"""A stand-in's objects: by id, in the order they were made, found again by natural key and by what they belong to."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from itertools import islice

from sandbox.wire import JSON, Object

Key = Callable[[Object], Hashable | None]


def _nothing(_: Object) -> None:
    return None


class Collection:
    """
    Objects of one kind.

    `natural` gives the key by which a person would call two of them the same (None: it has none), `group` what an
    object belongs to (the floor of a unit).
    """

    def __init__(self, id_key: str, *, natural: Key = _nothing, group: Key = _nothing) -> None:
        self.id_key = id_key
        self._natural = natural
        self._group = group
        self._objects: dict[str, Object] = {}
        self._by_natural: dict[Hashable, dict[str, None]] = {}
        self._by_group: dict[Hashable, dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def __contains__(self, ident: object) -> bool:
        return isinstance(ident, str) and ident in self._objects

    def __iter__(self) -> Iterator[Object]:
        return iter(self._objects.values())

    def get(self, ident: object) -> Object | None:
        """The object itself, not a copy."""
        return self._objects.get(ident) if isinstance(ident, str) else None

    def add(self, item: Object) -> Object:
        """Keeps an object; one with the same id is replaced."""
        ident: str = item[self.id_key]
        if ident in self._objects:
            self.remove(ident)
        self._objects[ident] = item
        self._enter(ident, item)
        return item

    def change(self, ident: str, changes: Mapping[str, JSON]) -> Object:
        """Sets fields of an object that exists."""
        item = self._objects[ident]
        self._leave(ident, item)
        item.update(changes)
        self._enter(ident, item)
        return item

    def remove(self, ident: str) -> Object:
        """Forgets an object that exists."""
        item = self._objects.pop(ident)
        self._leave(ident, item)
        return item

    def page(self, first: int, count: int | None, group: Hashable | None = None) -> list[Object]:
        """`count` objects from the `first` on, of one group if given."""
        stop = None if count is None else first + count
        if group is None:
            return list(islice(self._objects.values(), first, stop))
        return [self._objects[ident] for ident in islice(self._by_group.get(group, ()), first, stop)]

    def size(self, group: Hashable) -> int:
        """How many objects a group has."""
        return len(self._by_group.get(group, ()))

    def having(self, natural: Hashable) -> list[Object]:
        """The objects that have this natural key."""
        return [self._objects[ident] for ident in self._by_natural.get(natural, ())]

    def key_of(self, item: Object) -> Hashable | None:
        """An object's natural key."""
        return self._natural(item)

    def duplicates(self) -> Iterator[tuple[Hashable, list[str]]]:
        """Each natural key that several objects have, and their ids."""
        for key, idents in self._by_natural.items():
            if len(idents) > 1:
                yield key, list(idents)

    def _enter(self, ident: str, item: Object) -> None:
        for index, key in ((self._by_natural, self._natural(item)), (self._by_group, self._group(item))):
            if key is not None:
                index.setdefault(key, {})[ident] = None

    def _leave(self, ident: str, item: Object) -> None:
        for index, key in ((self._by_natural, self._natural(item)), (self._by_group, self._group(item))):
            if key is not None and (idents := index.get(key)) is not None:
                idents.pop(ident, None)
                if not idents:
                    del index[key]
