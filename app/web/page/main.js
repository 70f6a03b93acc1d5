// Brings the parts of the page together: each second what the feed says, and Redis when something is new there.

import { ask, Refused } from "./ask.js";
import { showDrift } from "./drift.js";
import { Feed } from "./feed.js";
import { showFlow } from "./flow.js";
import { generationsAway, loadGenerations, showHeld } from "./generations.js";
import { showHealth, showLost } from "./health.js";
import { tendPerson } from "./person.js";
import { showQuality } from "./quality.js";
import { showRejected } from "./rejected.js";
import { loadRising } from "./rising.js";

const RISING_EVERY_MS = 30_000;
const AGAIN_MS = 30_000; // generations run out by themselves, without another one served

let served = null;
let seen = ""; // what was served when Redis was asked last
let askedMs = 0;
let isAsking = false;

function onNow(now, history) {
  showHealth(now, served);
  showFlow(history);
  showRejected(now.updater);
  showHeld(now.choice);
  const is = JSON.stringify([now.generation, now.choice, now.redis_error === null]);
  if (is !== seen || Date.now() - askedMs > AGAIN_MS) {
    seen = is;
    lookAtRedis(now.redis_error);
  }
}

async function lookAtRedis(error) {
  if (isAsking) {
    seen = "";
    return;
  }
  isAsking = true;
  askedMs = Date.now();
  try {
    showQuality(await ask("/api/quality"));
    if (error !== null) throw new Refused(error);
    served = await loadGenerations();
    showDrift(served);
  } catch (refused) {
    if (!(refused instanceof Refused)) throw refused;
    generationsAway(refused.message);
  } finally {
    isAsking = false;
  }
}

new Feed(onNow, (sinceMs) => {
  if (sinceMs !== null) showLost(sinceMs);
  else seen = "";
});
tendPerson();
loadRising();
setInterval(() => {
  if (!document.hidden) loadRising();
}, RISING_EVERY_MS);
