"""Prints Pipit's URL once it is ready, or what is missing; not used on Heroku."""

import time
from http.client import HTTPConnection, HTTPException

from app.config import Config

FIRST_PAUSE = 1.0  # s; a Redis that starts beside Pipit takes less
LONGEST_PAUSE = 16.0  # s; each request for /readyz is a line in the log

REMEDIES = {  # by what /readyz says
    "redis fails": "`flask local redis` starts one on this machine; REDIS_URL names another.",
    "sql is not migrated": "`flask db upgrade` makes the tables.",
}


def announce(config: Config, port: int) -> None:
    """Poll /readyz until everything works, then print the URL. Print each thing that is missing once."""
    told: set[str] = set()
    pause = FIRST_PAUSE
    while missing := _missing(config, port):
        if pause > FIRST_PAUSE:
            for name in missing.keys() - told:
                remedy = REMEDIES.get(missing[name], "The log says why.")
                print(f"{config.site_name} is not ready: {missing[name]}. {remedy}", flush=True)
            told |= missing.keys()
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
    print(f"{config.site_name} is ready at http://localhost:{port}", flush=True)


def _missing(config: Config, port: int) -> dict[str, str]:
    """Return what /readyz says about each store that is not ready, by name."""
    host = config.trusted_hosts[0].lstrip(".") if config.trusted_hosts else "localhost"
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/readyz", headers={"Host": host})
        answer = connection.getresponse()
        body = answer.read().decode()
    except (OSError, HTTPException):
        return {"web": "it does not answer"}
    finally:
        connection.close()
    if answer.status not in (200, 503):
        return {"web": f"it answers {answer.status}"}
    return {line.split()[0]: line for line in body.splitlines() if not line.endswith(" ok")}
