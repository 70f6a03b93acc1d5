// Events that were not applied: how many by reason, with the token an example of each, and sending them again.

import { askPrivately, confirmed, Refused } from "./ask.js";
import { bars, day, el, plural, sentence, show, whole } from "./words.js";

// two places: the counts change each second, and who stands on a button of the other must not lose it
const counted = el("div", { class: "card stack" });
const place = el("div", { class: "card stack" });
document.getElementById("rejected-shown").append(counted, place);
const OTHERS = {
  duplicate: "repeated",
  ignored: "of behaviors that are ignored",
  erased: "of erased users",
  forgotten: "requests to forget a user",
};
let examples = null; // what was asked for
let told = "";
let counts = null;

/** Each second. */
export function showRejected(updater) {
  counts = updater?.events ? updater : counts;
  draw();
}

function draw() {
  place.hidden = counts === null;
  if (counts === null) {
    show(
      counted,
      "none",
      el("p", { class: "quiet-text" }, "Nothing yet: no updater has said how many it has read."),
    );
    return;
  }
  const reasons = Object.entries(counts.reasons).sort((a, b) => b[1] - a[1]);
  const { failure } = counts.dead_letters;
  show(
    counted,
    JSON.stringify([reasons, counts.events, failure]),
    byReason(reasons),
    failure ? el("p", { class: "said bad" }, `Dead letters are not kept: ${failure}.`) : null,
    others(),
  );
  show(place, JSON.stringify([reasons.length > 0, examples, told]), shownExamples(reasons));
}

function byReason(reasons) {
  if (!reasons.length)
    return [
      el("h3", {}, "By reason"),
      el("p", { class: "quiet-text" }, `None of ${plural(counts.events.read, "event")} was rejected.`),
    ];
  const total = reasons.reduce((sum, [, count]) => sum + count, 0);
  return [
    el("h3", {}, "By reason"),
    el("p", { class: "quiet-text" }, `${whole(total)} of ${plural(counts.events.read, "event")} read.`),
    bars(
      reasons.map(([reason, count]) => ({
        name: reason.replaceAll("_", " "),
        value: count,
        said: whole(count),
        color: "var(--c2)",
      })),
      reasons[0][1],
    ),
  ];
}

function others() {
  const said = Object.entries(OTHERS)
    .filter(([name]) => counts.events[name])
    .map(([name, words]) => `${whole(counts.events[name])} ${words}`);
  return said.length ? el("p", { class: "quiet-text" }, `Also left out: ${said.join(", ")}.`) : null;
}

function shownExamples(reasons) {
  const head = el("h3", {}, "The newest of each reason");
  const note = told ? el("p", { class: "said" }, told) : null;
  if (!examples) {
    if (!reasons.length) return [head, el("p", { class: "quiet-text" }, "There is nothing to show."), note];
    return [
      head,
      el("p", { class: "quiet-text" }, "An event may name a user, so examples are shown with the token."),
      el("div", {}, el("button", { onclick: load }, "Show examples")),
      note,
    ];
  }
  if (examples.why)
    return [
      head,
      el("p", { class: "said bad" }, examples.why),
      el("div", {}, el("button", { onclick: load }, "Try again")),
    ];
  const newest = examples.examples.filter(
    (one, n, all) => all.findIndex((other) => other.reason === one.reason) === n,
  );
  const list = newest.map((one) =>
    el(
      "li",
      {},
      el("strong", {}, one.reason.replaceAll("_", " ")),
      el(
        "span",
        { class: "quiet-text" },
        ` ${one.topic}[${one.partition}] at ${whole(one.offset)}${one.at_ms ? `, ${day(one.at_ms)}` : ""}`,
      ),
      one.detail ? el("span", { class: "quiet-text" }, ` ${one.detail}`) : null,
      el(
        "pre",
        { tabindex: "0", role: "region", "aria-label": `The event that is rejected for ${one.reason}` },
        one.event,
      ),
    ),
  );
  const empty = examples.examples_why_not ? sentence(examples.examples_why_not) : "No dead letter is open.";
  return [
    head,
    list.length ? el("ul", { class: "troubles" }, list) : el("p", { class: "quiet-text" }, empty),
    note,
    el(
      "div",
      { class: "row" },
      list.length ? el("button", { onclick: retry }, "Send them again") : null,
      el("button", { onclick: load }, "Look again"),
    ),
  ];
}

async function load() {
  await tried(async () => {
    const found = await askPrivately("/api/rejected");
    if (found) examples = found;
  });
}

async function retry() {
  const what = el(
    "p",
    {},
    "All open dead letters are sent back to the topics that they came from. What is still wrong is rejected again.",
  );
  if (!(await confirmed("Send the rejected events again?", what, "Send"))) return;
  await tried(async () => {
    const done = await askPrivately("/api/rejected/retry", { method: "POST", body: {} });
    if (!done) return;
    told = `${plural(done.retried, "event")} ${done.retried === 1 ? "was" : "were"} sent again.`;
    examples = await askPrivately("/api/rejected");
  });
}

async function tried(doing) {
  try {
    await doing();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    examples = { why: sentence(error.message) };
  }
  draw();
  place.querySelector("button")?.focus();
}
