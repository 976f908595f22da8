/**
 * Makes the pictures of the project in the real frontend: a thumbnail of every workflow, the panel after a real training, the stored trainings.
 *
 * node pictures.mjs URL WORKFLOWS_FOLDER PICTURES_FOLDER [TRAINED_WORKFLOW.json]
 *   TRAINED_WORKFLOW   is run to its end first, and shown as that has left it; its thumbnail has its file's name
 */

import { readFile, readdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { LONG, choose, ended, inPhase, load, lookAt, open, panelOf, run } from "./comfy.mjs";
import { newPage, startBrowser } from "./tools.mjs";
import { extent, wrapped } from "./wrap.mjs";

const [url, workflows, folder, trained] = process.argv.slice(2);
const SETTINGS = {
  "Comfy.TutorialCompleted": true, "Comfy.Workflow.ShowMissingModelsWarning": false, "Comfy.Workflow.ShowMissingNodesWarning": false,
  "Comfy.Minimap.Visible": false, "Comfy.VueNodes.Enabled": false, "Comfy.ColorPalette": "dark", "Comfy.Graph.CanvasInfo": false,
};
const [SCALE, QUALITY, EDGE] = [0.36, 88, 40];
/** Room around the graph for what ComfyUI draws at the edges of its page: none of it is in the picture. */
const MENUS = { left: 90, top: 130, right: 60, bottom: 130 };
const browser = await startBrowser();
const read = async (path) => JSON.parse(await readFile(path, "utf8"));

/** The whole graph, its groups in rows of about the same width. */
async function thumbnail(page, workflow, target) {
  const shown = wrapped(workflow);
  const box = extent(shown, EDGE);
  const [width, height] = [Math.round(box.width * SCALE), Math.round(box.height * SCALE)];
  await page.setViewportSize({ width: width + MENUS.left + MENUS.right, height: height + MENUS.top + MENUS.bottom });
  await load(page, shown);
  await page.evaluate(({ scale, x, y, margins }) => {
    const { canvas } = window.comfyAPI.app.app;
    canvas.ds.scale = scale;
    canvas.ds.offset[0] = margins.left / scale - x;
    canvas.ds.offset[1] = margins.top / scale - y;
    canvas.low_quality_zoom_threshold = 0;
    canvas.setDirty(true, true);
  }, { scale: SCALE, x: box.x, y: box.y, margins: MENUS });
  await page.waitForTimeout(4000);
  await page.screenshot({ path: target, type: "jpeg", quality: QUALITY, clip: { x: MENUS.left, y: MENUS.top, width, height }, ...LONG });
}

async function panel(page, target) {
  await page.setViewportSize({ width: 1500, height: 1100 });
  await lookAt(page, "GraftTrainSteps");
  const box = await panelOf(page).boundingBox();
  const clip = { x: box.x - 24, y: 90, width: box.width + 48, height: box.y + box.height - 90 + 24 };
  await page.screenshot({ path: target, type: "jpeg", quality: QUALITY, clip, ...LONG });
}

/** Trains, waits for the end, and shows the panel as it stands then. */
async function train(page, workflow) {
  await load(page, workflow);
  await run(page);
  await inPhase(page, "finished");
  await panel(page, join(folder, "panel.jpg"));
  await ended(url);
}

async function stored(page, target) {
  await page.evaluate(() => window.comfyAPI.app.app.extensionManager.sidebarTab.toggleSidebarTab("graft.runs"));
  const tick = page.locator(".graft-runs-item input").first();
  await tick.click(LONG);
  await page.waitForTimeout(2000);
  await page.locator(".graft-runs").screenshot({ path: target, type: "jpeg", quality: QUALITY, ...LONG });
}

try {
  await choose(url, SETTINGS);
  const { page } = await newPage(browser);
  await open(page, url);
  if (trained) {
    const workflow = await read(trained);
    await train(page, workflow);
    await stored(page, join(folder, "trainings.jpg"));
    await page.evaluate(() => window.comfyAPI.app.app.extensionManager.sidebarTab.toggleSidebarTab("graft.runs"));
  }
  for (const name of (await readdir(workflows)).filter((each) => each.endsWith(".json"))) {
    const path = trained && basename(trained) === name ? trained : join(workflows, name);
    await thumbnail(page, await read(path), join(folder, name.replace(".json", ".jpg")));
    process.stdout.write(`${name}\n`);
  }
} finally {
  await browser.close();
}
