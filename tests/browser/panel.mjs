/**
 * A person at the real frontend: opens a workflow, presses Run, sees the curve grow, loads the page again in the middle, asks for pictures and a
 * checkpoint, stops, sees the graph go on, and runs again to the end.
 *
 * node panel.mjs URL WORKFLOW.json FOLDER_FOR_PICTURES NAME SETTINGS_JSON
 */

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { newPage, require, startBrowser } from "./tools.mjs";

const [url, workflowPath, folder, name, settings] = process.argv.slice(2);
const STEPS = 40;
const LONG = { timeout: Number(process.env.BROWSER_SECONDS ?? 240) * 1000 };
const workflow = JSON.parse(await readFile(workflowPath, "utf8"));
const browser = await startBrowser();

const panelOf = (page) => page.locator(".graft-panel:visible").first();
const inPhase = (page, ...phases) => page.waitForSelector(phases.map((phase) => `.graft-panel[data-phase="${phase}"]`).join(","), LONG);
const shownStep = (page) => page.evaluate(() => Number(document.querySelector(".graft-bar").getAttribute("aria-valuenow")));
const atStep = (page, step) => page.waitForFunction((least) => Number(document.querySelector(".graft-bar")?.getAttribute("aria-valuenow")) >= least, step, LONG);
const picture = (page, what) => page.screenshot({ path: join(folder, `${name}_${what}.png`) });

async function open(page) {
  await page.goto(url, LONG);
  await page.waitForFunction(() => window.comfyAPI?.app?.app?.graph && window.comfyAPI.app.app.canvas && document.querySelector("canvas"), null, LONG);
  await page.waitForTimeout(2000);
  await page.keyboard.press("Escape");
}

/** Shows the workflow with its Train Steps node in the middle at full size. */
async function load(page) {
  await page.evaluate(async ({ graph, steps }) => {
    await window.comfyAPI.app.app.loadGraphData(graph);
    const node = window.comfyAPI.app.app.graph._nodes.find((each) => each.type === "GraftTrainSteps");
    node.widgets.find((widget) => widget.name === "steps").value = steps;
    window.comfyAPI.app.app.graph._nodes.find((each) => each.type === "GraftNanoFlux").connect(2, node, node.findInputSlot("vae"));
    const { canvas } = window.comfyAPI.app.app;
    canvas.ds.scale = 1;
    canvas.ds.offset[0] = -node.pos[0] + 400;
    canvas.ds.offset[1] = -node.pos[1] + 200;
    canvas.setDirty(true, true);
  }, { graph: workflow, steps: STEPS });
  await page.waitForSelector(".graft-panel", LONG);
  await page.waitForTimeout(1500);
}

const run = (page) => page.evaluate(() => window.comfyAPI.app.app.queuePrompt(0));

async function ended(page) {
  await page.waitForFunction(async () => {
    const queue = await (await fetch("/queue")).json();
    return !queue.queue_running.length && !queue.queue_pending.length;
  }, null, { ...LONG, polling: 1000 });
  const history = await page.evaluate(async () => Object.values(await (await fetch("/history")).json()));
  return history.map((entry) => entry.status.status_str);
}

try {
  await fetch(`${url}/settings`, { method: "POST", headers: { "Content-Type": "application/json" }, body: settings });
  const { page, errors } = await newPage(browser);
  await open(page);
  await load(page);
  await picture(page, "1_waiting");
  await run(page);
  await inPhase(page, "running");
  await atStep(page, 3);
  await picture(page, "2_running");

  await page.reload(LONG);
  await page.waitForFunction(() => window.comfyAPI?.app?.app?.canvas && document.querySelector("canvas"), null, LONG);
  await page.waitForTimeout(2500);
  await load(page);
  await atStep(page, 3);
  const whole = await page.evaluate(() => document.querySelector(".graft-mean").getAttribute("d").split("L").length);
  require(whole >= 3, `after the reload the curve has ${whole} points`);

  await panelOf(page).locator(".graft-save").click();
  await panelOf(page).locator(".graft-sample").click();
  await page.waitForSelector(".graft-cell img", LONG);
  await page.waitForFunction(() => [...document.querySelectorAll(".graft-cell img")].every((image) => image.complete && image.naturalWidth > 8), null, LONG);
  const box = await panelOf(page).locator(".graft-chart-svg").boundingBox();
  await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
  require(await panelOf(page).locator(".graft-reading").isVisible(), "pointing at the chart reads nothing");
  await picture(page, "3_pictures");
  await panelOf(page).locator(".graft-stop").click();
  await inPhase(page, "stopped");
  const stoppedAt = await shownStep(page);
  require(stoppedAt < STEPS, "it was not stopped");
  const first = await ended(page);
  require(first.at(-1) === "success", `the graph did not go on: ${first}`);
  await picture(page, "4_stopped");

  await run(page);
  await inPhase(page, "running");
  await atStep(page, stoppedAt);
  await inPhase(page, "finished");
  require((await shownStep(page)) === STEPS, "the next Run did not go on to the end");
  require((await ended(page)).every((status) => status === "success"), "a run failed");
  await page.mouse.move(5, 5);
  await page.waitForTimeout(500);
  await picture(page, "5_finished");
  require(!errors.length, errors.join("\n"));
  process.stdout.write(`${JSON.stringify({ stoppedAt, points: whole })}\n`);
} finally {
  await browser.close();
}
