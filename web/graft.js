/** Graft's extension of ComfyUI's page: a live panel in every Train Steps node, and a browser of stored runs. Loaded by ComfyUI (WEB_DIRECTORY). */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { addStyleSheet } from "./dom.js";
import { Panel } from "./panel/panel.js";
import { Live } from "./pure/live.js";
import { panelsOf } from "./pure/places.js";
import { wordsFor } from "./pure/strings.js";
import { RunsBrowser } from "./runs/browser.js";

const NODE = "GraftTrainSteps";
const WIDGET = "graft_panel";
const WIDGET_TYPE = "GRAFT_PANEL";
const EVENT = "graft.training";
const NODE_WIDTH = 420;
const STYLE_SHEETS = ["./graft.css", "./chart/chart.css", "./runs/runs.css"];
/** The classic canvas leaves so much free around a DOM widget. */
const WIDGET_MARGIN = 10;

const styled = Promise.all(STYLE_SHEETS.map((sheet) => addStyleSheet(new URL(sheet, import.meta.url).href)));
/** The heights that nodes were given here: one that has another was made so by its user. */
const fitted = new WeakMap();
/** @type {Map<object, Panel>} by node */
const panels = new Map();
let listeningAs;
const live = new Live({ get, post }, (training) => place(training));

async function get(path) {
  const answer = await api.fetchApi(path);
  if (!answer.ok) throw Object.assign(new Error(`${path}: ${answer.status}`), { status: answer.status });
  return answer.json();
}

async function remove(path) {
  const answer = await api.fetchApi(path, { method: "DELETE" });
  return answer.ok ? "" : (await answer.json()).error;
}

async function post(path) {
  return (await api.fetchApi(path, { method: "POST" })).ok;
}

function rootGraph() {
  return app.rootGraph ?? app.graph?.rootGraph ?? app.graph;
}

/** Shows a training in the panel of its node, if that is in the workflow that is open. */
function place(training) {
  panelsOf(training, rootGraph(), panels).forEach((panel) => panel.show(training));
}

/** After another workflow was opened: each panel shows the newest training of its node. */
function placeAll() {
  for (const training of live.trainings.values()) place(training);
}

function localeNow() {
  return app.extensionManager?.setting?.get?.("Comfy.Locale") ?? navigator.language;
}

function addPanel(node) {
  const locale = localeNow();
  const panel = new Panel({
    words: wordsFor(locale), locale, act: (run, wish) => live.wish(run, wish),
    pictureUrl: (run, step, index) => api.apiURL(`/graft/live/${run}/pictures/${step}/${index}`),
    grown: () => fit(node),
  });
  const widget = node.addDOMWidget(WIDGET, WIDGET_TYPE, panel.element, {
    serialize: false, hideOnZoom: false, getMinHeight: () => panel.height + 2 * WIDGET_MARGIN, getValue: () => undefined, setValue: () => {},
  });
  widget.serialize = false; // not in the saved workflow either: its widgets are stored by position
  panels.set(node, panel);
  forgetWithNode(node, panel);
  fit(node, NODE_WIDTH);
  styled.then(() => panel.update());
}

function forgetWithNode(node, panel) {
  const removed = node.onRemoved;
  node.onRemoved = function (...given) {
    panels.delete(node);
    panel.remove();
    return removed?.apply(this, given);
  };
}

/** Makes room for what the panel shows, and takes back what it needs no more; a node that the user has made larger stays so. */
function fit(node, width = 0) {
  const [leastWidth, leastHeight] = node.computeSize();
  const [nowWidth, nowHeight] = node.size;
  const isOurs = fitted.get(node) === nowHeight;
  const next = [Math.max(nowWidth, leastWidth, width), isOurs ? leastHeight : Math.max(nowHeight, leastHeight)];
  if (next[1] === leastHeight) fitted.set(node, leastHeight);
  if (next[0] !== nowWidth || next[1] !== nowHeight) node.setSize(next);
  app.graph?.setDirtyCanvas?.(true, true);
}

/** The server sends events only to pages that have said so: an event that comes before its listener is an error to ComfyUI's page. */
async function listen() {
  if (!api.clientId) return;
  listeningAs = api.clientId;
  await post(`/graft/pages/${api.clientId}`);
}

async function refresh() {
  try {
    await listen();
    await live.refresh();
  } catch {
    // no server at this moment: the next reconnect asks again
  }
}

/** A tab beside ComfyUI's own, where the frontend has a sidebar for extensions. */
function addRunsTab() {
  const locale = localeNow();
  const words = wordsFor(locale);
  let browser;
  app.extensionManager?.registerSidebarTab?.({
    id: "graft.runs", icon: "pi pi-chart-line", title: words.runs, tooltip: words.runsHelp, type: "custom",
    render: (container) => {
      browser = new RunsBrowser({ words, locale, get, remove, url: (path) => api.apiURL(path), open: (workflow) => app.loadGraphData(workflow) });
      container.append(browser.element);
    },
    destroy: () => browser?.close(),
  });
}

app.registerExtension({
  name: "graft.panel",

  setup() {
    api.addEventListener(EVENT, ({ detail }) => live.receive(detail));
    api.addEventListener("status", () => api.clientId !== listeningAs && refresh());
    api.addEventListener("reconnecting", () => panels.forEach((panel) => panel.connected(false)));
    api.addEventListener("reconnected", () => {
      panels.forEach((panel) => panel.connected(true));
      refresh();
    });
    addRunsTab();
    refresh();
  },

  nodeCreated(node) {
    if (node.comfyClass === NODE) addPanel(node);
  },

  afterConfigureGraph() {
    placeAll();
  },
});
