import assert from "node:assert/strict";
import { test } from "node:test";
import { Curve, nearest } from "../../web/pure/curve.js";

const point = (step, loss, count = 1) => [step, count, loss, loss, loss, 1e-3];

test("a short curve keeps every step in order, and nothing twice", () => {
  const curve = new Curve(8);
  for (const step of [1, 2, 2, 1, 3]) curve.add(point(step, step));
  assert.deepEqual(curve.step, [1, 2, 3]);
  assert.equal(curve.lastStep, 3);
});

test("a full curve joins neighbours: mean, lowest and highest of both stay", () => {
  const curve = new Curve(4);
  for (let step = 1; step <= 5; step++) curve.add(point(step, step));
  assert.deepEqual(curve.at(0), [2, 2, 1.5, 1, 2, 1e-3]);
  assert.deepEqual(curve.step, [2, 4, 5]);
  curve.add(point(6, 100));
  assert.deepEqual(curve.at(2), [6, 2, 52.5, 5, 100, 1e-3]);
});

test("memory stays bounded and no step is lost in a two-hour run with ten events a second", () => {
  const curve = new Curve(1000);
  for (let step = 1; step <= 72_000; step++) curve.add(point(step, step % 97));
  assert.ok(curve.length <= 1000);
  assert.equal(curve.count.reduce((sum, count) => sum + count, 0), 72_000);
  assert.equal(curve.lastStep, 72_000);
  assert.equal(Math.max(...curve.highest), 96);
});

test("the nearest point is found from both sides", () => {
  const steps = [10, 20, 40];
  assert.deepEqual([0, 14, 15, 16, 31, 99].map((wanted) => nearest(steps, wanted)), [0, 0, 0, 1, 2, 2]);
  assert.equal(nearest([], 5), -1);
});
