"""The Valkey transport, by plain kombu against a real server."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Connection, Consumer, Exchange, Message, Producer, Queue

from worker import queues, valkey
from worker.queues import envelope
from worker.valkey import NoRoute, QueueGone

pytest_plugins = ["tests.broker.valkey_server"]

valkey.register()

COMMANDS = Exchange("planrelay.commands", type="topic")
WORK = Queue(
    "planrelay.work",
    COMMANDS,
    routing_key="work.#",
    queue_arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "planrelay.dead"},
)
OTHER = Queue("planrelay.other", COMMANDS, routing_key="other.#")
DEAD = Queue("planrelay.dead", Exchange(""), routing_key="planrelay.dead")
LEASE = 0.6
Connect = Callable[[], Connection]


@pytest.fixture
def server(valkey_url: str) -> Iterator[redis.Redis]:
    """Give a client that looks at what lies in the server."""
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def connect(valkey_url: str) -> Iterator[Connect]:
    """Give connections, with the queues declared."""
    opened = []

    def one() -> Connection:
        connection = Connection(valkey.broker_url(valkey_url), transport_options={"lease": LEASE})
        opened.append(connection)
        for queue in (WORK, OTHER, DEAD):
            queue(connection.default_channel).declare()
        return connection

    yield one
    for connection in opened:
        connection.release()


def publish(connection: Connection, *bodies: Any, routing_key: str = "work.x", **options: Any) -> None:
    """Publish commands, one after the other."""
    with Producer(connection.channel()) as producer:
        for body in bodies:
            producer.publish(body, exchange="planrelay.commands", routing_key=routing_key, **options)


def collect(
    connection: Connection, number: int, *, queues: tuple[Queue, ...] = (WORK,), seconds: float = 10, prefetch: int = 0
) -> list[Message]:
    """Consume until `number` messages are there, acknowledging none."""
    found: list[Message] = []
    channel = connection.channel()
    channel.basic_qos(0, prefetch, False)
    consumer = Consumer(channel, list(queues), on_message=found.append, auto_declare=False)
    consumer.consume()
    deadline = time.monotonic() + seconds
    while len(found) < number:
        try:
            connection.drain_events(timeout=max(deadline - time.monotonic(), 0.01))
        except TimeoutError:
            break
    consumer.cancel()
    return found


def payloads(messages: list[Message]) -> list[Any]:
    """Give what the messages say."""
    return [message.decode() for message in messages]


def eventually(claim: Callable[[], Any], seconds: float = 10) -> None:
    """Wait until the claim holds."""
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def owners(server: redis.Redis) -> list[str]:
    """Name everyone who may hold messages."""
    return [str(owner) for owner in server.hgetall("planrelay:workers")]


class Process:
    """A consumer in a process of its own, which holds messages."""

    def __init__(self, url: str, number: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.broker.valkey_consumer", url, str(LEASE), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.says("held")

    def says(self, word: str) -> None:
        """Wait until it says so."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == word

    def told(self) -> None:
        """Tell it to go on."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def end(self) -> None:
        """Kill it, whatever its state."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def hold(valkey_url: str) -> Iterator[Callable[[int], Process]]:
    """Give processes that hold so many messages of the work queue."""
    started = []

    def one(number: int) -> Process:
        process = Process(valkey_url, number)
        started.append(process)
        return process

    yield one
    for process in started:
        process.end()


