/**
 * Two Train Steps one after another, the second inside a subgraph: each has a panel of its own, which shows its own training and no other.
 *
 * node places.mjs URL WORKFLOW.json FOLDER_FOR_PICTURES NAME SETTINGS_JSON
 */

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { LONG, LOOKING, choose, ended, load, lookAt, open, run } from "./comfy.mjs";
import { newPage, require, startBrowser } from "./tools.mjs";

const NODE = "GraftTrainSteps";
const [url, workflowPath, folder, name, settings] = process.argv.slice(2);
const workflow = JSON.parse(await readFile(workflowPath, "utf8"));
const [first, second] = workflow.nodes.filter((node) => node.type === NODE).map((node) => node.widgets_values[0]);
const browser = await startBrowser();

/** As a person does with "Convert to subgraph". */
async function putLastIntoSubgraph(page) {
  await page.evaluate((type) => {
    const { graph } = window.comfyAPI.app.app;
    const last = graph._nodes.filter((node) => node.type === type).sort((one, other) => one.id - other.id).at(-1);
    window.subgraphNode = graph.convertToSubgraph(new Set([last])).node;
  }, NODE);
}

/** What the panel in sight shows, once it has ended. */
async function seen(page) {
  await page.waitForFunction(() => {
    const shown = [...document.querySelectorAll(".graft-panel:not(.graft-runs)")].filter((panel) => panel.checkVisibility({ visibilityProperty: true }));
    return shown.length === 1 && ["finished", "found"].includes(shown[0].dataset.phase);
  }, null, LOOKING);
  return page.evaluate(() => {
    const [panel] = [...document.querySelectorAll(".graft-panel:not(.graft-runs)")].filter((each) => each.checkVisibility({ visibilityProperty: true }));
    return { phase: panel.dataset.phase, step: Number(panel.querySelector(".graft-bar").getAttribute("aria-valuenow")) };
  });
}

async function shows(page, what, phase, step) {
  const panel = await seen(page);
  require(panel.phase === phase && panel.step === step, `${what}: ${JSON.stringify(panel)}, not ${phase} at ${step}`);
}

async function openSubgraph(page) {
  await page.evaluate(() => window.comfyAPI.app.app.canvas.setGraph(window.subgraphNode.subgraph));
  await page.waitForTimeout(1000);
  await lookAt(page, NODE);
}

try {
  await choose(url, JSON.parse(settings));
  const { page, errors } = await newPage(browser);
  await open(page, url);
  await load(page, workflow);
  await putLastIntoSubgraph(page);
  await lookAt(page, NODE);
  await run(page);
  await page.waitForTimeout(1000);
  const statuses = await ended(url);
  require(statuses.at(-1) === "success", `it failed: ${statuses}`);
  await shows(page, "the first", "finished", first);
  await openSubgraph(page);
  await shows(page, "the one in the subgraph", "finished", first + second);
  await page.screenshot({ path: join(folder, `${name}.png`), ...LONG });
  require(!errors.length, errors.join("\n"));
  process.stdout.write(`${JSON.stringify({ first, second })}\n`);
} finally {
  await browser.close();
}
