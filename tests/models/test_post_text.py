"""The text of a post: what is counted, what is refused, what becomes a link."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.models import post_text
from app.models.post_text import (
    LENGTH,
    LENGTH_CODE_POINTS,
    TAG_LENGTH,
    PostText,
    PostTextError,
    count_characters,
    pieces,
    tag_key,
)

FAMILY = "👨‍👩‍👧‍👦"  # one character, seven code points
repeatable = settings(deadline=None, derandomize=True, max_examples=300)

# Text in which something is likely to be a link, and text of any kind.
BITS = (
    *("@ada", "#tag", "http://", "https://example.org/a", "example.org", "javascript:", " ", "\n", "\r\n", "\r", "\0"),
    *("/", "@", "#", ".", ",", "(", ")", "'", "a", "1", "_", "é", "e\u0301", "\u200d", FAMILY, "🇩🇪", "語", "ا", "क्षि"),
)
typed = st.one_of(st.text(), st.lists(st.sampled_from(BITS), max_size=20).map("".join))


def links(body: str) -> list[tuple[str, str, str]]:
    return [(piece.kind, piece.text, piece.target) for piece in pieces(body) if piece.kind != "text"]


# For any text at all


@repeatable
@given(typed)
def test_the_pieces_joined_are_the_body(body: str) -> None:
    found = list(pieces(body))
    assert "".join(piece.text for piece in found) == body
    assert all(piece.text for piece in found)


@repeatable
@given(typed)
def test_a_text_is_parsed_or_refused_and_what_was_parsed_stays_as_it_is(text: str) -> None:
    try:
        once = PostText.parse(text)
    except PostTextError:
        return
    assert PostText.parse(once.body) == once
    assert 1 <= count_characters(once.body) <= LENGTH
    assert once.body == once.body.strip()


@repeatable
@given(typed)
def test_a_link_leads_to_the_web_and_nowhere_else(body: str) -> None:
    for piece in pieces(body):
        if piece.kind == "url":
            assert piece.target.startswith(("http://", "https://"))
        else:
            assert piece.target in ("", piece.text[1:])


@repeatable
@given(typed)
def test_a_tag_that_was_looked_up_can_be_looked_up_again(tag: str) -> None:
    assert tag_key(tag_key(tag)) == tag_key(tag)


# Counting


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("abc", 3),
        ("🇩🇪", 1),
        ("🇩🇪🇫🇷", 2),
        (FAMILY, 1),
        ("👍🏽", 1),
        ("👩🏽‍🚀", 1),
        ("🏳️‍🌈", 1),
        ("1️⃣", 1),
        ("🏴󠁧󠁢󠁥󠁮󠁧󠁿", 1),
        ("한국어", 3),
        ("\u1112\u1161\u11ab\u1100\u116e\u11a8", 2),  # 한국, as its single letters
        ("क्षि", 1),
        ("क्षत्रिय", 3),
        ("நி", 1),
        ("e\u0301", 1),
        ("Z\u0351\u036b\u0343a", 2),
        ("\r\n", 1),
        ("a\nb", 3),
        ("日本語", 3),
        ("", 0),
    ],
)
def test_characters_are_counted_as_a_person_counts_them(text: str, count: int) -> None:
    assert count_characters(text) == count


@pytest.mark.parametrize("character", ["a", "語", "🇩🇪", "e\u0301", "क्षि", FAMILY])
def test_a_post_holds_280_characters_and_not_one_more(character: str) -> None:
    assert PostText.parse(character * 280).body == character * 280
    with pytest.raises(PostTextError, match=r"That is 281 characters; a post holds 280\. Shorten it by 1\."):
        PostText.parse(character * 281)


def test_a_line_break_counts_once_however_it_was_typed() -> None:
    assert PostText.parse("a\r\n" * 139 + "bc").body == "a\n" * 139 + "bc"
    with pytest.raises(PostTextError):
        PostText.parse("a\r\n" * 139 + "bcd")


def test_white_space_around_a_text_does_not_count() -> None:
    assert PostText.parse(" \n\u00a0\ufeff" + "a" * 280 + "\t\u2028\u3000").body == "a" * 280


def test_a_pile_of_marks_is_refused_however_few_characters_it_is() -> None:
    pile = "a" + "\u0301" * (LENGTH_CODE_POINTS - 1)
    assert PostText.parse(pile).body == pile
    with pytest.raises(PostTextError, match="Too many marks"):
        PostText.parse(pile + "\u0301")


# Cleaning


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("a\0b", "ab"),
        ("a\x1b[31mb\x07\x7f\x85c", "a[31mbc"),
        ("a\r\nb\rc\nd", "a\nb\nc\nd"),
        ("a\tb", "a\tb"),
        ("\0 a \0", "a"),
        ("  <b>a</b>  ", "<b>a</b>"),
        ("e\u0301", "e\u0301"),
        ("\u202eabc", "\u202eabc"),
    ],
)
def test_what_nobody_sees_is_taken_out_and_all_else_left_as_typed(text: str, body: str) -> None:
    assert PostText.parse(text).body == body


@pytest.mark.parametrize(
    "text",
    ["", " ", "\r\n\t", "\0\0", "\u200b", "\u200d\u2060", "\u3164", "\u2800", "\u115f\u1160\uffa0", "\u0301", "\ufe0f",
     "\u00ad", "\u2028", "\ue000", "\U000e0041"],
)  # fmt: skip
def test_a_text_in_which_there_is_nothing_to_see_is_refused(text: str) -> None:
    with pytest.raises(PostTextError, match="empty"):
        PostText.parse(text)


@pytest.mark.parametrize("text", [".", "1", "語", "🇩🇪", "❤️", "ا", "\u0301a", "-", "→"])
def test_a_single_visible_character_is_a_post(text: str) -> None:
    assert PostText.parse(text).body == text


# URLs


@pytest.mark.parametrize(
    ("body", "text", "target"),
    [
        ("https://example.org", "https://example.org", "https://example.org"),
        ("see https://example.org/a.", "https://example.org/a", "https://example.org/a"),
        ("https://example.org/a, and", "https://example.org/a", "https://example.org/a"),
        ("https://example.org/a!?", "https://example.org/a", "https://example.org/a"),
        ("“https://example.org/a”", "https://example.org/a", "https://example.org/a"),
        ("«https://example.org/a»", "https://example.org/a", "https://example.org/a"),
        ("https://example.org/a…", "https://example.org/a", "https://example.org/a"),
        ("https://example.org/a。", "https://example.org/a", "https://example.org/a"),
        ("(https://example.org/a)", "https://example.org/a", "https://example.org/a"),
        ("https://example.org/a_(b).", "https://example.org/a_(b)", "https://example.org/a_(b)"),
        ("(see https://example.org/a_(b))", "https://example.org/a_(b)", "https://example.org/a_(b)"),
        ("<https://example.org/a>", "https://example.org/a", "https://example.org/a"),
        ("https://example.org/a?b=c&d=e#f", "https://example.org/a?b=c&d=e#f", "https://example.org/a?b=c&d=e#f"),
        ("http://example.org:8080/", "http://example.org:8080/", "http://example.org:8080/"),
        ("https://bücher.example/über", "https://bücher.example/über", "https://bücher.example/über"),
        ("https://пример.рф/путь", "https://пример.рф/путь", "https://пример.рф/путь"),
        ("https://例え.jp/パス です", "https://例え.jp/パス", "https://例え.jp/パス"),
        ("see example.org.", "example.org", "http://example.org"),
        ("https://example.org/@ada", "https://example.org/@ada", "https://example.org/@ada"),
        ("https://example.org/#tag", "https://example.org/#tag", "https://example.org/#tag"),
        ("https://example.org/@ada/#tag", "https://example.org/@ada/#tag", "https://example.org/@ada/#tag"),
        ("https://example.org?a@b", "https://example.org?a@b", "https://example.org?a@b"),
        ("https://example.org/\u202egpj.exe", "https://example.org/", "https://example.org/"),
        ("https://example.org\u2066.evil.com", "https://example.org", "https://example.org"),
        ("\u202ehttps://example.org/a", "https://example.org/a", "https://example.org/a"),
        ("\u200fexample.org\u061cx", "example.org", "http://example.org"),
    ],
)
def test_a_url_is_a_link_and_what_stands_around_it_is_not(body: str, text: str, target: str) -> None:
    assert links(body) == [("url", text, target)]


@pytest.mark.parametrize(
    "body",
    [
        "javascript:alert(1)",
        "JavaScript:alert(1)",
        "javascript://%0aalert(1)",
        "javascript&colon;alert(1)",
        "vbscript:msgbox(1)",
        "data:text/html,<script>alert(1)</script>",
        "file:///etc/passwd",
        "ftp://ftp.example.org",
        "mailto:ada@example.org",
        "//example.org",
        "write to ada@example.org",
        "main.rs.bak and 3.14 and e.g.this",
        "http://good.com@evil.com",
        "http://good.com\u2044login.evil.com",
        "http://good.com\u2215login.evil.com/",
        "https://good.com:80@evil.com/a",
        "HTTPS://user:password@evil.com",
        "http://good.com\\@evil.com",
        "good.com@evil.com",
        "http://@evil.com/@ada",
    ],
)
def test_what_is_no_address_on_the_web_is_no_link(body: str) -> None:
    assert links(body) == []


def test_two_urls_and_the_names_between_them_are_found_in_order() -> None:
    body = "@ada look: https://example.org/a, then #birds and https://example.org/b"
    assert [text for _, text, _ in links(body)] == ["@ada", "https://example.org/a", "#birds", "https://example.org/b"]


# Mentions


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("@ada", ["ada"]),
        ("hello @ada, @Bob_2!", ["ada", "Bob_2"]),
        ("(@ada)", ["ada"]),
        ("@ada's", ["ada"]),
        ("@ada.", ["ada"]),
        ("“@ada”", ["ada"]),
        ("@ada\n@bob", ["ada", "bob"]),
        (".@ada", ["ada"]),
        ("so .@ada and ...@bob", ["ada", "bob"]),
        ("ada.@example", []),
        ("example.org @ada", ["ada"]),
        ("example.org/@ada", []),
        ("@" + "a" * 30, ["a" * 30]),
        ("@" + "a" * 31, []),
        ("ada@example.org", []),
        ("ada.b@example.org", []),
        ("@ada@example.org", []),
        ("a/@ada", []),
        ("@", []),
        ("@@ada", []),
        ("@adä", []),
        ("ä@ada", []),
        ("https://example.org/@ada", []),
    ],
)
def test_a_mention_is_an_at_sign_and_a_name_that_stand_alone(body: str, names: list[str]) -> None:
    assert [target for kind, _, target in links(body) if kind == "mention"] == names


# Hashtags


@pytest.mark.parametrize(
    ("body", "tags"),
    [
        ("#birds", ["birds"]),
        ("(#birds), #Bees.", ["birds", "bees"]),
        ("#1", []),
        ("#2026", []),
        ("we are #1!", []),
        ("#1st", ["1st"]),
        ("#covid19", ["covid19"]),
        ("#snake_case", ["snake_case"]),
        ("#_", []),
        ("#日本語", ["日本語"]),
        ("#日本語 と #中文", ["日本語", "中文"]),
        ("#العربية", ["العربية"]),
        ("#हिन्दी", ["हिन्दी"]),
        ("#Ärger", ["ärger"]),
        ("#Café #CAFÉ #cafe\u0301", ["café"]),
        ("#Straße #STRASSE", ["strasse"]),
        ("#birds #bees #birds", ["birds", "bees"]),
        ("a#b", []),
        ("日本#語", []),
        ("##b", []),
        ("#a#b", []),
        ("&#39; and &#x27;", []),
        ("#", []),
        ("# birds", []),
        ("https://example.org/#birds", []),
        ("#" + "a" * 100, ["a" * 100]),
        ("#" + "a" * 101, []),
    ],
)
def test_the_tags_of_a_post_are_its_hashtags_as_they_are_looked_up(body: str, tags: list[str]) -> None:
    assert PostText(body).tags == tags


# Bounds


@pytest.mark.parametrize(
    "text", ["\U0001f1e6" * 15_500, "a\u0301" * 10_000, "a" + "\u0301\u0323" * 15_000, "\U0001f468\u200d" * 7_000]
)
def test_a_long_text_is_refused_before_its_characters_are_all_counted(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    count = post_text.count_characters

    def note(part: str) -> int:
        counted.append(len(part))
        return count(part)

    monkeypatch.setattr(post_text, "count_characters", note)
    with pytest.raises(PostTextError):
        PostText.parse(text)
    assert max(counted) <= LENGTH_CODE_POINTS


def test_a_hashtag_that_is_too_long_to_be_looked_up_is_no_link() -> None:
    assert [piece.kind for piece in pieces("#" + "a" * TAG_LENGTH)] == ["tag"]
    assert [piece.kind for piece in pieces("#" + "a" * (TAG_LENGTH + 1))] == ["text"]


def test_a_text_that_is_far_too_long_is_told_so() -> None:
    with pytest.raises(PostTextError, match="more than 2800 characters; a post holds 280"):
        PostText.parse("a" * 5_000)
