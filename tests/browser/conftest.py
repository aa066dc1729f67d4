"""One browser, one service and one sandbox for all tests here; each test has its own page."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from event_server import SECRET, EventServer
from installation import Installation
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, expect, sync_playwright
from real_parts import missing
from viewer import ARGUMENTS, DESKTOP, Viewer
from waiting import LIMIT

from submitter.sandbox import Sandbox


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Run one Chromium. The headless shell takes less than half of the processor time."""
    path = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if path is None:
        missing("Chromium (apt install chromium-headless-shell)")
    expect.set_options(timeout=LIMIT * 1000)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="package")
def event_server() -> Iterator[EventServer]:
    """Run a destination of events; a test that lets it refuse them lets it accept them again."""
    with EventServer() as server:
        yield server


@pytest.fixture(scope="package")
def installation(
    tmp_path_factory: pytest.TempPathFactory, event_server: EventServer
) -> Iterator[Installation]:
    """Run one service."""
    with Sandbox() as sandbox:
        installation = Installation(tmp_path_factory.mktemp("installation"), sandbox)
        installation.environ |= {
            "EVENT_URLS": f"{event_server.url},log:#job.archived",
            "EVENT_SECRET": SECRET,
            "FETCH_ALLOW": f"{installation.environ['FETCH_ALLOW']},{event_server.address}",
            "PRICES": "gpt*=0.05",
            "CURRENCY": "USD",
        }
        with installation.started(POLL_AFTER="3", POLL_INTERVAL="1"):
            yield installation


@pytest.fixture(scope="package")
def viewer(browser: Browser, installation: Installation) -> Viewer:
    """Log in once; know the addresses of all pages."""
    return Viewer(browser, installation)


@pytest.fixture
def complaints() -> list[str]:
    """Collect the browser's errors and warnings; a test removes those that it expects."""
    return []


@pytest.fixture
def own_page(viewer: Viewer, complaints: list[str]) -> Iterator[Page]:
    """Open a page with a session, for a test that changes cookies, scripts or requests.

    At the end there must be no errors or warnings left.
    """
    with viewer.context() as context, listening(context.new_page(), complaints) as page:
        yield page


@pytest.fixture(scope="package")
def page_of_all(viewer: Viewer) -> Iterator[Page]:
    """Open one page: a new one takes 0.2 s of processor time with its first document."""
    with viewer.context() as context:
        yield context.new_page()


@pytest.fixture
def page(page_of_all: Page, complaints: list[str]) -> Iterator[Page]:
    """Return a page with a session, the same for all; errors and warnings as in ``own_page``."""
    page_of_all.set_viewport_size(DESKTOP)
    page_of_all.emulate_media(color_scheme="light")
    with listening(page_of_all, complaints) as page:
        yield page


@contextmanager
def listening(page: Page, complaints: list[str]) -> Iterator[Page]:
    """Collect a page's errors and warnings; there must be none left at the end."""

    def record(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            complaints.append(f"{message.text} ({message.location.get('url')})")

    def record_error(error: Error) -> None:
        complaints.append(str(error))

    page.on("console", record)
    page.on("pageerror", record_error)
    yield page
    page.remove_listener("console", record)
    page.remove_listener("pageerror", record_error)
    assert complaints == []


@pytest.fixture(scope="package")
def screenshots(pytestconfig: pytest.Config) -> Path | None:
    """Make the folder of the screenshots, which are taken only with ``--thorough``."""
    folder = Path(__file__).parents[2] / "build" / "screenshots"
    shutil.rmtree(folder, ignore_errors=True)
    if not pytestconfig.getoption("thorough"):
        return None
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def picture(screenshots: Path | None) -> Callable[[Page, str], None]:
    """Return what takes a screenshot of a whole page."""

    def take(page: Page, name: str) -> None:
        if screenshots is not None:
            page.screenshot(path=screenshots / f"{name}.png", full_page=True)

    return take
