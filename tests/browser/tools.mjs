/** What the browser tests share: the browser, a small file server, and whatever the page complains about. */

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { extname, join, normalize, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

export const ROOT = resolve(fileURLToPath(new URL("../..", import.meta.url)));
const TYPES = { ".js": "text/javascript", ".css": "text/css", ".html": "text/html" };

/** The system's Chromium by playwright-core, which lies in the folder that PLAYWRIGHT names. */
export async function startBrowser() {
  const path = createRequire(join(process.env.PLAYWRIGHT, "package.json")).resolve("playwright-core");
  const { chromium } = (await import(pathToFileURL(path))).default;
  return chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"] });
}

/**
 * A page, and a list that fills with the errors that it logs about our own files. Without animations: ComfyUI's own keep a processor busy where
 * there is no graphics card. What is not of this machine is not asked for.
 */
export async function newPage(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1500, height: 1060 }, reducedMotion: "reduce", ...options });
  await context.route((url) => !["127.0.0.1", ""].includes(url.hostname), (route) => route.abort());
  const page = await context.newPage();
  const errors = [];
  const ours = (text) => /graft/i.test(text);
  page.on("console", (message) => message.type() === "error" && ours(message.text() + message.location().url) && errors.push(message.text()));
  page.on("pageerror", (error) => ours(String(error.stack)) && errors.push(String(error.stack)));
  return { page, errors };
}

/** Serves the project's files on a free port of this machine. */
export function serveFiles() {
  const server = createServer(async (request, response) => {
    const path = normalize(join(ROOT, new URL(request.url, "http://localhost").pathname));
    try {
      if (!path.startsWith(ROOT)) throw new Error("outside");
      const content = await readFile(path);
      response.writeHead(200, { "Content-Type": TYPES[extname(path)] ?? "application/octet-stream" }).end(content);
    } catch {
      response.writeHead(404).end();
    }
  });
  return new Promise((done) => server.listen(0, "127.0.0.1", () => done({ url: `http://127.0.0.1:${server.address().port}`, close: () => server.close() })));
}

export function require(condition, text) {
  if (!condition) throw new Error(text);
}
