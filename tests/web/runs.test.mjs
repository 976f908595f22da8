import assert from "node:assert/strict";
import { test } from "node:test";
import "./fake_page.mjs";
import { Chart } from "../../web/chart/chart.js";
import { COLORS, asTraining, settingsText, shortName } from "../../web/pure/runs.js";

const answer = (steps) => ({ points: Array.from({ length: steps }, (_, index) => [index + 1, 1, 1, 1, 1, 1e-3]), held_out_points: [[0, 0.9], [steps, 0.5]] });

test("a run has a name that people can tell apart", () => {
  assert.equal(shortName({ kind: "lora rank 8", name: "3f9a12bcdef0" }), "lora rank 8 (3f9a12)");
  assert.equal(new Set(COLORS).size, COLORS.length);
});

test("an answer becomes what the chart draws", () => {
  const { curve, heldOut } = asTraining(answer(3));
  assert.deepEqual(curve.step, [1, 2, 3]);
  assert.deepEqual(heldOut, { step: [0, 3], loss: [0.9, 0.5] });
});

test("settings are copied one per line", () => {
  const text = settingsText({ inputs: { settings: { optimiser: { learning_rate: 0.001, betas: [0.9, 0.99] }, seed: 7 } } });
  assert.equal(text, "optimiser.learning_rate: 0.001\noptimiser.betas: [0.9,0.99]\nseed: 7");
  assert.equal(settingsText({ inputs: {} }), "");
});

test("several curves share one chart, which shows the longest whole", () => {
  const chart = new Chart();
  chart.others = [{ ...asTraining(answer(500)), color: COLORS[1] }, { ...asTraining(answer(50)), color: COLORS[2] }];
  chart.show(asTraining(answer(100)));
  assert.equal(chart.range.to, 500);
  assert.equal(chart.more.children.length, 2);
  assert.ok(chart.more.children.every((path) => path.attributes.d.startsWith("M") && !path.attributes.d.includes("NaN")));
  chart.others = [];
  chart.show(null);
  assert.equal(chart.more.children.length, 0);
});
