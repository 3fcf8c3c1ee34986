"""
Canaries: a secret of its own in every credential field, vendors that repeat it, and a search of what is left behind.

What is searched: the worker's log, result events, dead letters, every key of the state store, metrics, traces, and what
the command line prints. A canary's core is found whichever way the text around it is encoded.
"""

from __future__ import annotations

import base64
import html
import json
import re
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import pytest
import redis

from config.settings import ConfigError, load_settings
from tests.collector import Collector
from tests.echo import EchoVendor
from tests.fleet import INCLUDE, eventually
from worker.app import Relay
from worker.cli import main
from worker.telemetry import MASK, Redactor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.fleet import Fleet

REFUSALS = ("401", "403", "404", "409", "400", "500", "429", "broken", "redirect", "cut", "long")
READS = {
    "planpoint": ("planpoint.unit.read", {"id": "64f1c0ffee0123456789abcd"}),
    "barometerit": ("barometerit.entity.read", {"bn": "042400000001"}),
    "planview_admin": ("planview_admin.user.read", {"id": "u1"}),
    "buggy": ("buggy.thing.break", {}),
}
SLICE = {
    "__init__.py": """
from worker.auth import Bearer
from worker.command import System
from worker.rest import Endpoint

THING = Endpoint(name="thing.read", method="GET", path="/things", evidence="seed", source="-", replayable=True)
SYSTEM = System(
    name="buggy", auth=lambda connection: Bearer(connection.token.get_secret_value()), cheapest=THING, headers={}
)
""",
    "tasks.py": """
from buggy import THING
from worker.command import CommandData, command

@command("buggy.thing.break", data=CommandData, uses=(THING,))
async def thing_break(run, data):
    '''Break, with a secret in hand.'''
    token = run.connection.token.get_secret_value()
    headers, half = {"Authorization": "Bearer " + token}, token[:20]  # `half` only where local variables are shown
    raise RuntimeError(f"no idea what to do with {headers}")
""",
}


class Aviary:
    """Hands out canaries, and looks for them."""

    def __init__(self) -> None:
        self.cores: dict[str, str] = {}

    def canary(self, field: str, *, odd: bool = True) -> str:
        """Give a secret for a field; `odd` ones hold what JSON, forms, URLs and HTML write in ways of their own."""
        core = f"cnry{len(self.cores):03d}" + base64.b32encode(field.encode()).decode().strip("=").lower()[:16]
        self.cores[field] = core
        return f'{core}"é&/+ %\\{core[::-1]}' if odd else f"{core}+/{core[::-1]}"

    def pair(self, user: str, password: str) -> None:
        """Look for what Basic sign-in makes of a pair, too."""
        self.cores[f"basic of {user}"] = base64.b64encode(f"{user}:{password}".encode()).decode()[12:40]

    def found(self, where: str, text: str) -> list[str]:
        """Name the fields whose secret, or a good part of it, stands in a text."""
        return [
            f"{field} in {where}: …{text[max(text.find(part) - 80, 0) : text.find(part) + 40]}…"
            for field, core in self.cores.items()
            for part in (core[:14], core[::-1][:14])
            if part in text
        ]


def connections(aviary: Aviary, url: str) -> dict[str, Any]:
    """One connection for each way to sign in and each way to be refused."""
    made: dict[str, Any] = {}

    def add(name: str, system: str, how: str, **credentials: str) -> None:
        made[name] = {"system": system, "base_url": f"{url}/{how}", "api_prefix": "", **credentials}

    for how in REFUSALS:
        add(f"token-{how}", "planpoint", how, token=aviary.canary(f"token {how}", odd=False))
        password = aviary.canary(f"basic {how}")
        aviary.pair(f"user-{how}", password)
        add(f"basic-{how}", "barometerit", how, username=f"user-{how}", password=password)
    for how in ("refused-500", "failed-500", "unreadable-500", "403", "500", "broken", "long"):
        secret = aviary.canary(f"client {how}")
        add(f"client-{how}", "planview_admin", how, client_id="relay", client_secret=secret)
        add(f"login-{how}", "planpoint", how, username="relay@example.com", password=aviary.canary(f"login {how}"))
    made["buggy"] = {"system": "buggy", "base_url": url, "token": aviary.canary("a bug's token", odd=False)}
    return made


