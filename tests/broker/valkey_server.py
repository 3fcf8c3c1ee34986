"""A plugin for the tests of the Valkey transport: a server of a file's own."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
import redis

from worker import embedded


@pytest.fixture(scope="module")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the URL of a Valkey that only this file's tests use."""
    data_dir = tmp_path_factory.mktemp("valkey")
    yield embedded.ensure(data_dir, linger=timedelta(seconds=1))
    embedded.stop(data_dir)


@pytest.fixture
def valkey_url(valkey_server: str) -> str:
    """Give the URL of a Valkey that is empty."""
    with redis.Redis.from_url(valkey_server) as server:
        server.flushall()
    return valkey_server
