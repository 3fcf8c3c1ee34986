"""
A consumer in a process of its own, for a test to kill, stop and continue: `… valkey_consumer URL LEASE NUMBER`.

It takes NUMBER messages of `planrelay.work` and says "held"; told a line, it acknowledges them and says "acknowledged".
"""

import sys

import structlog
from kombu import Connection, Queue

from worker import valkey

if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    valkey.register()
    url, lease, number = sys.argv[1:]
    connection = Connection(valkey.broker_url(url), transport_options={"lease": float(lease)})
    queue = Queue("planrelay.work", no_declare=True)(connection.default_channel)
    held = [queue.get() for _ in range(int(number))]
    sys.stdout.write("held\n")
    sys.stdout.flush()
    sys.stdin.readline()
    for message in held:
        message.ack()
    sys.stdout.write("acknowledged\n")
    sys.stdout.flush()
    sys.stdin.readline()
