"""
Every block of code in README and docs does what the text around it says.

Shell blocks run one after the other in an empty folder, `text` blocks below them are what was printed (`…` is any
text), settings are loaded, messages are read and held against their type's model, programs run. A block may be marked
in a comment above it: `file:` it is written there; `exits:` with what status; `adds to: above` settings that continue
the last ones; `needs:` what a machine may lack; `illustration:` and why nothing runs it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import pytest

from config.settings import load_settings
from tests.fleet import free_port
from tests.markdown import Block, Shell, blocks, missing
from worker.app import Slices
from worker.asyncapi import document
from worker.message import CLOUDEVENT, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sandbox import SandboxThread
    from tests.fleet import Fleet

ROOT = Path(__file__).resolve().parents[1]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SLICES = Slices(["tasks.barometerit", "tasks.planview_admin", "tasks.planpoint"])
PORTS = ("8765", "8770", "9464")
"""What the documents name; each test gets ports of its own."""


class Reader:
    """Does what a reader of one document would do, in one folder."""

    def __init__(self, folder: Path, shell: Shell, replaced: Mapping[str, str]) -> None:
        self._folder = folder
        self._shell = shell
        self._replaced = replaced
        self._settings = ""
        self._printed = ""

    def follow(self, path: Path) -> None:
        """Do every block in its order."""
        for block in blocks(path):
            if "illustration" not in block.marks:
                try:
                    self._do(block)
                except AssertionError as error:
                    logs = (f"\n{log}:\n{log.read_text()[-2000:]}" for log in self._folder.rglob("*.log"))
                    raise AssertionError(f"{path.name}, line {block.line}: {error}{''.join(logs)}") from error

    def _do(self, block: Block) -> None:
        if "needs" in block.marks and not _has(block.marks["needs"]):
            return
        text = block.text
        for old, new in self._replaced.items():
            text = text.replace(old, new)
        if "file" in block.marks:
            self._write(block.marks["file"], text)
        match block.language:
            case "sh":
                self._printed, status = self._shell.run(text)
                wanted = int(block.marks.get("exits", 0))
                assert status == wanted, f"ended with {status}, not {wanted}:\n{self._printed}"
            case "text":
                absent = missing(text, self._printed)
                assert absent == [], f"{absent} not in:\n{self._printed}"
            case "toml":
                self._settings = self._settings + text if block.marks.get("adds to") == "above" else text
                check_settings(self._settings, self._folder)
            case "json":
                check_message(json.loads(text))
            case "python" | "js" if "file" not in block.marks:
                self._program([sys.executable, "-"] if block.language == "python" else ["node", "-"], text)
            case "" | "python":  # a drawing; what a later block uses
                pass
            case _:
                raise AssertionError(f"nobody knows what to do with {block.language}")

    def _write(self, name: str, text: str) -> None:
        target = Path(self._shell.run("pwd")[0].strip()) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def _program(self, command: list[str], text: str) -> None:
        output, _ = self._shell.run("env\n")
        environment = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
        run = subprocess.run(
            command,
            input=text,
            cwd=self._folder,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self._printed = run.stdout + run.stderr
        assert run.returncode == 0, self._printed


def _has(need: str) -> bool:
    match need:
        case "node":
            return os.environ.get("NODE_PATH") is not None
        case "management":
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", 15672), 1):
                return True
            return False
    raise AssertionError(f"nobody knows how to look for {need}")


def check_settings(text: str, folder: Path) -> None:
    """Load settings as they stand there, their secrets made up."""
    secret = folder / "made-up-secret"
    secret.write_text("made up")
    text = re.sub(r'\{ file = "[^"]*" \}', f'{{ file = "{secret}" }}', text)
    names = re.findall(r'\{ env = "([^"]*)" \}', text)
    environ = {name: "amqp://relay:made-up@127.0.0.1//" if "AMQP" in name else "made up" for name in names}
    file = folder / "example.toml"
    file.write_text(text)
    load_settings(file, environ)


def check_message(message: dict[str, Any]) -> None:
    """Read a command as a worker does; hold an event against the AsyncAPI document."""
    if "subject" in message:
        described = document(SLICES.operations, version="0")
        schema = described["components"]["messages"][message["type"].replace(".", "_")]["payload"]
        jsonschema.validate(message, {**schema, "components": described["components"]})
    else:
        command = read(json.dumps(message).encode(), content_type=CLOUDEVENT, content_encoding=None, headers={})
        SLICES.operations[command.type].validate(command.data)


@contextlib.contextmanager
def reader(folder: Path, ports: Mapping[str, str], **environment: str) -> Iterator[Reader]:
    """Give a reader at a shell in an empty folder, with planrelay installed."""
    binaries = str(Path(sys.executable).parent)
    environ = {
        **os.environ,
        "PATH": os.pathsep.join([binaries, os.environ["PATH"]]),
        "PLANRELAY_WORKER__METRICS_PORT": ports["9464"],
        "PLANRELAY_WORKER__DRAIN_TIMEOUT": "1s",
        "SANDBOX_PORT": ports["8765"],
        "PYTHONWARNINGS": "ignore",  # about being root, where the tests run as root
        **environment,
    }
    # The set-up itself was made before there was a test to run; the stand-ins' usual port may be taken.
    preamble = f"""
