"""Drive the Chromium of this machine, and notice whatever it complains about."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_BROWSER = "no Chromium on this machine (Debian: apt-get install chromium)"
WAIT_MS = 20_000
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 800}

# Everything that sticks out on the right: an ancestor may hide it, so the page's own width proves nothing.
STICKING_OUT = """() => [...document.querySelectorAll("body *")]
  .filter((one) => one.checkVisibility() && one.getBoundingClientRect().right > screen.width + 0.5)
  .map((one) => one.outerHTML.slice(0, 80))"""

# Texts whose colour stands out less from what is behind them than WCAG's AA asks for.
PALE = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const pale = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement;
    const unseen = !one.checkVisibility() || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(one.tagName);
    if (unseen || !walker.currentNode.data.trim()) continue;
    const [front, back] = [light(parse(getComputedStyle(one).color)), light(behind(one))];
    const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    if (ratio < 4.5) pale.push(`${ratio.toFixed(2)} ${walker.currentNode.data.trim().slice(0, 40)}`);
  }
  return pale;
}"""


def chromium() -> str | None:
    """Return where this machine's Chromium is, if it has one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@dataclass
class Tab:
    """A page, with everything that it asked for and complained about."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def sticking_out(self) -> list[str]:
        """What is wider than the screen."""
        return self.page.evaluate(STICKING_OUT)

    @property
    def pale(self) -> list[str]:
        """What cannot be read well."""
        return self.page.evaluate(PALE)


@contextlib.contextmanager
def running_browser() -> Generator[Browser]:
    """Run the browser until the block ends; the caller has seen that there is one.

    While it runs no test of this thread can be async: Playwright has a loop of its own there.
    """
    found = chromium()
    assert found is not None
    # Chromium refuses to sandbox what runs as root, which is what containers do.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def open_tab(browser: Browser, viewport: dict[str, int] = DESK, **options: Any) -> Generator[Tab]:
    """Open a tab of a browser that knows nothing of the others."""
    context = browser.new_context(viewport=viewport, **options)  # pyright: ignore[reportArgumentType]
    context.set_default_timeout(WAIT_MS)
    try:
        tab = Tab(context.new_page())
        tab.page.on("console", lambda said: tab.complaints.append(said.text))
        tab.page.on("pageerror", lambda error: tab.complaints.append(str(error)))
        tab.page.on("request", lambda request: tab.requests.append(request.url))
        yield tab
    finally:
        context.close()
