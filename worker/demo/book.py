"""What the demo asked and what was answered: its figures, and what did not end as expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

from worker.demo.load import Asked


@dataclass(slots=True)
class Answer:
    """The result event of one command, and how long it took from publishing to hearing it."""

    event: Mapping[str, Any]
    seconds: float

    @property
    def data(self) -> Mapping[str, Any]:
        """The event's data."""
        found: Mapping[str, Any] = self.event["data"]
        return found

    @property
    def kind(self) -> str | None:
        """The kind of the error, None where it succeeded."""
        error = self.data.get("error")
        return None if error is None else str(error["kind"])


@dataclass(slots=True)
class Book:
    """What was asked and what was answered."""

    asked: Mapping[str, Asked]
    answers: dict[str, Answer] = field(default_factory=dict)
    told_twice: dict[str, set[str]] = field(default_factory=dict)
    """Commands with events of several ids: one command, several outcomes."""

    def hear(self, event: Mapping[str, Any], seconds: float) -> None:
        """Take down an event; the first one of a command counts."""
        id_ = str(event.get("subject"))
        if id_ not in self.asked:
            return
        first = self.answers.setdefault(id_, Answer(event, seconds))
        if first.event["id"] != event["id"]:
            self.told_twice.setdefault(id_, {str(first.event["id"])}).add(str(event["id"]))

    @property
    def complete(self) -> bool:
        """Whether every command is answered."""
        return len(self.answers) == len(self.asked)

    def total(self, figure: str) -> int:
        """Add up a figure of all answers: `deferrals`, `http_requests`, `attempts`."""
        return sum(int(answer.data[figure]) for answer in self.answers.values())

    def rows(self) -> list[tuple[str, ...]]:
        """Give the table: type, sent, succeeded, failed as expected, attempts, deferrals, p50, p95; and the totals."""
        types: dict[str, list[Asked]] = {}
        for each in self.asked.values():
            types.setdefault(each.type, []).append(each)
        rows = [self._row(type_, types[type_]) for type_ in sorted(types)]
        return [*rows, self._row("all", list(self.asked.values()))]

    def _row(self, name: str, asked: Sequence[Asked]) -> tuple[str, ...]:
        answered = [(each, self.answers[each.id]) for each in asked if each.id in self.answers]
        spent = [answer.seconds for _, answer in answered]
        p50, p95 = percentiles(spent)
        return (
            name,
            str(len(asked)),
            str(sum(1 for _, answer in answered if answer.kind is None)),
            str(sum(1 for each, answer in answered if each.fails is not None and answer.kind == each.fails)),
            str(sum(int(answer.data["attempts"]) for _, answer in answered)),
            str(sum(int(answer.data["deferrals"]) for _, answer in answered)),
            f"{p50:.2f} s",
            f"{p95:.2f} s",
        )

    def surprises(self) -> list[str]:
        """Say, one sentence each, what did not end as expected."""
        said = []
        for each in self.asked.values():
            answer = self.answers.get(each.id)
            if answer is None:
                said.append(f"{each.type} {each.id} was never answered.")
            elif answer.kind != each.fails:
                ended = (
                    "succeeded" if answer.kind is None else f"failed ({answer.kind}: {answer.data['error']['message']})"
                )
                said.append(f"{each.type} {each.id} {ended}; expected: {each.fails or 'success'}.")
        said += [f"{id_} was told {len(ids)} different outcomes." for id_, ids in self.told_twice.items()]
        return said


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """Give the median and the 95th percentile; 0 where there are no values."""
    if len(values) < 2:
        return (values[0], values[0]) if values else (0.0, 0.0)
    cuts = quantiles(values, n=20, method="inclusive")
    return cuts[9], cuts[18]
