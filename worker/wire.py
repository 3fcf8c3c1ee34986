"""What all gateways of a process share: the connections to the vendors, the gates, the tokens."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from worker.backoff import Backoff
from worker.errors import Unauthorized
from worker.throttle import Observer as GateObserver
from worker.throttle import Throttle
from worker.tokens import Tokens
from worker.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime, timedelta
    from random import Random  # noqa: TID251 - the type alone: chance is an argument

    from redis.asyncio import Redis

    from config.connections import Connection
    from config.settings import Settings
    from worker.command import System


class Observer(GateObserver, Protocol):
    """Who counts what goes over the wire."""

    def request(self, system: str, connection: str, method: str, status: int | None, spent: timedelta) -> None:
        """Count one request; `status` None where no answer came."""
        ...

    def retry(self, system: str, reason: str) -> None:
        """Count a request that is made again."""
        ...


class Wire:
    """What all gateways of a process share: connections, gates, tokens."""

    def __init__(
        self,
        *,
        settings: Settings,
        systems: Mapping[str, System],
        redis: Redis | None,
        worker_id: str,
        observer: Observer,
        clock: Callable[[], datetime],
        rng: Random,
        learn: Callable[[str], None] = lambda _token: None,
    ) -> None:
        """
        Make it; nothing is opened before the first request. `clock` gives the present instant, aware.

        `learn` is told every token that a sign-in gives, so that it can be kept out of what is shown.
        """
        self._learn = learn
        self.systems = systems
        self.observer = observer
        self.clock = clock
        self.rng = rng
        self.retry = settings.retry
        self.request_timeout = settings.http.request_timeout
        self.backoff = Backoff(settings.retry.backoff_initial, settings.retry.backoff_ceiling)
        self.transport = Transport(
            connect_timeout=settings.http.connect_timeout,
            request_timeout=settings.http.request_timeout,
            max_response=settings.http.max_response,
            now=clock,
        )
        self.throttle = Throttle(redis, worker_id=worker_id, ceiling=settings.retry.backoff_ceiling, observer=observer)
        self._tokens: dict[str, Tokens] = {}

    def tokens(self, connection: Connection) -> Tokens:
        """Give the connection's tokens."""
        tokens = self._tokens.get(connection.name)
        if tokens is None:
            try:
                flow = self.systems[connection.system].auth(connection)
            except ValueError as error:  # it names the settings that are missing
                raise Unauthorized(f"The connection {connection.name} can't sign in: {error}") from error
            tokens = self._tokens[connection.name] = Tokens(
                flow, name=connection.name, now=self.clock, rng=self.rng, learn=self._learn
            )
        return tokens

    async def start(self) -> None:
        """Nothing to open: the first request does."""

    async def close(self) -> None:
        """Give back what is leased and close every connection."""
        await asyncio.gather(*(tokens.close() for tokens in self._tokens.values()))
        await self.throttle.close()
        await self.transport.close()
