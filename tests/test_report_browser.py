"""The report in headless Chromium: from disk, without a network, by keyboard, in both themes, with hostile data."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_caption_tables import kept_clips, write_captions, write_version
from helpers_dataset import SCORES, SEEN, STAGES, THRESHOLDS, write_dataset

from captioning.cost import CostConfig
from captioning.report.page import caption_page
from captioning.report.write import write_comparison
from curation.report.page import Amounts, curation_page
from orchestration.report import LIMIT, build_report, save_page
from orchestration.storage import Storage

HOSTILE = (
    "</script><script>document.title='owned'</script>\"'><img src=x onerror=alert(1)>\n"
    "\u202ejavascript:alert(1)<b>&amp;"
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Path:
    """Real footage, so that previews are real; one uri, one reason and one clip_id are hostile."""
    root = tmp_path_factory.mktemp("dataset")
    files = [samples / "bikes.mp4", samples / "bigbuckbunny.mp4"]
    failures = [(HOSTILE, HOSTILE), ("javascript:alert(1)", "no video"), ("s3://b/\u202e4pm.exe", "no video")]
    funnel = write_dataset(root, videos=6, files=files, failures=failures, hostile=HOSTILE, seen=True)
    page = curation_page(
        Storage(root),
        columns=(*SCORES, *SEEN),
        thresholds=THRESHOLDS,
        funnel=funnel,
        stages=[*STAGES, {"name": HOSTILE, "seconds": 1.0}],
        config=HOSTILE,
        amounts=Amounts(near=2, preview_seconds=25),
    )
    save_page(Storage(root), page)
    versions = [write_version(Storage(root), name, number) for number, name in enumerate(("qwen", HOSTILE))]
    write_captions(root, versions, kept_clips(root), hostile=HOSTILE)
    save_page(Storage(root), caption_page(Storage(root)))
    write_comparison(Storage(root), [version.fingerprint for version in versions], kept_clips(root)[:3], CostConfig())
    size = build_report(Storage(root), "Rushes & <b>dailies</b>", subtitle=HOSTILE)
    path = root / "report" / "index.html"
    assert size == path.stat().st_size <= LIMIT
    return path


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    """The open report. Afterwards: nothing was fetched, nothing complained."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light", accept_downloads=True)
    page = context.new_page()
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.goto(report.as_uri())
    page.wait_for_selector("html[data-charts=ready]", timeout=20_000)
    yield page
    assert {url for url in requests if not url.startswith(("data:", "blob:"))} == {report.as_uri()}
    assert complaints == []
    context.close()


def focused(page: Any) -> str | None:
    return page.evaluate("document.activeElement.closest('[data-key]')?.dataset.key")


def eventually(page: Any, holds: Callable[[], bool]) -> None:
    """Polls from here: the policy forbids the page what Playwright's wait_for_function evaluates in it."""
    for _ in range(100):
        if holds():
            return
        page.wait_for_timeout(50)
    pytest.fail("did not come true within 5 s")


def test_charts_are_drawn_with_their_thresholds(page: Any):
    page.evaluate("document.querySelector('[data-chart=score-motion]').scrollIntoView()")
    page.wait_for_selector("[data-chart=score-motion] .barlayer .point", state="attached")
    assert page.locator("[data-chart=score-motion] .shapelayer path").count() == 2  # the line and the side that fails
    assert "≥ 0.8" in page.inner_text("[data-chart=score-motion]")


def test_previews_play_by_keyboard(page: Any):
    page.evaluate("document.querySelector('.has-preview').focus()")
    page.keyboard.press("Space")
    video = page.locator(".tile video")
    eventually(page, lambda: video.evaluate("video => video.readyState") >= 3)
    first = video.evaluate("video => video.currentTime")
    eventually(page, lambda: video.evaluate("video => video.currentTime") != first)
    assert video.evaluate("video => video.videoWidth") in range(16, 257)
    assert not page.evaluate("document.getElementById('detail').open")  # the space did not click as well
    page.keyboard.press("Space")
    assert video.count() == 0


