// The stream over the last hour: rate, lag, freshness, and the window by relation.

import { Chart } from "./charts.js";
import { amount, seconds, whole } from "./words.js";

const PROMISED_S = 1; // P5 of docs/ARCHITECTURE.md
const NOTHING = "Nothing yet: no updater has said how far it is.";
const place = (name) => document.getElementById(`chart-${name}`);

const rate = new Chart(place("rate"), {
  title: "Events read",
  unit: "a second",
  isCount: true,
  empty: NOTHING,
  lines: [{ name: "read", color: 1, fill: "soft", said: amount, tick: short }],
});
const lag = new Chart(place("lag"), {
  title: "Behind",
  unit: "messages and users that wait",
  isCount: true,
  empty: NOTHING,
  lines: [
    { name: "messages not read yet", color: 2, fill: "soft", said: whole, tick: short },
    { name: "users who wait for a refresh", color: 4, dash: 1, said: whole },
  ],
});
const fresh = new Chart(place("fresh"), {
  title: "Freshness",
  unit: "seconds from an event to the list it changed, over the last minutes",
  empty: "Nothing yet: no user was refreshed in the last minutes.",
  lines: [
    { name: "half within", color: 3, said: inSeconds, tick: (tick) => `${Number(tick.toFixed(2))} s` },
    { name: "99 of 100 within", color: 1, said: inSeconds },
    { name: "promised", color: 6, dash: 2, width: 1.5, said: inSeconds },
  ],
});
let windowChart = null;
let relations = "";

/** Each second. */
export function showFlow(history) {
  const time = history.time_ms.map((ms) => ms / 1000);
  rate.set([time, history.rate]);
  lag.set([time, history.lag, history.waiting]);
  const p99 = history.p99_ms.map((ms) => (ms === null ? null : ms / 1000));
  fresh.set([
    time,
    history.p50_ms.map((ms) => (ms === null ? null : ms / 1000)),
    p99,
    p99.map((one) => (one === null ? null : PROMISED_S)),
  ]);
  showWindow(time, history.window);
}

/** Areas that stand on each other: the first relation is on top, and its line is the sum of all. */
function showWindow(time, window) {
  const names = Object.keys(window);
  if (names.join() !== relations || !windowChart) {
    relations = names.join();
    windowChart?.remove();
    windowChart = new Chart(place("window"), {
      title: "The window",
      unit: "events by relation, one upon the other",
      isCount: true,
      empty: "The window is empty.",
      lines: (names.length ? names : ["events"]).map((name, n) => ({
        name,
        color: (n % 6) + 1,
        fill: "full",
        said: whole,
        tick: short,
      })),
    });
  }
  if (!names.length) return windowChart.set([time, time.map(() => null)]);
  const columns = names.map((name) => window[name]);
  const stacked = columns.map((column, n) =>
    column.map((value, at) =>
      value === null ? null : columns.slice(n).reduce((sum, one) => sum + (one[at] ?? 0), 0),
    ),
  );
  return windowChart.set([time, ...stacked], [time, ...columns]);
}

function inSeconds(value) {
  return seconds(value === null || value === undefined ? null : value * 1000);
}

/** 1,500 as 1.5k, so that an axis is narrow. */
function short(tick) {
  if (tick >= 1e6) return `${Number((tick / 1e6).toFixed(2))}M`;
  return tick >= 1_000 ? `${Number((tick / 1_000).toFixed(2))}k` : `${Number(tick.toFixed(2))}`;
}
