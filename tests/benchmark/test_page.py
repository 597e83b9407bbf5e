"""The page in a real browser: headless Chromium with the network watched."""

import json
import shutil

import pytest
from bench_folder import write_folder, write_test

from fashiongen.benchmark.arrange import read
from fashiongen.benchmark.published import default_folder, read_published
from fashiongen.benchmark.webpage import as_json_block, page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[test]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LONG = "long" * 300
HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1><b>bold</b>"
RIGHT_TO_LEFT = "\u202e\u05dc\u05d1\u05d5\u05e9\u200f \u062b\u0648\u0628"


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def show(browser, tmp_path):
    """Open the page of a folder; at the end there must be no error and no network request."""
    complaints, requests, contexts = [], [], []

    def open_page(folder, width=1280, height=900, **options):
        file = tmp_path / "pages" / "board.html"
        file.parent.mkdir(exist_ok=True)
        file.write_text(page(read(folder, read_published(default_folder())), file), encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(60_000)  # a busy machine is slow
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(file.as_uri())
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert sum(url.startswith("file:") for url in requests) == len(contexts)  # the page itself and no other file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("bench"))


def names(tab):
    return tab.locator("[role=tabpanel]:visible table").first.locator("tbody th").all_inner_texts()


def open_tab(tab, text):
    tab.get_by_role("tab", name=text).click()


def no_sideways_scroll(tab):
    return tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_table_sorts_best_first_and_back(show, folder):
    tab = show(folder)
    open_tab(tab, "vtoff on viton_hd")
    assert names(tab) == ["igr", "igr + igr-no-garmnet", "white"]
    head = tab.get_by_role("columnheader", name="ssim")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending" and names(tab)[-1] == "white"
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending" and names(tab)[0] == "white"
    lower = tab.get_by_role("columnheader", name="fid")
    lower.get_by_role("button").click()
    assert lower.get_attribute("aria-sort") == "ascending" and names(tab) == ["igr", "igr + igr-no-garmnet", "white"]
    assert head.get_attribute("aria-sort") == "none"
    tab.get_by_role("columnheader", name="time per sample").get_by_role("button").click()
    assert names(tab) == ["white", "igr + igr-no-garmnet", "igr"]


def test_the_filter_leaves_what_matches(show, folder):
    tab = show(folder)
    open_tab(tab, "vtoff on viton_hd")
    tab.get_by_label("Filter methods").fill("GARM")
    assert names(tab) == ["igr + igr-no-garmnet"]
    assert tab.locator("[role=tabpanel]:visible circle").count() == 2  # one in each plot
    open_tab(tab, "retrieval")
    assert names(tab) == []
    tab.get_by_label("Filter methods").fill("")
    assert names(tab) == ["geco", "random"]


def test_tabs_by_mouse_and_by_keyboard(show, folder):
    tab = show(folder)
    tabs = tab.get_by_role("tab")
    assert [text.split("\n")[0] for text in tabs.all_inner_texts()] == ["retrieval on fashionvc", "vtoff on viton_hd", "Nodes"]

    def chosen():
        (index,) = [index for index in range(tabs.count()) if tabs.nth(index).get_attribute("aria-selected") == "true"]
        assert [tabs.nth(other).get_attribute("tabindex") for other in range(3)] == ["0" if other == index else "-1" for other in range(3)]
        assert tab.locator("[role=tabpanel]:visible").get_attribute("id") == tabs.nth(index).get_attribute("aria-controls")
        return index

    assert chosen() == 0
    tabs.nth(1).click()
    assert chosen() == 1
    seen = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "Home", "End"):
        tab.keyboard.press(key)
        seen.append(chosen())
        assert tab.evaluate("document.activeElement.id") == f"tab-{seen[-1]}"
    assert seen == [2, 0, 2, 0, 2]
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_published_rows_are_a_separate_block_behind_a_switch(show, folder):
    tab = show(folder)
    open_tab(tab, "vtoff on viton_hd")
    switch, block = tab.get_by_role("switch"), tab.locator("[role=tabpanel]:visible section.published")
    assert switch.get_attribute("aria-checked") == "false" and not block.is_visible()
    switch.press("Space")
    assert switch.get_attribute("aria-checked") == "true" and block.is_visible()
    text = block.inner_text()
    assert "IGR: Improving Diffusion Model" in text and "Table 1" in text and "0.7895" in text
    assert "not comparable: another protocol" in text and "contradiction: The text names five scales" in text
    ours = tab.locator("[role=tabpanel]:visible table").first
    assert "0.7895" not in ours.inner_text() and names(tab) == ["igr", "igr + igr-no-garmnet", "white"]
    switch.click()
    assert not block.is_visible()


