"""Celery's own way to call an API from asyncio code: prefork, and a loop for each task."""

from __future__ import annotations

import asyncio
import os

import aiohttp
from celery import Celery
from kombu import Exchange, Queue

queue = Queue(
    "peers.prefork",
    Exchange("peers", type="topic"),
    routing_key="peers.prefork",
    queue_arguments={"x-queue-type": "quorum"},
)
app = Celery("peers", broker=os.environ.get("BENCH_AMQP"))
app.conf.update(
    task_queues=[queue],
    task_default_queue="peers.prefork",
    task_default_exchange_type="topic",
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=4,
    worker_detect_quorum_queues=True,
    broker_connection_retry_on_startup=True,
)


async def _read() -> None:
    headers = {"Authorization": "Bearer sandbox-token"}
    async with aiohttp.ClientSession(headers=headers) as session, session.get(os.environ["BENCH_URL"]) as answer:
        await answer.read()


@app.task(name="peers.prefork.read")
def read() -> None:
    """Make one call."""
    asyncio.run(_read())
