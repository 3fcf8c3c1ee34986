"""What the files about the state store share."""

from collections.abc import Iterator

import pytest

from tests.worker.valkey import Valkey, valkey_server


@pytest.fixture(scope="module")
def server() -> Iterator[Valkey]:
    """Give a server of each file's own."""
    with valkey_server() as running:
        yield running