def everything_in(url: str) -> str:
    """Give every key of a store with its value, as text."""
    with redis.Redis.from_url(url) as store:
        read: dict[bytes, Callable[[bytes], Any]] = {
            b"string": store.get,
            b"hash": store.hgetall,
            b"list": lambda key: store.lrange(key, 0, -1),
            b"set": store.smembers,
            b"zset": lambda key: store.zrange(key, 0, -1, withscores=True),
            b"stream": store.xrange,
            b"none": lambda _: None,  # it ended since it was listed
        }
        texts = [f"{key!r}: {read[store.type(key)](key)!r}" for key in store.scan_iter("*", count=1000)]
    assert texts
    return "\n".join(texts)


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Give what runs `planrelay` here and gives all that it printed."""

    def run(config: Path, *arguments: str) -> str:
        monkeypatch.setenv("PLANRELAY_CONFIG", str(config))
        monkeypatch.syspath_prepend(str(config.parent))
        capfd.readouterr()
        main(arguments)
        return "".join(capfd.readouterr())

    return run


@pytest.fixture
def echo() -> Iterator[EchoVendor]:
    """Give a vendor that repeats what it was told."""
    with EchoVendor() as vendor:
        yield vendor


def test_no_credential_is_found_anywhere(
    make_fleet: Callable[..., Fleet],
    broker: str | None,
    echo: EchoVendor,
    tmp_path: Path,
    command_line: Callable[..., str],
) -> None:
    """Whatever goes wrong and whatever a vendor repeats: no secret, nor half of one, is in what is left behind."""
    aviary = Aviary()
    for name, text in SLICE.items():
        (tmp_path / "buggy" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "buggy" / name).write_text(text)
    made = connections(aviary, echo.url)
    fleet = make_fleet(
        broker,
        connections=made,
        worker={"include": [*INCLUDE, "buggy"], "results": True, "drain_timeout": "1s"},
        retry={"max_attempts": 2, "backoff_initial": "20ms", "backoff_ceiling": "50ms"},
    )
    with Collector() as collector:
        (worker,) = fleet.start(env={**collector.environment, "PYTHONPATH": str(tmp_path)})
        sent = {
            name: fleet.send(READS[each["system"]][0], name, READS[each["system"]][1]) for name, each in made.items()
        }
        for id_ in sent.values():
            fleet.wait(id_, within=40)
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}/metrics") as answer:
            metrics = answer.read().decode()
        printed = {
            " ".join(arguments): command_line(fleet.config, *arguments)
            for arguments in (
                ("status", "--json"),
                ("status",),
                ("show", sent["basic-500"], "--json"),
                ("show", sent["login-long"]),
                ("dead", "list", "--json"),
                ("dead", "show", "--all", "--json"),
                ("dead", "replay", sent["client-403"], "--dry-run", "--json"),
                ("check", "--connect", "--json"),
                ("operations", "--json"),
            )
        }
        store = everything_in(fleet.state)
        letters = [json.dumps([letter.headers, str(letter.body)], default=str) for letter in fleet.dead()]
        assert worker.terminate() == 0
        eventually(lambda: collector.bodies, what="traces")
    assert len(letters) == len(made)
    events = [event for event in fleet.events() if event["subject"] in sent.values()]
    kinds = {event["data"]["error"]["kind"] for event in events}
    assert kinds == {
        *("unauthorized", "forbidden", "not_found", "conflict", "invalid", "unavailable"),
        *("retry_after_too_long", "contract_broken", "bug"),
    }
    assert len(echo.tokens) >= 8  # of sign-ins that went well
    aviary.cores |= {f"session {n}": token for n, token in enumerate(echo.tokens)}
    left = {
        "the log": worker.log.read_text(),
        "a dead letter": "\n".join(letters),
        "an event": json.dumps(events, ensure_ascii=False),
        "the store": store,
        "the metrics": metrics,
        "a trace": b"\n".join(collector.bodies).decode("latin-1"),
        **{f"`planrelay {arguments}`": text for arguments, text in printed.items()},
    }
    assert "Traceback" in left["the log"] or "exc_type" in left["the log"]  # the bug's own, so that it was searched
    assert "\n".join(each for where, text in left.items() for each in aviary.found(where, text)) == ""


def test_a_configuration_that_is_wrong_shows_no_secret(tmp_path: Path, command_line: Callable[..., str]) -> None:
    """Secrets in the wrong place, of the wrong kind, or in URLs that nobody answers are not in what is said of them."""
    aviary = Aviary()
    url_password = aviary.canary("url password", odd=False).replace("+/", "")
    config = tmp_path / "planrelay.toml"
    config.write_text(
        f"""
