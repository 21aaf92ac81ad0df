"""Leaves out of a page what is by people whom its reader has blocked or muted (app/models/blocks.py).

A cached page is the same for everyone. For most readers the hole "hidden" is empty, and nothing happens here. For the
others it holds a comment, which is never sent:

    <!--hidden 7 8|9-->       the ids of those whom the reader has muted, a bar, the ids of those who are blocked

Markup says whom it is by. People's own text is escaped, so it contains neither.

    <article data-by="7">     or <li>, <span>, <entry>: left out, with everything in it
    data-about="7"            once in a page, if it is about one person. Somebody who is blocked gets no such page;
                              what a muted person wrote is shown there
"""

import re
from functools import lru_cache

COMMENT = re.compile(rb"<!--hidden ([0-9 ]*)\|([0-9 ]*)-->")
BY = re.compile(rb'\b(?:data-|pipit:)by="([0-9]+)"')
ABOUT = re.compile(rb'\b(?:data-|pipit:)about="([0-9]+)"')


def without_hidden_people(page: bytes) -> bytes | None:
    """Return a page that is filled for its reader without what its comment hides.

    Returns None if the page is about somebody whom the reader can't see.
    """
    comment = COMMENT.search(page)
    if comment is None:
        return page
    muted, blocked = (set(ids.split()) for ids in comment.groups())
    about = ABOUT.search(page)
    if about:
        if about[1] in blocked:
            return None
        muted.discard(about[1])
    page = page[: comment.start()] + page[comment.end() :]
    hidden = (muted | blocked).intersection(BY.findall(page))
    return _elements_by(frozenset(hidden)).sub(b"", page) if hidden else page


@lru_cache(maxsize=100)
def _elements_by(ids: frozenset[bytes]) -> re.Pattern[bytes]:
    return re.compile(
        rb'<(article|li|span|entry)\b[^>]*\b(?:data-|pipit:)by="(?:%s)"[^>]*>.*?</\1>\s*' % b"|".join(sorted(ids)),
        re.DOTALL,
    )
