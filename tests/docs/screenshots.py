"""Take the pictures of the page that are in the docs: ``python -m tests.docs.screenshots``."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path
from typing import Any, Final, NamedTuple

import uvicorn
from playwright.async_api import Browser, async_playwright

from tests.browsing import FLAGS
from tests.docs.shown_app import HELD, app, live
from tests.programs import program

FOLDER: Final = Path(__file__).resolve().parents[2] / "docs"


class Picture(NamedTuple):
    """A picture, and how it is taken.

    Attributes:
        name: The name of its file.
        width: Of the window, in pixels.
        height: Of the window, in pixels.
        scheme: ``light`` or ``dark``.
        row: The text of a row to click on; "" for none.
    """

    name: str
    width: int
    height: int
    scheme: Any  # a literal of Playwright's
    row: str = ""


PICTURES: Final = (
    Picture("dashboard-light.png", 1280, 800, "light"),
    Picture("dashboard-dark.png", 1280, 800, "dark"),
    Picture("dashboard-details.png", 1280, 800, "light", "Next attempt"),
    Picture("dashboard-steps.png", 1280, 800, "light", "refunds.settle"),
    Picture("dashboard-phone.png", 390, 780, "light"),
)


class Server(uvicorn.Server):
    """A server that tells when it is up.

    Attributes:
        is_up: Set when it takes requests.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell it."""
        await super().startup(sockets)
        self.is_up.set()


async def take(browser: Browser, url: str, picture: Picture) -> None:
    """Take one picture."""
    context = await browser.new_context(
        viewport={"width": picture.width, "height": picture.height},
        color_scheme=picture.scheme,
        reduced_motion="reduce",
        timezone_id="UTC",
        device_scale_factor=1.5,
    )
    page = await context.new_page()
    await page.goto(f"{url}/tasks/dashboard")
    await page.locator("body:not(.starting)").wait_for()
    if picture.row:
        await page.locator("#rows .row", has_text=picture.row).first.click()
        await page.get_by_role("complementary").get_by_text("Timeline").wait_for()
        await page.mouse.move(0, 0)
    # A picture has few colours; a palette makes its file half as large.
    await page.screenshot(path=FOLDER / picture.name, animations="disabled")
    await context.close()


async def main() -> None:
    """Serve the app, let it live for half an hour, and take the pictures."""
    logging.getLogger("asyncframe").setLevel(logging.CRITICAL)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = Server(uvicorn.Config(app, log_level="critical"))
        serving = asyncio.create_task(server.serve([listener]))
        await server.is_up.wait()
        await live()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(
                executable_path=program("chromium"), args=FLAGS
            )
            for picture in PICTURES:
                await take(browser, url, picture)
                print(f"docs/{picture.name}")
            await browser.close()
        HELD.set()
        # At once: on a clock that stands still, no task would end.
        server.force_exit = server.should_exit = True
        await serving


if __name__ == "__main__":
    asyncio.run(main())
