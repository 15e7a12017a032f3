"""Pages of the Prefect UI, as a person uses them in a browser: the run form, a flow run's page, an artifact."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

from playwright.sync_api import Locator, Page, expect

from flows.request import RunRequest

PAGE_SECONDS = 180.0  # a machine with much else to do
ATTEMPTS = 20


def until_taken(page: Page, request: str, press: Callable[[], None]) -> None:
    """Press again, as a person would, while the server is too busy for the request: SQLite has one writer at a time.

    The UI tells an answer of 503 for some seconds and, unlike Prefect's own clients, does not ask again.
    """
    for _ in range(ATTEMPTS):
        with page.expect_response(lambda response: response.url.endswith(request)) as answered:
            press()
        if answered.value.status != 503:
            return
    raise AssertionError(f"the server was too busy for {request} {ATTEMPTS} times")


def open_deployment(page: Page, name: str) -> None:
    """From the front page to a deployment's page, by what can be clicked."""
    page.goto("/")
    page.get_by_role("link", name="Deployments").first.click()
    # The flow behind a deployment may have the same name: the deployment comes first.
    page.get_by_role("table").get_by_role("link", name=name, exact=True).first.click()
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_visible()


@dataclass(frozen=True)
class RunForm:
    """The form that Prefect builds from our parameters."""

    page: Page

    @classmethod
    def opened(cls, page: Page) -> "RunForm":
        """The form of the deployment `srpo`, as a person comes to it."""
        open_deployment(page, "srpo")
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Custom run").click()
        form = cls(page)
        expect(form.line("store")).to_have_value(re.compile("^/"))  # what it begins with is there
        return form

    def line(self, field: str) -> Locator:
        """The text box of one of our fields."""
        return self.page.get_by_role("textbox", name=RunRequest.model_fields[field].title, exact=True)

    def told(self, text: str) -> None:
        """See that the form says this."""
        expect(self.page.get_by_role("main").get_by_text(text).first).to_be_visible()

    def choose_settings(self, path: object) -> None:
        """Settings by path instead of by name."""
        self.page.get_by_role("tab", name="By path").click()
        self.page.get_by_role("tabpanel", name="By path").get_by_role("textbox").fill(str(path))

    def settings_by_name(self) -> list[str]:
        """The names that can be chosen from."""
        self.page.get_by_role("tabpanel", name="By name").get_by_role("button").click()
        options = self.page.get_by_role("option")
        expect(options.first).to_be_visible()
        names = options.all_inner_texts()
        self.page.keyboard.press("Escape")
        return names

    def add_change(self, change: str) -> None:
        """One more item of the list of changes."""
        self.page.get_by_role("button", name="Add item").click()
        items = self.page.get_by_role("group").filter(has=self.page.get_by_role("button", name="Drag to reorder"))
        items.last.get_by_role("textbox").last.fill(change)

    def start_at(self, day: date) -> None:
        """Start later, on this day of the months that are shown."""
        self.page.get_by_role("tab", name="Later").click()
        self.page.get_by_role("button", name="Start date").click()
        self.page.get_by_role("button", name=re.compile(f"{day:%A, %B} {day.day}[a-z]+, {day.year}")).click()
        self.page.keyboard.press("Escape")

    def submit(self) -> None:
        """Press Submit."""
        self.page.get_by_role("button", name="Submit").click()

    def ask(self) -> None:
        """Press Submit, and see that the run was asked for."""
        until_taken(self.page, "/create_flow_run", self.submit)
        expect(self.page.get_by_text("scheduled to start")).to_be_visible()


@dataclass(frozen=True)
class FlowRunPage:
    """The page of one flow run."""

    page: Page

    @classmethod
    def opened(cls, page: Page, name: str) -> "FlowRunPage":
        """The page of the flow run of this name, found among all runs."""
        page.get_by_role("link", name="Runs", exact=True).first.click()
        page.get_by_role("textbox", name="Search by flow run name").fill(name)
        page.get_by_role("link", name=name, exact=True).click()
        expect(page.get_by_role("tab", name="Details")).to_be_visible()
        return cls(page)

    def tab(self, name: str) -> Locator:
        """What is shown under one of the tabs."""
        self.page.get_by_role("tab", name=name).click()
        return self.page.get_by_role("tabpanel", name=name)

    def shows(self, state: str, run_count: int, patience: float = PAGE_SECONDS) -> None:
        """See its state, without loading the page anew, and how often it was begun."""
        details = self.tab("Details")
        expect(self.page.get_by_role("main").get_by_text(state, exact=True)).to_be_visible(timeout=1000 * patience)
        expect(details).to_contain_text(re.compile(rf"Run Count\s*{run_count}(?!\d)"))

    def retry(self) -> None:
        """Press Retry, and confirm."""
        self.page.get_by_role("main").get_by_role("button", name="Open menu").click()
        self.page.get_by_role("menuitem", name="Retry").click()
        dialog = self.page.get_by_role("alertdialog", name="Retry Flow Run")
        until_taken(self.page, "/set_state", dialog.get_by_role("button", name="Retry").click)
        expect(dialog).not_to_be_visible()

    def has_artifact(self, key: str) -> None:
        """See one of this series under Artifacts."""
        expect(self.tab("Artifacts").get_by_role("heading", name=key, exact=True).first).to_be_visible()

    def table(self, key: str) -> list[dict[str, str]]:
        """The first ten rows of the table that is the newest artifact of a series, in which this flow run has one."""
        self.tab("Artifacts").get_by_role("link").filter(has=self.page.get_by_role("heading", name=key)).first.click()
        self.page.get_by_role("link", name=re.compile("^[0-9a-f]{8}$")).first.click()
        cells = self.page.get_by_role("table").get_by_role("cell")
        expect(cells.first).to_be_visible()
        columns = self.page.get_by_role("columnheader").all_inner_texts()
        texts = cells.all_inner_texts()
        rows = [texts[begin : begin + len(columns)] for begin in range(0, len(texts), len(columns))]
        return [dict(zip(columns, row, strict=True)) for row in rows]
