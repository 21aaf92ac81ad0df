// Comfort on top of pages that work without it: times by the reader's clock, drafts, a live character counter, a menu
// that closes, a button that shares a post, likes, news of new posts, older posts in place.

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const UNITS = [["day", 86400, "d"], ["hour", 3600, "h"], ["minute", 60, "min"]];
const WEEK = 7 * 86400;
const inWords = new Intl.RelativeTimeFormat(document.documentElement.lang);

function showDate(time, moment) {
  const year = moment.getFullYear() === new Date().getFullYear() ? "" : ` ${moment.getFullYear()}`;
  time.textContent = `${moment.getDate()} ${MONTHS[moment.getMonth()]}${year}`;
  time.removeAttribute("aria-label");
}

// Never longer than the date that it replaces, so that nothing moves.
function showAge(time, moment) {
  const seconds = Math.max(0, (Date.now() - moment) / 1000);
  if (seconds >= WEEK) return showDate(time, moment);
  const [unit, length, short] = UNITS.find(([, length]) => seconds >= length) ?? [];
  const count = Math.floor(seconds / length);
  time.textContent = unit ? `${count}\u00a0${short}` : "now";
  time.setAttribute("aria-label", unit ? inWords.format(-count, unit) : "now");
}

function fullTime(moment) {
  const minutes = String(moment.getMinutes()).padStart(2, "0");
  const hours = String(moment.getHours()).padStart(2, "0");
  return `${moment.getDate()} ${MONTHS[moment.getMonth()]} ${moment.getFullYear()}, ${hours}:${minutes}`;
}

function showTimes() {
  for (const time of document.querySelectorAll("time")) {
    const moment = new Date(time.dateTime);
    if (time.className === "full") {
      time.textContent = fullTime(moment);
    } else {
      time.title = fullTime(moment);
      showAge(time, moment);
    }
  }
}

showTimes();
setInterval(showTimes, 30_000);

