/**
 * A person in the sidebar tab of stored trainings: sees them listed, compares curves, copies settings, is refused to delete what is in use, deletes
 * another, and opens the workflow that made one. The server must have trained something with panel.mjs before.
 *
 * node runs.mjs URL FOLDER_FOR_PICTURES NAME SETTINGS_JSON UNUSED_RUN
 *   UNUSED_RUN   the name of a run that no process uses
 */

import { join } from "node:path";
import { LONG, LOOKING, choose, open } from "./comfy.mjs";
import { newPage, require, startBrowser } from "./tools.mjs";

const [url, folder, name, settings, unused] = process.argv.slice(2);
const browser = await startBrowser();
const listed = async () => (await (await fetch(`${url}/graft/runs`)).json()).runs;

async function showsRuns(page) {
  await page.evaluate(() => window.comfyAPI.app.app.extensionManager.sidebarTab.toggleSidebarTab("graft.runs"));
  await page.waitForSelector(".graft-runs-item input", LONG);
  const names = (await listed()).map((run) => run.name.slice(0, 6));
  const text = await page.locator(".graft-runs").innerText();
  require(names.every((each) => text.includes(each)), `not listed: ${names} in ${text}`);
}

async function comparesCurves(page) {
  const ticks = page.locator(".graft-runs-item input");
  for (const index of [0, 1]) {
    await ticks.nth(index).click(LONG);
    await page.waitForFunction((wanted) => document.querySelectorAll(".graft-runs-item input:checked").length === wanted, index + 1, LOOKING);
  }
  await page.waitForFunction(() => document.querySelectorAll(".graft-runs .graft-others path").length === 1, null, LOOKING);
  await page.locator(".graft-runs .graft-chart").focus(LONG);
  await page.keyboard.press("ArrowLeft");
  require(await page.locator(".graft-runs .graft-reading").isVisible(), "an arrow key reads nothing");
  await page.screenshot({ path: join(folder, `${name}_6_runs.png`), ...LONG });
}

async function copiesSettings(page) {
  const button = page.locator(".graft-runs-actions button").nth(1);
  await button.click(LONG);
  await page.waitForFunction(() => /Copied|已复制/.test(document.querySelector(".graft-runs").innerText), null, LOOKING);
  const copied = await page.evaluate(() => navigator.clipboard.readText());
  require(/optimiser\.learning_rate: /.test(copied), `copied: ${copied}`);
}

/** What this server has trained stays; a run that no process uses goes after a second press. */
async function deletesWhatNothingNeeds(page) {
  const runs = await listed();
  const used = runs.findIndex((run) => run.in_use);
  require(used >= 0 && (await page.locator(".graft-runs-item").nth(used).locator("button").last().isDisabled()), "a run in use can be deleted");
  const refused = await fetch(`${url}/graft/runs/${runs[used].name}`, { method: "DELETE" });
  require(refused.status === 409 && /in use|began/.test((await refused.json()).error), `${refused.status}`);
  const button = page.locator(".graft-runs-item").nth(runs.findIndex((run) => run.name === unused)).locator("button").last();
  await button.click(LONG);
  require((await listed()).length === runs.length, "deleted without being sure");
  await button.click(LONG);
  await page.waitForFunction((count) => document.querySelectorAll(".graft-runs-item").length === count, runs.length - 1, LOOKING);
  require(!(await listed()).some((run) => run.name === unused), "the run is there still");
}

async function opensTheWorkflow(page) {
  await page.evaluate(() => window.comfyAPI.app.app.graph.clear());
  const index = (await listed()).findIndex((run) => run.has_workflow);
  await page.locator(".graft-runs-item").nth(index).locator("button").first().click(LONG);
  await page.waitForFunction(() => window.comfyAPI.app.app.graph._nodes.some((node) => node.type === "GraftTrainSteps"), null, LOOKING);
}

try {
  await choose(url, JSON.parse(settings));
  const { page, errors } = await newPage(browser, { permissions: ["clipboard-read", "clipboard-write"] });
  await open(page, url);
  await showsRuns(page);
  await comparesCurves(page);
  await copiesSettings(page);
  await deletesWhatNothingNeeds(page);
  await opensTheWorkflow(page);
  require(!errors.length, errors.join("\n"));
  process.stdout.write(`${JSON.stringify({ runs: (await listed()).length })}\n`);
} finally {
  await browser.close();
}