class TestPublishing:
    """Where messages go."""

    def test_messages_come_in_the_order_they_were_published(self, connect: Connect) -> None:
        """A queue is first in, first out."""
        connection = connect()
        publish(connection, *range(100))
        assert payloads(collect(connection, 100)) == list(range(100))

    def test_a_body_arrives_byte_by_byte(self, connect: Connect) -> None:
        """Bodies, headers and properties arrive as they were sent, also what JSON or Lua would change."""
        connection = connect()
        headers = {"empty": [], "object": {}, "big": 2**63, "text": "ä\x00\n", "none": None}
        publish(
            connection,
            bytes(range(256)),
            content_type="application/octet-stream",
            content_encoding="binary",
            headers=headers,
            correlation_id="c",
            reply_to="r",
        )
        (message,) = collect(connection, 1)
        assert message.body == bytes(range(256))
        assert message.headers == headers
        assert (message.content_type, message.content_encoding) == ("application/octet-stream", "binary")
        assert (message.properties["correlation_id"], message.properties["reply_to"]) == ("c", "r")
        assert message.delivery_info["exchange"] == "planrelay.commands"
        assert message.delivery_info["routing_key"] == "work.x"

    def test_a_restored_message_is_the_same(self, connect: Connect) -> None:
        """Having been given back changes nothing in a message but the count of its deliveries."""
        connection = connect()
        headers = {"empty": [], "object": {}, "big": 2**63, "float": 0.1234567890123456}
        publish(connection, b"1", headers=headers)
        (message,) = collect(connection, 1)
        message.requeue()
        (again,) = collect(connection, 1)
        assert again.headers == {**headers, "x-delivery-count": 1}

    @pytest.mark.parametrize(
        ("pattern", "key", "routed"),
        [
            ("a.b", "a.b", True),
            ("a.b", "a.c", False),
            ("a.*", "a.b", True),
            ("a.*", "a", False),
            ("a.*", "a.b.c", False),
            ("a.#", "a", True),
            ("a.#", "a.b.c", True),
            ("a.#", "ab", False),
            ("#", "", True),
            ("#", "anything.at.all", True),
            ("*.*.failed", "x.y.failed", True),
            ("*.#.failed", "failed", False),
            ("#.failed", "planpoint.unit.read.failed", True),
            ("a.#.b.#.c", "a.x.b.c", True),
            ("a.#.b.#.c", "a.x.c", False),
            ("a%b.(c)", "a%b.(c)", True),
            ("a.b", "a-b", False),
        ],
    )
    def test_topics_are_matched_as_amqp_has_it(self, connect: Connect, pattern: str, key: str, *, routed: bool) -> None:
        """`*` is one word, `#` any number of words, none included, and nothing else is special."""
        connection = connect()
        Queue("topic.test", Exchange("topics", type="topic"), routing_key=pattern)(connection.channel()).declare()
        with Producer(connection.channel()) as producer:
            if routed:
                producer.publish(1, exchange="topics", routing_key=key)
            else:
                with pytest.raises(NoRoute):
                    producer.publish(1, exchange="topics", routing_key=key)

    def test_a_queue_that_is_bound_twice_gets_a_message_once(self, connect: Connect, server: redis.Redis) -> None:
        """Two bindings that match are one reason to deliver."""
        connection = connect()
        WORK(connection.default_channel).bind_to(COMMANDS, routing_key="*.x")
        publish(connection, 1)
        assert server.llen("planrelay.work") == 1

    def test_a_publisher_that_declared_nothing_is_routed_too(self, connect: Connect, valkey_url: str) -> None:
        """Bindings are the server's: whoever publishes need not know them, nor the exchange's type."""
        consumer = connect()
        with Connection(valkey.broker_url(valkey_url)) as publisher:
            publish(publisher, "hello")
        assert payloads(collect(consumer, 1)) == ["hello"]

    @pytest.mark.parametrize("retry", [False, True])
    def test_a_message_that_no_queue_takes_is_an_error(self, connect: Connect, *, retry: bool) -> None:
        """The error names the exchange and the routing key, and is not retried."""
        connection = connect()
        with pytest.raises(NoRoute, match=r"exchange 'planrelay.commands' with routing key 'nowhere'"):
            publish(connection, 1, routing_key="nowhere", retry=retry)

    def test_a_queue_that_was_never_declared_takes_nothing(self, connect: Connect) -> None:
        """The default exchange leads to declared queues alone."""
        connection = connect()
        with Producer(connection.channel()) as producer, pytest.raises(NoRoute):
            producer.publish(1, exchange="", routing_key="planrelay.typo")

    def test_an_event_may_go_unheard(self, connect: Connect, server: redis.Redis) -> None:
        """Where nobody listens an event is gone, unless it is mandatory."""
        connection = connect()
        with Producer(connection.channel()) as producer:
            producer.publish(1, exchange="planrelay.events", routing_key="x")
            with pytest.raises(NoRoute):
                producer.publish(1, exchange="planrelay.events", routing_key="x", mandatory=True)
        assert server.keys("*events*") == []

    def test_a_fanout_reaches_every_listener(self, connect: Connect) -> None:
        """Fanout exchanges, which remote control uses, are kombu's pub/sub."""
        news = Exchange("news", type="fanout")
        listeners = []
        for name in ("one", "two"):
            connection = connect()
            heard: list[Message] = []
            consumer = Consumer(connection.channel(), [Queue(name, news)], on_message=heard.append, no_ack=True)
            consumer.consume()
            connection.drain_events(timeout=5)  # the server says that it is subscribed
            listeners.append((connection, heard))
        with Producer(connect().channel(), exchange=news) as producer:
            producer.publish("hear")
        for connection, heard in listeners:
            connection.drain_events(timeout=5)
            assert payloads(heard) == ["hear"]


