"""Publishes as another process of Pipit does, a post for each line it reads. Needs AUTHOR, a user's id.

Its only argument. It runs with the code in PYTHONPATH, which may be that of an earlier commit.
"""

import sys

from app import create_app
from app.models import User
from app.models.post_text import PostText

app = create_app()
for line in sys.stdin:
    with app.app_context():
        author = User.with_id(int(sys.argv[1]))
        assert author is not None
        author.publish(PostText.parse(line))
    print("published", flush=True)
