"""The command line by itself: what it prints, refuses and explains, without a broker."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.settings import load_settings
from tests.command_line import CommandLine, sentences
from worker import client
from worker.cli import COMMANDS, ask, screen, show
from worker.throttle import GateView

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
TOWER = """
[connections.tower]
system = "planpoint"
base_url = "http://127.0.0.1:1/planpoint"
token = "sandbox-token"
"""


@pytest.fixture
def planrelay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], CommandLine]:
    """Give a maker of command lines with settings of their own."""

    def make(settings: str = TOWER) -> CommandLine:
        config = tmp_path / "planrelay.toml"
        config.write_text(settings, "utf-8")
        return CommandLine(config, monkeypatch, capsys)

    return make


def test_help_loads_nothing_that_takes_time() -> None:
    """`planrelay --help` names every command and answers before Celery, kombu, pydantic or aiohttp could be loaded."""
    heavy = ("celery", "kombu", "pydantic", "aiohttp", "redis", "rich", "structlog")
    program = (
        "import sys\nfrom worker.cli import main\nstatus = main(['--help'])\n"
        f"print('LOADED', *sorted(set({heavy!r}) & set(sys.modules)))\nsys.exit(status)"
    )
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "LOADED"
    assert all(f"  {name} " in run.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_help_names_is_there(name: str, planrelay: Callable[[str], CommandLine]) -> None:
    """Each has a help page of its own, and prints nothing else."""
    said = planrelay(TOWER)(name, "--help")
    assert said.status == 0
    assert said.out.startswith(f"Usage: planrelay {name}")
    assert said.err == ""


READING = [
    ("status",),
    ("show",),
    ("dead", "list"),
    ("dead", "show"),
    ("check",),
    ("operations",),
    ("schema",),
    ("asyncapi",),
    ("plan", "list"),
    ("plan", "show"),
    ("schedule", "list"),
    ("events",),
]


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_every_command_that_reads_takes_json(words: tuple[str, ...], planrelay: Callable[[str], CommandLine]) -> None:
    """`--json` is an option of each."""
    assert "--json" in planrelay(TOWER)(*words, "--help").out


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("opertions",), "operations"),
        (("operations", "planpiont"), "planpoint"),
        (("schema", "planpoint.unit.raed"), "planpoint.unit.read"),
        (("send", "planpoint.unit.raed", "--connection", "tower"), "planpoint.unit.read"),
        (("send", "planpoint.unit.read", "--connection", "towr"), "tower"),
        (("send", "planpoint.unit.read", "--connection", "tower", "--data", "{"), "not JSON"),
        (("send", "planpoint.unit.read", "--connection", "tower", "--data", "[]"), "not a JSON object"),
        (("send", "planpoint.unit.read", "--connection", "tower", "--data", "@nowhere.json"), "nowhere.json"),
        (("send", "planpoint.unit.read", "--connection", "tower", "--data", '{"idd": "1"}'), "data.idd"),
        (("send", "planpoint.unit.read", "--connection", "tower", "--wait", "soon"), "--wait 30"),
        (("send", "planpoint.unit.read"), "--connection"),
        (("pause", "towr"), "tower"),
        (("pause", "tower", "--for", "long"), "duration"),
        (("pause", "tower", "--for", "0s"), "10m"),
        (("dead", "replay"), "--all"),
        (("dead", "drop", "c1", "--all"), "not both"),
        (("plan", "list", "--state", "done"), "held"),
        (("schedule", "run", "nightly"), "none"),
        (("worker", "--queues", "planpiont"), "planrelay.planpoint"),
        (("worker", "--concurrency", "0"), "--concurrency"),
        (("show",), "ID"),
        (("sandbox", "--latency", "soon"), "soon"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_slip_is_answered_with_one_sentence_that_helps(
    words: tuple[str, ...], names: str, planrelay: Callable[[str], CommandLine]
) -> None:
    """Usage errors end with status 2 and one line on standard error that names the remedy."""
    said = planrelay(TOWER)(*words)
    assert said.status == 2
    assert said.out == ""
    (sentence,) = sentences(said.err)
    assert sentence.startswith("planrelay: ")
    assert names in sentence


def test_a_configuration_error_ends_with_status_2(planrelay: Callable[[str], CommandLine]) -> None:
    """Every command says the first problem and how many more there are; `check` says all, and ends with 1."""
    wrong = planrelay('[worker]\nconcurency = 3\n[retry]\nmax_attempts = "six"\n')
    said = wrong("status")
    assert said.status == 2
    (sentence,) = sentences(said.err)
    assert "`planrelay check` lists them" in sentence
    checked = wrong("check")
    assert checked.status == 1
    assert len([line for line in checked.out.splitlines() if line.startswith("FAIL")]) == 2
    assert "worker.concurency" in checked.out


def test_config_can_be_named_on_the_command_line(planrelay: Callable[[str], CommandLine], tmp_path: Path) -> None:
    """`--config FILE` goes before PLANRELAY_CONFIG."""
    other = tmp_path / "other.toml"
    other.write_text(TOWER.replace("tower", "lodge"), "utf-8")
    assert "connection lodge" in planrelay(TOWER)("--config", str(other), "check").out
    missing = planrelay(TOWER)("--config", str(tmp_path / "nowhere.toml"), "status")
    assert missing.status == 2
    assert "nowhere.toml" in missing.err


def test_a_broker_that_is_away_is_said_in_one_sentence(
    planrelay: Callable[[str], CommandLine], free_port: int, tmp_path: Path
) -> None:
    """Commands that need the broker end with status 1 and say what to do."""
    away = f'[broker]\nurl = "redis://127.0.0.1:{free_port}/0"\n' + TOWER
    for words in (("dead", "list"), ("events",), ("plan", "list"), ("pause", "tower")):
        said = planrelay(away)(*words)
        assert said.status == 1, words
        (sentence,) = sentences(said.err)
        assert "broker.url" in sentence or "state.url" in sentence


def test_a_state_store_that_is_away_leaves_standard_output_to_the_answer(
    planrelay: Callable[[str], CommandLine], free_port: int
) -> None:
    """`status --json` prints JSON and nothing else, however much the parts underneath have to log."""
    away = f'[state]\nurl = "redis://127.0.0.1:{free_port}/0"\n' + TOWER
    said = planrelay(away)("status", "--json")
    assert said.status == 1
    assert set(said.json["problems"]) == {"state"}
    assert said.err == ""


def test_a_command_for_a_broker_that_is_away_is_refused_at_once(
    planrelay: Callable[[str], CommandLine], free_port: int
) -> None:
    """`send` says that nothing was sent, instead of waiting for a confirm that can't come."""
    away = f'[broker]\nurl = "amqp://relay:hidden@127.0.0.1:{free_port}//"\n' + TOWER
    with planrelay(away).start("send", "planpoint.project.mine", "--connection", "tower", "--wait") as sending:
        out, err = sending.communicate(timeout=25)
    assert (sending.returncode, out) == (1, "")
    (sentence,) = sentences(err)
    assert "broker.url" in sentence


