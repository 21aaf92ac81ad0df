"""Tell every web process something, and know that it has been heard.

Redis's PUBLISH says how many listeners a message was given to, but not when they have acted on it. Here each listener
counts itself under a key that the message names, and who told it waits until all have, or until its patience ends.

    <channel>              pub/sub   the messages; a name like a key's, so REDIS_PREFIX keeps two apps apart
    <channel>:heard:<id>   string    how many listeners have acted on one message; lives seconds
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any, cast

from redis import RedisError

from app.redis_client import Store, StoreUnavailableError, describe

log = logging.getLogger(__name__)

HEARD_LIFETIME = 5  # s the count of those who heard is kept; nobody waits longer
POLL = 0.001  # s between two looks at it; a listener on the same network needs less
RECONNECT = 0.5  # s until a listener that lost its connection tries again
LOOK_UP = 1.0  # s a listener waits for a message before it looks whether it should stop


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
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Listen, in a thread of this process; to start twice is to start once."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._listen, name="broadcast", daemon=True)
                self._thread.start()

    def tell(self, message: str, patience: float) -> bool:
        """Send a message, and wait until all who listen have acted on it, at most `patience` seconds.

        Returns whether all have. Never raises: False if Redis does not answer.
        """
        give_up = time.monotonic() + patience
        heard = f"{self.channel}:heard:{secrets.token_hex(8)}"
        try:
            with self.store.commands(insist=True) as redis:
                listeners = redis.publish(self.channel, f"{heard} {message}")
                while int(cast(bytes | None, redis.get(heard)) or 0) < listeners:
                    if time.monotonic() > give_up:
                        return False
                    time.sleep(POLL)
        except StoreUnavailableError:
            return False
        return True

    def _listen(self) -> None:
        while True:
            try:
                self._listen_until_lost()
            except RedisError as error:
                if self.listening:
                    log.warning("the connection for messages between processes is lost: %s", describe(error))
            except Exception:  # whatever it is: without a listener there are no copies, and that would go unseen
                if not self.store.closed:
                    log.exception("the listener for messages between processes failed, and starts anew")
            self.listening = False
            self._on_gap()
            if self.store.closed:
                return
            time.sleep(RECONNECT)

    def _listen_until_lost(self) -> None:
        with self.store.listener() as pubsub:
            pubsub.subscribe(self.channel)
            while True:
                event: dict[str, Any] | None = pubsub.get_message(timeout=LOOK_UP)
                if event is None:
                    continue
                if event["type"] == "subscribe":  # also after redis-py has connected anew by itself
                    self._on_gap()
                    self.listening = True
                elif event["type"] == "message":
                    heard, _, message = cast(bytes, event["data"]).decode().partition(" ")
                    self._on_message(message)
                    self._confirm(heard)

    def _confirm(self, heard: str) -> None:
        try:
            with self.store.commands() as redis, redis.pipeline(transaction=False) as pipe:
                pipe.incr(heard)
                pipe.expire(heard, HEARD_LIFETIME)
                pipe.execute()
        except StoreUnavailableError as error:  # who told it runs out of patience
            log.warning("a message can't be confirmed: %s", error)
