import assert from "node:assert/strict";
import { test } from "node:test";
import { Live, MOST_WAITING } from "../../web/pure/live.js";
import { nodeAt, panelsOf } from "../../web/pure/places.js";
import { Training } from "../../web/pure/training.js";

const RUN = "0123456789abcdef";

function event(sequence, step, more = {}) {
  return {
    run: RUN, sequence, node: "7", workflow: "w", phase: "running", step, until_step: 100, held_out: [],
    point: step ? [step, 1, 1 / step, 1 / step, 1 / step, 1e-3] : null, ...more,
  };
}

function history(sequence, steps, more = {}) {
  const { point, ...figures } = event(sequence, steps);
  return { ...figures, points: Array.from({ length: steps }, (_, index) => event(0, index + 1).point), ...more };
}

/** A server whose answers are given later, by hand. */
function stub(answers = {}) {
  const asked = [];
  const actions = [];
  return {
    asked, actions, answers,
    get: (path) => {
      asked.push(path);
      const answer = answers[path];
      return answer instanceof Error ? Promise.reject(answer) : Promise.resolve(typeof answer === "function" ? answer() : answer);
    },
    post: (path) => (asked.push(path), Promise.resolve(true)),
    later: (action) => actions.push(action),
  };
}

const settled = () => new Promise((resolve) => setImmediate(resolve));

test("events in order are applied, known ones are passed over, missing ones are noticed", () => {
  const training = new Training(RUN);
  training.applyHistory(history(5, 3));
  assert.equal(training.applyEvent(event(5, 3)), "stale");
  assert.equal(training.applyEvent(event(6, 4)), "applied");
  assert.equal(training.applyEvent(event(8, 6)), "gap");
  assert.deepEqual(training.curve.step, [1, 2, 3, 4, 6]);
  assert.equal(training.figures.step, 6);
});

test("held-out losses come once each", () => {
  const training = new Training(RUN);
  training.applyHistory(history(1, 2, { held_out: [[0, 0.9], [2, 0.8]] }));
  training.applyEvent(event(2, 3, { held_out: [[2, 0.8], [3, 0.7]] }));
  assert.deepEqual(training.heldOut, { step: [0, 2, 3], loss: [0.9, 0.8, 0.7] });
});

test("held-out losses of a very long run stay bounded", () => {
  const training = new Training(RUN);
  for (let step = 1; step <= 10_000; step++) training.applyEvent(event(step, step, { held_out: [[step, 1]] }));
  assert.ok(training.heldOut.step.length <= 2048);
  assert.equal(training.heldOut.step[0], 1);
  assert.equal(training.heldOut.step.at(-1), 10_000);
});

test("a training that begins while the page looks needs its history once: for what earlier runs have measured", async () => {
  const server = stub({ [`/graft/live/${RUN}`]: history(2, 50) });
  const live = new Live(server, () => {}, server.later);
  live.receive(event(1, 0, { phase: "preparing" }));
  assert.deepEqual(server.asked, []);
  live.receive(event(2, 50, { point: null }));
  await settled();
  assert.deepEqual(server.asked, [`/graft/live/${RUN}`]);
  live.receive(event(3, 51));
  assert.equal(live.trainings.get(RUN).curve.length, 51);
});

test("a page that was loaded again in the middle has the whole curve", async () => {
  const server = stub({ "/graft/live": { runs: [{ run: RUN }] }, [`/graft/live/${RUN}`]: history(9, 40) });
  const shown = [];
  const live = new Live(server, (training) => shown.push(training.curve.length), server.later);
  await live.refresh();
  live.receive(event(9, 40));
  live.receive(event(10, 41));
  assert.deepEqual(shown, [40, 41]);
});

