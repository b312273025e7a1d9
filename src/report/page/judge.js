"use strict";
// The rule in the browser: the same questions on the same turning points as src/decide, for any thresholds.
// Answers are numbers, so that Kleene's "and" is the smaller and "or" the larger.
const NO = -1, OPEN = 0, YES = 1;
const OUTCOMES = { [NO]: "reject", [OPEN]: "inconclusive", [YES]: "accept" };
const report = JSON.parse(document.getElementById("data").textContent);

// dAcc_max and M_max: the larger, the looser.
function atMost(turn, threshold) {
  return !turn ? OPEN : threshold >= turn.yes ? YES : threshold < turn.no ? NO : OPEN;
}

// S_min: the larger, the stricter.
function atLeast(turn, threshold) {
  return !turn ? OPEN : threshold <= turn.yes ? YES : threshold > turn.no ? NO : OPEN;
}

// Outcome of one candidate; thresholds are { accuracy, speed, memory } in the rule's units.
function outcome(candidate, thresholds) {
  const turning = candidate.turning;
  const accuracy = atMost(turning.accuracy, thresholds.accuracy);
  const speed = atLeast(turning.speed, thresholds.speed);
  const memory = atMost(turning.memory, thresholds.memory);
  switch (report.rule) {
    case "accuracy": return accuracy;
    case "accuracy and speed": return Math.min(accuracy, speed);
    case "accuracy and memory": return Math.min(accuracy, memory);
    case "accuracy and (speed or memory)": return Math.min(accuracy, Math.max(speed, memory));
    case "accuracy and speed and memory": return Math.min(accuracy, speed, memory);
    default: return OPEN;
  }
}

// Index of the variant to ship: the fastest accepted one; of those as fast within noise the smallest, then the most
// accurate; -1 where none is accepted.
function recommended(outcomes) {
  const accepted = report.variants.map((_, i) => i).filter(i => outcomes[i] === YES);
  if (accepted.length === 0) return -1;
  const of = i => report.variants[i];
  const first = (better, indices) => indices.reduce((best, i) => better(of(i), of(best)) ? i : best);
  const fastest = first((a, b) => (a.speedup ?? 0) > (b.speedup ?? 0), accepted);
  const tied = accepted.filter(i => of(fastest).not_proven_slower.includes(i));
  const weights = v => v.weights ?? Infinity, accuracy = v => v.accuracy ?? -Infinity;
  return first((a, b) => weights(a) < weights(b) || (weights(a) === weights(b) && accuracy(a) > accuracy(b)), tied);
}

// Outcomes of all variants, `null` for the reference, and the recommendation.
function judge(thresholds) {
  const outcomes = report.variants.map(v => v.reference ? null : outcome(v, thresholds));
  return { outcomes, ship: recommended(outcomes) };
}

// The run's own thresholds.
function recorded() {
  return Object.fromEntries(report.limits.map(limit => [limit.question, limit.value * limit.scale]));
}

const state = { thresholds: recorded(), x: report.x, y: report.y, area: report.area };
