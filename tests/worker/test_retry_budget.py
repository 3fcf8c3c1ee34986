"""The retry budget: a vendor that is down gets probes, not load."""

import pytest

from worker.retry_budget import BURST, FLOOR, SHARE, RetryBudget


@pytest.mark.parametrize("workers", [1, 4])
def test_a_fleet_without_first_tries_retries_at_the_floor(workers: int) -> None:
    """All workers together may retry three times a second, after a small burst."""
    budgets = [RetryBudget(0.0) for _ in range(workers)]
    allowed = 0
    for step in range(6_000):
        allowed += sum(budget.spend(step / 100, workers) == 0 for budget in budgets)

    assert allowed == pytest.approx(BURST + 60 * FLOOR, abs=workers + 1)


def test_first_tries_earn_retries() -> None:
    """A fifth of the first tries may be tried again, beyond the floor."""
    budget = RetryBudget(0.0)
    allowed = 0
    for step in range(6_000):  # 100 first tries a second, all of them failing
        budget.earn()
        allowed += budget.spend(step / 100, 1) == 0

    assert allowed == pytest.approx(BURST + 6_000 * SHARE + 60 * FLOOR, rel=0.02)


def test_who_is_sent_away_gets_a_time_of_its_own() -> None:
    """Retries that must wait come back one after the other, at the pace of the floor."""
    budget = RetryBudget(0.0)
    waits = [wait for wait in (budget.spend(0.0, 1) for _ in range(100)) if wait]

    assert len(waits) == 90
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(90 / FLOOR)
    assert waits[0] >= 1.0
