"""The text of a post: what counts as a character, what may be said, and what in it is a link."""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import regex
from linkify_it import LinkifyIt

LENGTH = 280  # characters as a person counts them: extended grapheme clusters (UAX #29)
LENGTH_CODE_POINTS = 10 * LENGTH  # a flag is 2 code points, a family 7; a pile of a thousand accents is not writing
TAG_LENGTH = 100  # code points

# What JavaScript's trim() removes. The counter in the browser and this file must agree to the character.
WHITE_SPACE = (
    " \t\n\v\f\r\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)

CLOSING = "!?.,:;…。、！？”’»"  # after a URL these end the sentence, or the quotation, that it stands in

GRAPHEME = regex.compile(r"\X")
CONTROL = regex.compile(r"[\p{Cc}--[\t\n]]", regex.VERSION1)
INVISIBLE = regex.compile(r"[\p{C}\u115f\u1160\u2800\u3164\uffa0]")
VISIBLE = regex.compile(r"[^\p{C}\p{Z}\p{M}\u115f\u1160\u2800\u3164\uffa0]")
NAME_OR_TAG = regex.compile(
    r"(?<![\w&/@#])"
    r"(?:(?<!\w\.)@(?P<mention>[A-Za-z0-9_]{1,30})(?![\w@])"  # ".@ada" is how people mention in public
    r"|(?<!\.)#(?P<tag>[\w\p{M}]*[\p{L}][\w\p{M}]*)(?![\w#]))"
)
COMBINING = regex.compile(r"\p{Mn}")
WORD = regex.compile(r"[\w\p{M}]+")
# Characters that turn the direction of what follows; a URL may not contain them (RFC 3987, section 4.1).
BIDI_CONTROL = regex.compile(r"\p{Bidi_Control}")
# What a link may lead to. http://good.com@evil.com, or good.com followed by a character that only looks like a slash,
# would lead to another site than the text shows.
PLAIN_HOST = regex.compile(r"\w+://[\w\p{M}.-]+(?::[0-9]*)?(?:[/?#]|$)")


class PostTextError(ValueError):
    """The text can't be a post; its message says why, to the person who wrote it."""


@dataclass(frozen=True)
class Piece:
    """A run of a post's text, and what it is."""

    kind: Literal["text", "url", "mention", "tag"]
    text: str
    target: str = ""  # the URL, the account's name, or the tag


@dataclass(frozen=True)
class PostText:
    """Text that is fit to be a post."""

    body: str

    @classmethod
    def parse(cls, typed: str) -> "PostText":
        """Return the text without surrounding white space and control characters; a CRLF or CR becomes LF.

        Raises PostTextError if nothing is left or it is too long.
        """
        text = typed.replace("\r\n", "\n").replace("\r", "\n")
        text = CONTROL.sub("", text).strip(WHITE_SPACE)
        if not VISIBLE.search(text):
            raise PostTextError("Write something first: this post is empty.")
        length = count_characters(text[:LENGTH_CODE_POINTS])  # no more: counting can take quadratic time
        over = len(text) > LENGTH_CODE_POINTS
        if length > LENGTH and over:
            raise PostTextError(f"That is more than {length} characters; a post holds {LENGTH}. Shorten it.")
        if length > LENGTH:
            raise PostTextError(f"That is {length} characters; a post holds {LENGTH}. Shorten it by {length - LENGTH}.")
        if over:
            raise PostTextError("Too many marks are stacked on these characters. Remove some of them.")
        return cls(text)

    @property
    def tags(self) -> list[str]:
        """Return the hashtags in it, as they are looked up, each once."""
        return list(dict.fromkeys(tag_key(piece.target) for piece in pieces(self.body) if piece.kind == "tag"))

    @property
    def mentions(self) -> set[str]:
        """Return the names that it mentions, in lower case, whether anyone has them or not."""
        return {piece.target.lower() for piece in pieces(self.body) if piece.kind == "mention"}


def count_characters(text: str) -> int:
    """Return the number of characters as a person counts them; the browser's Intl.Segmenter agrees."""
    return sum(1 for _ in GRAPHEME.finditer(text))


def tag_key(tag: str) -> str:
    """Return a hashtag as it is looked up: #Café, #café and #CAFÉ are one, however the accent was typed."""
    folded = tag[:LENGTH_CODE_POINTS]  # no post has a longer one, and normalizing can take quadratic time
    for _ in range(2):  # so that the key of a key is the key itself: some Greek letters with marks need the second
        folded = unicodedata.normalize("NFKC", folded).casefold()
    return folded


def search_key(text: str) -> str:
    """Return the words of a text as they are searched for: without accents, case and punctuation, a space between."""
    decomposed = unicodedata.normalize("NFKD", text[:LENGTH_CODE_POINTS].casefold())
    return " ".join(WORD.findall(COMBINING.sub("", decomposed)))


def one_line(typed: str) -> str:
    """Return text for a place where a line is expected: no line breaks, and nothing in it that turns its direction.

    It is empty if nobody could see it.
    """
    line = " ".join(BIDI_CONTROL.sub("", CONTROL.sub("", typed)).split())
    return line if VISIBLE.search(line) else ""


def in_brief(text: str, length: int) -> str:
    """Return the start of a text for a title: one line, and nothing in it that turns the direction of what follows."""
    line = " ".join(BIDI_CONTROL.sub("", text).split())
    return line if len(line) <= length else f"{line[: length - 1].rsplit(' ', 1)[0]}…"


def looks_like_mention(line: str) -> bool:
    """Return whether readers could take a line for an @name: ＠ looks like @, and some characters like nothing."""
    return unicodedata.normalize("NFKC", INVISIBLE.sub("", line)).lstrip().startswith("@")


def web_address(typed: str) -> str | None:
    """Return the URL that somebody means, with https:// if they left that out; None if a link can't lead there."""
    scheme, separator, rest = typed.partition("://")
    url = f"{scheme.lower()}://{rest}" if separator else f"https://{typed}"
    if BIDI_CONTROL.search(url):
        return None
    found = _linkify().match(url)
    is_whole = found is not None and len(found) == 1 and found[0].index == 0 and found[0].last_index == len(url)
    return url if is_whole and url.startswith(("http://", "https://")) and PLAIN_HOST.match(url) else None


def pieces(body: str) -> Iterator[Piece]:
    """Take a post's text apart into plain text, URLs, mentions and hashtags; their texts joined are the body again."""
    end = 0
    for match in _linkify().match(BIDI_CONTROL.sub(" ", body)) or []:
        yield from _names_and_tags(body, end, match.index)
        url = match.url.rstrip(CLOSING)
        end = match.last_index - (len(match.url) - len(url))
        text = body[match.index : end]
        if PLAIN_HOST.match(url) and not body.startswith("@", end):
            yield Piece("url", text, url)
        else:
            yield Piece("text", text)
    yield from _names_and_tags(body, end, len(body))


def _names_and_tags(body: str, start: int, stop: int) -> Iterator[Piece]:
    end = start
    for match in NAME_OR_TAG.finditer(body, start, stop):
        if match.start() > end:
            yield Piece("text", body[end : match.start()])
        if match["mention"]:
            yield Piece("mention", match[0], match["mention"])
        elif len(tag_key(match["tag"])) <= TAG_LENGTH:
            yield Piece("tag", match[0], match["tag"])
        else:
            yield Piece("text", match[0])
        end = match.end()
    if end < stop:
        yield Piece("text", body[end:stop])


@cache
def _linkify() -> LinkifyIt:
    """Return the URL finder, for the web's schemes and bare host names only; made when first needed."""
    return LinkifyIt({"mailto:": None, "ftp:": None, "//": None}, {"fuzzy_email": False})
