"""Builds pages of 30 posts, each when its posts' HTML is unknown and then again; prints the CPU time of each in ms.

    build.py COOKIE PAGES PATH …    → {PATH: {"unknown": [ms, …], "known": [ms, …]}, …}

A page is an older one, with ?before= in its URL, which no version of Pipit caches: for it a view is run. The next page
is the one that its link to older posts leads to, so its posts have not been seen before. Runs with the code in
PYTHONPATH, which may be that of an earlier commit.
"""

import json
import re
import sys
import time
from statistics import median
from typing import Any

from app import create_app

AGAIN = 5  # times
app = create_app()
urls = app.url_map.bind("")


def build(path: str, cookie: str) -> tuple[float, str]:
    """Return the ms of CPU time that a page took, and its HTML."""
    endpoint, arguments = urls.match(path.partition("?")[0], "GET")
    view = app.view_functions[endpoint]
    began = time.thread_time()
    with app.test_request_context(path, headers={"Cookie": cookie}):
        page: Any = view(**arguments)
    taken = time.thread_time() - began
    return taken * 1000, app.make_response(page).get_data(as_text=True)


found = {}
cookie, pages, *paths = sys.argv[1:]
for path in paths:
    unknown, known = [], []
    for _ in range(int(pages) + 1):
        taken, page = build(path, cookie)
        if page.count('<article class="post"') != 30:
            raise RuntimeError(f"{path}: {page}")
        unknown.append(taken)
        known.append(median(build(path, cookie)[0] for _ in range(AGAIN)))
        older = re.search(r'\?before=\d+(?=">)', page)
        path = path.partition("?")[0] + older[0] if older else path
    found[path.partition("?")[0]] = {"unknown": unknown[1:], "known": known[1:]}  # the first ones compile templates
print(json.dumps(found))