// A click on a post's text opens the post, like one beside the text, where the link to it reaches by itself (see
// .post-time in the style sheet). Whoever selects text stays.
document.addEventListener("click", (event) => {
  const text = event.target.closest?.(".post-body");
  if (!text || event.target.closest("a") || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  if (getSelection().isCollapsed) text.closest(".post").querySelector(".post-time").click();
});

// Drafts. What is typed is kept in the browser until it is published or discarded, for each author and each post that
// they reply to or edit. Where storage is full or forbidden, there are no drafts.

const DRAFT_LIFETIME = 30 * 24 * 3_600_000; // ms

function tryStorage(use) {
  try {
    return use();
  } catch {
    return null;
  }
}

const readDraft = (name) => tryStorage(() => JSON.parse(localStorage.getItem(name)));
const removeDraft = (name) => tryStorage(() => localStorage.removeItem(name));

function removeOldDrafts() {
  for (const name of tryStorage(() => Object.keys(localStorage)) ?? []) {
    if (name.startsWith("draft:") && !(readDraft(name)?.savedAt > Date.now() - DRAFT_LIFETIME)) removeDraft(name);
  }
}

function keepDraft(form) {
  const { body: text, form_key: key, reply_to: answered } = form.elements;
  const name = `draft:${key.dataset.author}:${form.getAttribute("action")}:${answered?.value ?? ""}`;
  const ownKey = key.value;
  const cameBack = form.querySelector(".field-error"); // from the server, which says why
  const before = cameBack ? "" : text.defaultValue;

  // Each time that something is typed: a browser may end a page without a word.
  const save = (sentWith) => {
    if (text.value.trim() === before.trim()) return removeDraft(name);
    const draft = { text: text.value, savedAt: Date.now(), sentWith };
    tryStorage(() => localStorage.setItem(name, JSON.stringify(draft)));
  };

  const clear = () => {
    text.value = before;
    key.value = ownKey;
    text.dispatchEvent(new Event("input"));
  };

  const offer = (draft) => {
    text.value = draft.text;
    key.value = draft.sentWith ?? ownKey; // the server may have published it, although its answer was lost
    const notice = document.createElement("output");
    const discard = document.createElement("button");
    notice.className = "draft";
    notice.append("Your draft is back. ", discard);
    discard.type = "button";
    discard.className = "plain";
    discard.textContent = "Discard";
    discard.addEventListener("click", () => {
      clear();
      notice.remove();
      text.focus();
    });
    form.querySelector(".field").append(notice);
  };

  const draft = readDraft(name);
  // What was typed before this script had loaded is newer than the draft.
  if (cameBack || text.value.trim() !== before.trim()) save();
  else if (draft) offer(draft);
  text.addEventListener("input", () => save());
  let isKept = false;
  form.addEventListener("submit", () => {
    save(key.value);
    tryStorage(() => sessionStorage.setItem("sent", name));
    isKept = Boolean(readDraft(name));
  });
  // Back to a page that the browser has kept as it was left: with a text that has been published.
  addEventListener("pageshow", (event) => {
    if (event.persisted && isKept && !readDraft(name)) clear();
  });
}

// The message is about an earlier post if the page says what went wrong, or if Back led to it.
const published = document.querySelector("main:not(:has(.error, .field-error)) > [data-published]");
const [arrival] = performance.getEntriesByType("navigation");
if (published && arrival?.type !== "back_forward") removeDraft(tryStorage(() => sessionStorage.getItem("sent")));
removeOldDrafts();
for (const form of document.querySelectorAll("form.compose")) keepDraft(form);

// The same characters as the server counts: extended grapheme clusters of the text without what it strips.
const segmenter = globalThis.Intl?.Segmenter && new Intl.Segmenter(undefined, { granularity: "grapheme" });

function countCharacters(text) {
  const kept = text.replace(/\r\n?/g, "\n").replace(/[\0-\x08\x0b-\x1f\x7f-\x9f]/g, "").trim();
  let count = 0;
  for (const _ of segmenter.segment(kept)) count += 1;
  return count;
}

const WARNINGS = [20, 10, 5, 0]; // characters left: each is said once to those who don't see the counter

for (const text of document.querySelectorAll("textarea[data-limit]")) {
  const counter = document.getElementById("body-count");
  const spoken = text.form.querySelector("output[for]");
  const limit = Number(text.dataset.limit);
  let stage = 0;

  const show = () => {
    const left = limit - countCharacters(text.value);
    const characters = Math.abs(left) === 1 ? "character" : "characters";
    counter.textContent = left < 0 ? `${-left} too many` : `${left} left`;
    counter.classList.toggle("over", left < 0);
    const reached = left < 0 ? WARNINGS.length + 1 : WARNINGS.filter((warning) => left <= warning).length;
    if (reached !== stage) spoken.value = left < 0 ? `${-left} ${characters} too many` : `${left} ${characters} left`;
    stage = reached;
  };

  if (segmenter) {
    show();
    text.addEventListener("input", show);
  }
  if (!CSS.supports("field-sizing", "content")) {
    const grow = () => {
      text.style.height = "auto";
      text.style.height = `${text.scrollHeight + text.offsetHeight - text.clientHeight}px`;
    };
    grow();
    text.addEventListener("input", grow);
  }
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) text.form.requestSubmit();
  });
}

// Before minutes are spent on sending a file that the server would refuse.
for (const file of document.querySelectorAll("input[data-most-bytes]")) {
  file.addEventListener("change", () => {
    const most = Number(file.dataset.mostBytes);
    const tooLarge = file.files[0]?.size > most;
    file.setCustomValidity(tooLarge ? `That file is too large. It can have up to ${most / 2 ** 20} MB.` : "");
    file.reportValidity();
  });
  file.form.noValidate = false;
}

