"""What the tests of slices share: a state store for what is kept there for real."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest

from worker import embedded
from worker.plans import Plans
from worker.store import Store, connect


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the URL of a Valkey of these tests' own."""
    directory = tmp_path_factory.mktemp("valkey")
    yield embedded.ensure(directory, linger=timedelta(seconds=1))
    embedded.stop(directory)


@pytest.fixture
async def plans(valkey_url: str) -> AsyncIterator[Plans]:
    """Give the plans in an empty state store."""
    store = Store(connect(valkey_url))
    await store.redis.flushall()
    yield Plans(store)
    await store.close()
