"""A dress rehearsal of `git push heroku main`: this machine plays Heroku, and Pipit plays itself.

`make rehearse` runs the tests in deployment.py. `build` builds what was pushed, `platform` releases and runs the build,
`addons` are its Redis and PostgreSQL, and `router` stands in front. `traffic` sends visitors, each with a `browser`.
`ci` plays Heroku CI.
"""
