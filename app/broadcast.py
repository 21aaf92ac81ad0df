"""Tell every web process something, and know that it has been heard.

Redis's PUBLISH says how many listeners a message was given to, but not when they have acted on it. So each listener
answers on a second channel when it has, and who told it waits until all have, or until its patience ends. Nothing is
kept in Redis, so this works in a full one too.

    <channel>          pub/sub   "<message id> <message>"
    <channel>:heard    pub/sub   "<message id> <listener>", from each listener when it has acted
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from redis import RedisError
from redis.client import PubSub

from app.redis_client import Store, StoreUnavailableError, describe

log = logging.getLogger(__name__)

RECONNECT = 0.5  # s until a listener that lost its connection tries again
HEARTBEAT = 0.25  # s between two signs of life asked of the connection
SILENCE = 0.75  # s without one until it counts as lost: a router in between may drop it without a word


class Broadcast:
    """A channel to all processes, this one included.

    on_message: called in the listener's thread with each message; when it returns, the message counts as heard.
    on_gap: called when messages may have been missed: at the start, and when the connection was lost.
    """

    def __init__(
        self, store: Store, channel: str, on_message: Callable[[str], None], on_gap: Callable[[], None]
    ) -> None:
        self.store = store
        self.channel = store.key(channel)
        self.listening = False
        self._on_message = on_message
        self._on_gap = on_gap
        self._name = secrets.token_hex(8)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._heard = threading.Condition()
        self._listeners: dict[str, set[str]] = {}  # who has heard, of each message that somebody here waits for

    def start(self) -> None:
        """Listen, in a thread of this process; to start twice is to start once."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._listen, name="broadcast", daemon=True)
                self._thread.start()

    def tell(self, message: str, patience: float) -> bool:
        """Send a message, and wait until all who listen have acted on it, at most `patience` seconds.

        Returns whether all have; False at once if Redis does not answer, or if this process can't hear their answers.
        Never raises.
        """
        number = secrets.token_hex(8)
        heard_by = self._listeners[number] = set()
        try:
            with self.store.commands(insist=True) as redis:
                count = redis.publish(self.channel, f"{number} {message}")
            with self._heard:
                return count == 0 or (
                    self.listening and self._heard.wait_for(lambda: len(heard_by) >= count, timeout=patience)
                )
        except StoreUnavailableError as error:
            log.warning("the other processes can't be told of a change: %s", error)
            return False
        finally:
            del self._listeners[number]

    def _listen(self) -> None:
        said = False
        while not self.store.closed:
            try:
                with self.store.listener() as pubsub:
                    pubsub.subscribe(self.channel, f"{self.channel}:heard")
                    self._listen_until_lost(pubsub)
            except RedisError as error:
                if not said and not self.store.closed:
                    log.warning("messages between processes don't arrive, so none keeps pages: %s", describe(error))
                said = not self.listening  # once, until it has worked again
            except Exception:  # whatever it is: without a listener there are no copies, and that would go unseen
                if not self.store.closed:
                    log.exception("the listener for messages between processes failed, and starts anew")
            self.listening = False
            self._on_gap()
            time.sleep(RECONNECT)

    def _listen_until_lost(self, pubsub: PubSub) -> None:
        """Act on what comes, and see to it that something does. Raises RedisError when the connection is lost."""
        alive = asked = time.monotonic()
        while True:
            event = pubsub.get_message(timeout=HEARTBEAT)
            now = time.monotonic()
            if event is not None:
                alive = now
                self._act(event)
            elif now - alive > SILENCE:
                raise ConnectionLostError(f"nothing came for {SILENCE} s")
            if now - asked > HEARTBEAT:
                asked = now
                pubsub.ping()

    def _act(self, event: dict[str, object]) -> None:
        kind, data = event["type"], event["data"]
        if kind == "subscribe":  # also after redis-py has connected anew by itself
            self._on_gap()
            self.listening = data == len((self.channel, "its answers"))  # how many are subscribed to now
        elif kind == "message" and isinstance(data, bytes):
            number, _, text = data.decode().partition(" ")
            if event["channel"] == self.channel.encode():
                self._on_message(text)
                self._answer(number)
            else:
                with self._heard, suppress(KeyError):  # somebody else's message, or one that nobody waits for any more
                    self._listeners[number].add(text)
                    self._heard.notify_all()

    def _answer(self, number: str) -> None:
        try:
            with self.store.commands() as redis:
                redis.publish(f"{self.channel}:heard", f"{number} {self._name}")
        except StoreUnavailableError as error:  # who told it runs out of patience
            log.warning("a message can't be answered: %s", error)


class ConnectionLostError(RedisError):
    """The connection is there, but nothing comes through it."""
