"""What the metrics say of gates and dead letters before anything went through."""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING

from tests.fleet import eventually
from worker.cli import main
from worker.errors import kinds

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from tests.fleet import Fleet


def test_a_gate_that_nobody_passes_is_told_as_it_stands(
    make_fleet: Callable[..., Fleet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle worker tells that a gate was closed and opened again, and of each kind of error that it ended nothing."""
    fleet = make_fleet()
    (worker,) = fleet.start()
    monkeypatch.setenv("PLANRELAY_CONFIG", str(fleet.config))

    def told() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}/metrics") as answer:
            text: str = answer.read().decode()
        return text

    assert 'planrelay_gate_closed{limit_key="tower"} 0.0' in eventually(told)
    main(["pause", "tower"])
    eventually(lambda: 'planrelay_gate_closed{limit_key="tower"} 1.0' in told(), what="a closed gate")
    main(["resume", "tower"])
    eventually(lambda: 'planrelay_gate_closed{limit_key="tower"} 0.0' in told(), what="an open gate")
    assert {kind for kind in kinds() if f'planrelay_dead_letters_total{{kind="{kind}"}} 0.0' not in told()} == set()
