// Drives the chat page in headless Chromium, opened from disk: two people on two nodes in one room
// hear each other, a third in another room hears neither, and markup stays text. Prints one line of
// JSON; exits 1 with the reason when anything is off.
//
// usage: chat.mjs PAGE_FILE WEBSOCKET_URL WEBSOCKET_URL
//
// Packages are found from the working folder when the script is read from standard input.

import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const DEADLINE = 20_000;
const TEXT = "hello from <b>Chromium</b>";

const [file, ...nodes] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
  timeout: DEADLINE,
});

async function enter(name, room, node, problems) {
  const page = await browser.newPage();
  page.setDefaultTimeout(DEADLINE);
  page.on("pageerror", (error) => problems.push(error.message));
  const url = pathToFileURL(file);
  url.search = new URLSearchParams({ name, room, node });
  await page.goto(url.href);
  await page.click("#enter button");
  await page.locator("#text:enabled").waitFor();
  return page;
}

async function say(page, text) {
  await page.fill("#text", text);
  await page.press("#text", "Enter");
}

const heard = (page, text) => page.locator("#said .message", { hasText: text });

async function run() {
  const problems = [];
  const ann = await enter("ann", "café *", nodes[0], problems);
  const bob = await enter("bob", "café *", nodes[1], problems);
  const eve = await enter("eve", "attic", nodes[1], problems);
  // What is said before a node takes part may pass it by.
  for (const end = Date.now() + DEADLINE; !(await heard(bob, "hello?").count()); ) {
    if (Date.now() > end) throw new Error("bob hears nothing");
    await say(ann, "hello?");
    await heard(bob, "hello?").first().waitFor({ timeout: 500 }).catch(() => {});
  }
  await say(bob, TEXT);
  for (const page of [ann, bob]) {
    const line = heard(page, TEXT);
    await line.waitFor();
    const text = await line.textContent();
    if (text !== `bob: ${TEXT}`) throw new Error(`the line reads ${JSON.stringify(text)}`);
  }
  await say(eve, "alone");
  await heard(eve, "eve: alone").waitFor();
  const lines = await eve.locator("#said .message").count();
  if (lines !== 1) throw new Error(`the other room shows ${lines} messages`);
  await bob.close();
  await ann.locator("#said .note", { hasText: "bob has left" }).waitFor();
  if (problems.length > 0) throw new Error(`a page reported: ${problems.join("; ")}`);
}

let result = { ok: true };
try {
  await run();
} catch (error) {
  result = { ok: false, error: error.message };
}
await browser.close();
console.log(JSON.stringify(result));
process.exit(result.ok ? 0 : 1);
