import assert from "node:assert/strict";
import { test } from "node:test";
import { extent, wrapped } from "../browser/wrap.mjs";

const node = (left, height) => ({ pos: [left + 10, 40], size: [80, height] });
const lined = {
  groups: [0, 160, 320, 480].map((left) => ({ bounding: [left, 0, 100, 900] })),
  nodes: [node(0, 100), node(160, 60), node(320, 60), node(480, 60)],
};

test("groups in one line are put into rows, each with its nodes, as low as these", () => {
  const { groups, nodes } = wrapped(lined);
  assert.deepEqual(groups.map(({ bounding }) => bounding.slice(0, 2)), [[0, 0], [160, 0], [0, 230], [160, 230]]);
  assert.deepEqual(groups.map(({ bounding }) => bounding[3]), [170, 130, 130, 130]);
  assert.deepEqual(nodes.map(({ pos }) => pos), [[10, 40], [170, 40], [10, 270], [170, 270]]);
  assert.deepEqual(lined.nodes[1].pos, [170, 40], "the workflow itself stays as it is");
});

test("the picture holds all groups and an edge", () => {
  assert.deepEqual(extent(wrapped(lined), 20), { x: -20, y: -20, width: 300, height: 400 });
});
