// Whether it works: the verdict, what is wrong with what to do, what the worker is at, and the first numbers.

import { amount, clock, day, el, percent, plural, seconds, sentence, share4, show, span, whole } from "./words.js";

const said = document.getElementById("health-said");
const work = document.getElementById("work");
const tiles = document.getElementById("tiles");
const link = document.getElementById("link");
const linkSaid = document.getElementById("link-said");

const BEGINNING = ["no_updater", "starting", "no_generation", "filling"]; // codes of a start

/** Each second. */
export function showHealth(now, served) {
  link.dataset.state = "live";
  linkSaid.textContent = `live, ${clock(now.time_ms)}`;
  const standby =
    now.standby &&
    !["gone", "unknown"].includes(now.standby.state) &&
    !["running", "degraded", "filling"].includes(now.updater?.state);
  const troubles = now.troubles;
  const isServing = !troubles.some((one) => one.keeps_from_serving);
  said.dataset.state = troubles.length === 0 ? "good" : isServing ? "warn" : "bad";
  const codes = troubles.map((one) => one.code + one.remedy).join() + said.dataset.state + standby;
  if (
    !show(
      said,
      codes,
      el("p", { class: "verdict" }, verdict(troubles, isServing, standby)),
      standby ? el("p", {}, sentence(now.standby.why)) : null,
      troubles.length ? troubleList(troubles) : null,
    )
  ) {
    // the numbers in a trouble change each second: they are renewed without being read out again
    said.querySelectorAll(".troubles strong").forEach((place, n) => {
      if (place.textContent !== sentence(troubles[n].said)) renew(place, troubles[n].said);
    });
  }
  showWork(now);
  showTiles(now, served);
}

/** No word since a time. */
export function showLost(sinceMs) {
  link.dataset.state = "lost";
  linkSaid.textContent = `no word since ${clock(sinceMs)}`;
  said.dataset.state = "bad";
  show(
    said,
    `lost${sinceMs}`,
    el("p", { class: "verdict" }, `No word from driftgraph since ${clock(sinceMs)}`),
    el(
      "p",
      {},
      "The page tries again by itself. If driftgraph run has ended, start it; what is below is from before.",
    ),
  );
}

function verdict(troubles, isServing, standby) {
  if (standby) return "This updater is a standby and waits";
  if (!troubles.length) return "All is well";
  if (isServing) return `Fresh vectors are served, and ${count(troubles.length)} care`;
  return troubles.every((one) => BEGINNING.includes(one.code))
    ? "Nothing is served yet"
    : "Fresh vectors are not served";
}

const count = (troubles) => (troubles === 1 ? "one thing needs" : `${troubles} things need`);

const troubleList = (troubles) =>
  el(
    "ul",
    { class: "troubles" },
    troubles.map((one) =>
      el(
        "li",
        {},
        el("strong", { "aria-live": "off" }, sentence(one.said)),
        el("span", {}, `What to do: ${one.remedy}.`),
      ),
    ),
  );

function renew(place, text) {
  said.setAttribute("aria-live", "off");
  place.textContent = sentence(text);
  setTimeout(() => said.setAttribute("aria-live", "polite"), 200);
}

function showWork(now) {
  const worker = now.worker;
  const runs = now.updater && ["running", "degraded", "filling"].includes(now.updater.state);
  const lines = [];
  if (runs && worker?.state === "running") {
    const far =
      worker.stage && worker.total
        ? `: ${whole(worker.done)} of ${whole(worker.total)}${worker.left_s ? `, about ${worker.left_s} s left` : ""}`
        : "";
    lines.push(
      el(
        "p",
        {},
        worker.stage
          ? `The worker is busy: ${worker.stage}${far}.`
          : "The worker waits until a fit is due, and refreshes users meanwhile.",
      ),
    );
    if (worker.stage && worker.total)
      lines.push(el("progress", { max: worker.total, value: worker.done, "aria-label": worker.stage }));
    if (worker.fit && !worker.fit.accepted)
      lines.push(el("p", {}, `The last fit was not published: ${worker.fit.reason}.`));
    if (worker.operator) lines.push(el("p", {}, sentence(worker.operator)));
  }
  if (runs && now.first_fit) lines.push(el("p", {}, `The first fit is ${now.first_fit}.`));
  for (const warning of (runs && now.updater.warnings) || []) lines.push(el("p", {}, `Warning: ${warning}.`));
  show(
    work,
    JSON.stringify([
      worker?.stage,
      worker?.done,
      worker?.fit,
      worker?.operator,
      now.first_fit,
      now.updater?.warnings,
      runs,
    ]),
    lines,
  );
}

function showTiles(now, served) {
  const { sample } = now;
  const manifest = served?.manifest ?? {};
  const updater = now.updater?.events ? now.updater : null;
  const count = Object.values(sample.window).reduce((sum, one) => sum + one, 0);
  const recall = manifest.metrics?.model?.recall_at_20 ?? null;
  const rows = [
    ["Events read", sample.rate === null ? "–" : amount(sample.rate), "a second"],
    ["Not read yet", whole(sample.lag), "messages"],
    [
      "From event to list",
      seconds(sample.p99_ms),
      sample.p99_ms === null ? "no event lately" : `for 99 of 100 events, half within ${seconds(sample.p50_ms)}`,
    ],
    [
      "In the window",
      updater ? whole(count) : "–",
      updater ? `events of ${plural(updater.ids.user, "user")}, ${plural(updater.ids.item, "item")}` : "events",
    ],
    [
      "Generation",
      now.generation ? whole(now.generation) : "none",
      now.generation && manifest.published_ms
        ? `${now.choice?.held ? "held, " : ""}${span(now.time_ms - manifest.published_ms)} old`
        : "served",
    ],
    ["Recall@20", share4(recall), recall === null ? "not measured yet" : better(manifest.metrics)],
  ];
  if (updater)
    document.getElementById("foot").textContent =
      `Event time ${day(updater.watermark_ms)}. Redis ${now.redis}, namespace ${now.namespace}.`;
  show(
    tiles,
    JSON.stringify(rows),
    rows.map(([name, value, note]) =>
      el("div", {}, el("dt", {}, name), el("dd", {}, value, " ", el("small", { class: "note" }, note))),
    ),
  );
}

function better(metrics) {
  const baselines = ["co_visitation", "recent_popularity", "frozen_first"]
    .map((name) => metrics[name]?.recall_at_20)
    .filter((value) => value > 0);
  if (!baselines.length) return "of new events";
  const best = Math.max(...baselines);
  const more = metrics.model.recall_at_20 / best - 1;
  return `${percent(Math.abs(more))} ${more >= 0 ? "above" : "below"} the best baseline`;
}
