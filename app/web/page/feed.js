// What happens now: listens to /api/stream, keeps the last hour, and says when there is no word.

const KEPT_MS = 3_600_000;
const SILENT_MS = 6_000; // a message comes each second
const AGAIN_MS = 2_000;

/** Tells ``onNow(message, history)`` each second, and ``onLost(sinceMs | null)`` when word ends or is back. */
export class Feed {
  constructor(onNow, onLost) {
    this.onNow = onNow;
    this.onLost = onLost;
    this.history = { time_ms: [], rate: [], lag: [], waiting: [], p50_ms: [], p99_ms: [], window: {} };
    this.heardMs = Date.now();
    this.isLost = false;
    this.connect();
    setInterval(() => this.look(), 1_000);
  }

  connect() {
    this.source?.close();
    this.triedMs = Date.now();
    this.source = new EventSource("/api/stream");
    this.source.addEventListener("history", (event) => {
      this.history = JSON.parse(event.data);
    });
    this.source.addEventListener("now", (event) => this.heard(JSON.parse(event.data)));
  }

  heard(message) {
    this.heardMs = Date.now();
    if (this.isLost) {
      this.isLost = false;
      this.onLost(null);
    }
    this.keep(message.sample);
    this.onNow(message, this.history);
  }

  keep(sample) {
    const past = this.history;
    if (sample.time_ms <= (past.time_ms.at(-1) ?? 0)) return; // the history has it already
    for (const name of Object.keys(sample.window)) past.window[name] ??= past.time_ms.map(() => null);
    for (const [name, values] of columnsOf(past))
      values.push(name.startsWith("window.") ? (sample.window[name.slice(7)] ?? null) : sample[name]);
    const old = past.time_ms.findIndex((time) => time > sample.time_ms - KEPT_MS);
    if (old > 0) for (const [, values] of columnsOf(past)) values.splice(0, old);
  }

  /** A browser tries again by itself after a broken connection, but not after a refusal or a silence. */
  look() {
    const now = Date.now();
    if (now - this.heardMs < SILENT_MS && this.source.readyState !== EventSource.CLOSED) return;
    if (!this.isLost && now - this.heardMs >= AGAIN_MS) {
      this.isLost = true;
      this.onLost(this.heardMs);
    }
    if (
      now - this.triedMs >= SILENT_MS ||
      (this.source.readyState === EventSource.CLOSED && now - this.triedMs >= AGAIN_MS)
    )
      this.connect();
  }
}

function columnsOf(past) {
  const plain = Object.entries(past).filter(([name]) => name !== "window");
  return [...plain, ...Object.entries(past.window).map(([name, values]) => [`window.${name}`, values])];
}