for (const menu of document.querySelectorAll("details.menu")) {
  document.addEventListener("click", (event) => {
    if (!menu.contains(event.target)) menu.open = false;
  });
  menu.addEventListener("focusout", (event) => {
    if (event.relatedTarget && !menu.contains(event.relatedTarget)) menu.open = false;
  });
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
}

// Shares a link, that of the page or another one, the way the device does, or copies it. Browsers allow neither without
// TLS: no button then.
for (const share of navigator.share || navigator.clipboard ? document.querySelectorAll(".share") : []) {
  const own = document.querySelector("link[rel=canonical]")?.href ?? location.origin + location.pathname;
  const { url = own, title = document.title } = share.dataset;
  const button = share.querySelector("button");
  const spoken = share.querySelector("output");
  if (navigator.share) button.textContent = "Share";
  button.addEventListener("click", async () => {
    spoken.value = "";
    try {
      if (navigator.share) return await navigator.share({ title, url });
      await navigator.clipboard.writeText(url);
      spoken.value = "Link copied";
    } catch (error) {
      if (error.name !== "AbortError") spoken.value = "That didn\u2019t work"; // AbortError: the dialog was closed
    }
  });
  share.hidden = false;
}

// A like is sent without leaving the page. If the server refuses it, the browser sends it again, and shows what is wrong.
document.addEventListener("submit", async (event) => {
  const { target: form, submitter: button } = event;
  const isMember = form.id === "act" && form.method === "post";
  if (!isMember || !button?.matches(".posts:not(.single) .like:not(.failed)")) return;
  event.preventDefault();
  if (button.ariaBusy) return;
  button.ariaBusy = "true";
  const number = button.closest(".posts:not(.context) > .post")?.querySelector(".post-likes"); // there, none is shown
  button.parentElement.querySelector("output")?.remove();
  const notice = document.createElement("output");
  button.parentElement.append(notice); // ahead of what it says, or it would not be said
  const answer = await fetch(button.formAction, {
    method: "POST",
    body: new URLSearchParams(new FormData(form)),
    headers: { "X-Requested-With": "script" },
    redirect: "manual",
  }).catch(() => null);
  button.ariaBusy = null;
  if (!answer) { // without a connection, the browser would only replace this page with one of its own
    notice.textContent = "That didn\u2019t work. Are you online?";
    return;
  }
  notice.remove();
  if (answer.type !== "opaqueredirect") {
    button.classList.add("failed");
    return form.requestSubmit(button);
  }
  const wasLiked = button.matches(".mine");
  const other = wasLiked ? button.nextElementSibling : button.cloneNode(true);
  if (wasLiked) {
    button.remove();
  } else {
    other.classList.add("mine");
    other.setAttribute("formaction", button.getAttribute("formaction").replace(/like$/, "unlike"));
    other.querySelector("span").textContent = "Unlike";
    button.before(other);
  }
  other.focus();
  const known = Number(number?.textContent);
  if (!Number.isNaN(known)) number.textContent = known + (wasLiked ? -1 : 1) || "";
});

