"""A system made for a test, one of whose commands ends the worker that runs it, as a crash in a C extension would."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults.killer_slice.tasks import LOOK
from worker.auth import Bearer
from worker.command import System

if TYPE_CHECKING:
    from config.connections import Connection
    from worker.auth import Flow


def sign_in(_: Connection) -> Flow:
    """Sign in as nobody in particular."""
    return Bearer("token", "bearer")


SYSTEM = System(name="killer_slice", auth=sign_in, cheapest=LOOK, headers={})
