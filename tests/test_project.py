"""What the set-up promises: locked dependencies, reasons beside every exception, files that other tools can read."""

import os
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCKS = ("requirements.lock", "requirements-runtime.lock")
OURS = ("config", "worker", "tasks", "sandbox", "tests", "benchmarks")


def locked(name: str) -> dict[str, frozenset[str]]:
    """Read a lock file: each requirement line with its hashes."""
    logical = (ROOT / name).read_text("utf-8").replace("\\\n", " ").splitlines()
    lines = [line.split() for line in logical if line.strip() and not line.lstrip().startswith("#")]
    return {
        " ".join(word for word in words if not word.startswith("--hash=")): frozenset(
            word for word in words if word.startswith("--hash=")
        )
        for words in lines
    }


def direct_requirements() -> dict[str, list[Requirement]]:
    """Give what pyproject.toml asks for, by the lock file that must have it."""
    project = PYPROJECT["project"]
    runtime = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    return {
        "requirements.lock": [Requirement(each) for each in [*runtime, *PYPROJECT["dependency-groups"]["dev"]]],
        "requirements-runtime.lock": [Requirement(each) for each in runtime],
    }


def comments() -> Iterator[tuple[str, str]]:
    """Give every comment of the project's Python files with its place."""
    for path in sorted(path for folder in OURS for path in (ROOT / folder).rglob("*.py")):
        with path.open("rb") as source:
            for token in tokenize.tokenize(source.readline):
                if token.type == tokenize.COMMENT:
                    yield f"{path.relative_to(ROOT)}:{token.start[0]}", token.string


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_requirement_is_exact_and_has_hashes(name: str) -> None:
    """A lock file pins each package to one version, and each version to its files."""
    requirements = locked(name)
    assert requirements
    assert [line for line in requirements if not re.match(r"^[a-z0-9-]+(\[[a-z0-9,-]+\])?==[^ ]+( ;.*)?$", line)] == []
    assert [line for line, hashes in requirements.items() if not hashes] == []


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_names_no_place_to_download_from(name: str) -> None:
    """A lock file works with whatever index a machine is set up for: it names no host, mirror or local path."""
    text = (ROOT / name).read_text("utf-8")
    assert re.findall(r"--(?:extra-)?index-url|--find-links|--trusted-host|://|file:| @ ", text) == []


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_has_what_pyproject_asks_for(name: str) -> None:
    """Each direct dependency is locked to a version that pyproject.toml allows."""
    versions: dict[str, set[str]] = {}
    for line in locked(name):
        requirement = Requirement(line)
        versions.setdefault(canonicalize_name(requirement.name), set()).add(
            str(requirement.specifier).removeprefix("==")
        )
    for wanted in direct_requirements()[name]:
        found = versions.get(canonicalize_name(wanted.name), set())
        assert found, f"{wanted} is not in {name}: make lock"
        assert all(wanted.specifier.contains(version) for version in found), f"{wanted} is locked to {found}: make lock"


def test_the_image_installs_what_was_tested() -> None:
    """The image's lock file is a part of the one that the tests run on, file for file."""
    assert locked("requirements-runtime.lock").items() <= locked("requirements.lock").items()


def test_every_dependency_and_every_lint_exception_has_its_reason_beside_it() -> None:
    """A line of a list in pyproject.toml that lets something in says in a comment what for."""
    lines = (ROOT / "pyproject.toml").read_text("utf-8").splitlines()
    entry = re.compile(r'^    "(?:[a-z0-9\[\],-]+[><=].*|[A-Z]+[0-9]*)",\s*(?P<comment>#.*)?$')
    matches = [match for match in map(entry.match, lines) if match]
    assert len(matches) > 60
    assert [match.string for match in matches if len((match["comment"] or "").split()) < 2] == []


def test_every_exception_in_the_code_has_its_reason_beside_it() -> None:
    """`noqa` names its codes and `type: ignore` its error, and words after them or on the same line say why."""
    noqa = r"noqa(?P<codes>:\s*[A-Z]+[0-9]+(?:[,\s]+[A-Z]+[0-9]+)*)?"
    ignore = r"type:\s*ignore(?P<error>\[[a-z, -]+\])?"
    mark = re.compile(rf"#\s*(?:{noqa}|{ignore}|pragma: no (?:cover|branch))")
    unexplained = []
    for place, comment in comments():
        for match in mark.finditer(comment):
            named = match["codes"] or match["error"] or "pragma" in match[0]
            if not named or not re.search(r"\w+\W+\w+", mark.sub("", comment)):
                unexplained.append(f"{place} {comment}")
    assert unexplained == []


def test_a_pure_module_loads_no_library_that_does_input_or_output() -> None:
    """Importing the pure modules, with their package, loads neither Celery, kombu, aiohttp, redis nor structlog."""
    contract = next(each for each in PYPROJECT["tool"]["importlinter"]["contracts"] if "pure modules" in each["name"])
    libraries = sorted({*contract["forbidden_modules"]} - {"asyncio"})  # pydantic may load that one
    program = f"import sys, {', '.join(contract['source_modules'])}; print(*(set({libraries!r}) & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert run.stdout.split() == []


