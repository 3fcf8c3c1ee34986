"""
The `planrelay` command: what it can do, what its errors look like, how it ends.

Commands are loaded when they run, so that `planrelay --help` answers at once. Errors go to standard error as one
sentence that says what to do. Exit status: 0 done, 1 it did not work, 2 usage or configuration, 3 timed out.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import select
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from config.settings import Settings
    from worker.app import Slices
    from worker.telemetry import Redactor

FAILED: Final = 1
USAGE: Final = 2
TIMED_OUT: Final = 3
INTERRUPTED: Final = 130

COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "worker": ("processes", "Run one worker until SIGTERM or SIGINT; a second signal ends it at once."),
    "beat": ("processes", "Run the schedule; a second beat stands by."),
    "send": ("ask", "Publish one command, and with --wait print its result event."),
    "events": ("ask", "Print result events as they come, one JSON a line."),
    "status": ("look", "Show queues, workers, gates, what is in flight and what is dead."),
    "show": ("show", "Show what is known of one command, and why it is not running."),
    "dead": ("dead", "List, show, replay or drop dead letters."),
    "pause": ("gates", "Close a connection's gate for the whole fleet."),
    "resume": ("gates", "Open a connection's gate for the whole fleet."),
    "check": ("check", "Validate the configuration; with --connect also what it leads to."),
    "operations": ("describe", "List every command type: HTTP method, path and evidence."),
    "schema": ("describe", "Print the JSON Schema of a command's data."),
    "asyncapi": ("describe", "Print the AsyncAPI 3 document of all messages."),
    "plan": ("plans", "List, show, approve or reject held plans."),
    "schedule": ("schedules", "List schedules, or run one now."),
    "demo": ("processes", "Run the whole of it on this machine, with faults injected."),
    "sandbox": ("processes", "Serve stand-ins of the three APIs."),
}
"""Each command: the module of this package that has it, and what it does."""


class Failure(click.ClickException):
    """Something did not work: one sentence that says what to do."""

    exit_code = FAILED


class Setup:
    """What commands share: the settings and what follows from them, read when first asked for."""

    @cached_property
    def settings(self) -> Settings:
        """The settings; raises `ConfigError`."""
        from config.settings import load_settings

        settings = load_settings()
        _hush()
        return settings

    @cached_property
    def slices(self) -> Slices:
        """The systems and operations that the settings include."""
        from worker.app import Slices

        try:
            return Slices(self.settings.worker.include)
        except (ImportError, AttributeError) as error:
            raise click.UsageError(f"worker.include names a slice that can't be loaded: {error}.") from error

    @cached_property
    def redactor(self) -> Redactor:
        """Knows every configured secret, and can be told others."""
        from worker.telemetry import Redactor

        return Redactor(self.settings.secrets())

    @cached_property
    def redact(self) -> Callable[[Any], Any]:
        """Masks every configured secret in the texts of a JSON value."""
        redactor = self.redactor

        def redact(value: Any) -> Any:
            if isinstance(value, str):
                return redactor.text(value)
            if isinstance(value, Mapping):
                return {key: redact(each) for key, each in value.items()}
            if isinstance(value, list | tuple):
                return [redact(each) for each in value]
            return value

        return redact


class Commands(click.Group):
    """The commands of `COMMANDS`, each loaded when it runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Give their names in the order of their use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Load one."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is asked for; an unknown one is an error that names the nearest."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else "`planrelay --help` lists them."
            raise click.UsageError(f"There is no command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run one; whoever read the output and has had enough ends it quietly, with what was printed until then."""
        try:
            done = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:
            if not _reader_has_gone():  # then it was the broker's end that went
                raise ConnectionError(str(error)) from error
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return done

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """Write the list of commands without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, does) for name, (_, does) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--config", metavar="FILE", help="The settings, instead of PLANRELAY_CONFIG or ./planrelay.toml.")
@click.version_option(package_name="planrelay", message="%(package)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, config: str | None) -> None:
    """Turn queue messages into calls of the barometerIT, Planview Admin and Planpoint APIs."""
    if config is not None:
        os.environ["PLANRELAY_CONFIG"] = config  # the processes that a command starts see it too
    ctx.ensure_object(Setup)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # `>&-`: nobody wants to read it
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - open until the end
    setup = Setup()
    try:
        done = cli.main(args=arguments, prog_name="planrelay", standalone_mode=False, obj=setup)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return USAGE
    except click.UsageError as error:
        asked = f"; see `{error.ctx.command_path} --help`" if error.ctx is not None else ""
        message = error.format_message().rstrip()
        return _say(message if "?" in message or "`" in message else f"{message.rstrip('.')}{asked}.", USAGE)
    except click.ClickException as error:
        return _say(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except Exception as error:
        explained = _explain(error)
        if explained is None:
            raise
        message, status = explained
        return _say(setup.redact(message) if "settings" in vars(setup) else message, status)
    return done if isinstance(done, int) else 0


def _hush() -> None:
    """Print nothing of what the parts underneath log: standard output is the answer's, and an error is one sentence."""
    import structlog

    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    logging.basicConfig(handlers=[logging.NullHandler()])


def _reader_has_gone() -> bool:
    """Whether nobody reads our standard output any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # a broken end is told without being asked for
    return bool(poll.poll(0))


def _say(message: str, status: int) -> int:
    click.echo(f"planrelay: {' '.join(message.split())}", err=True)
    return status


def _explain(error: Exception) -> tuple[str, int] | None:
    """Put what the parts underneath raise into one sentence; None: it is a bug, whose traceback is wanted."""
    from amqp.exceptions import AMQPError
    from kombu.exceptions import OperationalError
    from redis.exceptions import RedisError

    from config.settings import ConfigError
    from worker.dead_letters import Occupied
    from worker.embedded import EmbeddedError
    from worker.errors import BadCommand
    from worker.events import PublishFailed
    from worker.store import StoreAway

    match error:
        case ConfigError():
            more = len(error.problems) - 1
            rest = f" (and {more} more; `planrelay check` lists them)" if more else ""
            return f"The configuration can't be used: {error.problems[0]}{rest}.", USAGE
        case BadCommand():
            return error.message, USAGE
        case EmbeddedError():
            return f"{error}.", FAILED
        case StoreAway() | RedisError():
            reason = str(error).rstrip(".")
            return f"The state store does not answer ({reason}); start it, or correct state.url.", FAILED
        case Occupied():
            return f"{error}; try again when they are done, or end what consumes planrelay.dead.", FAILED
        case PublishFailed():
            reason = str(error).rstrip(".")
            return f"The broker did not take the message ({reason}); see `planrelay check --connect`.", FAILED
        case OperationalError() | AMQPError() | ConnectionError() | TimeoutError():
            reason = str(error).rstrip(".") or type(error).__name__
            return f"The broker does not answer ({reason}); start it, or correct broker.url.", FAILED
    return None
