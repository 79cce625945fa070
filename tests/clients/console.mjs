// Drives the console page in headless Chromium: connects, sends a text and a binary message, waits
// for both echoes, reads the latency, disconnects, checks the close code, and keeps a screenshot.
// Prints one line of JSON; exits 1 with the reason when anything is off.
//
// usage: console.mjs PAGE_URL SCREENSHOT [--url WEBSOCKET_URL] [--token TOKEN] [--dark] [--width N]
//
// Packages are found from the working folder when the script is read from standard input:
//   cd target/tools/node && node --input-type=module - URL FILE < ../../../tests/clients/console.mjs

import { parseArgs } from "node:util";
import { chromium } from "playwright-core";

const TEXT = "hello from <b>Chromium</b>";
const DEADLINE = 20_000;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    url: { type: "string" },
    token: { type: "string" },
    dark: { type: "boolean", default: false },
    width: { type: "string", default: "1280" },
  },
});
const [pageUrl, screenshot] = positionals;

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--ignore-certificate-errors",
  ],
  timeout: DEADLINE,
});

function check(isTrue, what) {
  if (!isTrue) throw new Error(what);
}

async function run(page, problems) {
  const response = await page.goto(pageUrl);
  check(response?.status() === 200, `the page came with status ${response?.status()}`);
  if (values.url) await page.fill("#url", values.url);
  if (values.token) await page.fill("#token", values.token);
  await page.click("#connect");
  const ended = page.locator("#log [data-kind=close]").waitFor().then(async () => {
    throw new Error(`closed: ${await page.textContent("#close-code")}`);
  });
  ended.catch(() => {});
  await Promise.race([page.locator("#state[data-state=connected]").waitFor(), ended]);

  await page.fill("#message", TEXT);
  await page.press("#message", "Enter");
  const text = page.locator("#log [data-direction=in][data-kind=text]");
  await Promise.race([text.waitFor(), ended]);
  const echoed = await text.locator(".data").textContent();
  check(echoed === TEXT, `the echo reads ${JSON.stringify(echoed)}`);
  const latency = (await page.textContent("#latency")).trim();
  check(/^[\d.]+ m?s$/.test(latency), `the latency reads ${latency}`);

  await page.fill("#message", "0x00ff10");
  await page.click("#send-binary");
  const binary = page.locator("#log [data-direction=in][data-kind=binary]");
  await Promise.race([binary.waitFor(), ended]);
  const bytes = await binary.locator(".data").textContent();
  check(bytes.startsWith("0x00ff10"), `the binary echo reads ${bytes}`);

  await page.click("#disconnect");
  await page.locator("#state[data-state=disconnected]").waitFor();
  const closeCode = (await page.textContent("#close-code")).trim();
  check(closeCode.startsWith("1000"), `the close code reads ${closeCode}`);
  check(problems.length === 0, `the page reported: ${problems.join("; ")}`);
  return { ok: true, latency, close_code: closeCode, version: browser.version() };
}

let result, page;
try {
  page = await browser.newPage({
    ignoreHTTPSErrors: true,
    colorScheme: values.dark ? "dark" : "light",
    viewport: { width: Number(values.width), height: 800 },
  });
  page.setDefaultTimeout(DEADLINE);
  const problems = [];
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("console", (line) => line.type() === "error" && problems.push(line.text()));
  result = await run(page, problems);
} catch (error) {
  result = { ok: false, error: error.message };
}
try {
  await page?.screenshot({ path: screenshot, fullPage: true });
} catch (error) {
  result = { ok: false, error: `no screenshot: ${error.message}; before that: ${result.error ?? "ok"}` };
}
await browser.close();
console.log(JSON.stringify(result));
process.exit(result.ok ? 0 : 1);
