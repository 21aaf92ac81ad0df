// The same job in Express: connect-redis keeps the sessions, the page comes from Redis.
// Session-aware: where the page says <!--viewer-->, a signed-in visitor reads their name. See ../plain_flask.py.

import { RedisStore } from "connect-redis";
import express from "express";
import session from "express-session";
import { createClient } from "redis";

const client = createClient({ url: process.env.REDIS_URL });
await client.connect();

const app = express();
app.disable("x-powered-by");
app.use(
  session({
    store: new RedisStore({ client, prefix: "express:" }),
    secret: process.env.SECRET_KEY,
    resave: false,
    saveUninitialized: false,
  }),
);

app.get("/", async (request, response) => {
  const page = await client.get("bench:page");
  const name = request.session.name;
  response.send(page.replace("<!--viewer-->", name ? `@${name}` : "Log in"));
});

app.get("/login/:name", (request, response) => {
  request.session.name = request.params.name;
  response.send("ok");
});

app.listen(Number(process.env.PORT), "127.0.0.1");
