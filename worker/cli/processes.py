"""What runs until it is stopped: worker, beat, stand-ins, the demo."""

from __future__ import annotations

import os
from typing import Any

import click

from worker.cli import Setup


@click.command()
@click.option("--concurrency", type=click.IntRange(min=1), metavar="N", help="Commands in flight at a time.")
@click.option("--hostname", metavar="NAME", help="The worker's name; %h is this machine's.")
@click.option("--queues", metavar="Q,…", help="Read these queues only, with or without `planrelay.` before the name.")
@click.pass_obj
def worker(setup: Setup, concurrency: int | None, hostname: str | None, queues: str | None) -> int:
    """
    Run one worker until SIGTERM or SIGINT.

    It finishes what is in flight within worker.drain_timeout and gives back the rest; a second signal ends it at once.
    """
    settings = setup.settings
    if concurrency is not None:
        changed = settings.worker.model_copy(update={"concurrency": concurrency})
        settings = settings.model_copy(update={"worker": changed})
    from celery.utils.nodenames import default_nodename, host_format

    from worker.app import make_app

    app = make_app(settings)
    known = [queue.name for queue in app.conf.task_queues]
    program = app.Worker(
        # A name of its own: two workers on one machine are two to `inspect`, `status` and the broker.
        hostname=host_format(default_nodename(hostname or f"worker-{os.getpid()}@%h")),
        concurrency=settings.worker.concurrency,
        queues=_queues(queues, known) if queues is not None else None,
        loglevel="INFO",
        quiet=True,
    )
    program.start()
    status: Any = program.exitcode
    return int(status or 0)


def _queues(asked: str, known: list[str]) -> list[str]:
    """Read the names of queues as the command line gives them; an unknown one is an error."""
    names = [name.strip() for name in asked.split(",") if name.strip()]
    full = [name if name in known else f"planrelay.{name}" for name in names]
    unknown = [name for name, whole in zip(names, full, strict=True) if whole not in known]
    if unknown or not names:
        raise click.UsageError(f"There is no queue {', '.join(unknown) or asked!r}; there are {', '.join(known)}.")
    return full


@click.command()
@click.option("--hostname", metavar="NAME", help="The name it answers pings by; %h is this machine's.")
@click.pass_obj
def beat(setup: Setup, hostname: str | None) -> int:
    """Run the schedule until SIGTERM or SIGINT; a second beat stands by and takes over."""
    from celery.utils.nodenames import host_format

    from worker.app import make_app

    app = make_app(setup.settings)
    # A name of its own, as a worker has: two beats on one machine are two to `inspect`.
    name = host_format(hostname or f"beat-{os.getpid()}@%h")
    app.Beat(loglevel="INFO", quiet=True, remote_control=True, hostname=name).run()
    return 0


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--quota", metavar="N/PERIOD", help="Planview Admin's points window, such as 50/2s.")
@click.option("--latency", metavar="DURATION", help="Of every answer, such as 100ms or 80ms-120ms.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of all chance.")
def sandbox(port: int, host: str, quota: str | None, latency: str | None, seed: int) -> int:
    """Serve stand-ins of the three APIs until SIGTERM or SIGINT."""
    from sandbox import serve

    try:
        serve(port=port, host=host, quota=quota, latency=latency, seed=seed, announce=click.echo)
    except ValueError as error:
        raise click.UsageError(f"{error}.") from None
    except OSError as error:
        raise click.UsageError(
            f"Port {port} of {host} can't be used ({error.strerror}); name another --port."
        ) from None
    return 0


@click.command()
@click.option("--commands", "count", type=click.IntRange(min=60), default=600, show_default=True, metavar="N")
@click.option("--seed", type=int, default=2026, show_default=True, help="Of all chance: the load and its faults.")
def demo(count: int, seed: int) -> int:
    """Run the whole of it on this machine: stand-ins, embedded Valkey, a worker, a mixed load with faults injected."""
    from worker.demo import run

    return run(count, seed=seed)