make() {{ command make --silent --dry-run --directory {ROOT} "$@" > /dev/null; }}
mkdir -p .venv/bin && touch .venv/bin/activate
planrelay() {{
    if [ "$1" = sandbox ]; then shift; set -- sandbox --port $SANDBOX_PORT "$@"; fi
    command planrelay "$@"
}}
"""
    with Shell(folder, environ, preamble) as shell:
        yield Reader(folder, shell, ports)


@pytest.fixture
def ports() -> dict[str, str]:
    """Give ports of our own for those that the documents name."""
    return {port: str(free_port()) for port in PORTS}


@pytest.mark.timeout(300)
def test_readme(tmp_path: Path, ports: Mapping[str, str]) -> None:
    """With the README alone: installed, a command of one's own answered, one that failed understood and replayed."""
    with reader(tmp_path, ports) as following:
        following.follow(ROOT / "README.md")


@pytest.fixture
def parts_vendor(ports: Mapping[str, str]) -> Iterator[dict[str, dict[str, Any]]]:
    """Serve the vendor of docs/adding-a-system.md; gives its parts."""
    parts: dict[str, dict[str, Any]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if url.path == "/v1/parts":
                name = parse_qs(url.query).get("name", [""])[0]
                self.say(200, {"parts": [part for part in parts.values() if part["name"] == name]})
            else:
                part = parts.get(url.path.rpartition("/")[2])
                self.say(404 if part is None else 200, part or {"error": "no such part"})

        def do_POST(self) -> None:
            part = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            part["partId"] = str(len(parts) + 1)
            parts[part["partId"]] = part
            self.say(201, part)

        def say(self, status: int, body: Mapping[str, Any]) -> None:
            if self.headers["Authorization"] != "Bearer key-1":
                status, body = 401, {"error": "who are you?"}
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", int(ports["8770"])), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield parts
    server.shutdown()
    server.server_close()


@pytest.mark.timeout(300)
def test_adding_a_system(
    tmp_path: Path, ports: Mapping[str, str], parts_vendor: Mapping[str, Mapping[str, Any]]
) -> None:
    """A fourth vendor, built from the page alone, is called by a worker that includes it."""
    with reader(tmp_path, ports, PYTHONPATH=str(ROOT)) as following:
        following.follow(ROOT / "docs" / "adding-a-system.md")
    assert [part["name"] for part in parts_vendor.values()] == ["bolt M8"]


UNIT = "64f1c0ffee0123456789abcd"


@pytest.fixture(scope="session")
def node_path(tmp_path_factory: pytest.TempPathFactory) -> str | None:
    """Install amqplib from its lock file, where there is a Node and a registry that answers; gives where it is."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        return None
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(ROOT / "tests" / "samples" / "node" / name, folder)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    with contextlib.suppress(subprocess.TimeoutExpired):
        if subprocess.run(command, cwd=folder, check=False, capture_output=True, timeout=40).returncode == 0:
            return str(folder / "node_modules")
    return None


@pytest.mark.timeout(300)
def test_messages(
    make_fleet: Callable[..., Fleet],
    amqp_url: str,
    sandbox: SandboxThread,
    ports: Mapping[str, str],
    node_path: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each way to publish that the page shows gets its command answered."""
    sandbox.seed("planpoint", "units", objects=[{"_id": UNIT, "name": "4.02"}])
    fleet = make_fleet(amqp_url)
    fleet.start()
    if node_path is not None:
        monkeypatch.setenv("NODE_PATH", node_path)
    replaced = {**ports, "amqp://guest:guest@localhost:5672//": amqp_url}
    with reader(fleet.home, replaced | {"9464": ports["9464"]}, PLANRELAY_CONFIG=str(fleet.config)) as following:
        following.follow(ROOT / "docs" / "messages.md")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "path",
    [path for path in DOCS if path.stem not in {"README", "messages", "adding-a-system"}],
    ids=lambda path: path.stem,
)
def test_document(
    path: Path, make_fleet: Callable[..., Fleet], tmp_path: Path, ports: Mapping[str, str], sandbox: SandboxThread
) -> None:
    """Every block of the other documents works, where there is a worker and a connection called tower."""
    runs = any(block.language == "sh" and "illustration" not in block.marks for block in blocks(path))
    environment = {}
    if runs:
        fleet = make_fleet()
        (worker,) = fleet.start()
        ports = {**ports, "9464": str(worker.port), "8765": sandbox.url.rpartition(":")[2]}
        environment["PLANRELAY_CONFIG"] = str(fleet.config)
    with reader(tmp_path, ports, **environment) as following:
        following.follow(path)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    """Every link to a file of the project finds it."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text("utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_list_of_commands_is_as_the_models_have_it() -> None:
    """docs/messages.md lists each command with its fields as the slices declare them; `make docs` writes it."""
    run = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