test("events that come while the history is on its way follow on it", async () => {
  let answer;
  const server = stub({ [`/graft/live/${RUN}`]: () => new Promise((resolve) => (answer = resolve)) });
  const live = new Live(server, () => {}, server.later);
  live.receive(event(20, 20));
  for (const step of [21, 22, 23]) live.receive(event(step, step));
  answer(history(21, 21));
  await settled();
  const { curve, figures, sequence } = live.trainings.get(RUN);
  assert.equal(curve.length, 23);
  assert.deepEqual([figures.step, sequence], [23, 23]);
});

test("a history that is long in coming keeps few events waiting, and is asked for again", async () => {
  let answer;
  const server = stub({ [`/graft/live/${RUN}`]: () => new Promise((resolve) => (answer = resolve)) });
  const live = new Live(server, () => {}, server.later);
  for (let step = 20; step < 5020; step++) live.receive(event(step, step));
  assert.equal(live.asking.get(RUN).length, MOST_WAITING);
  answer(history(21, 21));
  await settled();
  assert.equal(live.trainings.get(RUN).figures.step, 5019);
  assert.equal(server.actions.length, 1, "events are missing between the history and those that waited");
});

test("where events were missed the history is asked for again", async () => {
  const server = stub({ [`/graft/live/${RUN}`]: history(30, 30) });
  const live = new Live(server, () => {}, server.later);
  live.receive(event(1, 1));
  live.receive(event(30, 30));
  await settled();
  assert.equal(live.trainings.get(RUN).curve.length, 30);
});

test("a history that does not come is asked for again; one that is unknown is not", async () => {
  const path = `/graft/live/${RUN}`;
  const server = stub({ [path]: new Error("no answer") });
  const live = new Live(server, () => {}, server.later);
  live.receive(event(5, 5));
  await settled();
  assert.equal(server.actions.length, 1);
  server.answers[path] = Object.assign(new Error("gone"), { status: 404 });
  server.actions.pop()();
  await settled();
  assert.equal(server.actions.length, 0);
  assert.equal(live.trainings.get(RUN).figures.phase, "cancelled");
});

test("after the server was started again, what ran before has ended", async () => {
  const server = stub({ "/graft/live": { runs: [] } });
  const live = new Live(server, () => {}, server.later);
  live.receive(event(1, 1, { phase: "running" }));
  await live.refresh();
  assert.equal(live.trainings.get(RUN).goingOn, false);
});

test("memory stays bounded over many trainings", () => {
  const server = stub();
  const live = new Live(server, () => {}, server.later);
  for (let number = 0; number < 100; number++) live.receive(event(1, 1, { run: String(number), phase: "finished" }));
  assert.ok(live.trainings.size <= 25);
  assert.ok(live.trainings.has("99"));
});

test("a wish goes to its run", async () => {
  const server = stub();
  assert.equal(await new Live(server, () => {}).wish(RUN, "stop"), true);
  assert.deepEqual(server.asked, [`/graft/live/${RUN}/wishes/stop`]);
});

const graph = (nodes, id) => ({ id, getNodeById: (wanted) => nodes[wanted] });

test("a node in a subgraph is found by its path", () => {
  const inner = { id: 7 };
  const root = graph({ 3: { subgraph: graph({ 7: inner }) }, 5: { id: 5 } });
  assert.equal(nodeAt(root, "3:7"), inner);
  assert.equal(nodeAt(root, "5").id, 5);
  for (const id of ["9", "9:7", "3:8", "5:7"]) assert.equal(nodeAt(root, id), undefined);
});

test("a training shows in its own workflow only, whatever ids others have", () => {
  const node = {};
  const panels = new Map([[node, "panel"]]);
  const training = { figures: event(1, 1) };
  assert.deepEqual(panelsOf(training, graph({ 7: node }, "w"), panels), ["panel"]);
  assert.deepEqual(panelsOf(training, graph({ 7: node }, "another"), panels), []);
  assert.deepEqual(panelsOf({ figures: event(1, 1, { workflow: null }) }, graph({ 7: node }, "another"), panels), ["panel"]);
  assert.deepEqual(panelsOf({ figures: {} }, graph({ 7: node }, "w"), panels), []);
});