// Asks for another page of this site. The header keeps flash messages for a page that somebody will see.
async function load(url, cache = "default") {
  const answer = await fetch(url, { cache, redirect: "manual", headers: { "X-Requested-With": "script" } });
  if (!answer.ok) throw Object.assign(new Error(`${answer.status}`), { retryAfter: answer.headers.get("Retry-After") });
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

// The answer to a form is at the form's address, where there is nothing to ask for.
const answersForm = [...document.forms].some((form) => form.getAttribute("action") === location.pathname);

// New posts, while somebody reads the first page of a list. The browser asks whether its copy of the page is still the
// latest, which costs the server next to nothing.
const POLL = 30_000; // ms
const LONGEST_POLL = 600_000; // ms, while the server or the network is away

const listedIds = (page) =>
  [...page.querySelectorAll('main > [class="posts"] > .post')].map((post) => Number(post.id.replace("post-", "")));

function watchForNewPosts(newest) {
  const path = location.pathname; // what is appended below changes the address
  const notice = document.createElement("output");
  let pause = POLL;
  let due, timer;

  const plan = () => {
    clearTimeout(timer);
    if (!document.hidden) timer = setTimeout(look, due - Date.now());
  };
  const postpone = () => {
    due = Date.now() + pause * (0.8 + 0.4 * Math.random()); // so that not everyone asks at once
    plan();
  };
  const look = async () => {
    postpone(); // also for the case that no answer comes
    try {
      show(listedIds(await load(path, "no-cache")));
      pause = POLL;
    } catch (error) {
      pause = Math.max(Math.min(2 * pause, LONGEST_POLL), 1000 * (Number(error.retryAfter) || 0));
    }
    postpone();
  };
  const show = (ids) => {
    const count = ids.filter((id) => id > newest).length;
    const words = `${count}${count === ids.length ? "+" : ""} new post${count === 1 ? "" : "s"}`;
    if (!count || words === notice.textContent) return; // it is said once
    const link = document.createElement("a");
    link.href = path;
    link.textContent = words;
    notice.replaceChildren(link);
  };

  notice.className = "fresh";
  document.querySelector(".bar").append(notice);
  document.addEventListener("visibilitychange", plan);
  postpone();
}

const [newestId] = listedIds(document);
if (newestId && !answersForm && !location.search) watchForNewPosts(newestId);

// Older posts, appended below those that are there. The address is that of the page whose posts are being read, and
// the entry in the browser's history says which post that is: so a reload, a shared link and Back lead there.
const ownAddress = location.pathname + location.search;
const addresses = new Map(); // of what was appended, by item
const spoken = document.createElement("output");
let readList, settled;

function noteWhatIsRead() {
  const top = Math.max(0, document.querySelector(".bar").getBoundingClientRect().bottom);
  const items = [...readList.children];
  const item = items.find((item) => item.getBoundingClientRect().bottom > top) ?? items.at(-1);
  const state = { read: item.id, top: item.getBoundingClientRect().top };
  // The browser would restore a number of pixels, on a page that is shorter: the best there is for what has no id.
  history.scrollRestoration = item.id ? "manual" : "auto";
  history.replaceState(state, "", addresses.get(item) ?? ownAddress);
}

function followReading(list) {
  if (readList) return;
  readList = list;
  addEventListener("scroll", () => {
    clearTimeout(settled);
    settled = setTimeout(noteWhatIsRead, 100);
  });
  addEventListener("click", noteWhatIsRead, true); // before it leads elsewhere
}

async function appendNext(link) {
  spoken.className = "visually-hidden";
  spoken.value = "";
  document.body.append(spoken); // ahead of what it says, or it would not be said
  const page = await load(link.href);
  const pager = link.closest(".pager");
  const above = pager.previousElementSibling;
  const list = above.matches(".only-hidden") ? above.previousElementSibling : above;
  const found = page.querySelector(`main [class="${list.className}"]`).children;
  const items = [...found].filter((item) => !item.id || !document.getElementById(item.id));
  for (const item of items) addresses.set(item, link.pathname + link.search);
  list.append(...items);
  showTimes();
  items[0].querySelector("a:not([tabindex])").focus({ preventScroll: true });
  pager.replaceWith(...page.querySelectorAll(".pager"));
  spoken.value = `${items.length} more`;
  followReading(list);
  noteWhatIsRead();
}

document.addEventListener("click", async (event) => {
  const link = event.target.closest?.('.pager a[rel="next"]');
  if (!link || answersForm || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  if (link.ariaBusy) return;
  link.ariaBusy = "true";
  try {
    await appendNext(link);
  } catch {
    location.assign(link.href);
  }
});

const wasRead = history.state?.read && document.getElementById(history.state.read);
if (wasRead) {
  followReading(wasRead.parentElement);
  scrollBy(0, wasRead.getBoundingClientRect().top - history.state.top);
}