def test_a_command_is_not_sent_from_where_nothing_is_configured(planrelay: Callable[[str], CommandLine]) -> None:
    """In a wrong folder `send` would reach a queue of its own that nobody reads: it says so instead."""
    said = planrelay("")("send", "planpoint.project.mine", "--connection", "tower")
    assert (said.status, said.out) == (2, "")
    (sentence,) = sentences(said.err)
    assert "planrelay.toml" in sentence


def test_without_a_command_there_is_help(planrelay: Callable[[str], CommandLine]) -> None:
    """`planrelay` alone, and a group of commands alone, print their help as it is laid out, and end with 2."""
    for words in ((), ("dead",)):
        said = planrelay(TOWER)(*words)
        assert said.status == 2
        assert said.out == ""
        assert len(said.err.splitlines()) > 5


def test_a_reader_that_has_had_enough_ends_it_quietly(planrelay: Callable[[str], CommandLine]) -> None:
    """`planrelay operations | head`: no traceback, no error, status 0."""
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run(
        [sys.executable, "-m", "worker.cli", "operations"],
        env=planrelay(TOWER).environment(),
        check=False,
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    os.close(writer)
    assert (run.returncode, run.stderr) == (0, b"")


def test_a_program_that_publishes_has_its_standard_output_to_itself(
    planrelay: Callable[[str], CommandLine], free_port: int
) -> None:
    """What `Client` has to log goes the way of Python's own logs, unless the program has set up structlog."""
    made = planrelay(f'[broker]\nurl = "amqp://127.0.0.1:{free_port}//"\n' + TOWER)
    program = """
import os, structlog
from worker.client import Client
Client()
structlog.get_logger("planrelay.events").warning("broker.publisher_lost")
print("mine", flush=True)
os._exit(0)  # closing waits for the broker
"""
    run = subprocess.run(
        [sys.executable, "-c", program], env=made.environment(), check=True, capture_output=True, text=True, timeout=60
    )
    assert run.stdout == "mine\n"
    assert "publisher_lost" in run.stderr


@pytest.mark.parametrize("body", [b"not JSON", b"[1]", b"\xff"])
def test_what_is_no_event_ends_nobody_who_listens(body: bytes) -> None:
    """Anybody may publish to the exchange of events; what can't be read is passed over."""
    assert client.events_in(body) == []
    assert client.events_in(b'{"id": "e1"}') == [{"id": "e1"}]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("planrelay sch", ["schema", "schedule"]),
        ("planrelay pause t", ["tower"]),
        ("planrelay send planpoint.unit.rea", ["planpoint.unit.read"]),
    ],
)
def test_a_shell_completes_commands_types_and_connections(
    words: str, offered: list[str], planrelay: Callable[[str], CommandLine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `eval "$(_PLANRELAY_COMPLETE=bash_source planrelay)"` makes the shell ask for."""
    made = planrelay(TOWER)
    monkeypatch.setenv("_PLANRELAY_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    monkeypatch.setattr(sys, "argv", ["planrelay"])
    with pytest.raises(SystemExit):
        made()
    assert [line.partition(",")[2] for line in made.printed().splitlines()] == offered


def test_the_stand_ins_are_served_until_sigint(planrelay: Callable[[str], CommandLine]) -> None:
    """`planrelay sandbox` says where each vendor is; SIGINT ends it with 0."""
    with planrelay(TOWER).start("sandbox", "--port", "0", "--quota", "50/2s") as serving:
        assert serving.stdout is not None
        said = [serving.stdout.readline() for _ in range(5)]
        with urllib.request.urlopen(f"{said[0].split()[1]}/_sandbox/") as answer:
            assert answer.status == 200
        serving.send_signal(signal.SIGINT)
        serving.communicate(timeout=20)
    assert serving.returncode == 0
    assert "planpoint" in said[3]


class TestCheck:
    """`planrelay check` without --connect."""

    def test_a_sound_configuration_is_ok_line_by_line(self, planrelay: Callable[[str], CommandLine]) -> None:
        """One line for the settings, each connection and each schedule."""
        said = planrelay(
            TOWER
            + '[[schedules]]\nname = "nightly"\ncron = "0 2 * * *"\ntype = "planpoint.project.mine"\n'
            + 'connection = "tower"\n'
        )("check")
        assert said.status == 0, said.out
        assert [line[:4].strip() for line in said.out.splitlines()] == ["ok", "ok", "ok"]
        assert "sandbox-token" not in said.out

    def test_it_says_how_many_calls_are_assumed(self, planrelay: Callable[[str], CommandLine]) -> None:
        """What no page shows may be another call at this tenant; what is configured counts no more."""
        plain = planrelay(TOWER)("check").out
        (assumed,) = re.findall(r"; (\d+) of \d+ calls assumed, 0 configured", plain)
        override = '[connections.tower.operations."project.delete"]\nmethod = "POST"\n'
        assert f"{int(assumed) - 1} of" in planrelay(TOWER + override)("check").out

    @pytest.mark.parametrize(
        ("settings", "problem"),
        [
            (TOWER.replace("token =", "#"), "needs token"),
            (TOWER + '[connections.tower.operations."unit.udpate"]\nmethod = "PUT"\n', "did you mean unit.update?"),
            (TOWER + '[connections.tower.operations."unit.update"]\npath = "/units/{bn}"\n', "must have {id}"),
            (TOWER + '[connections.tower.operations."unit.list"]\npath = "/units/{id}"\n', "no place in braces"),
            (TOWER + '[connections.tower.operations."unit.update"]\npath = "/units/{id"\n', "must have {id}"),
            (TOWER + 'allowed_types = ["planpoint.unti.*"]\n', "planpoint.unti.*"),
            (
                TOWER
                + '[[schedules]]\nname = "n"\ncron = "@daily"\nconnection = "tower"\ntype = "planpoint.unit.raed"\n',
                "did you mean planpoint.unit.read?",
            ),
            (
                TOWER
                + '[[schedules]]\nname = "n"\ncron = "@daily"\nconnection = "tower"\ntype = "planpoint.unit.read"\n',
                "data.id is required",
            ),
            ('[worker]\ninclude = ["tasks.nowhere"]\n', "tasks.nowhere"),
        ],
    )
    def test_what_only_the_slices_know_is_checked_too(
        self, settings: str, problem: str, planrelay: Callable[[str], CommandLine]
    ) -> None:
        """Credentials, overridden operations, allowed types and scheduled commands are held against the slices."""
        said = planrelay(settings)("check", "--json")
        assert said.status == 1
        assert problem in " ".join(each["problem"] for each in said.json if each["problem"])


class TestDescribing:
    """What there is to send."""

    def test_operations_say_where_they_are_known_from(self, planrelay: Callable[[str], CommandLine]) -> None:
        """Each type has HTTP method, path, evidence and source; what a connection overrides stands beside it."""
        said = planrelay(TOWER + '[connections.tower.operations."unit.update"]\nmethod = "PUT"\npath = "/api/u/{id}"\n')
        listed = {each["type"]: each for each in said("operations", "planpoint", "--json").json}
        (update, *_) = listed["planpoint.unit.update"]["endpoints"]
        assert update["overrides"] == {"tower": {"method": "PUT", "path": "/api/u/{id}"}}
        for operation in listed.values():
            assert operation["type"].startswith("planpoint.")
            assert operation["promise"]
            for endpoint in operation["endpoints"]:
                assert endpoint["evidence"] in {"seed", "public", "assumed"}
                assert endpoint["method"]
                assert endpoint["path"].startswith("/")
        table = said("operations", "planpoint").out
        assert "PUT" in table
        assert "tower" in table

    def test_configured_names_stand_beside_their_path(self, planrelay: Callable[[str], CommandLine]) -> None:
        """What a connection calls a field is seen where its method and path are."""
        fields = '[connections.tower.operations."unit.update".fields]\nstatus = "availability"\n'
        assert "with status = availability" in planrelay(TOWER + fields)("operations", "planpoint").out

    def test_without_a_configuration_there_is_still_all_to_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planrelay: Callable[[str], CommandLine]
    ) -> None:
        """Operations and schemas need no planrelay.toml."""
        said = planrelay("")
        systems = {each["system"] for each in said("operations", "--json").json}
        assert systems == {"barometerit", "planview_admin", "planpoint"}

    def test_a_type_has_a_json_schema(self, planrelay: Callable[[str], CommandLine]) -> None:
        """It requires what the command requires, and refuses unknown fields."""
        schema = planrelay(TOWER)("schema", "planpoint.unit.read").json
        assert schema["required"] == ["id"]
        assert schema["additionalProperties"] is False
        assert schema["title"] == "planpoint.unit.read"


class TestLooking:
    """Why a command is not running."""

    ENTRY: ClassVar[dict[str, str]] = {
        "source": "/test",
        "type": "planpoint.unit.read",
        "connection": "tower",
        "run": "1",
        "received": str(NOW.timestamp() * 1000 - 60_000),
        "changed": str(NOW.timestamp() * 1000),
    }

    def values(self, gate: GateView | None = None, **entry: str) -> dict[str, Any]:
        """Give what `show` says of a ledger's entry."""
        return show.entry_values({**self.ENTRY, **entry}, gate, load_settings(None, {}), NOW)

    def test_a_parked_command_says_until_when_and_why(self) -> None:
        """The wait, where it came from, the last error, and its gate."""
        gate = GateView(
            limit_key="tower",
            phase="closed",
            closed_for=timedelta(seconds=50),
            points=None,
            in_flight=0,
            waiting=3,
            workers=1,
        )
        said = self.values(
            gate,
            state="parked",
            until=str(NOW.timestamp() * 1000 + 42_000),
            reason="rate_limited",
            error="GET /api/units/1 was answered 429.",
            attempts="1",
            deferrals="4",
        )
        assert said["parked_until"] == "2026-11-22T12:00:42.000+00:00"
        assert "42 s" in said["why"]
        assert "vendor's limit" in said["why"]
        assert "429" in said["why"]
        assert "closed for another 50 s" in said["why"]
        assert said["deferrals"] == 4
        assert said["dead_letter_after"] == "2026-11-23T11:59:00.000+00:00"

    def test_a_paused_gate_says_who_can_open_it(self) -> None:
        """An operator's pause names `planrelay resume`."""
        gate = GateView(
            limit_key="tower", phase="paused", closed_for=timedelta.max, points=None, in_flight=0, waiting=0, workers=0
        )
        said = self.values(gate, state="queued", reason="drained")
        assert "planrelay resume" in said["why"]

    def test_a_silent_worker_is_said(self) -> None:
        """A command whose lease has run out is on its way to another worker."""
        said = self.values(state="running", owner="w", lease=str(NOW.timestamp() * 1000 - 5_000))
        assert "fell silent 5 s ago" in said["why"]

    def test_a_dead_command_says_its_error_and_how_to_run_it_anew(self) -> None:
        """Figures and error come from the event that was told."""
        data = {"attempts": 6, "deferrals": 2, "error": {"kind": "unavailable", "message": "No."}}
        said = self.values(state="dead", event=json.dumps({"id": "e1", "data": data}))
        assert (said["attempts"], said["deferrals"], said["event_id"]) == (6, 2, "e1")
        assert "unavailable" in said["why"]
        assert "dead replay" in said["why"]
        assert said["dead_letter_after"] is None

    def test_steps_and_what_was_cut_off_are_shown(self) -> None:
        """A step's value is JSON; an intent whose outcome is known is no longer unresolved."""
        written = {"s:asset": '"BN1"', "i:create": "1", "i:other": "2", "s:once:other": '{"value": 1}'}
        said = self.values(None, state="running", **written)
        assert said["steps"] == {"asset": "BN1", "once:other": {"value": 1}}
        assert said["unresolved"] == ["create"]


@pytest.mark.parametrize(
    ("pattern", "topic", "fits", "not_"),
    [
        ("*", "#", "planpoint.unit.read.succeeded", None),
        ("planpoint.*", "planpoint.#", "planpoint.unit.read.failed", "barometerit.search.failed"),
        ("planpoint.unit.read", "planpoint.unit.read.#", "planpoint.unit.read.failed", "planpoint.unit.list.failed"),
        ("*.failed", "#", "planpoint.unit.read.failed", "planpoint.unit.read.succeeded"),
        ("planpoint.un*", "planpoint.#", "planpoint.unit.read.failed", "planpoint.lead.list.failed"),
    ],
)
def test_a_pattern_of_events_fits_the_commands_type_too(pattern: str, topic: str, fits: str, not_: str | None) -> None:
    """`*` stands for any part; what is asked of the broker is as narrow as whole words allow."""
    assert ask.topic(pattern) == topic
    assert ask.matches(pattern, fits)
    assert not_ is None or not ask.matches(pattern, not_)


@given(st.text())
def test_what_came_in_a_message_can_not_steer_the_terminal(text: str) -> None:
    """No control character gets through to a table."""
    assert not any(ord(each) < 32 or 127 <= ord(each) < 160 for each in screen.clean(text))


@pytest.mark.parametrize(
    ("length", "written"),
    [
        (timedelta(milliseconds=250), "0.25 s"),
        (timedelta(seconds=59.4), "59.4 s"),
        (timedelta(seconds=90), "1 min 30 s"),
        (timedelta(minutes=59, seconds=59), "59 min"),
        (timedelta(hours=2, minutes=5), "2 h 5 min"),
        (timedelta(days=4, hours=3), "4 d 3 h"),
        (timedelta.max, "until resumed"),
        (None, ""),
    ],
)
def test_time_spans_are_written_for_people(length: timedelta | None, written: str) -> None:
    """Two units at most."""
    assert screen.span(length) == written


def test_data_comes_from_a_file_or_from_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`@file` and `-` are read as JSON objects."""
    file = tmp_path / "data.json"
    file.write_text('{"id": "ä"}', "utf-8")
    assert ask.read_data(f"@{file}") == {"id": "ä"}
    assert ask.read_data('{"id": "1"}') == {"id": "1"}
