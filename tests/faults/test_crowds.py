"""A crowd follows somebody or likes a post; somebody whom a crowd follows deletes the account, while others read."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from app.cache import FADING, STRATEGIES, current_cache
from app.extensions import db
from app.front.local_cache import COPY_LIFETIME
from app.models import Follow, Post
from app.models.accounts import User
from app.models.post_text import PostText
from app.models.posts import BATCH, PostTag
from app.models.writes import LATEST_PAGE, PROFILE_PAGE
from tests.conftest import finish
from tests.faults.town import PERSON, PROCESSES, Town, one_more_process, running_town, settle, user
from tests.faults.traffic import Answer, Browser, get_anonymously, visitors
from tests.servers import wait_until

SEED = 20240229
CROWD = 120
ROUNDS = 4  # of following and posting by form
seen_by_everyone = pytest.mark.parametrize("town", ["invalidate", "refresh"], indirect=True, scope="module")


@pytest.fixture(scope="module", params=STRATEGIES)
def town(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """Give a town where nobody writes by himself."""
    folder = tmp_path_factory.mktemp("town")
    with running_town(folder, f"sqlite:///{folder / 'pipit.db'}", request.param, SEED, writers=0) as town:
        yield town


@contextmanager
def reading(town: Town, paths: Callable[[], list[str]]) -> Iterator[list[Answer]]:
    """Have strangers and people read these pages from every process; give what they get."""
    answers: list[Answer] = []
    done = threading.Event()

    def read(browser: Browser) -> None:
        while not done.is_set():
            answers.extend(browser.get(path) for path in paths())

    ports = [pipit.port for pipit in town.pipits]
    people = [Browser(port, {"session": town.people[number + 1].sid}) for number, port in enumerate(ports)]
    with visitors([*map(Browser, ports), *people]) as browsers:
        threads = [threading.Thread(target=read, args=(browser,)) for browser in browsers]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: sum("memory" in answer.cache_status for answer in answers) > 20, "copies")
            yield answers
        finally:
            done.set()
            finish(*threads)


@seen_by_everyone
@pytest.mark.parametrize("what", ["follows", "likes"])
def test_a_hundred_a_second_leave_the_page_that_counts_them_a_hit(town: Town, what: str) -> None:
    ada = town.people[0]
    path, name = ("/@ada", PROFILE_PAGE("ada")) if what == "follows" else ("/", LATEST_PAGE())
    crowd = settle(town.config, [f"{what}{number}" for number in range(CROWD)])
    with town.redis() as redis, one_more_process(town.config):
        cache, popular = current_cache(), user(ada.id)
        fans = [user(one.id) for one in crowd]
        posts = Post.whole([popular.publish(PostText.parse(f"Who {what} me?")).id])
        with reading(town, lambda: [path]) as answers:
            read_before, began = len(answers), time.monotonic()
            for number, fan in enumerate(fans, start=1):
                fan.follow(popular) if what == "follows" else fan.like(posts[0])
                lives, cached = redis.pttl(cache.key(name)), cache.get(name)
                # A copy lives COPY_LIFETIME more: COUNTS_LAG. A page that lives longer was built after the write.
                assert lives <= FADING or (cached and shows(number, what) in cached.page.body)
            took = time.monotonic() - began
            served = [answer.cache_status for answer in answers[read_before:]]
        builds = sum("fwd" in status and "collapsed" not in status for status in served)
        assert builds <= 1 + took * 1000 / FADING, (builds, took)
        assert len(served) > 100
        assert sum(": hit" in f":{status.partition(';')[2]}" for status in served) > 0.95 * len(served)
        redis.delete(cache.key(name))  # what time does
        for pipit in town.pipits:
            page = partial(get_anonymously, pipit.port, path)
            wait_until(lambda page=page: shows(CROWD, what) in page().text, "the last count", COPY_LIFETIME)  # type: ignore[misc]


def shows(number: int, what: str) -> str:
    """Return how a page says its number of followers, or of likes."""
    return f"<b>{number}</b> follower" if what == "follows" else f'class="post-likes">{number}</span>'


@seen_by_everyone
def test_who_follows_is_on_both_lists_and_sees_the_button_change_at_once(town: Town) -> None:
    cleo, dan = town.people[2:4]
    with one_more_process(town.config):
        user(dan.id).publish(PostText.parse("Good morning."))
        user(cleo.id).publish(PostText.parse("Alone."))  # or else everyone's posts would fill an empty timeline
        with reading(town, lambda: ["/@cleo/following", "/@dan/followers", "/@dan", "/home"]):
            for number in range(10):
                follows = number % 2 == 0
                (user(cleo.id).follow if follows else user(cleo.id).unfollow)(user(dan.id))
                for process in range(PROCESSES):
                    for viewer in (None, cleo, dan):
                        following = town.look(0, process, "following", cleo, viewer).answer.text
                        followers = town.look(0, process, "followers", dan, viewer).answer.text
                        assert ("dan" in PERSON.findall(following)) == follows
                        assert ("cleo" in PERSON.findall(followers)) == follows
                    assert (">Unfollow<" in town.look(0, process, "profile", dan, cleo).answer.text) == follows
                    assert ("Good morning." in town.look(0, process, "home", None, cleo).answer.text) == follows


@seen_by_everyone
def test_a_reply_is_on_every_page_above_it_at_once_and_gone_from_them_at_once(town: Town) -> None:
    people = town.people[7:10]
    with one_more_process(town.config):
        posts = [user(people[0].id).publish(PostText.parse("Is anybody there?"))]
        paths = [f"/@{people[0].name}/{posts[0].id}"]
        with reading(town, lambda: [*paths, f"/@{people[0].name}/replies"]):
            for number in range(1, 8):
                person = people[number % len(people)]
                posts.append(user(person.id).publish(PostText.parse(f"Number {number}"), Post.with_id(posts[-1].id)))
                paths.append(f"/@{person.name}/{posts[-1].id}")
                assert conversation_at(town, paths) == [[post.id for post in posts]] * len(paths) * PROCESSES
            while len(posts) > 1:
                gone = Post.with_id(posts.pop(len(posts) // 2).id)
                assert gone
                paths = [path for path in paths if not path.endswith(f"/{gone.id}")]
                assert gone.author.delete(gone)
                assert conversation_at(town, paths) == [[post.id for post in posts]] * len(paths) * PROCESSES


def conversation_at(town: Town, paths: list[str]) -> list[list[int]]:
    """Return the ids of the posts at each of these paths, as every process shows them."""
    pages = [get_anonymously(pipit.port, path) for pipit in town.pipits for path in paths]
    return [
        [int(number) for number in re.findall(r'<article class="post" id="post-(\d+)"', page.text)] for page in pages
    ]


def test_what_one_does_by_form_is_there_at_once_for_oneself_and_for_ones_followers(town: Town) -> None:
    eve, fay = town.people[4:6]
    permalink = re.compile(r'href="(/@eve/\d+)"')
    paths = ["/", "/@eve", "/tags/forms", "/home", "/@fay/following", "/@eve/followers"]
    browsers = [Browser(pipit.port, {"session": one.sid}) for one in (eve, fay) for pipit in town.pipits]
    with reading(town, lambda: paths), visitors(browsers) as all_of:
        eves, fays = all_of[:PROCESSES], all_of[PROCESSES:]
        fays[0].publish("Good morning.")  # or else everyone's posts would fill an empty timeline
        for number in range(ROUNDS):
            verb, writer, follower = (
                ("follow", "unfollow")[number % 2],
                eves[number % PROCESSES],
                fays[-number % PROCESSES],
            )
            assert follower.post(f"/@eve/{verb}", "/@eve").status == 302
            body = f"Number {number} #forms"
            publishes = writer.publish(body)
            assert publishes.status == 302
            for mine in eves:
                pages = [mine.get(path).text for path in ("/home", "/", "/@eve", "/tags/forms")]
                assert [f"Number {number} " in page for page in pages] == [True] * 4
                link = permalink.findall(pages[0])[0]
                assert f"Number {number} " in mine.get(link).text
            for other in fays:
                follows = verb == "follow"
                profile = other.get("/@eve").text
                assert (">Unfollow<" in profile) == follows
                assert ("<b>1</b> follower<" in profile) == follows
                assert ("eve" in PERSON.findall(other.get("/@fay/following").text)) == follows
                assert ("fay" in PERSON.findall(other.get("/@eve/followers").text)) == follows
                assert (f"Number {number} " in other.get("/home").text) == follows
            gone = writer.post(f"/posts/{link.rpartition('/')[2]}/delete", link)
            assert gone.status == 302
            for one in all_of:
                pages = [one.get(path).text for path in ("/home", "/", "/@eve", "/tags/forms")]
                assert [f"Number {number} " in page for page in pages] == [False] * 4
                assert one.get(link).status == 404


def test_a_deleted_account_is_gone_from_every_page(town: Town) -> None:
    bob, gus = town.people[1], town.people[6]
    with one_more_process(town.config):
        for one in town.people[:6]:
            db.session.add_all(
                (Follow(follower_id=one.id, followed_id=gus.id), Follow(follower_id=gus.id, followed_id=one.id))
            )
        posts = [Post(author_id=gus.id, body=f"Number {number} #one") for number in range(2 * BATCH + 50)]
        for post in posts:
            post.tags = [PostTag(tag="one")]
        db.session.add_all(posts)
        db.session.commit()
        permalinks = [f"/@gus/{post.id}" for post in posts[::40]]
        lists = ["/", "/home", "/tags/one", "/@bob/followers", "/@bob/following"]
        own = ["/@gus", "/@gus/followers", "/@gus/following"]
        with reading(town, lambda: [*lists, *own, *permalinks]) as answers:
            user(gus.id).delete_account()
            for process in range(PROCESSES):
                with visitors(
                    [Browser(town.pipits[process].port, cookies) for cookies in ({}, {"session": bob.sid})]
                ) as browsers:
                    for browser in browsers:
                        for path in lists:
                            assert "gus" not in browser.get(path).text, path
                        assert {browser.get(path).status for path in (*own, *permalinks)} == {404}
                with visitors([Browser(town.pipits[process].port, {"session": gus.sid})]) as (browser,):
                    assert browser.get("/home").status == 302
        assert {answer.status for answer in answers} <= {200, 302, 404}
        assert User.named("gus") is None
