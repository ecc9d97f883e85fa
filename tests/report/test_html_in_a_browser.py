"""The page in a real Chromium: it renders, answers to mouse and keyboard, asks nobody for anything, and prints."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import msgspec
import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from ckptaudit.report.html import write_html
from ckptaudit.results.records import AuditResult

ARTEFACTS = Path(__file__).parent.parent.parent / "build" / "screenshots"


@pytest.fixture(scope="module")
def small_page(small_result: AuditResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_html(small_result, path)
    return path


@pytest.fixture
def page(browser: Chrome, small_page: Path) -> Chrome:
    return opened(browser, small_page)


def opened(browser: Chrome, path: Path) -> Chrome:
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(path.as_uri())
    return browser


def one(page: Chrome, selector: str) -> WebElement:
    return page.find_element(By.CSS_SELECTOR, selector)


def many(page: Chrome, selector: str) -> list[WebElement]:
    return page.find_elements(By.CSS_SELECTOR, selector)


def requested(page: Chrome) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def cell(page: Chrome, row: str, role: str) -> WebElement:
    return one(page, f"#grid td.cell[aria-label^='{row} {role}:']")


def with_media(page: Chrome, *, scheme: str = "light", media: str = "") -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def colours(page: Chrome) -> list[str]:
    """Of the paper, the text and the writing in a chart."""
    found: list[str] = page.execute_script(
        "const b = getComputedStyle(document.body);"
        "const t = document.querySelector('#spectrum-chart svg text');"
        "return [b.backgroundColor, b.color, getComputedStyle(t).fill]"
    )
    return found


def background(page: Chrome) -> str:
    colour: str = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    return colour


def test_it_renders_without_an_error_and_asks_nobody_for_anything(page: Chrome, small_page: Path) -> None:
    assert one(page, "h1").text.endswith("Gate closed")
    assert "update-sparsity" in one(page, ".run:not([hidden]) .sentence").text
    for chart in ("spectrum-chart", "angle-chart", "published-chart"):
        assert len(many(page, f"#{chart} svg path")) > 5
        assert len(one(page, f"#{chart}").get_attribute("aria-label") or "") > 80
    assert page.get_log("browser") == []
    assert requested(page) == [small_page.as_uri()]


def test_the_policy_stops_a_request_and_a_script_that_somebody_smuggled_in(page: Chrome) -> None:
    page.execute_script(
        "const i = document.createElement('img'); i.src = 'file:///etc/hostname'; document.body.append(i);"
        "const s = document.createElement('script'); s.textContent = 'window.hacked = 3'; document.body.append(s);"
    )
    assert page.execute_script("return window.hacked") is None
    refused = [entry["message"] for entry in page.get_log("browser")]
    assert sum("Content Security Policy" in message for message in refused) == 2


def test_a_hostile_name_is_shown_as_text_and_runs_nothing(page: Chrome) -> None:
    one(page, "#more-columns").click()
    hostile = [td for td in many(page, "#grid td.cell") if "script" in (td.get_attribute("aria-label") or "")]
    assert hostile
    page.execute_script("arguments[0].click()", hostile[0])
    assert "<img src=x onerror=window.hacked=2>" in one(page, "#detail").text.replace("\n", "")
    assert page.execute_script("return window.hacked") is None
    assert many(page, "img") == []


def test_a_click_shows_the_numbers_of_the_cell(page: Chrome, small_result: AuditResult) -> None:
    Select(one(page, "#metric")).select_by_value("normalized_spectral_shift")
    cell(page, "layers.1", "q_proj").click()
    measured = next(
        m.value
        for m in small_result.measurements
        if (m.tuned, m.metric) == (small_result.tuned[0], "normalized_spectral_shift")
        and m.tensor == "model.layers.1.self_attn.q_proj.weight"
    )
    assert measured is not None
    assert one(page, "#detail .big").text == str(float(f"{measured:.6g}"))
    assert "Check spectral-drift" in one(page, "#detail").text
    assert "broken" in one(page, "#detail div.failed ~ div, #detail div.failed").text or many(
        page, "#detail .failed"
    )


def test_the_map_marks_what_is_beyond_a_limit_by_a_sign_and_in_words(page: Chrome) -> None:
    Select(one(page, "#metric")).select_by_value("normalized_spectral_shift")
    assert cell(page, "layers.1", "q_proj").text.startswith("▲")
    assert "beyond the limit" in (cell(page, "layers.1", "q_proj").get_attribute("aria-label") or "")
    assert not cell(page, "layers.0", "q_proj").text.startswith("▲")


def test_the_keyboard_reaches_every_cell(page: Chrome) -> None:
    Select(one(page, "#metric")).select_by_value("normalized_spectral_shift")
    one(page, "#more-columns").send_keys(Keys.TAB)
    keys = ActionChains(page)
    if page.switch_to.active_element.tag_name != "td":
        keys.send_keys(Keys.TAB).perform()
    start = page.switch_to.active_element
    assert start.get_attribute("role") == "gridcell"
    ActionChains(page).send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ENTER).perform()
    chosen = one(page, "#grid td.chosen")
    assert chosen == page.switch_to.active_element
    assert chosen.get_attribute("data-role") != start.get_attribute("data-role")
    assert chosen.get_attribute("data-row") != start.get_attribute("data-row")
    assert one(page, "#detail h3").text.startswith("layers.2")


def test_a_check_leads_to_its_map(page: Chrome) -> None:
    one(page, ".run:not([hidden]) button.show[data-metric='update_sparsity']").click()
    assert Select(one(page, "#metric")).first_selected_option.text.startswith("update_sparsity")


def test_only_the_layers_that_do_not_hold_can_be_shown(page: Chrome) -> None:
    Select(one(page, "#metric")).select_by_value("normalized_spectral_shift")
    one(page, "#only-broken").click()
    assert [th.text for th in many(page, "#grid tbody th")] == ["layers.1"]


def test_another_run_is_chosen_with_all_that_belongs_to_it(page: Chrome) -> None:
    Select(one(page, "#run")).select_by_index(1)
    assert "results passed" in one(page, ".run:not([hidden]) .sentence").text
    assert many(page, "#grid td.beyond") == []


def test_curves_can_be_read_as_a_table(page: Chrome, small_result: AuditResult) -> None:
    one(page, "#spectra figure details summary").click()
    WebDriverWait(page, 10).until(lambda p: many(p, "#spectrum-table tbody tr"))
    rows = many(page, "#spectrum-table tbody tr")
    row = small_result.spectra[0]
    assert len(rows) == len(row.ranks)
    assert rows[0].text.split()[:2] == ["1", str(float(f"{row.base_singular_values[0]:.6g}"))]


def test_dark_and_light_follow_the_reader(page: Chrome) -> None:
    with_media(page, scheme="light")
    light = colours(page)
    with_media(page, scheme="dark")
    WebDriverWait(page, 10).until(lambda p: all(a != b for a, b in zip(colours(p), light, strict=True)))
    with_media(page, scheme="light")
    WebDriverWait(page, 10).until(lambda p: colours(p) == light)


def test_it_prints_on_paper_with_every_run(page: Chrome) -> None:
    with_media(page, scheme="dark", media="print")
    assert background(page) == "rgb(255, 255, 255)"
    assert all(part.is_displayed() for part in many(page, "#checks .run"))
    with_media(page)
    pdf = base64.b64decode(page.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 20_000
    assert page.get_log("browser") == []


def test_a_narrow_window_needs_no_sideways_scrolling(page: Chrome) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 420, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        # The browser lays the page out anew, charts included, some time after it was told its width.
        width = "return document.documentElement.scrollWidth"
        WebDriverWait(page, 20).until(lambda page: page.execute_script(width) <= 420)
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_sixty_one_layers_of_256_experts_open_and_answer(browser: Chrome, many_experts_page: Path) -> None:
    page = opened(browser, many_experts_page)
    assert len(many(page, "#grid tbody tr")) == 61
    assert page.execute_script("return document.querySelectorAll('*').length") < 10_000
    cell(page, "layers.60", "down_proj").click()
    assert "of 256 tensors" in one(page, "#detail").text
    assert page.get_log("browser") == []


def test_a_picture_is_kept(page: Chrome) -> None:
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    picture = ARTEFACTS / "report.png"
    assert page.save_screenshot(str(picture))
    assert picture.stat().st_size > 20_000


def test_a_bound_is_drawn_as_a_range_and_not_as_a_number(
    browser: Chrome, small_result: AuditResult, tmp_path: Path
) -> None:
    def points(kind: str) -> int:
        rows = tuple(
            msgspec.structs.replace(m, kind=kind) if m.metric == "normalized_spectral_shift" else m
            for m in small_result.measurements
        )
        write_html(msgspec.structs.replace(small_result, measurements=rows), tmp_path / f"{kind}.html")
        browser.get((tmp_path / f"{kind}.html").as_uri())
        series = browser.execute_script("return drawn.get('published-chart').getOption().series.map((s) => s.type)")
        return sum(kind == "scatter" for kind in series)

    assert points("exact") - points("upper_bound") == 1


def test_on_a_phone_every_number_of_a_check_is_in_sight(
    browser: Chrome, small_result: AuditResult, tmp_path: Path
) -> None:
    write_html(small_result, tmp_path / "phone.html")
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        browser.get((tmp_path / "phone.html").as_uri())
        right = browser.execute_script(
            "return Math.max(...[...document.querySelectorAll('.run:not([hidden]) .checks td')]"
            ".map((cell) => cell.getBoundingClientRect().right))"
        )
        assert right <= 390
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
