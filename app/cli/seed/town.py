"""The small town of Wendbridge, invented for `flask seed`: people, what they post, and who follows whom.

It is the same town at each call (one `random.Random` with a fixed seed, and nothing that depends on the order of a
set), so that two developers, a benchmark and a screenshot see the same, and a difference is a difference in the code.
The texts are in town.toml, which also says how they are written.
"""

import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

TEXTS = Path(__file__).with_name("town.toml")
SEED = 7  # like the bus
MESSAGES = 1_000
FOLLOWS = 1_200
SPAN = timedelta(days=270)
LONGEST = 280  # code points; the app counts grapheme clusters, of which there are never more
LIKES_MOST = 24  # of one message
SILENT = 7  # people who only read
UNFOLLOWED = 9  # people nobody follows
ROUNDS = 4  # of the templates: enough for MESSAGES
ANSWERED = 0.34  # share of the templates that get an answer

Line = tuple[str, str]  # (speaker, text); "a", "b" and "c" are speakers yet to be cast


@dataclass(frozen=True)
class Message:
    """A post by the person called `author`, made `age` before now.

    reply_to: the body of the message that it replies to, if any.
    liked_by: names, each with how long ago.
    """

    author: str
    body: str
    age: timedelta
    reply_to: str | None = None
    liked_by: tuple[tuple[str, timedelta], ...] = ()


@dataclass(frozen=True)
class Town:
    """People by name, their messages oldest first, and their follows as (follower, followed).

    about: what some people say of themselves, by name: a display name, and a line.
    """

    people: list[str]
    messages: list[Message]
    follows: list[tuple[str, str]]
    about: dict[str, tuple[str, str]]

    @property
    def speakers(self) -> list[str]:
        """Return those who have written anything, the most talkative first."""
        return [name for name, _ in Counter(message.author for message in self.messages).most_common()]


def wendbridge() -> Town:
    """Return the town: 100 people, 1,000 messages, 1,200 follows."""
    rng = Random(SEED)
    texts = tomllib.loads(TEXTS.read_text(encoding="utf-8"))
    hosts = [topic["host"] for topic in texts["topics"].values() if "host" in topic]
    neighbours = texts["neighbours"].split()
    rng.shuffle(neighbours)  # from now on the most talkative come first
    messages = _messages(rng, texts, neighbours)
    return Town(
        people=sorted(hosts + neighbours, key=str.lower),
        follows=_follows(rng, hosts + neighbours),
        messages=_liked(rng, messages, neighbours),
        about=_about(texts, neighbours),
    )


def _messages(rng: Random, texts: dict[str, Any], neighbours: list[str]) -> list[Message]:
    talk = _long_tail(len(neighbours), SILENT, head=3)
    said: dict[str, Message] = {}  # by body: nobody repeats a message
    for moment, lines in _exchanges(rng, texts):
        people = dict.fromkeys(rng.choices(neighbours, talk, k=50))  # many: four of them must differ
        cast = dict(zip(("a", "b", "c", "friend"), people, strict=False))
        age = 300 + SPAN.total_seconds() * moment**1.6  # more is said lately
        exchange: list[Message] = []
        for speaker, text in lines[: MESSAGES - len(said)]:
            body = _filled(rng, text, texts["slots"], cast)
            answered = _answered(exchange, body)
            if answered:  # the page says whom; the text need not
                body = body.removeprefix(f"@{answered.author} ")
            reply_to = answered.body if answered else None
            exchange.append(Message(cast.get(speaker, speaker), body, timedelta(seconds=age), reply_to))
            age -= min(40 + rng.expovariate(1 / 2400), age / 2)  # answers come within the hour, as a rule
        if not any(message.body in said or len(message.body) > LONGEST for message in exchange):
            said |= {message.body: message for message in exchange}
    return sorted(said.values(), key=lambda message: message.age, reverse=True)


def _answered(exchange: list[Message], body: str) -> Message | None:
    """Return which message of an exchange a text answers: the last one by whom it mentions first, or else the last."""
    mention = re.match(r"@(\w+)", body)
    by_them = [message for message in exchange if mention and message.author == mention[1]]
    return next(reversed(by_them or exchange), None)


