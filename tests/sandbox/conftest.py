"""A sandbox on the test's loop, and a client that knows its credentials."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from sandbox import Sandbox

BASIC = "Basic " + base64.b64encode(b"svc-relay:sandbox-password").decode()
CLIENT = "Basic " + base64.b64encode(b"sandbox-client:sandbox-secret").decode()


async def until(met: Callable[[], object], seconds: float = 10) -> None:
    """Waits until something is so; a test that waits in vain fails."""
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.005)


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Client:
    """Asks the sandbox's vendors with the default credentials, each connection used once."""

    sandbox: Sandbox
    session: aiohttp.ClientSession
    tokens: dict[str, str] = field(default_factory=dict)

    async def __call__(
        self,
        vendor: str,
        method: str,
        path: str,
        *,
        tenant: str = "default",
        headers: Mapping[str, str | None] | None = None,
        **options: Any,
    ) -> Reply:
        """One request; a header given as None is left out, one given as "auto" is the HTTP client's business."""
        sent = {**(await self._credentials(vendor, tenant)), **(headers or {})}
        given = {name: value for name, value in sent.items() if value not in (None, "auto")}
        url = self.sandbox.base_url(vendor, tenant) + path
        skipped = [name for name, value in sent.items() if value is None]
        async with self.session.request(method, url, headers=given, skip_auto_headers=skipped, **options) as response:
            return Reply(response.status, response.headers, await response.read())

    async def token(self, tenant: str = "default") -> str:
        """A fresh token of Planview Admin."""
        form = {"grant_type": "client_credentials"}
        url = self.sandbox.base_url("planview_admin", tenant) + "/io/v1/oauth2/token"
        async with self.session.post(url, data=form, headers={"Authorization": CLIENT}) as response:
            assert response.status == 200
            return str((await response.json())["id_token"])

    async def _credentials(self, vendor: str, tenant: str) -> dict[str, str]:
        if vendor == "barometerit":
            kind = "application/json;charset=UTF-8"
            return {"Authorization": BASIC, "Accept": kind, "Content-Type": kind}
        if vendor == "planpoint":
            return {"Authorization": "Bearer sandbox-token"}
        if tenant not in self.tokens:
            self.tokens[tenant] = await self.token(tenant)
        return {"Authorization": f"Bearer {self.tokens[tenant]}"}


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """A sandbox that serves."""
    async with Sandbox() as serving:
        yield serving


@pytest.fixture
async def ask(sandbox: Sandbox) -> AsyncIterator[Client]:
    """The client; it never reuses a connection, so that nothing is sent again behind the test's back."""
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield Client(sandbox, session)