tokn = {json.dumps(aviary.canary("unknown key"))}
[broker]
url = "ampq://relay:{url_password}@127.0.0.1:1//"
[connections.a]
system = "planpoint"
base_url = "https://relay:{url_password}@example.com"
token = [{json.dumps(aviary.canary("list"))}]
[connections.b]
system = "planpoint"
base_url = "https://example.com"
password = {json.dumps(aviary.canary("half"))}
[connections.c]
system = "barometerit"
base_url = "https://example.com"
username = "u"
password = {json.dumps(aviary.canary("both"))}
token = {json.dumps(aviary.canary("ways"))}
"""
    )
    with pytest.raises(ConfigError) as refused:
        load_settings(config, {})
    said = {
        "the error": f"{refused.value!r} {refused.value} {refused.value.__cause__!r} {refused.value.__context__!r}",
        "check": command_line(config, "check", "--json") + command_line(config, "check"),
        "status": command_line(config, "status"),
    }
    unreachable = tmp_path / "away.toml"
    unreachable.write_text(
        f"""
data_dir = {json.dumps(str(tmp_path / "var"))}
[broker]
url = "amqp://relay:{url_password}@127.0.0.1:1//"
[state]
url = "redis://:{url_password}@127.0.0.1:1/0"
"""
    )
    for arguments in (("check", "--connect", "--json"), ("status", "--json"), ("show", "1"), ("dead", "list")):
        said[" ".join(arguments)] = command_line(unreachable, *arguments)
    assert all(said.values())
    assert [each for where, text in said.items() for each in aviary.found(where, text)] == []


def test_what_celery_shows_of_its_configuration_holds_no_secret(tmp_path: Path) -> None:
    """`celery -A worker inspect conf` and `celery -A worker report`: no password of broker or state store."""
    config = tmp_path / "planrelay.toml"
    config.write_text(
        """
[broker]
url = "amqp://relay:cnry-broker@127.0.0.1:1//;amqp://relay:cnry-second@127.0.0.1:2//"
[state]
url = "redis://:cnry-state@127.0.0.1:1/0"
[worker]
results = true
"""
    )
    app = Relay(load_settings(config, {}))
    shown = [app.conf.table(with_defaults=True, censored=True), app.conf.humanize(with_defaults=True), app.bugreport()]
    app.close()
    assert "redbeat_redis_url" in str(shown)
    assert re.findall("cnry-[a-z]+", str(shown)) == []


def twice(encode: Callable[[str], str]) -> Callable[[str], str]:
    """Escape what is escaped already."""
    return lambda text: encode(encode(text))


WRITTEN = {
    "plain": str,
    "JSON": json.dumps,
    "JSON in UTF-8": lambda text: json.dumps(text, ensure_ascii=False),
    "JSON in JSON": twice(json.dumps),
    "Python": repr,
    "a form": quote_plus,
    "a form, lower case": lambda text: quote_plus(text).lower(),
    "a path": quote,
    "a path in a path": twice(quote),
    "HTML": html.escape,
    "HTML in HTML": twice(html.escape),
    "a form in JSON in HTML": lambda text: html.escape(json.dumps({"body": quote_plus(text)})),
    "JSON in HTML in JSON": lambda text: json.dumps(html.escape(json.dumps(text))),
}


@pytest.mark.parametrize("encode", WRITTEN.values(), ids=WRITTEN)
def test_a_secret_is_masked_however_it_is_written(encode: Callable[[str], str]) -> None:
    """A secret is found as it is, and escaped as JSON, Python, forms, URLs and HTML do, also one in another."""
    secret = "pa\"ss é&\\+%<'\U0001f511zq"
    masked = Redactor([secret]).text(f"refused {encode(secret)} at once")
    assert MASK in masked
    assert "pa" not in masked
    assert "zq" not in masked


def test_a_token_that_a_sign_in_gave_is_masked_from_then_on() -> None:
    """What no setting names is masked once it is learned; the latest are remembered."""
    redactor = Redactor(["configured"])
    assert redactor.text("abcdefgh") == "abcdefgh"
    redactor.learn("abcdefgh")
    assert redactor.text("Bearer abcdefgh, configured") == "Bearer [redacted], [redacted]"


def test_a_message_is_cut_only_after_its_secrets_are_out() -> None:
    """A secret that stands across the cut leaves no half of it behind."""
    assert "sec" not in Redactor(["secret-value"]).message("." * 1_995 + "secret-value" + "." * 100)
