import assert from "node:assert/strict";
import { test } from "node:test";
import { averages, envelope, visible } from "../../web/pure/downsample.js";
import { linearScale, logScale, zoomed } from "../../web/pure/scale.js";
import { memoryOf, smoothed } from "../../web/pure/smooth.js";
import { axisRange, linearTicks, logTicks, niceStep } from "../../web/pure/ticks.js";

const steps = Array.from({ length: 10_000 }, (_, index) => index + 1);

test("a running mean of a constant is that constant from the first step on", () => {
  assert.deepEqual([...smoothed([3, 3, 3], [1, 1, 1], 50)].map((value) => value.toFixed(12)), Array(3).fill("3.000000000000"));
});

test("a running mean weighs a step by exp(-age / memory)", () => {
  const [, second] = smoothed([1, 0], [1, 1], 2);
  const kept = Math.exp(-1 / 2);
  assert.ok(Math.abs(second - kept / (1 + kept)) < 1e-12);
});

test("a merged point weighs as its steps do, and without memory nothing is smoothed", () => {
  const merged = smoothed([1, 0], [5, 5], 10)[1];
  const single = smoothed([...Array(5).fill(1), ...Array(5).fill(0)], Array(10).fill(1), 10)[9];
  assert.ok(Math.abs(merged - single) < 1e-12);
  assert.deepEqual([...smoothed([1, 5, 2], [1, 1, 1], 0)], [1, 5, 2]);
});

test("the slider begins at nothing, and its middle remembers a twentieth of all steps", () => {
  assert.deepEqual([memoryOf(0, 1000), memoryOf(0.5, 1000), memoryOf(1, 1000), memoryOf(0.1, 10)], [0, 50, 200, 1]);
});

test("no spike is lost between columns", () => {
  const values = steps.map((step) => (step === 4321 ? 99 : step === 8765 ? -99 : 1));
  const found = envelope(steps, values, values, 1, 10_000, 300);
  assert.ok(found.length <= 301);
  assert.equal(Math.max(...found.map((column) => column.high)), 99);
  assert.equal(Math.min(...found.map((column) => column.low)), -99);
  assert.ok(found.every((column, index) => index === 0 || column.x > found[index - 1].x));
});

test("few points are drawn as they are, with one more on each side", () => {
  assert.deepEqual(averages([1, 2, 3, 4, 5], [10, 20, 30, 40, 50], 2.5, 3.5, 100), [[2, 20], [3, 30], [4, 40]]);
  assert.deepEqual(visible([1, 2, 3], 0, 9), [0, 3]);
  assert.deepEqual(visible([], 0, 9), [0, 0]);
});

test("averages keep the mean", () => {
  const found = averages(steps, steps, 1, 10_000, 100);
  assert.ok(Math.abs(found.reduce((sum, [, value]) => sum + value, 0) / found.length - 5000.5) < 60);
});

test("ticks are round numbers within the axis", () => {
  assert.deepEqual([0.013, 0.22, 0.3, 1, 4.9, 60].map((least) => niceStep(least)), [0.02, 0.25, 0.5, 1, 5, 100]);
  assert.equal(niceStep(2.2, true), 5);
  assert.deepEqual(linearTicks(0, 1, 5), [0, 0.2, 0.4, 0.6, 0.8, 1]);
  assert.deepEqual(linearTicks(1, 3, 8, true), [1, 2, 3], "steps have no halves");
  assert.deepEqual(linearTicks(0.5, 0.5, 4), [0.5]);
  assert.deepEqual(linearTicks(-0.1, 0.1, 2), [-0.1, 0, 0.1]);
});

test("a logarithmic axis has powers of ten, and 2 and 5 where there is room", () => {
  assert.deepEqual(logTicks(0.01, 1, 6), [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]);
  assert.deepEqual(logTicks(1e-6, 1, 4), [1e-6, 1e-4, 1e-2, 1]);
  assert.ok(logTicks(0.1, 0.2, 4).length >= 2, "less than a decade has ticks too");
});

test("an axis shows all that is firm, and of the noise all but its extremes", () => {
  const noise = Array.from({ length: 1000 }, (_, index) => (index === 500 ? 1000 : 1 + index / 1000));
  const [low, high] = axisRange([0.5, 1.2], noise, false);
  assert.ok(low <= 0.5 && high >= 1.9 && high < 3);
  assert.equal(axisRange([0.01, 1], [], false)[0], 0, "a loss near zero shows zero");
  assert.deepEqual(axisRange([], [], false), [0, 1]);
  const single = axisRange([2], [], true);
  assert.ok(single[0] < 2 && single[1] > 2);
  assert.ok(axisRange([0, -1, 5], [], true)[0] > 0, "a logarithm has no zero");
});

test("scales go there and back", () => {
  for (const scale of [linearScale(1, 100, 50, 450), logScale(1, 100, 50, 450)]) {
    assert.ok(Math.abs(scale.invert(scale(10)) - 10) < 1e-9);
    assert.ok(Math.abs(scale(1) - 50) < 1e-9 && Math.abs(scale(100) - 450) < 1e-9);
  }
  assert.ok(Math.abs(logScale(1, 100, 0, 100)(10) - 50) < 1e-9);
});

test("zooming keeps its centre and stays within the curve", () => {
  assert.deepEqual(zoomed([0, 100], [0, 100], 0.5, 50), [25, 75]);
  assert.deepEqual(zoomed([0, 100], [0, 100], 0.5, 0), [0, 50]);
  assert.deepEqual(zoomed([50, 100], [0, 100], 1, 75, 0.8), [50, 100], "not beyond the end");
  assert.deepEqual(zoomed([25, 75], [0, 100], 4, 50), [0, 100]);
  assert.deepEqual(zoomed([10, 12], [0, 100], 0.1, 11, 0, 4), [9, 13], "never too close");
});
