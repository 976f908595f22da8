/** Every state of the panel side by side, from simulated trainings: empty, one step, long, stopped, failed, with pictures, narrow, small, Chinese. */

import { Panel } from "../../web/panel/panel.js";
import { Live } from "../../web/pure/live.js";
import { wordsFor } from "../../web/pure/strings.js";
import { Training } from "../../web/pure/training.js";
import { RunsBrowser } from "../../web/runs/browser.js";

const asked = new URLSearchParams(location.search);
document.documentElement.classList.toggle("light", asked.get("theme") === "light");

function picture(run, step, index) {
  const hue = (index * 90 + (step === "hint" ? 0 : Number(step))) % 360;
  const inside = step === "hint" ? '<circle cx="32" cy="32" r="18" fill="none" stroke="white"/>' : `<circle cx="32" cy="32" r="18" fill="hsl(${hue} 70% 55%)"/>`;
  const ground = step === "hint" ? "black" : `hsl(${hue + 180} 40% 80%)`;
  return `data:image/svg+xml,${encodeURIComponent(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><rect width="64" height="64" fill="${ground}"/>${inside}</svg>`)}`;
}

/** A noise that is the same in every run. */
function noise(step) {
  const value = Math.sin(step * 12.9898) * 43758.5453;
  return value - Math.floor(value);
}

function training(steps, figures = {}) {
  const made = new Training("0123456789abcdef");
  const loss = (step) => (0.25 + 0.6 * Math.exp((-4 * step) / Math.max(steps, 1))) * (0.5 + noise(step));
  const points = Array.from({ length: steps }, (_, index) => [index + 1, 1, loss(index + 1), loss(index + 1), loss(index + 1), 1e-3]);
  const interval = Math.max(10, Math.round(steps / 12));
  const heldOut = Array.from({ length: Math.floor(steps / interval) + 1 }, (_, index) => [index * interval, 0.25 + 0.6 * Math.exp((-4 * index * interval) / Math.max(steps, 1))]);
  made.applyHistory({
    run: made.run, sequence: 1, points, held_out: steps < 0 ? [] : heldOut, phase: "running", message: "", step: steps, until_step: 2 * steps || 200,
    saved_step: 0, learning_rate: steps ? 1e-3 : null, steps_per_second: steps ? 3.14 : null, seconds_left: steps ? steps / 3.14 : null,
    memory: { main: { now: 3.2e9, peak: 4.1e9 } }, wishes: [], can_sample: true, picture_steps: [], picture_count: 0, hint_count: 0, ...figures,
  });
  return made;
}

const gpu = { device: { now: 17.3e9, peak: 22.9e9 }, main: { now: 9.1e9, peak: 31.5e9 } };
const pictures = { picture_steps: [0, 200, 400, 600], picture_count: 4, hint_count: 4 };
const STATES = {
  "before the first run": () => null,
  preparing: () => training(0, { phase: "preparing", until_step: 0, memory: {} }),
  "one step": () => training(1, { until_step: 200 }),
  "running on a GPU, with pictures": () => training(600, { memory: gpu, ...pictures, until_step: 2000 }),
  "100,000 steps": () => training(100_000, { memory: gpu, steps_per_second: 0.42, until_step: 1_000_000, seconds_left: 2_142_857 }),
  "stopping, a checkpoint asked for": () => training(321, { wishes: ["stop", "save"], until_step: 1000 }),
  "stopped and kept": () => training(321, { phase: "stopped", until_step: 1000, seconds_left: null }),
  finished: () => training(400, { phase: "finished", until_step: 400, seconds_left: null }),
  "stopped by NaN": () =>
    training(37, {
      phase: "failed", seconds_left: null, until_step: 200,
      message: "Step 38: the gradient of double_blocks.0.img_attn.qkv.weight is not finite (learning rate 0.1). What was trained in the 37 steps before is kept. Lower the learning rate.",
    }),
  "no pictures possible, two held-out pictures": () => training(50, { can_sample: false, ...pictures, picture_count: 2, hint_count: 2, picture_steps: [0] }),
  中文: () => training(600, { memory: gpu, until_step: 2000, wishes: ["sample"] }),
  "connection lost": () => training(120),
  "narrow node": () => training(1234, { memory: gpu, ...pictures, until_step: 20_000, seconds_left: 98_765 }),
  "75% zoom": () => training(600, { memory: gpu, ...pictures, until_step: 2000 }),
  "cancelled, steep and tiny": () => training(300, { phase: "cancelled", until_step: 1000, seconds_left: null, learning_rate: 1.2345e-7 }),
  "found on disk": () => training(2000, { phase: "found", until_step: 2000, seconds_left: null, steps_per_second: null, memory: {} }),
};
/** Pixels of the node, and how ComfyUI's canvas has scaled it. */
const SHAPES = { "narrow node": { width: 240 }, "75% zoom": { zoom: 0.75 } };

function exhibit(name, shown) {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  caption.textContent = name;
  figure.append(caption, shown);
  document.querySelector("main").append(figure);
}

window.measured = {};
for (const [name, make] of Object.entries(STATES)) {
  const panel = new Panel({
    words: wordsFor(name === "中文" ? "zh" : "en"), locale: name === "中文" ? "zh" : "en", act: () => Promise.resolve(true), pictureUrl: picture,
  });
  const node = document.createElement("div");
  node.className = "node";
  const { width = 420, zoom = 1 } = SHAPES[name] ?? {};
  Object.assign(node.style, { width: `${width}px`, transform: `scale(${zoom})`, transformOrigin: "0 0" });
  node.append(panel.element);
  exhibit(name, node);
  panel.show(make());
  if (name === "connection lost") panel.connected(false);
  panel.render();
  node.style.height = `${panel.height}px`;
  window.measured[name] = () => {
    const began = performance.now();
    panel.curves.chart.draw();
    panel.element.getBoundingClientRect();
    return performance.now() - began;
  };
}

// ---------------------------------------------------------------- the sidebar's trainings

const stored = (index, more = {}) => ({
  name: `${index}f9a12bcdef0`, kind: index % 2 ? "controlnet xlabs 2+0" : "lora rank 16", base: "0e5c77", base_blocks: "19+38", steps: 1000 * index, held_out: 0.1234,
  size_bytes: 1.1e8 * index, used_at: 1.7e9, in_use: index === 1, parent: null, has_workflow: index !== 3, has_picture: index !== 2, ...more,
});
const kept = [1, 2, 3].map((index) => stored(index));
const SIDEBARS = {
  "trainings, two of them compared": async (path) => (path === "/graft/runs" ? { runs: kept } : answer(kept.find((run) => path.endsWith(run.name)))),
  "no trainings": async () => ({ runs: [] }),
  "no server": () => Promise.reject(new Error("no server")),
};

function answer(run) {
  const made = training(run.steps);
  const points = Array.from(made.curve.step, (step, index) => [step, 1, made.curve.mean[index] * run.steps ** -0.1, 0, 1, 1e-3]);
  return { ...run, points, held_out_points: made.heldOut.step.map((step, index) => [step, made.heldOut.loss[index]]), inputs: {} };
}

for (const [name, get] of Object.entries(SIDEBARS)) {
  const words = wordsFor("en");
  const browser = new RunsBrowser({ words, locale: "en", get, remove: async () => "", url: (path) => picture("run", path.length * 40, 1), open: () => {} });
  const sidebar = document.createElement("div");
  Object.assign(sidebar.style, { width: "260px", height: "620px" });
  sidebar.className = "node";
  sidebar.append(browser.element);
  exhibit(name, sidebar);
  await browser.refresh();
  for (const index of [0, 1]) browser.element.querySelectorAll(".graft-runs-item input")[index]?.click();
}

// ---------------------------------------------------------------- hours of events

const EVENTS_PER_SECOND = 5;
const STEPS_PER_EVENT = 4;
const long = new Panel({ words: wordsFor("en"), locale: "en", act: () => Promise.resolve(true), pictureUrl: picture });
const live = new Live({ get: async () => ({ ...nextEvent(), points: [], held_out: [] }) }, (training) => long.show(training));
const figures = training(0).figures;
let sequence = 0;

/** What a server sends in so many hours at 20 steps/s, drawn as it comes; resolves to the milliseconds that the page took. */
window.afterHours = async (hours) => {
  document.querySelector("main").append(long.element);
  const began = performance.now();
  for (let count = hours * 3600 * EVENTS_PER_SECOND; count > 0; count--) {
    live.receive(nextEvent());
    if (count % 1000 === 0) {
      long.render();
      await new Promise((next) => setTimeout(next));
    }
  }
  return performance.now() - began;
};

function nextEvent() {
  sequence++;
  const step = sequence * STEPS_PER_EVENT;
  const loss = 0.3 + noise(sequence);
  return {
    ...figures, run: "fedcba9876543210", sequence, node: "7", workflow: "w", phase: "running", step, until_step: 10_000_000,
    point: [step, STEPS_PER_EVENT, loss, loss - 0.1, loss + 0.1, 1e-3], held_out: sequence % 100 ? [] : [[step, 0.5]],
  };
}

window.ready = true;
