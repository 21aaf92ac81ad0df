"""The small town of Wendbridge, invented for `flask seed`: people, what they post, and who follows whom.

It is deterministic (one `random.Random` with a fixed seed, and nothing that depends on the order of a set),
so that two developers, a benchmark and a screenshot all see the same town, and a difference between two runs
is a difference in the code. It is pure: it knows neither SQL nor Flask, and the caller decides what "now" is.

The texts are in town.toml, which also says how they are written.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import TypeVar

TEXTS = Path(__file__).with_name("town.toml")
SEED = 7  # like the bus
MESSAGES = 1_000
FOLLOWS = 1_200
SPAN = 270  # days; about nine months
LONGEST = 280  # code points; the app counts grapheme clusters, of which there are never more

SILENT = 7  # people who only read
UNFOLLOWED = 9  # people nobody follows
ANSWERED = 0.34  # share of the everyday messages that get an answer


@dataclass(frozen=True)
class Person:
    """Someone with an account; the caller derives the e-mail address from the name."""

    name: str


@dataclass(frozen=True)
class Message:
    """A post by the person called `author`, made `age` before now."""

    author: str
    body: str
    age: timedelta


@dataclass(frozen=True)
class Community:
    """A whole town: its messages oldest first, its follows as (follower, followed)."""

    people: tuple[Person, ...]
    messages: tuple[Message, ...]
    follows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Topic:
    """What the town says about one thing, in the notation that town.toml explains."""

    host: str | None = None  # the account that posts the notices
    notices: str = ""  # said by the host, several times with other words in the slots
    sayings: str = ""  # said once, by anyone
    templates: str = ""  # said several times, by anyone
    replies: str = ""  # fit every template of this topic; `a` is who is answered


# Weight of each hour in which a post may be made, from midnight: quiet nights, a lunch break, long evenings.
HOURS = (1, 0.5, 0.3, 0.3, 0.5, 2, 5, 9, 10, 9, 9, 10, 13, 11, 9, 9, 11, 13, 15, 16, 15, 12, 7, 3)
NOW = 18  # the hour at which the town is looked at, for want of a clock: ages count back from this one

Line = tuple[str, str]  # (speaker, text)
T = TypeVar("T")


@dataclass(frozen=True)
class Exchange:
    """One or more lines that follow each other: (speaker, text), the speaker may yet have to be cast."""

    topic: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Town:
    """Who lives here, how talkative they are, what they care about and may say; hosts speak only for their topic."""

    hosts: tuple[str, ...]
    neighbours: tuple[str, ...]
    talk: Mapping[str, float]
    loves: Mapping[str, frozenset[str]]
    topics: Mapping[str, Topic]
    slots: Mapping[str, list[str]]
    conversations: list[str]


def community() -> Community:
    """Return the town, the same one at each call: 100 people, 1,000 messages, 1,200 follows."""
    rng = Random(SEED)
    town = _town(rng)
    return Community(
        people=tuple(Person(name) for name in sorted(town.hosts + town.neighbours, key=str.lower)),
        messages=_messages(rng, town),
        follows=_follows(rng, town),
    )


def _town(rng: Random) -> Town:
    texts = tomllib.loads(TEXTS.read_text(encoding="utf-8"))
    topics = {name: Topic(**topic) for name, topic in texts["topics"].items()}
    neighbours = texts["neighbours"].split()
    talkers = rng.sample(neighbours, len(neighbours))
    talk = dict(zip(talkers, _long_tail(len(neighbours), SILENT, head=3), strict=True))
    return Town(
        hosts=tuple(topic.host for topic in topics.values() if topic.host),
        neighbours=tuple(neighbours),
        talk=talk,
        loves={name: frozenset(rng.sample(list(topics), rng.randint(2, 4))) for name in neighbours},
        topics=topics,
        slots=texts["slots"],
        conversations=texts["conversations"].strip().split("\n\n"),
    )


def _long_tail(count: int, nothing: int, head: int) -> list[float]:
    """Return `count` falling weights, the last `nothing` of them zero; a larger `head` begins flatter."""
    return [1 / (rank + head) for rank in range(count - nothing)] + [0.0] * nothing


def _messages(rng: Random, town: Town) -> tuple[Message, ...]:
    exchanges = _exchanges(rng, town)
    taken: set[int] = set()
    said: set[str] = set()
    messages = []
    for exchange, start in zip(exchanges, _starts(rng, len(exchanges)), strict=True):
        ages = _ages(rng, start, taken)
        for author, body in _told(rng, town, exchange, said):
            messages.append(Message(author, body, timedelta(seconds=next(ages))))
    return tuple(sorted(messages, key=lambda message: message.age, reverse=True))


def _exchanges(rng: Random, town: Town) -> list[Exchange]:
    """Return exchanges of MESSAGES lines in all, so ordered that a template comes back as late as it can."""
    once = [*_sayings(town), *_conversations(town)]
    room = MESSAGES - sum(len(exchange.lines) for exchange in once)
    dealt: list[Exchange] = []
    for exchange in _dealt(rng, town):
        if room == 0:
            break
        dealt.append(Exchange(exchange.topic, exchange.lines[:room]))
        room -= len(dealt[-1].lines)
    placed = [(place + 0.5, exchange) for place, exchange in enumerate(dealt)]
    placed += [(rng.uniform(0, len(dealt)), exchange) for exchange in once]
    return [exchange for _, exchange in sorted(placed, key=lambda pair: pair[0])]


def _sayings(town: Town) -> Iterator[Exchange]:
    for name, topic in town.topics.items():
        for text in _texts(topic.sayings):
            signed = re.fullmatch(r"(\w+)> (.*)", text)
            yield Exchange(name, ((signed[1], signed[2]) if signed else ("a", text),))
        for text in _texts(topic.notices):
            if topic.host and "{" not in text:
                yield Exchange(name, ((topic.host, text),))


def _conversations(town: Town) -> Iterator[Exchange]:
    for block in town.conversations:
        pairs = (line.split(": ", 1) for line in _texts(block))
        yield Exchange("town", tuple((speaker, text) for speaker, text in pairs))


def _dealt(rng: Random, town: Town) -> Iterator[Exchange]:
    """Deal templates, and notices with slots, without end: each once a round, some with an answer."""
    deck = [(name, "a", text) for name, topic in town.topics.items() for text in _texts(topic.templates)]
    for name, topic in town.topics.items():
        if topic.host:
            deck += [(name, topic.host, text) for text in _texts(topic.notices) if "{" in text]
    answers = {name: _round_and_round(rng, _texts(topic.replies)) for name, topic in town.topics.items()}
    for name, speaker, text in _round_and_round(rng, deck):
        lines: tuple[Line, ...] = ((speaker, text),)
        if speaker == "a" and rng.random() < ANSWERED:
            lines += (("b", next(answers[name])),)
        yield Exchange(name, lines)


def _round_and_round(rng: Random, deck: list[T]) -> Iterator[T]:
    while True:
        yield from rng.sample(deck, len(deck))


def _texts(block: str) -> list[str]:
    """Return the texts of a block: one a line, continued by indented lines."""
    return block.strip().replace("\n  ", " ").splitlines()


def _starts(rng: Random, count: int) -> list[int]:
    """Return the ages in seconds at which exchanges begin, oldest first: more lately, and more by day."""
    starts = []
    for _ in range(count):
        days = 1 + int(SPAN * rng.random() ** 1.6)
        (hour,) = rng.choices(range(24), HOURS)
        hours_ago = days * 24 + NOW - hour if hour >= NOW else (days - 1) * 24 + NOW - hour
        starts.append(300 + hours_ago * 3600 - rng.randrange(3600))  # leaves the last one time for answers
    return sorted(starts, reverse=True)


def _ages(rng: Random, age: int, taken: set[int]) -> Iterator[int]:
    """Yield the ages of an exchange's lines from its start on, each younger than the last, none taken."""
    while True:
        while age in taken:
            age -= 1
        taken.add(age)
        yield age
        age -= min(40 + int(rng.expovariate(1 / 2400)), age // 2)  # answers come within the hour, as a rule


def _told(rng: Random, town: Town, exchange: Exchange, said: set[str]) -> list[tuple[str, str]]:
    """Return (author, body) for each line, cast and worded as nobody has said it yet; it is said from now on.

    Raises ValueError if that can't be done: a text is in town.toml twice, or is too long.
    """
    for _ in range(100):
        cast = _cast(rng, town, exchange)
        told = [(cast[who], _filled(rng, town, text, cast, cast[who])) for who, text in exchange.lines]
        bodies = {body for _, body in told}
        new = len(bodies) == len(told) and said.isdisjoint(bodies)
        if new and all(len(body) <= LONGEST for body in bodies):
            said |= bodies
            return told
    raise ValueError(f"said before, or too long: {exchange.lines}")


def _cast(rng: Random, town: Town, exchange: Exchange) -> dict[str, str]:
    """Give every speaker of the exchange an account of its own: the named one, or a lover of the topic."""
    cast: dict[str, str] = {}
    for speaker, _ in exchange.lines:
        if len(speaker) > 1:  # an account's name
            cast[speaker] = speaker
        elif speaker not in cast:
            free = [name for name in town.neighbours if name not in cast.values()]
            keen = [town.talk[name] * (6 if exchange.topic in town.loves[name] else 1) for name in free]
            (cast[speaker],) = rng.choices(free, keen)
    return cast


def _filled(rng: Random, town: Town, text: str, cast: Mapping[str, str], author: str) -> str:
    used: set[str] = set()

    def phrase(slot: re.Match[str]) -> str:
        name = slot[1]
        if name == "friend":
            return rng.choice([friend for friend in town.neighbours if friend != author])
        if name in cast or name in town.hosts:
            return cast.get(name, name)
        chosen = rng.choice([phrase for phrase in town.slots[name] if phrase not in used])
        used.add(chosen)
        begins = re.search(r"(^|[.!?] |¶)$", text[: slot.start()])
        return chosen[0].upper() + chosen[1:] if begins else chosen

    return re.sub(r"\{(\w+)\}", phrase, text).replace("¶", "\n")


def _follows(rng: Random, town: Town) -> tuple[tuple[str, str], ...]:
    """Return FOLLOWS pairs: the hosts and whoever talks much are followed most, a few people by nobody."""
    names = [*town.hosts, *town.neighbours]
    fame = {name: town.talk.get(name, 0.2) * rng.uniform(0.3, 3) for name in names}
    followed = sorted(names, key=lambda name: fame[name], reverse=True)
    followers = rng.sample(names, len(names))
    popular = _long_tail(len(names), UNFOLLOWED, head=8)
    curious = _long_tail(len(names), 0, head=8)
    pairs: dict[tuple[str, str], None] = {}  # a set that keeps its order
    while len(pairs) < FOLLOWS:
        (one,), (other,) = rng.choices(followers, curious), rng.choices(followed, popular)
        if one != other:
            pairs[one, other] = None
    return tuple(pairs)
