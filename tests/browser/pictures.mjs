/**
 * Makes the pictures of the project in the real frontend: a thumbnail of every workflow, the panel after a real training, the stored trainings.
 *
 * node pictures.mjs URL JOBS.json FOLDER_FOR_PICTURES
 *   JOBS   {panel: workflow | null, thumbnails: [{name, workflow, run}]}: those with `run` are run to their end and shown as that has left them
 */

import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { LONG, choose, ended, inPhase, load, lookAt, open, panelOf, run } from "./comfy.mjs";
import { newPage, require, startBrowser } from "./tools.mjs";
import { extent, wrapped } from "./wrap.mjs";

const [url, jobs, folder] = process.argv.slice(2);
const { panel, thumbnails } = JSON.parse(await readFile(jobs, "utf8"));
const SETTINGS = {
  "Comfy.TutorialCompleted": true, "Comfy.Workflow.ShowMissingModelsWarning": false, "Comfy.Workflow.ShowMissingNodesWarning": false,
  "Comfy.Minimap.Visible": false, "Comfy.VueNodes.Enabled": false, "Comfy.ColorPalette": "dark", "Comfy.Graph.CanvasInfo": false,
  "LiteGraph.Canvas.MaximumFps": 8, "LiteGraph.Canvas.MinFontSizeForLOD": 0,
};
const [SCALE, EDGE] = [0.36, 40];
/** The best of these at which a picture is small enough to be shipped. */
const [QUALITIES, MOST_BYTES] = [[88, 80, 70, 60, 50, 40], 150_000];
/** Room around the graph for what ComfyUI draws at the edges of its page: none of it is in the picture. */
const MENUS = { left: 90, top: 130, right: 60, bottom: 130 };
const browser = await startBrowser();

async function shoot(target, name, options = {}) {
  const path = join(folder, `${name}.jpg`);
  for (const quality of QUALITIES) {
    await target.screenshot({ path, type: "jpeg", quality, ...options, ...LONG });
    if ((await stat(path)).size <= MOST_BYTES) break;
  }
  process.stdout.write(`${name}: ${(await stat(path)).size} bytes\n`);
}

/** The whole graph, its groups in rows of about the same width. */
async function thumbnail(page, { name, workflow, run: isRun }) {
  const shown = wrapped(workflow);
  const box = extent(shown, EDGE);
  const [width, height] = [Math.round(box.width * SCALE), Math.round(box.height * SCALE)];
  await page.setViewportSize({ width: width + MENUS.left + MENUS.right, height: height + MENUS.top + MENUS.bottom });
  await load(page, shown);
  if (isRun) await runToEnd(page, name);
  await page.evaluate(({ scale, x, y, margins }) => {
    const { canvas } = window.comfyAPI.app.app;
    canvas.deselectAll?.();
    canvas.ds.scale = scale;
    canvas.ds.offset[0] = margins.left / scale - x;
    canvas.ds.offset[1] = margins.top / scale - y;
    canvas.setDirty(true, true);
  }, { scale: SCALE, x: box.x, y: box.y, margins: MENUS });
  await page.waitForTimeout(6000);
  await shoot(page, name, { clip: { x: MENUS.left, y: MENUS.top, width, height } });
}

async function runToEnd(page, name) {
  await run(page);
  await page.waitForTimeout(2000);
  const statuses = await ended(url);
  require(statuses.at(-1) === "success", `${name} failed`);
}

/** Trains, and shows the panel as it stands at the end; what follows in the graph is not needed. */
async function panelPicture(page, workflow) {
  await page.setViewportSize({ width: 1500, height: 1100 });
  await load(page, workflow);
  await run(page);
  await inPhase(page, "finished");
  await lookAt(page, "GraftTrainSteps");
  const box = await panelOf(page).boundingBox();
  await shoot(page, "panel", { clip: { x: box.x - 24, y: 90, width: box.width + 48, height: box.y + box.height - 90 + 24 } });
  await fetch(`${url}/interrupt`, { method: "POST" });
  await ended(url);
}

async function stored(page) {
  const toggle = () => page.evaluate(() => window.comfyAPI.app.app.extensionManager.sidebarTab.toggleSidebarTab("graft.runs"));
  await toggle();
  await page.locator(".graft-runs-item input").first().click(LONG);
  await page.waitForTimeout(2000);
  await shoot(page.locator(".graft-runs"), "trainings");
  await toggle();
}

try {
  await choose(url, SETTINGS);
  const { page } = await newPage(browser);
  await open(page, url);
  if (panel) {
    await panelPicture(page, panel);
    await stored(page);
  }
  for (const job of thumbnails) await thumbnail(page, job);
} finally {
  await browser.close();
}
