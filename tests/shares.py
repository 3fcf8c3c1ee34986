"""How several processes share the tests: xdist's groups, and what xdist 3.8 does not survive: the end of a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xdist.scheduler import LoadGroupScheduling

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController


class Shares(LoadGroupScheduling):
    """
    Groups of tests, each for one process.

    xdist hands on what a process that ended had done already: the next one gets no test of it, and waits for ever. And
    a process begins a test only when it has the one after it too (or is told that there is none): one that joins late
    may be given a single test.
    """

    def remove_node(self, node: WorkerController) -> str | None:
        """Hand on what a process had not begun; give the test in which it ended."""
        units = self.assigned_work.pop(node)
        undone: list[str] = [test for unit in units.values() for test, done in unit.items() if not done]
        if not undone:
            return None
        for scope, unit in units.items():
            if left := {test: False for test in unit if test in undone[1:]}:
                self.workqueue[scope] = left
        for other in self.assigned_work:
            self._reschedule(other)
        return undone[0]

    def _reschedule(self, node: WorkerController) -> None:
        super()._reschedule(node)
        while not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
            super()._reschedule(node)
