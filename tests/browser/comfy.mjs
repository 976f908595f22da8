/** ComfyUI's real page, as the browser tests use it: opened, given a workflow, run, and looked at. */

/** Between two looks at the page: it has better things to do. */
const LOOK_MILLISECONDS = 500;
export const LONG = { timeout: Number(process.env.BROWSER_SECONDS ?? 240) * 1000 };
export const LOOKING = { ...LONG, polling: LOOK_MILLISECONDS };

/** Keeps settings before a page is opened, as ComfyUI keeps those that a user has chosen. */
export async function choose(url, settings) {
  const answer = await fetch(`${url}/settings`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(settings) });
  if (!answer.ok) throw new Error(`settings: ${answer.status}`);
}

/** Opens the page, or waits until it stands again after it was loaded once more. */
export async function open(page, url) {
  if (url) await page.goto(url, { ...LONG, waitUntil: "commit" });
  await page.waitForFunction(() => window.comfyAPI?.app?.app?.canvas?.graph && !document.querySelector("#splash-loader"), null, LOOKING);
  await page.waitForFunction(() => window.comfyAPI.app.app.extensions.some((extension) => extension.name === "graft.panel"), null, LOOKING);
  await page.waitForFunction(() => "GraftTrainSteps" in window.LiteGraph.registered_node_types, null, LOOKING);
  await page.waitForTimeout(1000);
}

/** Shows a workflow; one that trains has panels. */
export async function load(page, workflow) {
  await page.evaluate((graph) => window.comfyAPI.app.app.loadGraphData(graph), workflow);
  if (workflow.nodes.some((node) => node.type === "GraftTrainSteps")) await page.waitForSelector(".graft-panel", { ...LONG, state: "attached" });
}

/** Moves the canvas so that the node of a type is in view, at a zoom. */
export async function lookAt(page, type, zoom = 1, left = 400, top = 120) {
  await page.evaluate(({ wanted, scale, x, y }) => {
    const { canvas } = window.comfyAPI.app.app;
    const node = canvas.graph._nodes.find((each) => each.type === wanted);
    canvas.ds.scale = scale;
    canvas.ds.offset[0] = x / scale - node.pos[0];
    canvas.ds.offset[1] = y / scale - node.pos[1];
    canvas.setDirty(true, true);
  }, { wanted: type, scale: zoom, x: left, y: top });
  await page.waitForTimeout(1500);
}

export const run = (page) => page.evaluate(() => window.comfyAPI.app.app.queuePrompt(0));

/** Waits until nothing is queued, and tells how each run has ended. */
export async function ended(url) {
  const ask = async (path) => (await fetch(url + path)).json();
  for (const end = Date.now() + LONG.timeout; Date.now() < end; await new Promise((next) => setTimeout(next, LOOK_MILLISECONDS))) {
    const queue = await ask("/queue");
    if (!queue.queue_running.length && !queue.queue_pending.length) return Object.values(await ask("/history")).map((entry) => entry.status.status_str);
  }
  throw new Error(`the queue is not empty after ${LONG.timeout / 1000} s`);
}

// ---------------------------------------------------------------- the panel

export const panelOf = (page) => page.locator(".graft-panel:not(.graft-runs):visible").first();

export const inPhase = (page, phase) => page.waitForSelector(`.graft-panel[data-phase="${phase}"]`, LONG);

export const shownStep = (page) => page.evaluate(() => Number(document.querySelector(".graft-bar").getAttribute("aria-valuenow")));

export const atStep = (page, step) =>
  page.waitForFunction((least) => Number(document.querySelector(".graft-bar")?.getAttribute("aria-valuenow")) >= least, step, LOOKING);

/** How many points the drawn running mean has. */
export const drawnPoints = (page) => page.evaluate(() => document.querySelector(".graft-mean").getAttribute("d").split("L").length);