class TestTemporaryQueues:
    """Queues that die with their listener."""

    def listen(self, connection: Connection, **options: Any) -> Queue:
        """Declare a queue for events."""
        queue = Queue("listener", Exchange("planrelay.events", type="topic"), routing_key="#", **options)
        queue(connection.default_channel).declare()
        return queue

    def test_events_reach_a_listener(self, connect: Connect) -> None:
        """Who binds a queue to the events hears them."""
        connection = connect()
        queue = self.listen(connection, auto_delete=True)
        with Producer(connection.channel()) as producer:
            producer.publish(1, exchange="planrelay.events", routing_key="a.b.succeeded")
        assert payloads(collect(connection, 1, queues=(queue,))) == [1]

    def test_a_listener_that_was_killed_leaves_no_queue_that_grows(self, connect: Connect, server: redis.Redis) -> None:
        """A queue that nobody read for its `x-expires` is gone with the next event, and so is its binding."""
        connection = connect()
        self.listen(connection, expires=0.05)
        with Producer(connection.channel()) as producer:
            eventually(lambda: not server.exists("planrelay:used:listener"))
            producer.publish(1, exchange="planrelay.events", routing_key="a")
        assert not server.exists("listener")
        assert not server.exists("_kombu.binding.planrelay.events")
        assert not server.hexists("planrelay:queues", "listener")

    def test_a_queue_that_is_read_stays(self, connect: Connect, server: redis.Redis) -> None:
        """Reading is a sign of life, also where no message comes for longer than `x-expires`."""
        connection = connect()
        queue = self.listen(connection, expires=1.5)
        assert collect(connection, 1, queues=(queue,), seconds=3) == []
        assert server.exists("planrelay:used:listener")

    def test_an_auto_delete_queue_goes_with_its_channel(self, connect: Connect, server: redis.Redis) -> None:
        """A channel that closes takes its auto-delete queues along."""
        connection = connect()
        self.listen(connection, auto_delete=True)
        connection.release()
        assert server.hget("planrelay:queues", "listener") is None
        assert not server.exists("_kombu.binding.planrelay.events")