def test_the_gallery_shows_the_same_samples_side_by_side(show, folder):
    tab = show(folder)
    open_tab(tab, "retrieval")
    assert "have none of a common sample" in tab.locator("[role=tabpanel]:visible").inner_text()
    open_tab(tab, "vtoff on viton_hd")
    gallery = tab.locator("[role=tabpanel]:visible .gallery")
    heads = [text.split()[0] for text in gallery.locator("thead th").all_inner_texts()]
    assert heads == ["sample", "input", "truth", "igr", "igr", "white"]
    assert gallery.locator("tbody tr").count() == 4  # the samples that all of them have
    tab.wait_for_function("[...document.querySelectorAll('.gallery img')].every((image) => image.naturalHeight === 64)")
    first = gallery.locator("tbody tr").first.locator("img")
    assert first.evaluate_all("images => images.map((image) => image.alt)")[1:3] == ["truth, sample 00000_00", "igr, sample 00000_00"]
    colours = first.evaluate_all(
        """images => images.map((image) => {
            const canvas = Object.assign(document.createElement("canvas"), {width: 48, height: 64}), context = canvas.getContext("2d");
            context.drawImage(image, 0, 0);
            return context.getImageData(24, 32, 1, 1).data[0];
        })"""
    )
    assert colours[:2] == [10, 160] and len(set(colours)) == 5


def test_a_number_leads_to_its_record_log_and_command(show, folder, tmp_path):
    tab = show(folder)
    open_tab(tab, "vtoff on viton_hd")
    cell = tab.get_by_role("button", name="white, ssim:")
    cell.focus()
    tab.keyboard.press("Enter")
    dialog = tab.get_by_role("dialog")
    text = dialog.inner_text()
    assert "95 % interval" in text and "over 40 samples, this checkpoint" in text
    assert "adjusted for the column's 2 comparisons: below 0.001" in text
    assert "40 samples in 40 clusters, seeds: 1 here, 3 of the best" in text
    assert "Told apart. With one seed this is about that run, not about the method." in text
    assert "fashiongen test --config recipes/tiny/white.yaml --seed_everything 0" in text and "cpu (x86_64)" in text
    for name, content in (("record", '"method": "white"'), ("log", "what it printed"), ("values per sample", '"id": "00000_00"')):
        address = dialog.get_by_role("link", name=name).get_attribute("href")
        assert content in (tmp_path / "pages" / address).resolve().read_text(encoding="utf-8")
    tab.keyboard.press("Escape")
    assert not dialog.is_visible() and cell.evaluate("button => button === document.activeElement")
    tab.get_by_role("button", name="white, fid[tiny-classifier]:").click()
    assert "untested: a metric of the whole set" in tab.get_by_role("dialog").inner_text()
    tab.get_by_role("button", name="Close").click()
    tab.get_by_role("button", name="igr, lpips[tiny]:").first.click()
    text = tab.get_by_role("dialog").inner_text()
    assert "over 3 seeds and 40 samples" in text
    assert [f"test, seed {seed}" in text for seed in range(3)] == [True] * 3 and "training, seed 2" in text


def test_the_page_says_what_an_interval_is_and_how_many_comparisons_were_made(show, folder):
    tab = show(folder)
    open_tab(tab, "vtoff on viton_hd")
    text = tab.locator("[role=tabpanel]:visible").inner_text()
    for sentence in (
        "Intervals (95 %) of a row with several seeds are for the mean of the method, over other seeds and other samples",
        "They are about this checkpoint, not about the method",
        "Some records name no clusters. Their samples count as independent",
        "over the same samples: 4 in 2 columns. ≈: not told apart from the best at 5 %, by p-values that are adjusted (Holm)",
    ):
        assert sentence in text
    rows = {row.split()[0]: row for row in tab.locator("[role=tabpanel]:visible table").first.locator("tbody tr").all_inner_texts()}
    assert "this checkpoint" in rows["white"] and "bootstrap" not in text


def test_nodes_without_a_result_are_listed_with_their_reasons(show, folder):
    tab = show(folder)
    open_tab(tab, "Nodes")
    text = tab.locator("[role=tabpanel]:visible").inner_text()
    for status, reason in (
        ("failed", "ValueError: broken"), ("killed", "killed by signal 9"), ("timeout", "took longer than 60 s"),
        ("skipped", "its parent fit--dci--seed0 failed"), ("waiting", "planned, and not run yet"),
    ):  # fmt: skip
        assert status in text and reason in text
    open_tab(tab, "vtoff on viton_hd")
    assert "ValueError: broken" in tab.locator("[role=tabpanel]:visible").inner_text()


