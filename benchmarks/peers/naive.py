"""Celery as its manual has it for an API that limits: `autoretry_for` with an exponential backoff and jitter."""

from __future__ import annotations

import os
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from celery import Celery

app = Celery("peers", broker=os.environ.get("BENCH_BROKER"))
app.conf.update(
    task_default_queue="peers.naive",
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)


@app.task(
    name="peers.naive.read",
    autoretry_for=(HTTPError,),
    retry_backoff=True,
    retry_backoff_max=30,
    max_retries=None,
)
def read(url: str) -> None:
    """Make one call; the token is the benchmark's."""
    request = Request(url, headers={"Authorization": f"Bearer {os.environ['BENCH_TOKEN']}"})
    with urlopen(request) as answer:
        answer.read()