class TestConsuming:
    """Who gets what, and when."""

    def test_prefetch_bounds_what_is_taken(self, connect: Connect, server: redis.Redis) -> None:
        """No more messages leave the queue than the consumer may hold."""
        connection = connect()
        publish(connection, *range(20))
        assert len(collect(connection, 20, prefetch=3, seconds=1.5)) == 3
        assert server.llen("planrelay.work") == 17

    def test_an_acknowledged_message_makes_room(self, connect: Connect) -> None:
        """With a prefetch of one, messages come one by one."""
        connection = connect()
        publish(connection, *range(5))
        seen = []
        channel = connection.channel()
        channel.basic_qos(0, 1, False)

        def take(message: Message) -> None:
            seen.append(message.decode())
            message.ack()

        with Consumer(channel, [WORK], on_message=take):
            while len(seen) < 5:
                connection.drain_events(timeout=5)
        assert seen == list(range(5))

    def test_a_busy_queue_leaves_turns_to_the_others(self, connect: Connect) -> None:
        """Queues take turns, however much waits in one of them."""
        connection = connect()
        publish(connection, *["busy"] * 200)
        publish(connection, "quiet", routing_key="other.x")
        first = payloads(collect(connection, 10, queues=(WORK, OTHER), prefetch=10))
        assert "quiet" in first

    def test_a_waiting_consumer_hears_at_once(self, connect: Connect) -> None:
        """A message wakes who waits; nobody polls for it."""
        consumer, publisher = connect(), connect()
        found: list[Message] = []
        with Consumer(consumer.channel(), [WORK], on_message=found.append):
            with pytest.raises(TimeoutError):
                consumer.drain_events(timeout=0.1)
            waits = []
            for number in range(10):
                begun = time.monotonic()
                publish(publisher, number)
                consumer.drain_events(timeout=5)
                waits.append(time.monotonic() - begun)
        assert payloads(found) == list(range(10))
        assert sorted(waits)[5] < 0.3  # by looking once a second it would be 0.5 on average

    def test_every_waiting_consumer_is_woken(self, connect: Connect) -> None:
        """Two messages wake two consumers."""
        consumers, publisher = [connect(), connect()], connect()
        found: list[int] = []

        def wait(index: int) -> None:
            channel = consumers[index].channel()
            channel.basic_qos(0, 1, False)
            with Consumer(channel, [WORK], on_message=lambda _: found.append(index)):
                consumers[index].drain_events(timeout=10)

        threads = [threading.Thread(target=wait, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        publish(publisher, 1, 2)
        for thread in threads:
            thread.join()
        assert sorted(found) == [0, 1]

    def test_a_token_lost_with_its_taker_costs_a_second_only(self, connect: Connect, server: redis.Redis) -> None:
        """A consumer finds a message whose bell nobody rang."""
        connection = connect()
        found: list[Message] = []
        with Consumer(connection.channel(), [WORK], on_message=found.append):
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=0.1)
            message = envelope(
                b"1", exchange="", routing_key="", content_type="application/json", headers={}, properties={}
            )
            server.lpush("planrelay.work", message)
            connection.drain_events(timeout=5)
        assert len(found) == 1

    @pytest.mark.parametrize(
        "stranger",
        [
            b"not json",
            b"[]",
            b"{}",
            b"12",
            b"\xff\xfe",
            b'{"body": "%%%", "properties": {"body_encoding": "base64", "delivery_info": {}}, "headers": {}}',
            b'{"body": "x", "properties": {"body_encoding": "rot13", "delivery_info": {}}, "headers": {}}',
            b'{"body": "eA==", "properties": {"body_encoding": "base64", "delivery_info": {}}, "headers": null}',
            b'{"body": "eA==", "properties": {"body_encoding": "base64"}, "headers": {}}',
        ],
    )
    def test_what_a_stranger_pushed_is_delivered_as_bytes(
        self, connect: Connect, server: redis.Redis, stranger: bytes
    ) -> None:
        """Something that is no envelope does not end the consumer: it is a message like any other bad one."""
        connection = connect()
        server.lpush("planrelay.work", stranger)
        (message,) = collect(connection, 1)
        assert message.content_type == "application/octet-stream"
        message.reject()
        (letter,) = collect(connection, 1, queues=(DEAD,))
        assert letter.body == message.body

    def test_each_drain_delivers_one(self, connect: Connect) -> None:
        """Who waits for two messages by draining twice is not kept waiting because both came at once."""
        connection = connect()
        publish(connection, *range(3))
        found: list[Message] = []
        with Consumer(connection.channel(), [WORK], on_message=found.append):
            for number in range(3):
                connection.drain_events(timeout=5)
                assert payloads(found) == list(range(number + 1))

    def test_a_cancelled_consumer_keeps_only_what_it_was_given(self, connect: Connect, server: redis.Redis) -> None:
        """What was taken for it and not delivered goes back in order when it cancels, though its channel stays open."""
        connection, other = connect(), connect()
        publish(connection, *range(5))
        found: list[Message] = []
        channel = connection.channel()
        with Consumer(channel, [WORK], on_message=found.append):
            connection.drain_events(timeout=5)
        assert payloads(found) == [0]
        assert server.hlen(f"planrelay:unacked:{channel.owner}") == 1
        assert payloads(collect(other, 4)) == [1, 2, 3, 4]

    def test_a_callback_that_raises_loses_nothing(self, connect: Connect) -> None:
        """What was taken with the message whose callback failed comes with the next look."""
        connection = connect()
        publish(connection, *range(5))
        seen = []

        def take(message: Message) -> None:
            seen.append(message.decode())
            if len(seen) == 2:
                raise LookupError("this one")

        with Consumer(connection.channel(), [WORK], on_message=take):
            connection.drain_events(timeout=5)
            with pytest.raises(LookupError):
                connection.drain_events(timeout=5)
            while len(seen) < 5:
                connection.drain_events(timeout=5)
        assert seen == list(range(5))

    def test_messages_can_be_got_one_by_one(self, connect: Connect, server: redis.Redis) -> None:
        """`Queue.get` takes one message, acknowledged or not, and gives None where there is none."""
        connection = connect()
        publish(connection, 1, 2)
        queue = WORK(connection.default_channel)
        first = queue.get()
        assert first.decode() == 1
        assert queue.get(no_ack=True).decode() == 2
        assert queue.get() is None
        assert server.hlen(f"planrelay:unacked:{connection.default_channel.owner}") == 1
        first.ack()
        assert server.keys("planrelay:unacked:*") == []

    def test_a_consumer_whose_queue_is_gone_is_told(self, connect: Connect, server: redis.Redis) -> None:
        """A deleted queue, or an emptied server, is an error to the consumer, that it may declare its queues again."""
        connection = connect()
        with Consumer(connection.channel(), [WORK], on_message=lambda _: None):
            server.flushall()
            with pytest.raises(QueueGone, match=r"planrelay\.work"):
                connection.drain_events(timeout=5)

    def test_asking_again_after_a_lost_answer_gives_the_same_answer(
        self, connect: Connect, server: redis.Redis
    ) -> None:
        """What was taken by an answer that never came is given again, not left lying as taken."""
        publish(connect(), 1, 2, 3)
        take = server.register_script(queues.TAKE)
        first = take(args=["owner", 1, 2, 10**6, "planrelay.work", "ack"])
        assert first == take(args=["owner", 1, 2, 10**6, "planrelay.work", "ack"])
        assert server.llen("planrelay.work") == 1


class TestAcknowledging:
    """What becomes of a message that was taken."""

    def test_an_acknowledged_message_is_gone(self, connect: Connect, server: redis.Redis) -> None:
        """Nothing of it stays in the server."""
        connection = connect()
        publish(connection, 1)
        (message,) = collect(connection, 1)
        message.ack()
        assert server.keys("planrelay:unacked:*") == []
        assert not server.exists("planrelay.work")

    def test_closing_gives_back_in_order(self, connect: Connect) -> None:
        """What a closed channel held comes first, in its old order, and says so."""
        connection, other = connect(), connect()
        publish(connection, *range(50))
        held = collect(connection, 20, prefetch=20)
        held[3].ack()
        connection.release()
        messages = collect(other, 49)
        assert payloads(messages) == [number for number in range(50) if number != 3]
        counts = [message.headers.get("x-delivery-count", 0) for message in messages]
        assert counts == [1] * 19 + [0] * 30
        assert messages[0].delivery_info["redelivered"]

    def test_closing_gives_back_what_was_not_delivered_yet(self, connect: Connect) -> None:
        """A channel that closes with messages in its hands, delivered or not, keeps none."""
        connection, other = connect(), connect()
        publish(connection, *range(5))
        found: list[Message] = []
        channel = connection.channel()
        Consumer(channel, [WORK], on_message=found.append).consume()
        connection.drain_events(timeout=5)
        channel.close()
        assert channel.closed
        assert payloads(collect(other, 5)) == list(range(5))

    def test_a_requeued_message_is_the_next_and_counted(self, connect: Connect) -> None:
        """A message that is put back goes to the head of its queue, and its deliveries are counted."""
        connection = connect()
        publish(connection, 1, 2)
        queue = WORK(connection.default_channel)
        for count in range(3):
            message = queue.get()
            assert message.decode() == 1
            assert message.headers.get("x-delivery-count", 0) == count
            message.requeue()

    def test_a_rejected_message_becomes_a_dead_letter(self, connect: Connect, server: redis.Redis) -> None:
        """It goes where its queue sends dead letters, in the same step in which it leaves."""
        connection = connect()
        publish(connection, b"bytes", headers={"a": 1}, content_type="x/y", content_encoding="binary")
        (message,) = collect(connection, 1)
        message.reject()
        assert server.keys("planrelay:unacked:*") == []
        (letter,) = collect(connection, 1, queues=(DEAD,))
        assert letter.body == b"bytes"
        assert letter.headers == {"a": 1, "x-first-death-reason": "rejected"}

    def test_a_dead_letter_that_finds_no_queue_stays_unacknowledged(
        self, connect: Connect, server: redis.Redis
    ) -> None:
        """A dead letter is never dropped because its queue is missing."""
        connection = connect()
        publish(connection, 1)
        (message,) = collect(connection, 1)
        server.hdel("planrelay:queues", "planrelay.dead")
        with pytest.raises(redis.ResponseError, match=r"planrelay\.dead"):
            message.reject()
        assert server.hlen(f"planrelay:unacked:{message.channel.owner}") == 1

    def test_a_rejected_message_of_a_queue_without_dead_letters_is_gone(
        self, connect: Connect, server: redis.Redis
    ) -> None:
        """As AMQP has it."""
        connection = connect()
        publish(connection, 1, routing_key="other.x")
        (message,) = collect(connection, 1, queues=(OTHER,))
        message.reject()
        assert server.keys("planrelay:unacked:*") == []

    def test_an_ack_on_a_closed_channel_is_a_connection_error(self, connect: Connect) -> None:
        """It is void, as with AMQP, and of a kind that Celery logs and survives."""
        connection = connect()
        publish(connection, 1)
        (message,) = collect(connection, 1)
        errors = connection.connection_errors
        connection.release()
        with pytest.raises(errors, match="given back"):
            message.ack()


class TestOwners:
    """The living keep what they took, the dead give it back."""

    def test_the_dead_give_back(self, connect: Connect, hold: Callable[[int], Process], server: redis.Redis) -> None:
        """Another consumer gets the messages of one that was killed, in order, and nothing of the dead stays behind."""
        heir = connect()
        publish(heir, 1, 2, 3, 4)
        victim = hold(3)
        (owner,) = owners(server)
        victim.signal(signal.SIGKILL)
        assert payloads(collect(heir, 1)) == [4]
        inherited = collect(heir, 3)
        assert payloads(inherited) == [1, 2, 3]
        assert [message.headers["x-delivery-count"] for message in inherited] == [1, 1, 1]
        assert owner not in owners(server)
        assert not server.exists(f"planrelay:unacked:{owner}")

    def test_the_living_are_not_robbed(self, connect: Connect) -> None:
        """A message that is held for many times the lease stays its holder's, who may acknowledge it still."""
        holder, other = connect(), connect()
        publish(holder, 1)
        (message,) = collect(holder, 1)
        assert collect(other, 1, seconds=6 * LEASE) == []
        message.ack()
        holder.release()
        assert collect(other, 1, seconds=2 * LEASE) == []

    def test_a_blocked_consumer_is_alive(self, connect: Connect) -> None:
        """A consumer whose own thread does nothing for long beats on."""
        holder, other = connect(), connect()
        publish(holder, 1)

        def block(message: Message) -> None:
            assert collect(other, 1, seconds=4 * LEASE) == []
            message.ack()

        with Consumer(holder.channel(), [WORK], on_message=block):
            holder.drain_events(timeout=5)

    def test_an_ack_that_comes_too_late_takes_nothing_from_the_heir(
        self, connect: Connect, hold: Callable[[int], Process], server: redis.Redis
    ) -> None:
        """Who stood still for so long that it was declared dead acknowledges nothing that is another's by now."""
        heir = connect()
        publish(heir, 1)
        sleeper = hold(1)
        sleeper.signal(signal.SIGSTOP)
        (inherited,) = collect(heir, 1)
        sleeper.signal(signal.SIGCONT)
        sleeper.told()
        sleeper.says("acknowledged")
        assert server.hlen(f"planrelay:unacked:{inherited.channel.owner}") == 1
        inherited.ack()
        assert server.keys("planrelay:unacked:*") == []

    def test_one_that_was_declared_dead_and_lives_is_watched_again(
        self, connect: Connect, hold: Callable[[int], Process], server: redis.Redis
    ) -> None:
        """It is back on the list with its next beat, so that what it takes then can be inherited too."""
        heir = connect()
        publish(heir, 1)
        sleeper = hold(1)
        (owner,) = owners(server)
        sleeper.signal(signal.SIGSTOP)
        collect(heir, 1)
        assert owner not in owners(server)
        sleeper.signal(signal.SIGCONT)
        eventually(lambda: owner in owners(server))

    def test_an_ack_that_comes_too_late_takes_nothing_from_the_same_consumer(
        self, connect: Connect, server: redis.Redis
    ) -> None:
        """A message that comes back to who was declared dead is another delivery: the first ack does not reach it."""
        sleeper = connect()
        publish(sleeper, 1)
        queue = WORK(sleeper.default_channel)
        first = queue.get()
        server.register_script(queues.GIVE_BACK)(args=[sleeper.default_channel.owner, ""])
        second = queue.get()
        first.ack()
        assert server.hlen(f"planrelay:unacked:{sleeper.default_channel.owner}") == 1
        second.ack()
        assert server.keys("planrelay:unacked:*") == []

    def test_who_takes_is_known(self, connect: Connect, server: redis.Redis) -> None:
        """Also between two beats nobody holds messages without being on the list that is watched."""
        connection = connect()
        publish(connection, 1)
        WORK(connection.default_channel).get()
        server.delete("planrelay:workers")
        publish(connection, 2)
        WORK(connection.default_channel).get()
        assert connection.default_channel.owner in owners(server)

    def test_one_that_beats_between_look_and_deed_keeps_its_messages(
        self, connect: Connect, server: redis.Redis
    ) -> None:
        """Giving back is for the beat that was seen, not for one that came since."""
        connection = connect()
        publish(connection, 1)
        WORK(connection.default_channel).get()
        owner = connection.default_channel.owner
        eventually(lambda: server.hget("planrelay:workers", owner) != "1")
        assert server.register_script(queues.GIVE_BACK)(args=[owner, "1"]) == -1
        assert server.hlen(f"planrelay:unacked:{owner}") == 1

    def test_what_was_held_when_the_server_was_away_is_given_back_later(
        self, connect: Connect, server: redis.Redis, valkey_server: str
    ) -> None:
        """A channel that closes because its server was killed gives back as soon as the server is there again."""
        connection = connect()
        publish(connection, 1)
        WORK(connection.default_channel).get()
        pid = Path(valkey_server.removeprefix("unix://")).with_name("server.pid")
        os.kill(int(pid.read_text()), signal.SIGKILL)
        connection.release()

        def is_back() -> bool:
            with contextlib.suppress(redis.ConnectionError):
                return bool(server.llen("planrelay.work") == 1)
            return False

        eventually(is_back)

    def test_a_forked_child_gives_nothing_back(self, connect: Connect, server: redis.Redis) -> None:
        """A child that ends, or closes what it inherited, leaves its parent's messages alone."""
        connection = connect()
        publish(connection, 1)
        message = WORK(connection.default_channel).get()
        child = os.fork()
        if child == 0:
            message.channel.end_lease()
            os._exit(0)
        os.waitpid(child, 0)
        assert server.hlen(f"planrelay:unacked:{message.channel.owner}") == 1


class TestUrls:
    """What an operator may write, and what kombu is told."""

    @pytest.mark.parametrize(
        ("url", "told"),
        [
            ("redis://localhost:6379/1", "planrelay://localhost:6379/1"),
            ("valkey://u:p@h/0", "planrelay://u:p@h/0"),
            ("rediss://h:1/0", "planrelay://h:1/0?ssl_cert_reqs=required"),
            ("rediss://h/0?ssl_cert_reqs=none", "planrelay://h/0?ssl_cert_reqs=none"),
            ("rediss://h/0?ssl_ca_certs=/ca", "planrelay://h/0?ssl_ca_certs=/ca&ssl_cert_reqs=required"),
            ("unix:///var/run/valkey.sock", "planrelay+socket:///var/run/valkey.sock"),
            ("unix:///a%20b?db=2", "planrelay+socket:///a%20b?virtual_host=2"),
        ],
    )
    def test_a_server_url_becomes_a_broker_url(self, url: str, told: str) -> None:
        """Every form of URL that redis-py takes has its form for kombu."""
        assert valkey.broker_url(url) == told

    def test_another_scheme_is_refused(self) -> None:
        """The error names what can be used."""
        with pytest.raises(ValueError, match="use redis://"):
            valkey.broker_url("amqp://localhost")

    def test_a_database_number_is_obeyed(self, valkey_url: str) -> None:
        """Queues lie in the database the URL names."""
        with Connection(valkey.broker_url(f"{valkey_url}?db=3")) as connection:
            WORK(connection.default_channel).declare()
            publish(connection, 1)
        with redis.Redis.from_url(f"{valkey_url}?db=3") as third:
            assert third.llen("planrelay.work") == 1
