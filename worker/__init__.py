"""
The engine: turns queue messages into API calls, reliably. It knows no vendor.

`worker.celery` is the Celery app (`celery -A worker worker`), made when first asked for, so that importing a pure
module of this package starts nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.app import Relay

    celery: Relay


def __getattr__(name: str) -> Any:
    if name == "celery":
        from worker.app import make_app  # noqa: PLC0415 - the composition root, on demand

        app = make_app()
        globals()["celery"] = app
        return app
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
