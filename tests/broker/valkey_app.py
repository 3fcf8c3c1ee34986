"""A Celery app on the Valkey transport, for workers that tests start; what its tasks do can be read in the server."""

import os
import time

import redis
from celery import Celery
from kombu import Exchange, Queue

from worker import valkey

valkey.register()

SERVER = os.environ["VALKEY_APP_SERVER"]

app = Celery("valkey_app", broker=valkey.broker_url(SERVER), set_as_current=False)
app.conf.update(
    broker_transport_options={"lease": float(os.environ.get("VALKEY_APP_LEASE", "1"))},
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    worker_cancel_long_running_tasks_on_connection_loss=True,
    task_queues=[Queue("valkey_app", Exchange("valkey_app", type="topic"), routing_key="#")],
    task_default_queue="valkey_app",
    task_default_exchange="valkey_app",
    task_default_exchange_type="topic",
    task_default_routing_key="work",
    task_create_missing_queues=False,
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
)
server = redis.Redis.from_url(SERVER, socket_timeout=None)


@app.task(name="work")
def work(number: int) -> None:
    """Note that the number was worked on."""
    time.sleep(0.03)
    server.rpush("done", number)


@app.task(name="hold")
def hold(name: str) -> None:
    """Note that it began, then wait to be let go."""
    server.rpush(f"{name}:began", os.getpid())
    server.blpop([f"{name}:go"], timeout=60)
    server.rpush(f"{name}:ended", os.getpid())
