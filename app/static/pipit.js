// Comfort on top of pages that work without it: times relative to now, a live character counter, a menu that closes.

const UNITS = [["year", 31536000], ["month", 2592000], ["week", 604800], ["day", 86400], ["hour", 3600], ["minute", 60]];
const relative = new Intl.RelativeTimeFormat(document.documentElement.lang, { numeric: "auto" });

function ago(moment) {
  const seconds = Math.round((moment - Date.now()) / 1000);
  for (const [unit, length] of UNITS) {
    if (Math.abs(seconds) >= length) return relative.format(Math.trunc(seconds / length), unit);
  }
  return "just now";
}

function showTimes() {
  for (const time of document.querySelectorAll("time[datetime]")) {
    time.title ||= time.textContent;
    time.textContent = ago(new Date(time.dateTime));
  }
}

showTimes();
setInterval(showTimes, 30_000);

// The same characters as the server counts: extended grapheme clusters of the text without what it strips.
const segmenter = globalThis.Intl?.Segmenter && new Intl.Segmenter(undefined, { granularity: "grapheme" });

function countCharacters(text) {
  const kept = text.replace(/\r\n?/g, "\n").replace(/[\0-\x08\x0b-\x1f\x7f-\x9f]/g, "").trim();
  let count = 0;
  for (const _ of segmenter.segment(kept)) count += 1;
  return count;
}

for (const text of document.querySelectorAll("textarea[data-counter]")) {
  const counter = text.form.querySelector("output");
  const limit = Number(counter.dataset.limit);

  const show = () => {
    const left = limit - countCharacters(text.value);
    counter.value = left < 0 ? `${-left} too many` : `${left} left`;
    counter.classList.toggle("over", left < 0);
  };

  if (segmenter) {
    show();
    text.addEventListener("input", show);
  }
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) text.form.requestSubmit();
  });
}

for (const menu of document.querySelectorAll("details.menu")) {
  document.addEventListener("click", (event) => {
    if (!menu.contains(event.target)) menu.open = false;
  });
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
}
