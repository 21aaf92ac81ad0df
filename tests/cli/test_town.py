"""The invented town is the same each time, and is what `flask seed` and the screenshots count on."""

import re
import subprocess
import sys
from collections import Counter
from datetime import timedelta

import pytest

from app.cli.seed.town import TEXTS, Town, wendbridge
from tests.servers import bare_environ

MENTION = re.compile(r"(?<![\w/.])@(\w+)")
URL = re.compile(r"https?://\S+")
FINGERPRINT = """
import hashlib, runpy
town = runpy.run_path({path!r}, run_name="town")["wendbridge"]()
print(hashlib.sha256(repr((town.people, town.messages, town.follows, town.about)).encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def town() -> Town:
    return wendbridge()


def test_the_town_is_the_same_each_time_and_in_every_process() -> None:
    assert wendbridge() == wendbridge()
    assert fingerprint("1") == fingerprint("4242")


def test_the_town_has_100_people_1000_messages_and_1200_follows(town: Town) -> None:
    assert (len(town.people), len(town.messages), len(town.follows)) == (100, 1_000, 1_200)


def test_a_reply_comes_after_what_it_replies_to(town: Town) -> None:
    ages = {message.body: message.age for message in town.messages}
    replies = [message for message in town.messages if message.reply_to]
    assert len(replies) > 150
    assert all(ages[message.reply_to] > message.age for message in replies if message.reply_to)


def test_names_are_account_names_and_differ_by_more_than_case(town: Town) -> None:
    names = town.people
    assert all(re.fullmatch(r"[A-Za-z0-9_]{1,30}", name) for name in names)
    assert len({name.lower() for name in names}) == len(names)


def test_nobody_says_what_was_said_before_or_more_than_fits(town: Town) -> None:
    bodies = [message.body for message in town.messages]
    assert len(set(bodies)) == len(bodies)
    assert all(1 <= len(body) <= 280 for body in bodies)
    assert all(body == body.strip() for body in bodies)


def test_no_slot_and_no_mark_of_the_notation_is_left_in_a_message(town: Town) -> None:
    assert not [message.body for message in town.messages if re.search(r"[{}¶|]|^\w: ", message.body)]


def test_messages_are_by_people_of_the_town_and_mention_only_others_of_it(town: Town) -> None:
    names = set(town.people)
    mentions = [(m.author, name) for m in town.messages for name in MENTION.findall(URL.sub("", m.body))]
    assert {message.author for message in town.messages} < names
    assert len(mentions) > 60  # a reply need not mention whom it replies to
    assert {name for _, name in mentions} <= names
    assert all(author != name for author, name in mentions)


def test_urls_lead_to_the_domains_that_are_kept_for_examples(town: Town) -> None:
    urls = [url for message in town.messages for url in URL.findall(message.body)]
    assert urls
    assert all(re.match(r"https://example\.(org|com)/", url) for url in urls)


def test_messages_exercise_hashtags_line_breaks_other_scripts_and_joined_emoji(town: Town) -> None:
    text = "\0".join(message.body for message in town.messages)
    for sample in ("#wend", "\n", "おはよう", "صباح", "é", "🇬🇭", "👩‍👩‍👧"):
        assert sample in text


def test_every_message_has_an_age_of_its_own_oldest_first_over_six_months_and_more(town: Town) -> None:
    ages = [message.age for message in town.messages]
    assert len(set(ages)) == len(ages)
    assert ages == sorted(ages, reverse=True)
    assert min(ages) > timedelta(0)
    assert timedelta(days=180) < max(ages) - min(ages) < timedelta(days=300)
    assert sum(age < timedelta(days=90) for age in ages) > len(ages) / 3


def test_an_answer_comes_after_what_it_answers(town: Town) -> None:
    bodies = [message.body for message in town.messages]
    hen = [place for place, body in enumerate(bodies) if "adopted by a hen" in body or "It IS a hen" in body]
    egg = next(place for place, body in enumerate(bodies) if "a single fresh egg" in body)
    assert len(hen) == 2
    assert egg < hen[0] < hen[1]
    assert "adopted" in bodies[hen[0]]


def test_a_few_people_say_much_and_a_few_say_nothing(town: Town) -> None:
    said = Counter(message.author for message in town.messages)
    assert max(said.values()) > 30
    assert 3 <= sum(person not in said for person in town.people) <= 15


def test_follows_are_distinct_and_nobody_follows_themselves(town: Town) -> None:
    names = set(town.people)
    assert len(set(town.follows)) == len(town.follows)
    assert all(follower != followed for follower, followed in town.follows)
    assert {name for pair in town.follows for name in pair} <= names


def test_a_few_people_are_followed_by_many_and_some_by_nobody(town: Town) -> None:
    followers = Counter(followed for _, followed in town.follows)
    assert max(followers.values()) > 40
    assert sum(person not in followers for person in town.people) >= 5


def test_likes_are_by_others_after_the_message_and_few_messages_have_many(town: Town) -> None:
    names = set(town.people)
    for message in town.messages:
        likers = [name for name, _ in message.liked_by]
        assert len(set(likers)) == len(likers)
        assert {*likers} <= names - {message.author}
        assert all(timedelta(0) < age < message.age for _, age in message.liked_by)
    counts = [len(message.liked_by) for message in town.messages]
    assert max(counts) > 10
    assert 0.3 < sum(map(bool, counts)) / len(counts) < 0.7


def test_some_people_say_who_they_are(town: Town) -> None:
    assert set(town.about) < set(town.people)
    assert town.about["ada_moreno"][0] == "Ada Moreno"
    assert sum(bool(line) for _, line in town.about.values()) > 10


def fingerprint(hash_seed: str) -> str:
    """Return the sha256 of the town as a new Python with this PYTHONHASHSEED invents it."""
    code = FINGERPRINT.format(path=str(TEXTS.with_name("town.py")))
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=bare_environ() | {"PYTHONHASHSEED": hash_seed, "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.strip()
