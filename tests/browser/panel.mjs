/**
 * A person at the real frontend: opens a workflow, presses Run, sees the curve grow, loads the page again in the middle, asks for pictures and a
 * checkpoint, stops, sees the graph go on, and runs again for some more steps to their end.
 *
 * node panel.mjs URL WORKFLOW.json FOLDER_FOR_PICTURES NAME SETTINGS_JSON
 */

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { LONG, LOOKING, atStep, choose, drawnPoints, ended, inPhase, load, lookAt, open, panelOf, run, shownStep } from "./comfy.mjs";
import { newPage, require, startBrowser } from "./tools.mjs";

const NODE = "GraftTrainSteps";
const [url, workflowPath, folder, name, settings] = process.argv.slice(2);
const workflow = JSON.parse(await readFile(workflowPath, "utf8"));
const steps = workflow.nodes.find((node) => node.type === NODE).widgets_values[0];
const browser = await startBrowser();
const began = Date.now();
/** How many more it trains after it was stopped. */
const MORE_STEPS = 6;

async function picture(page, what) {
  await page.screenshot({ path: join(folder, `${name}_${what}.png`), ...LONG });
  process.stderr.write(`${Math.round((Date.now() - began) / 1000)} s: ${what}\n`);
}

async function startsAndIsLoadedAgain(page) {
  await picture(page, "1_waiting");
  await run(page);
  await inPhase(page, "running");
  await atStep(page, 3);
  await picture(page, "2_running");
  await page.reload({ ...LONG, waitUntil: "commit" });
  await open(page);
  await page.waitForSelector(".graft-panel", { ...LONG, state: "attached" });
  await lookAt(page, NODE);
  await atStep(page, 3);
  const points = await drawnPoints(page);
  require(points >= 3, `after the page was loaded again the curve has ${points} points`);
  return points;
}

/** Arrow keys read the chart, and keys that ComfyUI would take for the node stay in the panel. */
async function obeysKeys(page) {
  const panel = panelOf(page);
  await panel.locator(".graft-chart").focus(LONG);
  await page.keyboard.press("ArrowLeft");
  require(await panel.locator(".graft-reading").isVisible(), "an arrow key reads nothing");
  await page.keyboard.press("Delete");
  require(await panel.isVisible(), "the Delete key removed the node");
  await page.keyboard.press("Tab");
  require(await page.evaluate(() => document.activeElement.closest(".graft-panel") !== null), "Tab leaves the panel");
}

async function asksAndStops(page) {
  const panel = panelOf(page);
  await panel.locator(".graft-save").click(LONG);
  await panel.locator(".graft-sample").click(LONG);
  await page.waitForSelector(".graft-cell img", LONG);
  await page.waitForFunction(() => [...document.querySelectorAll(".graft-cell img")].every((image) => image.complete && image.naturalWidth > 8), null, LOOKING);
  const box = await panel.locator(".graft-chart-svg").boundingBox();
  await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
  require(await panel.locator(".graft-reading").isVisible(), "pointing at the chart reads nothing");
  await picture(page, "3_pictures");
  await panel.locator(".graft-stop").click(LONG);
  await inPhase(page, "stopped");
  const stoppedAt = await shownStep(page);
  require(stoppedAt < steps, "it was not stopped");
  await picture(page, "4_stopped");
  const statuses = await ended(url);
  require(statuses.at(-1) === "success", `the graph did not go on: ${statuses}`);
  return stoppedAt;
}

async function goesOn(page, stoppedAt) {
  await page.evaluate(({ type, value }) => {
    const node = window.comfyAPI.app.app.graph._nodes.find((each) => each.type === type);
    node.widgets.find((widget) => widget.name === "steps").value = value;
  }, { type: NODE, value: stoppedAt + MORE_STEPS });
  await run(page);
  await inPhase(page, "finished");
  require((await shownStep(page)) === stoppedAt + MORE_STEPS, "the next Run did not go on to the end");
  const points = await drawnPoints(page);
  require(points === stoppedAt + MORE_STEPS, `the curve has ${points} points`);
  require(await panelOf(page).locator(".graft-cell img").first().isVisible(), "the pictures of the first sitting are gone");
  require((await ended(url)).at(-1) === "success", "the run failed");
  await page.mouse.move(5, 5);
  await page.waitForTimeout(500);
  await picture(page, "5_finished");
  await lookAt(page, NODE, 0.75);
  await picture(page, "5_finished_75");
}

try {
  await choose(url, JSON.parse(settings));
  const { page, errors } = await newPage(browser);
  await open(page, url);
  await load(page, workflow);
  await lookAt(page, NODE);
  const points = await startsAndIsLoadedAgain(page);
  await obeysKeys(page);
  const stoppedAt = await asksAndStops(page);
  await goesOn(page, stoppedAt);
  require(!errors.length, errors.join("\n"));
  process.stdout.write(`${JSON.stringify({ stoppedAt, points, seconds: (Date.now() - began) / 1000 })}\n`);
} finally {
  await browser.close();
}
