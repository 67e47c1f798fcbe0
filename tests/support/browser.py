"""A real Chromium, the distribution's: found on the PATH, or installed where apt is."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from tests.support.cluster.tools import install

COMMANDS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PACKAGE = "chromium"


def find_browser() -> str:
    found = find_command()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get") is not None:
        install([PACKAGE])
        found = find_command()
    if found is None:
        raise RuntimeError(f"no browser: none of {', '.join(COMMANDS)} is on the PATH; install Chromium")
    return found


def find_command() -> str | None:
    return next((path for command in COMMANDS if (path := shutil.which(command)) is not None), None)


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Root has no sandbox to give; the pages are our own."""
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=options)
        yield browser
        browser.close()
