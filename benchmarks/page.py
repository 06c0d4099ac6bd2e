"""What the page costs the browser and the server: ``python -m benchmarks.page``.

It serves an app that keeps so many tasks in memory, and scrolls down in 300 steps in a headless
Chromium. Each line gives the tasks; the milliseconds between two frames, as median, 95th
percentile and longest; the most elements that the page had; the milliseconds from a jump to the
middle of the list until its rows are there; and the milliseconds until the list, the list when
nothing has changed, and the facts are answered, as medians of 50 requests on one connection.

Arguments: how many tasks; 100, 10,000 and 100,000 if none are given.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping
from time import perf_counter
from typing import Any, Final

import httpx
from playwright.sync_api import Browser, Page

from tests.browsing import chromium
from tests.serving import serving

COUNTS: Final = (100, 10_000, 100_000)
REQUESTS: Final = 50

_SCROLL: Final = """
async () => {
  const gaps = [];
  let most = 0, last = performance.now();
  for (let frame = 0; frame < 300; frame++) {
    scrollBy(0, 300);
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    gaps.push(now - last);
    last = now;
    most = Math.max(most, document.querySelectorAll("*").length);
  }
  gaps.sort((one, other) => one - other);
  return {median: gaps[150], most_of_all: gaps[285], longest: gaps[299], elements: most};
}
"""

_JUMP: Final = """
async () => {
  const began = performance.now();
  scrollTo(0, document.documentElement.scrollHeight / 2);
  // The first frame draws the places of the rows.
  do for (let frame = 0; frame < 2; frame++) await new Promise(requestAnimationFrame);
  while (document.querySelector("#rows .blank"));
  return performance.now() - began;
}
"""


def seen(browser: Browser, url: str) -> tuple[Mapping[str, float], float]:
    """Scroll through the list; return what a frame took, and a jump."""
    page: Page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(f"{url}/tasks/dashboard")
    page.locator("body:not(.starting)").wait_for()
    frames: dict[str, float] = page.evaluate(_SCROLL)
    jump: float = page.evaluate(_JUMP)
    page.close()
    return frames, jump


def asked(url: str) -> list[float]:
    """Return the milliseconds of an answer: the list, the same list again, the facts."""
    with httpx.Client(base_url=url, timeout=60) as client:

        def median(path: str, headers: Mapping[str, str]) -> float:
            times = []
            for _ in range(REQUESTS):
                began = perf_counter()
                client.get(path, headers=headers)
                times.append(1_000 * (perf_counter() - began))
            return statistics.median(times)

        path = "/tasks/dashboard/list?limit=60"
        known = {"If-None-Match": client.get(path).headers["etag"]}
        return [median(path, {}), median(path, known), median("/tasks/dashboard/facts", {})]


def main(arguments: list[str]) -> None:
    """Measure and print."""
    counts: Any = map(int, arguments) if arguments else COUNTS
    _say("tasks     frame ms (50 %, 95 %, max)  elements  jump ms  list ms  unchanged ms  facts ms")
    with chromium() as browser:
        for count in counts:
            with serving("tests.framework.apps.watched:app") as server:
                for _ in range(0, count, 10_000):
                    httpx.post(f"{server.url}/many/{min(count, 10_000)}", timeout=120)
                frames, jump = seen(browser, server.url)
                listed, same, facts = asked(server.url)
            gaps = [frames[key] for key in ("median", "most_of_all", "longest")]
            _say(
                f"{count:<9,} {gaps[0]:8.1f} {gaps[1]:8.1f} {gaps[2]:8.1f} "
                f"{frames['elements']:9.0f} {jump:8.0f} {listed:8.1f} {same:13.1f} {facts:9.1f}"
            )


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
