import assert from "node:assert/strict";
import { test } from "node:test";
import "./fake_page.mjs";
import { Chart } from "../../web/chart/chart.js";
import { Curve } from "../../web/pure/curve.js";

const LEFT = 46;
const RIGHT = 390;

function training(steps, loss = (step) => 1 / step) {
  const curve = new Curve(2 ** 20);
  for (let step = 1; step <= steps; step++) curve.add([step, 1, loss(step), loss(step), loss(step), 1e-3]);
  return { curve, heldOut: { step: [0, steps], loss: [0.9, 0.3] } };
}

function drawn(data, options = {}) {
  const readings = [];
  const zooms = [];
  const chart = new Chart((reading) => readings.push(reading), (zoomedIn) => zooms.push(zoomedIn));
  chart.set(options);
  chart.show(data);
  return { chart, readings, zooms };
}

const texts = (chart) => chart.grid.children.filter((child) => child.tag === "text").map((child) => child.textContent);

test("100,000 points draw in less than 200 ms, and every path stays small", (t) => {
  const data = training(100_000, (step) => 0.1 + ((step * 7919) % 1000) / 1000);
  const chart = new Chart();
  chart.show(data);
  const began = process.cpuUsage(); // other processes' work is not the chart's
  chart.draw();
  const milliseconds = (process.cpuUsage(began).user + process.cpuUsage(began).system) / 1000;
  t.diagnostic(`${milliseconds} ms`);
  assert.ok(milliseconds < 200, `${milliseconds} ms`);
  assert.ok(chart.raw.attributes.d.length < 20_000 && chart.mean.attributes.d.length < 10_000);
});

test("one step is a chart too", () => {
  const { chart } = drawn(training(1));
  assert.match(chart.mean.attributes.d, /^M/);
  assert.ok(!chart.raw.attributes.d.includes("NaN") && !chart.points.attributes.d.includes("NaN"));
});

test("without any step nothing is drawn", () => {
  const { chart } = drawn({ curve: new Curve(), heldOut: { step: [], loss: [] } });
  assert.equal(chart.mean.attributes.d, "");
  chart.show(null);
  assert.equal(chart.key("ArrowLeft"), false);
});

test("held-out losses alone are drawn before the first step", () => {
  const { chart } = drawn({ curve: new Curve(), heldOut: { step: [0], loss: [0.9] } });
  assert.match(chart.points.attributes.d, /^M/);
  assert.ok(!JSON.stringify(chart.grid.children).includes("NaN"));
});

test("the logarithmic axis has its own ticks", () => {
  const linear = texts(drawn(training(1000)).chart);
  const logarithmic = texts(drawn(training(1000), { log: true }).chart);
  assert.ok(logarithmic.includes("0.01") && !linear.includes("0.01"));
});

test("pointing reads the nearest step exactly, at any zoom of the canvas", () => {
  const { chart, readings } = drawn(training(101));
  chart.element.fire("pointermove", LEFT / 2); // the fake page draws at half size
  assert.equal(readings.at(-1).step, 1);
  chart.element.fire("pointermove", (LEFT + (RIGHT - LEFT) / 2) / 2);
  const { step, loss, rate, heldOut } = readings.at(-1);
  assert.ok(Math.abs(step - 51) <= 1);
  assert.deepEqual([loss, rate], [1 / step, 1e-3]);
  assert.ok([0, 101].includes(heldOut.step));
  chart.element.fire("pointerleave");
  assert.equal(readings.at(-1), null);
});

test("dragging looks closer, a double click shows all again", () => {
  const { chart, zooms } = drawn(training(1000));
  const all = { ...chart.range };
  chart.element.fire("pointerdown", 60);
  chart.element.fire("pointermove", 120);
  assert.equal(chart.brush.attributes.visibility, "visible");
  chart.element.fire("pointerup", 120);
  assert.ok(chart.range.from > all.from && chart.range.to < all.to);
  assert.equal(chart.brush.attributes.visibility, "hidden");
  chart.element.fire("dblclick");
  assert.deepEqual([chart.range.from, chart.range.to], [all.from, all.to]);
  assert.deepEqual(zooms, [true, false]);
});

test("a click alone zooms nowhere", () => {
  const { chart, zooms } = drawn(training(1000));
  chart.element.fire("pointerdown", 60);
  chart.element.fire("pointerup", 61);
  assert.deepEqual(zooms, []);
});

test("the keyboard reads and zooms", () => {
  const { chart, readings } = drawn(training(50));
  assert.equal(chart.key("ArrowLeft"), true);
  assert.equal(readings.at(-1).step, 50);
  chart.key("ArrowLeft");
  assert.equal(readings.at(-1).step, 49);
  chart.key("+");
  assert.ok(chart.range.to - chart.range.from < 26);
  chart.key("Escape");
  assert.equal(chart.range.from, 0);
  assert.equal(chart.key("Enter"), false);
});

test("a zoomed view stays where it is while steps arrive, and goes when another training is shown", () => {
  const data = training(100);
  const { chart } = drawn(data);
  chart.change(0.5, 25);
  const { from, to } = chart.range;
  data.curve.add([101, 1, 1, 1, 1, 1e-3]);
  chart.show(data);
  assert.deepEqual([chart.range.from, chart.range.to], [from, to]);
  chart.show(training(10));
  assert.equal(chart.range.to, 10);
});

test("what has come since the last drawing is not pointed at", () => {
  const data = training(3);
  const { chart, readings } = drawn(data);
  data.curve.add([4, 1, 0.1, 0.1, 0.1, 1e-3]);
  chart.point(4);
  assert.equal(readings.at(-1).step, 3);
  assert.ok(Number.isFinite(Number(chart.markDot.attributes.cy)), "a point has a place");
  data.curve.clear();
  chart.draw();
  data.curve.add([1, 1, 0.5, 0.5, 0.5, 1e-3]);
  chart.point(1);
  assert.equal(readings.at(-1), null, "nothing of it is drawn yet");
});