def test_clips_are_walked_and_opened_by_keyboard(page: Any):
    page.keyboard.press("j")
    first = focused(page)
    page.keyboard.press("j")
    second = focused(page)
    assert first
    assert second
    page.keyboard.press("k")
    assert focused(page) == first
    page.keyboard.press("ArrowRight")
    assert focused(page) == second
    page.keyboard.press("Enter")
    detail = page.locator("#detail")
    assert detail.get_attribute("open") is not None
    assert second in detail.inner_text()
    assert re.search(rf"rushes explain \S*dataset\S* {second}", detail.inner_text())
    assert detail.locator("tbody tr").count() == len(SCORES) + len(SEEN)
    page.keyboard.press("k")
    assert detail.get_attribute("data-key") == first
    page.keyboard.press("Escape")
    assert detail.get_attribute("open") is None
    eventually(page, lambda: focused(page) == first)  # set by the dialog's close event, a moment later
    page.keyboard.press("?")
    assert "next, previous clip" in page.inner_text("#keys")


def test_the_theme_is_switched_and_remembered(page: Any):
    def background() -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light = background()
    page.keyboard.press("t")
    dark = background()
    assert dark != light
    page.reload()
    assert background() == dark
    page.click("#theme")
    assert background() == light


def test_boxes_lie_on_their_picture_and_are_hidden_by_key_and_button(page: Any):
    def shown() -> bool:
        return page.eval_on_selector("#curation-people .boxes", "svg => getComputedStyle(svg).display") != "none"

    assert shown()
    shapes = page.eval_on_selector_all(
        ".tile .boxes",
        """all => Promise.all(all.map(async (svg) => {
          const image = svg.parentElement.querySelector("img"), view = svg.viewBox.baseVal;
          image.loading = "eager";
          await image.decode();
          const inside = [...svg.querySelectorAll("path")].map((path) => path.getBBox()).every((box) =>
            Math.min(box.x, box.y, view.width - box.x - box.width, view.height - box.y - box.height) > -0.11);
          const sides = (element) => ["left", "top", "width", "height"].map((s) => element.getBoundingClientRect()[s]);
          return {
            inside,
            same: String(sides(svg)) === String(sides(image)),
            fit: getComputedStyle(image).objectFit + svg.preserveAspectRatio.baseVal.align,
            shape: view.width === image.naturalWidth && view.height === image.naturalHeight,
          };
        }))""",
    )
    assert len(shapes) > 10
    expected = {"same": True, "fit": "contain6", "shape": True, "inside": True}  # xMidYMid, as pictures are fitted
    assert all(shape == expected for shape in shapes)
    page.keyboard.press("b")
    assert not shown()
    assert page.get_attribute("#boxes", "aria-pressed") == "false"
    eventually(page, lambda: page.reload() and not shown())  # Chromium may still be writing its storage
    page.click("#boxes")
    assert shown()
    page.keyboard.press("?")
    assert "show or hide the boxes" in page.inner_text("#keys")
    page.keyboard.press("Escape")


def test_the_details_show_the_boxes_while_no_preview_plays(page: Any):
    page.evaluate("document.querySelector('.has-preview .boxes').parentElement.click()")
    screen = page.locator("#detail .screen")
    eventually(page, lambda: page.locator("#detail video").count() == 1)
    assert not screen.locator(".boxes").is_visible()
    page.keyboard.press("Space")
    eventually(page, lambda: screen.locator(".boxes").is_visible())
    assert screen.locator(".boxes path").count() >= 2
    assert "Boxes" in page.inner_text("#detail .facts")


def test_near_duplicates_stand_behind_the_clip_that_is_kept(page: Any):
    group = page.locator("#curation-duplicates .group").first
    assert group.locator(".tile").first.locator(".badge").text_content() == "kept"
    assert "kept" in group.locator(".tile").first.get_attribute("class")
    assert group.locator(".tile.dropped").count() == group.locator(".tile").count() - 1


def test_the_filter_narrows_down(page: Any):
    page.keyboard.press("j")
    key = focused(page)
    page.keyboard.press("/")
    page.keyboard.type(key)
    shown = page.eval_on_selector_all(".tile:not([hidden])", "tiles => tiles.map(tile => tile.dataset.key)")
    assert shown
    assert set(shown) == {key}
    page.fill("#filter", "matches nothing at all")
    assert page.is_visible("#nothing")
    page.focus("#filter")
    page.keyboard.press("Escape")
    assert page.locator(".tile[hidden]").count() == 0


def test_decisions_are_downloaded_as_overrides(page: Any):
    page.keyboard.press("j")
    kept = focused(page)
    page.keyboard.press("a")
    page.keyboard.press("j")
    dropped = focused(page)
    page.keyboard.press("d")
    assert page.inner_text(".marks span") == "1 to keep, 1 to drop"
    with page.expect_download() as download:
        page.click(".marks .primary")
    text = Path(download.value.path()).read_text()
    assert download.value.suggested_filename == "overrides.csv"
    assert text.splitlines() == ["clip_id,decision,note", f"{kept},keep,", f"{dropped},drop,"]


