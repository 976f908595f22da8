/** Draws every state of the panel in both themes and measures long curves: node states.mjs FOLDER_FOR_PICTURES */

import { join } from "node:path";
import { LONG, LOOKING } from "./comfy.mjs";
import { newPage, require, serveFiles, startBrowser } from "./tools.mjs";

const DRAW_LIMIT_MILLISECONDS = 200;
/** What two hours may leave in memory, and how much of that two more may add. */
const [HOURS_LIMIT_BYTES, MORE_LIMIT_BYTES] = [8e6, 3e6];
const [folder] = process.argv.slice(2);
const files = await serveFiles();
const browser = await startBrowser();

/** Bytes of JavaScript that are still in use. */
async function heap(session) {
  await session.send("HeapProfiler.collectGarbage");
  return (await session.send("Runtime.getHeapUsage")).usedSize;
}

async function staysSmallForHours(page) {
  const session = await page.context().newCDPSession(page);
  const used = [await heap(session)];
  for (let turn = 0; turn < 2; turn++) {
    await page.evaluate(() => window.afterHours(2));
    used.push(await heap(session));
  }
  const [first, second] = [used[1] - used[0], used[2] - used[1]];
  process.stdout.write(`${JSON.stringify({ theme: "hours", bytesAfterTwoHours: first, bytesOfTwoMore: second })}\n`);
  require(first < HOURS_LIMIT_BYTES && second < MORE_LIMIT_BYTES, `memory grows: ${used}`);
}

try {
  for (const theme of ["dark", "light"]) {
    const { page, errors } = await newPage(browser, { viewport: { width: 1780, height: 1560 } });
    await page.goto(`${files.url}/tests/browser/states.html?theme=${theme}`, LONG);
    await page.waitForFunction(() => window.ready, null, LOOKING);
    await page.waitForTimeout(500);
    await page.screenshot({ path: join(folder, `panel_states_${theme}.png`), fullPage: true, ...LONG });
    require(!errors.length, errors.join("\n"));
    const cutOff = await page.evaluate(() => [...document.querySelectorAll(".graft-panel")].map((panel) =>
      Math.max(panel.scrollWidth - panel.clientWidth, panel.matches(".graft-runs") ? 0 : panel.scrollHeight - panel.clientHeight)));
    const draws = await page.evaluate(() => Array.from({ length: 12 }, () => window.measured["100,000 steps"]()));
    const [first, milliseconds] = [draws[0], Math.min(...draws)];
    process.stdout.write(`${JSON.stringify({ theme, first, milliseconds, cutOff })}\n`);
    require(milliseconds < DRAW_LIMIT_MILLISECONDS, `100,000 points took ${milliseconds} ms`);
    require(cutOff.every((pixels) => pixels <= 1), `panels are cut off by ${cutOff} px`);
    if (theme === "light") await staysSmallForHours(page);
  }
} finally {
  await browser.close();
  files.close();
}
