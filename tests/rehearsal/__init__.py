"""A dress rehearsal of `git push heroku main`: the platform's part is played here, Pipit plays itself.

`make rehearse` runs it. `build` is what receives a push, `platform` releases and runs what was built, `addons` are its
Redis and PostgreSQL, and `router` stands in front; `walk` is one visitor, `traffic` many, each with a `browser`; and
`report` is the table at the end.
"""
