"""Celery's consumer, as far as it can be told without a broker."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from config.settings import load_settings
from worker.app import make_app
from worker.consumer import Consumer


def test_nobody_waits_for_the_confirm_of_celerys_own_events(tmp_path: Path) -> None:
    """A worker's heartbeat goes out without one; what the app publishes otherwise is confirmed as before."""
    config = tmp_path / "planrelay.toml"
    config.write_text('[broker]\nurl = "amqp://127.0.0.1:1//"\n[state]\nurl = "redis://127.0.0.1:1/0"\n')
    app = make_app(load_settings(config, {}))
    consumer: Any = SimpleNamespace(app=app, ensure_connected=lambda connection: connection)

    with cast("Any", Consumer.connection_for_write)(consumer) as events, app.connection_for_write() as others:
        assert events.transport_options["confirm_publish"] is False
        assert others.transport_options["confirm_publish"] is True
