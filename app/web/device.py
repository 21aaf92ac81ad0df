"""A browser and its system in words, from the User-Agent header: enough for a person to know their own device again.

The header may say anything, so this is only ever shown, never decided upon.
"""

import re

# The order matters: Edge says it is Chrome, Chrome says it is Safari, and iPads say they are Macs.
BROWSERS = [
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser", "Samsung Internet"),
    ("Firefox|FxiOS", "Firefox"),
    ("HeadlessChrome", "Headless Chrome"),
    ("Chrome|CriOS", "Chrome"),
    ("Safari", "Safari"),
    ("curl", "curl"),
    ("python", "Python"),
]
SYSTEMS = [
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("CrOS", "ChromeOS"),
    ("Windows", "Windows"),
    ("Mac OS X|Macintosh", "macOS"),
    ("Linux", "Linux"),
]


def device_in_words(user_agent: str) -> str:
    """Return for example "Firefox on Linux"; what isn't known is called unknown."""
    browser = _first(BROWSERS, user_agent) or "Unknown browser"
    system = _first(SYSTEMS, user_agent)
    return f"{browser} on {system}" if system else browser


def _first(patterns: list[tuple[str, str]], text: str) -> str | None:
    return next((name for pattern, name in patterns if re.search(pattern, text, re.IGNORECASE)), None)
