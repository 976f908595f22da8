/** Draws every state of the panel in both themes and measures long curves: node states.mjs FOLDER_FOR_PICTURES */

import { join } from "node:path";
import { newPage, require, serveFiles, startBrowser } from "./tools.mjs";

const DRAW_LIMIT_MILLISECONDS = 200;
const [folder] = process.argv.slice(2);
const files = await serveFiles();
const browser = await startBrowser();
try {
  for (const theme of ["dark", "light"]) {
    const { page, errors } = await newPage(browser, { viewport: { width: 1780, height: 1560 } });
    await page.goto(`${files.url}/tests/browser/states.html?theme=${theme}`);
    await page.waitForFunction(() => Object.keys(window.measured ?? {}).length === 12);
    await page.waitForTimeout(500);
    await page.screenshot({ path: join(folder, `panel_states_${theme}.png`), fullPage: true });
    require(!errors.length, errors.join("\n"));
    const cutOff = await page.evaluate(() => [...document.querySelectorAll(".graft-panel")].map((panel) => panel.scrollHeight - panel.clientHeight));
    const milliseconds = await page.evaluate(() => Math.min(...Array.from({ length: 12 }, () => window.measured["100,000 steps"]())));
    process.stdout.write(`${JSON.stringify({ theme, milliseconds, cutOff })}\n`);
    require(milliseconds < DRAW_LIMIT_MILLISECONDS, `100,000 points took ${milliseconds} ms`);
    require(cutOff.every((pixels) => pixels <= 1), `panels are cut off by ${cutOff} px`);
  }
} finally {
  await browser.close();
  files.close();
}
