// The same job in Express: connect-redis keeps the sessions, the page comes from Redis.
// Session-aware: where the page says <!--viewer-->, a signed-in visitor reads their name. See ../plain_flask.py.
// At /home it keeps timelines in Redis, as the tutorials do: a post goes to the list of each follower (fan-out on write).

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

app.get("/home", async (request, response) => {
  const name = request.session.name;
  const ids = await client.lRange(`timeline:${name}`, 0, 29);
  const posts = await client.mGet(ids.map((id) => `post:${id}`));
  const page = `<!DOCTYPE html><title>@${name}</title>${posts.map((post) => article(JSON.parse(post))).join("")}`;
  response.send(page.padEnd(Number(process.env.BENCH_LENGTH)));
});

app.post("/posts", express.urlencoded(), async (request, response) => {
  const author = request.session.name;
  const id = String(await client.incr("posts"));
  await client.set(`post:${id}`, JSON.stringify({ id, author, body: request.body.body, at: new Date() }));
  const followers = await client.sMembers(`followers:${author}`);
  await Promise.all(
    followers.flatMap((name) => [client.lPush(`timeline:${name}`, id), client.lTrim(`timeline:${name}`, 0, 799)]),
  );
  response.redirect("/home");
});

function article({ id, author, body, at }) {
  const text = body.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
  return `<article class="post"><a href="/@${author}">@${author}</a>
    <a href="/@${author}/${id}"><time datetime="${at}">${at}</time></a><p>${text}</p></article>`;
}

app.listen(Number(process.env.PORT), "127.0.0.1");
