// Elements, numbers and times as people read them. Texts go into the page as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";
const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** An element with attributes (null and false are left out, on… are listeners) and children. */
export function el(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same for a picture. */
export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Replace what an element has, unless it already says the same: a screen reader would say it again. */
export function show(place, key, ...children) {
  if (place.dataset.key === key) return false;
  place.dataset.key = key;
  place.replaceChildren(...children.flat().filter(Boolean));
  return true;
}

export const whole = (value) => (value === null || value === undefined ? "–" : NUMBER.format(value));

/** 12,345 or 1.2: no digits that nobody reads. */
export function amount(value) {
  if (value === null || value === undefined) return "–";
  return Math.abs(value) < 10 && value % 1 ? value.toFixed(1) : NUMBER.format(value);
}

/** Recall and the like. */
export const share4 = (value) => (value === null || value === undefined ? "–" : value.toFixed(4));

export const percent = (value) =>
  value === null || value === undefined ? "–" : `${Math.round(100 * value)} %`;

/** Seconds for a p99: 0.15 s, 2 s. */
export const seconds = (ms) =>
  ms === null || ms === undefined ? "–" : `${Number((ms / 1000).toPrecision(3))} s`;

/** 12 s, 5 min, 3.2 h, 2.0 d, as driftgraph status has it. */
export function span(ms) {
  if (ms < 120_000) return `${Math.max(0, Math.floor(ms / 1000))} s`;
  if (ms < 7_200_000) return `${Math.floor(ms / 60_000)} min`;
  return ms < 172_800_000 ? `${(ms / 3_600_000).toFixed(1)} h` : `${(ms / 86_400_000).toFixed(1)} d`;
}

const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", {
  day: "numeric",
  month: "short",
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
});

export const clock = (ms) => CLOCK.format(ms);
export const day = (ms) => (ms ? DAY.format(ms) : "–");

export const plural = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : "s"}`;

/** A clause of an answer as a sentence. */
export const sentence = (clause) =>
  `${clause.charAt(0).toUpperCase()}${clause.slice(1)}${/[.?!]$/.test(clause) ? "" : "."}`;

/** Bars of values from 0 to ``most``, each with its value as a text: [{name, value, said, color, isId}]. */
export function bars(rows, most) {
  return el(
    "ol",
    { class: "bars" },
    rows.map(({ name, value, said, color = "var(--c1)", isId = false }) =>
      el(
        "li",
        {},
        el("span", { class: isId && "id" }, name),
        el("span", { class: "value" }, said),
        bar(value / (most || 1), color),
      ),
    ),
  );
}

/** One bar, a picture beside a number that says the same. */
export function bar(part, color) {
  const width = Math.max(0, Math.min(100, 100 * part)).toFixed(2);
  return svg(
    "svg",
    { "aria-hidden": "true", preserveAspectRatio: "none", viewBox: "0 0 100 4" },
    svg("rect", { class: "rest", width: 100, height: 4 }),
    svg("rect", { width, height: 4, fill: color }),
  );
}

/** A table with a caption; each column is {title, of, number, wide}: wide ones are left out on a phone. The first is the header of its row. */
export function table(caption, columns, rows, classOf = () => null) {
  return el(
    "table",
    {},
    el("caption", {}, caption),
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        columns.map((c) => el("th", { scope: "col", class: classes(c) }, c.title)),
      ),
    ),
    el(
      "tbody",
      {},
      rows.map((row) =>
        el(
          "tr",
          { class: classOf(row) },
          columns.map((c, n) =>
            el(n ? "td" : "th", { scope: n ? null : "row", class: classes(c) }, c.of(row)),
          ),
        ),
      ),
    ),
  );
}

const classes = (column) =>
  [column.number && "number", column.wide && "wide"].filter(Boolean).join(" ") || null;