def test_compose_is_valid() -> None:
    """docker-compose.yml is what the Compose specification's own schema allows."""
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        "docker-compose.yml",
    ]
    run = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_compose_can_start_several_workers() -> None:
    """`docker compose up --scale worker=3` finds nothing in the service that only one container can have."""
    services = YAML(typ="safe").load(ROOT / "docker-compose.yml")["services"]
    for name in ("worker", "beat"):
        assert not {"container_name", "hostname", "ports"} & set(services[name])
    assert services["sandbox"]["profiles"] == ["sandbox"]


def test_the_image_runs_as_nobody_special() -> None:
    """The image's last stage ends as a numbered user that is not root, so that Kubernetes' runAsNonRoot accepts it."""
    last_stage = (ROOT / "Dockerfile").read_text("utf-8").rpartition("\nFROM ")[2]
    users = re.findall(r"^USER (\S+)$", last_stage, re.MULTILINE)
    assert users
    assert re.fullmatch(r"[1-9][0-9]*(:[1-9][0-9]*)?", users[-1])


def test_ci_runs_make_check() -> None:
    """`.ci/run` can be executed from anywhere and is `make check` with `CI=true`, no more and no less."""
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    environment = {**os.environ, "MAKEFLAGS": "--dry-run"}
    run = subprocess.run([script], cwd="/", env=environment, check=True, capture_output=True, text=True)
    for tool in ("ruff format --check", "ruff check", "mypy", "lint-imports", "-m pytest", "coverage report"):
        assert f"{tool}" in run.stdout


@pytest.fixture
def suite_without_rabbitmq(tmp_path: Path) -> Path:
    """Lay out two files of tests that want RabbitMQ and one that doesn't, under this suite's own conftest."""
    (tmp_path / "conftest.py").write_bytes((ROOT / "tests" / "conftest.py").read_bytes())
    for name in ("test_one.py", "test_two.py"):
        (tmp_path / name).write_text("def test_a(amqp_url): pass\ndef test_b(): pass\n", "utf-8")
    (tmp_path / "test_three.py").write_text("def test_c(): pass\ndef test_d(): pass\n", "utf-8")
    return tmp_path


def run_suite(folder: Path, port: int, *options: str, **environment: str) -> str:
    """Run pytest in a folder whose RabbitMQ would be on a port where nothing listens; give what it prints."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rsf", "-v", *options]
    url = f"amqp://guest:secret@127.0.0.1:{port}//"
    run = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "CI": "", "PLANRELAY_TEST_AMQP": url, **environment},
        check=False,
        capture_output=True,
        text=True,
    )
    return run.stdout


def test_without_rabbitmq_its_tests_skip_and_say_so(suite_without_rabbitmq: Path, free_port: int) -> None:
    """Where no RabbitMQ answers, the tests that need it skip with the address that was tried and what to do."""
    output = run_suite(suite_without_rabbitmq, free_port)
    assert "4 passed, 2 skipped" in output
    assert f"No RabbitMQ answers at 127.0.0.1:{free_port}" in output
    assert "PLANRELAY_TEST_AMQP" in output
    assert "secret" not in output


def test_on_ci_a_missing_rabbitmq_is_a_failure(suite_without_rabbitmq: Path, free_port: int) -> None:
    """With `CI=true` a RabbitMQ that does not answer fails the tests that need it."""
    output = run_suite(suite_without_rabbitmq, free_port, CI="true")
    assert "4 passed" in output
    assert "2 errors" in output
    assert f"No RabbitMQ answers at 127.0.0.1:{free_port}" in output


def test_files_that_share_the_broker_run_in_one_process(suite_without_rabbitmq: Path, free_port: int) -> None:
    """Side by side, all files that use RabbitMQ go to the same process, and a file is never split."""
    output = run_suite(suite_without_rabbitmq, free_port, "-n", "3", "--dist", "loadgroup")
    ran = re.findall(r"^\[(gw\d)\].* (test_\w+)\.py::", output, re.MULTILINE)
    processes = {file: {process for process, other in ran if other == file} for _, file in ran}
    assert processes["test_one"] == processes["test_two"]
    assert {file: len(each) for file, each in processes.items()} == {"test_one": 1, "test_two": 1, "test_three": 1}


def test_the_end_of_a_process_fails_its_test_and_no_other(suite_without_rabbitmq: Path, free_port: int) -> None:
    """A test that ends its process has failed; what the process had still to do others do, and the run ends."""
    killer = "import os, pytest\n@pytest.mark.parametrize('n', range(4))\ndef test_k(n): n == 1 and os._exit(1)\n"
    (suite_without_rabbitmq / "test_killer.py").write_text(killer, "utf-8")
    output = run_suite(suite_without_rabbitmq, free_port, "-n", "2", "--dist", "loadgroup")
    assert "1 failed, 7 passed, 2 skipped" in output
    assert re.search(r"worker 'gw\d' crashed while running .*test_k\[1\]", output)


def test_an_operators_environment_does_not_reach_the_tests(suite_without_rabbitmq: Path, free_port: int) -> None:
    """Settings in `PLANRELAY_…` variables are gone before the first test is collected."""
    probe = (
        "import os\ndef test_clean(): assert [n for n in os.environ if 'PLANRELAY' in n] == ['PLANRELAY_TEST_AMQP']\n"
    )
    (suite_without_rabbitmq / "test_environment.py").write_text(probe, "utf-8")
    output = run_suite(suite_without_rabbitmq, free_port, "-k", "clean", PLANRELAY_CONFIG="/nowhere.toml")
    assert "1 passed" in output