def _liked(rng: Random, messages: list[Message], neighbours: list[str]) -> list[Message]:
    """Return the messages with those who like them: most are liked by few, and few by many."""
    curious = _long_tail(len(neighbours), SILENT, head=10)
    liked = []
    for message in messages:
        count = min(LIKES_MOST, int(rng.paretovariate(1.1)) - 1)
        people = dict.fromkeys(rng.choices(neighbours, curious, k=count))
        people.pop(message.author, None)
        likers = tuple((person, message.age * rng.uniform(0.7, 0.99)) for person in people)
        liked.append(replace(message, liked_by=likers))
    return liked


def _about(texts: dict[str, Any], neighbours: list[str]) -> dict[str, tuple[str, str]]:
    """Return a display name for those whose name is a first and a last name, and a line for the most talkative."""
    lines = dict(zip(neighbours, texts["about"].strip().split("\n"), strict=False))
    full = {name: " ".join(name.split("_")).title() for name in neighbours if re.fullmatch("[a-z]+_[a-z]{3,}", name)}
    return {name: (full.get(name, ""), lines.get(name, "")) for name in neighbours if name in full or lines.get(name)}


def _exchanges(rng: Random, texts: dict[str, Any]) -> Iterator[tuple[float, list[Line]]]:
    """Yield (moment, lines). The moment is from 0 to 1: at random for what is said once, in rounds for templates."""
    once = [_lines(block) for block in texts["conversations"].split("\n\n")]
    often: list[tuple[Line, list[Line]]] = []  # (template, replies)
    for topic in texts["topics"].values():
        once += [[line] for line in _lines(topic["sayings"])]
        often += [(line, _lines(topic["replies"], speaker="b")) for line in _lines(topic["templates"])]
        notices = _lines(topic.get("notices", ""), speaker=topic.get("host", ""))
        once += [[line] for line in notices if "{" not in line[1]]
        often += [(line, []) for line in notices if "{" in line[1]]
    for lines in once:
        yield rng.random(), lines
    rng.shuffle(often)
    for place, (template, replies) in enumerate(often * ROUNDS):
        answer = [rng.choice(replies)] if replies and rng.random() < ANSWERED else []
        yield place / len(often * ROUNDS), [template, *answer]


def _lines(block: str, speaker: str = "a") -> list[Line]:
    """Return the lines of a block: one text a line, continued by indented lines, `name> ` before it if signed."""
    lines = []
    for line in block.strip().replace("\n  ", " ").splitlines():
        signed = re.fullmatch(r"(\w+)> (.*)", line)
        lines.append((signed[1], signed[2]) if signed else (speaker, line))
    return lines


def _filled(rng: Random, text: str, slots: dict[str, list[str]], cast: dict[str, str]) -> str:
    """Return the text with a person or a phrase in each of its slots, no phrase twice."""
    phrases: dict[str, list[str]] = {}

    def phrase(slot: re.Match[str]) -> str:
        name = slot[1]
        if name in cast:
            return cast[name]
        if name not in phrases:
            phrases[name] = rng.sample(slots[name], len(slots[name]))
        chosen = phrases[name].pop()
        begins = re.search(r"(^|[.!?] |¶)$", text[: slot.start()])
        return chosen[0].upper() + chosen[1:] if begins else chosen

    return re.sub(r"\{(\w+)\}", phrase, text).replace("¶", "\n")


def _follows(rng: Random, names: list[str]) -> list[tuple[str, str]]:
    """Return FOLLOWS pairs: the first names are followed most, and follow least; the last are followed by nobody."""
    popular = _long_tail(len(names), UNFOLLOWED, head=8)
    curious = _long_tail(len(names), 0, head=20)[::-1]
    pairs: dict[tuple[str, str], None] = {}  # a set that keeps its order
    while len(pairs) < FOLLOWS:
        (one,), (other,) = rng.choices(names, curious), rng.choices(names, popular)
        if one != other:
            pairs[one, other] = None
    return list(pairs)


def _long_tail(count: int, nothing: int, head: int) -> list[float]:
    """Return `count` falling weights, the last `nothing` of them zero; a larger `head` begins flatter."""
    return [1 / (rank + head) for rank in range(count - nothing)] + [0.0] * nothing