def test_captions_are_charted_found_by_their_words_and_opened(page: Any):
    page.evaluate("document.querySelector('#captions-lengths').scrollIntoView()")
    page.wait_for_selector("#captions-lengths .barlayer .point", state="attached")
    page.fill("#filter", "pigeons")
    shown = page.eval_on_selector_all("#captions .tile:not([hidden])", "all => all.map((tile) => tile.textContent)")
    assert shown
    assert all("pigeons" in text for text in shown)
    assert page.locator("#captions .tile[hidden]").count() > 0
    page.fill("#filter", "")
    both = page.evaluate(
        """() => [...document.querySelectorAll("#captions .tile")].map((tile) => tile.dataset.key)
          .find((key) => document.querySelector(`#curation .tile[data-key="${CSS.escape(key)}"]`))"""
    )
    for where, text in (("captions", "Answers as they came"), ("curation", "Percentile")):
        page.evaluate(f"document.querySelector('#{where} .tile[data-key=\"{both}\"] .open').focus()")
        page.keyboard.press("Enter")
        assert text in page.inner_text("#detail")
        assert page.get_attribute("#detail", "data-page") == where
        page.keyboard.press("Escape")
    fields = page.locator("#captions .caption details:has(pre)").last
    assert not fields.evaluate("fields => fields.open")
    fields.evaluate("fields => fields.querySelector('summary').click()")
    assert fields.evaluate("fields => fields.open")
    assert "summary" in (fields.locator("pre").text_content() or "")


def test_a_comparison_opens_from_disk(browser: Any, report: Path):
    page = browser.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((report.parent / "compare.html").as_uri())
    assert page.locator("#compare-clips .tile").count() == 3
    assert page.locator("#compare-clips mark").count() > 0
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    assert "Answers as they came" in page.inner_text("#detail")
    for width in (360, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert complaints == []
    page.close()


def test_hostile_text_is_text(page: Any):
    assert page.title() == "Rushes & <b>dailies</b>"
    assert page.locator("img:not([src^='data:image/jpeg'])").count() == 0
    kinds = page.eval_on_selector_all(".boxes path", "all => all.map(path => path.getAttribute('class'))")
    assert set(kinds) <= {"halo", "scene", "overlay", "subtitle", "watermark", "face", "person", "other"}
    assert "other" in kinds
    assert page.locator("a[href^=javascript], [onerror]").count() == 0
    assert "<script>document.title='owned'</script>" in page.inner_text("#curation-failures")
    tile = page.locator(".tile").filter(has_text="document.title='owned'").first
    tile.evaluate("tile => tile.querySelector('.open').focus()")
    page.keyboard.press("Enter")
    assert "document.title='owned'" in page.inner_text("#detail")
    page.keyboard.press("Escape")
    page.evaluate("document.querySelector('#curation-timelines').scrollIntoView()")
    page.locator("rect[data-span]").first.hover()
    assert page.is_visible("#tip")
    assert page.title() == "Rushes & <b>dailies</b>"


def test_nothing_may_be_fetched_or_run_that_was_not_built_in(browser: Any, report: Path):
    page = browser.new_page()
    page.goto(report.as_uri())
    blocked = page.evaluate(
        """async () => {
          const hits = [];
          addEventListener("securitypolicyviolation", (event) => hits.push(event.effectiveDirective));
          await fetch("https://example.invalid/").catch(() => {});
          document.body.append(Object.assign(new Image(), { src: "https://example.invalid/x.png" }));
          document.body.append(Object.assign(document.createElement("script"), { textContent: "window.owned = 1" }));
          await new Promise((done) => setTimeout(done, 200));
          return { hits, owned: window.owned ?? 0 };
        }"""
    )
    assert blocked["owned"] == 0
    assert {hit.removesuffix("-elem") for hit in blocked["hits"]} == {"connect-src", "img-src", "script-src"}
    page.close()


def test_no_width_scrolls_sideways(page: Any):
    for width in (360, 768, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_pictures_have_texts_and_controls_have_names(page: Any):
    assert page.locator("img:not([alt])").count() == 0
    unnamed = page.eval_on_selector_all(
        "button, input", "all => all.filter(e => !(e.textContent.trim() || e.ariaLabel || e.labels?.length)).length"
    )
    assert unnamed == 0
    assert page.locator("main, nav[aria-label], header").count() >= 3
    ids = page.eval_on_selector_all("[id]", "all => all.map(e => e.id)")
    assert len(ids) == len(set(ids))