def test_the_plots_say_in_words_what_they_show(show, folder):
    tab = show(folder)
    open_tab(tab, "vtoff on viton_hd")
    panel = tab.locator("[role=tabpanel]:visible")
    assert panel.locator("circle").count() == 6
    assert panel.locator("svg").first.get_attribute("aria-label").startswith("lpips[tiny] (lower is better) against time per sample")
    panel.locator("select").select_option("ssim")
    panel.get_by_text("The plot as text").first.click()
    assert panel.locator("figure").first.locator("li").all_inner_texts()[-1].startswith("white: 0.3")
    # Better values are further up if higher is better.
    heights = dict(
        panel.locator("figure")
        .first.locator("g")
        .evaluate_all(
            "gs => gs.map((g) => [g.querySelector('title').textContent.split(':')[0], +g.querySelector('circle').getAttribute('cy')])"
        )
    )
    assert heights["igr"] < heights["white"]


def test_the_page_fits_a_phone_and_dark_mode(show, folder):
    tab = show(folder, width=360, height=740, color_scheme="dark", has_touch=True)
    for text in ("retrieval", "vtoff on viton_hd", "Nodes"):
        open_tab(tab, text)
        tab.get_by_role("switch").click()
        assert no_sideways_scroll(tab), text
    open_tab(tab, "vtoff on viton_hd")
    tab.get_by_role("button", name="white, ssim:").click()
    assert no_sideways_scroll(tab)
    tab.get_by_role("button", name="Close").click()

    def ground():
        return tab.evaluate("getComputedStyle(document.body).backgroundColor")

    theme, dark = tab.get_by_role("button", name="Theme"), ground()
    theme.click()
    assert theme.inner_text() == "Theme: light" and ground() == "rgb(255, 255, 255)" != dark
    theme.click()
    assert theme.inner_text() == "Theme: dark" and ground() == dark


def test_hostile_strings_stay_strings(show, tmp_path):
    folder = tmp_path / "run"
    slashless = HOSTILE.replace("/", "\u2215")
    for index, recipe in enumerate((f"{slashless}.yaml", f"{LONG}.yaml", f"{RIGHT_TO_LEFT}.yaml")):
        write_test(
            folder,
            recipe,
            {"lpips[tiny]": 2.0 + index, f"{HOSTILE}{LONG}": 1.0},
            node=f"n{index}",
            images=1,
            ids=[f"{'x' * 60} <b>{index}", *"ab"],
            reason=HOSTILE + LONG,
        )
    write_test(
        folder, "x.yaml", {}, node="bad", status="failed", reason=HOSTILE + RIGHT_TO_LEFT + LONG, command=f"fashiongen test {HOSTILE}{LONG}"
    )
    write_test(folder, "y.yaml", {"ssim": 0.5}, node="board", dataset=HOSTILE, protocol=HOSTILE + LONG, task=RIGHT_TO_LEFT)
    for width in (1280, 360):
        tab = show(folder, width=width, height=740)
        for index in range(tab.get_by_role("tab").count()):
            tab.get_by_role("tab").nth(index).click()
            assert no_sideways_scroll(tab)
            assert tab.get_by_role("tab").nth(index).bounding_box()["height"] < 150
            assert max(tab.locator("[role=tabpanel]:visible .label").evaluate_all("all => all.map((label) => label.offsetHeight)")) < 150
        tab.get_by_role("tab").filter(has_text="vtoff-tiny").click()
        shown = names(tab)
        assert {slashless, LONG, RIGHT_TO_LEFT} <= {name.removesuffix("†").strip() for name in shown} and len(shown) == 3
        tab.locator("[role=tabpanel]:visible .number").first.click()
        assert HOSTILE in tab.get_by_role("dialog").inner_text() and no_sideways_scroll(tab)
        assert tab.evaluate("window.hacked") is None
        assert tab.locator("main b, main script, dialog b").count() == 0


def test_the_policy_refuses_what_is_not_the_page_s_own(browser, folder, tmp_path):
    """A second defence: even injected markup could neither run nor reach the network."""
    file = tmp_path / "board.html"
    text = page(read(folder), file)
    assert "default-src &#x27;none&#x27;; style-src &#x27;sha256-" in text  # for requests without markup, such as fetch
    extra = "<script>window.hacked=1</script><img src='https://example.org/x.png' onerror='window.hacked=2'><b style='color:red'>x</b>"
    file.write_text(text.replace("<main", f"{extra}<main", 1), encoding="utf-8")
    context = browser.new_context()
    tab, refused = context.new_page(), []
    tab.on("console", lambda message: refused.append(message.text))
    tab.goto(file.as_uri())
    assert tab.evaluate("window.hacked") is None
    told = " ".join(refused)
    assert "script-src" in told and "img-src" in told and "style-src" in told
    assert tab.get_by_role("tab").count() == 3  # its own script runs
    context.close()


def test_data_cannot_end_its_block():
    content = {"a": "</script><!--<script>&", "b": "\u2028\u2029", "c": "\ud800"}
    text = as_json_block(content)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {**content, "c": "?"}


def test_the_page_is_a_function_of_the_records(folder, tmp_path):
    assert page(read(folder), tmp_path / "a.html") == page(read(folder), tmp_path / "b.html")
