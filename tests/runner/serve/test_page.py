"""The page at ``/`` in a real Chromium, over a real server."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import running_browser
from tests.support.servers import RunningServer, running_server, save_chat_model, serve_run

LONG_TOKENS = 4000
PATIENCE_MILLISECONDS = 60_000
"""However busy the machine is."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE_MILLISECONDS)
    with running_browser() as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Whatever the page complains of fails the test."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE_MILLISECONDS)
    tab = context.new_page()
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    yield tab
    context.close()
    # Chromium notes each answer of 400 and more, and a connection that breaks, by itself.
    assert [text for text in complaints if not text.startswith("Failed to load resource")] == []


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Whose answers are long enough to be stopped."""
    folder = tmp_path_factory.mktemp("slow")
    base = save_chat_model(folder / "model", max_position_embeddings=2 * LONG_TOKENS)
    config = {"generation": {"do_sample": False, "max_new_tokens": LONG_TOKENS, "min_new_tokens": LONG_TOKENS}}
    with running_server(serve_run(base, config), folder / "work") as running:
        yield running


@pytest.fixture(scope="module")
def guarded_page_server(chat_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("guarded-page")
    (folder / "key").write_text("secret\n")
    run = serve_run(
        chat_model_path, {"generation": {"max_new_tokens": 4, "min_new_tokens": 4}}, apiKeyPath=str(folder / "key")
    )
    with running_server(run, folder / "work") as running:
        yield running


@pytest.fixture(scope="module")
def labelling(chat_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    match = {label: {"type": "contains", "value": label} for label in ("good", "bad", "so so")}
    feature = {
        "name": "mood",
        "type": "category",
        "preprocessing": {"fallback_label": "bad"},
        "decoder": {"match": match},
    }
    config = {
        "input_features": [{"name": "prompt", "type": "text"}],
        "output_features": [feature],
        "prompt": {"template": "{product}: {review}"},
    }
    with running_server(serve_run(chat_model_path, config), tmp_path_factory.mktemp("labelling")) as running:
        yield running


def visit(page: Page, server: RunningServer) -> None:
    page.goto(f"http://127.0.0.1:{server.port}/")
    expect(page.get_by_label("Model", exact=True)).to_have_value("tiny")


def say(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()


def chat(server: RunningServer, *turns: tuple[str, str], **options: Any) -> str:
    messages: Any = [{"role": role, "content": content} for role, content in turns]
    completion = server.client().chat.completions.create(model="tiny", messages=messages, **options)
    return completion.choices[0].message.content or ""


def wait_for_end(page: Page) -> None:
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()


def test_a_conversation_goes_on_with_all_that_was_said(page: Page, server: RunningServer) -> None:
    visit(page, server)
    first = chat(server, ("user", "Hello"))
    say(page, "Hello")
    expect(page.locator("#log .assistant").first).to_have_text(first)
    wait_for_end(page)
    second = chat(server, ("user", "Hello"), ("assistant", first), ("user", "And?"))
    page.get_by_label("Message").fill("And?")
    page.get_by_label("Message").press("Enter")
    expect(page.locator("#log .assistant").nth(1)).to_have_text(second)
    expect(page.locator("#log .note").nth(1)).to_contain_text("24 tokens")


def test_a_text_is_gone_on_with_where_that_is_asked_for(page: Page, server: RunningServer) -> None:
    completion = server.client().completions.create(model="tiny", prompt="Once upon")
    visit(page, server)
    page.get_by_text("Plain text").click()
    say(page, "Once upon")
    expect(page.locator("#log .assistant")).to_have_text(completion.choices[0].text)


def test_the_model_and_limits_that_are_chosen_are_asked_for(page: Page, server: RunningServer) -> None:
    server.service.models.add_base("another")
    visit(page, server)
    page.get_by_label("Model", exact=True).select_option("another")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Most tokens").fill("3")
    with page.expect_request("**/v1/chat/completions") as asked:
        say(page, "Hello")
    body = asked.value.post_data_json
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("another", 0.5, 3)
    expect(page.locator("#log .note")).to_contain_text(re.compile("^3 tokens .* it ended at the most tokens$"))


def test_what_is_left_empty_is_left_to_the_config(page: Page, server: RunningServer) -> None:
    visit(page, server)
    with page.expect_request("**/v1/chat/completions") as asked:
        say(page, "Hello")
    assert {"temperature", "max_tokens"} & asked.value.post_data_json.keys() == set()
    wait_for_end(page)


def test_stopping_keeps_what_has_come_and_ends_the_answer_in_the_server(page: Page, slow: RunningServer) -> None:
    visit(page, slow)
    say(page, "Tell me everything")
    expect(page.locator("#log .assistant")).not_to_be_empty()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#log .note")).to_have_text("Stopped.")
    so_far = page.locator("#log .assistant").text_content() or ""
    assert 0 < len(so_far) < LONG_TOKENS
    while slow.service.engine.open_requests:
        page.wait_for_timeout(10)
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_clearing_begins_anew(page: Page, server: RunningServer) -> None:
    visit(page, server)
    say(page, "Hello")
    wait_for_end(page)
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#log > div")).to_have_count(0)
    with page.expect_request("**/v1/chat/completions") as asked:
        say(page, "Again")
    assert [turn["content"] for turn in asked.value.post_data_json["messages"]] == ["Again"]
    wait_for_end(page)


def test_what_the_server_refuses_is_told_in_its_words_and_the_message_is_kept(
    page: Page, server: RunningServer
) -> None:
    visit(page, server)
    say(page, "x" * 300)
    expect(page.get_by_role("alert")).to_contain_text("shorten it by")
    expect(page.get_by_label("Message")).to_have_value("x" * 300)
    expect(page.locator("#log > div")).to_have_count(0)
    page.get_by_role("button", name="Dismiss the error").click()
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_stream_that_breaks_off_says_so(page: Page, slow: RunningServer) -> None:
    visit(page, slow)
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=200, body="data: {}"))
    say(page, "Hello")
    expect(page.get_by_role("alert")).to_contain_text("The answer broke off.")


def test_a_server_that_wants_a_key_is_asked_again_once_it_is_written(
    page: Page, guarded_page_server: RunningServer
) -> None:
    page.goto(f"http://127.0.0.1:{guarded_page_server.port}/")
    expect(page.get_by_role("alert")).to_contain_text("the key is missing or wrong")
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type("secret")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Model", exact=True)).to_have_value("tiny")
    expect(page.get_by_role("alert")).to_be_hidden()
    say(page, "Hello")
    expect(page.locator("#log .note")).to_contain_text("4 tokens")


def test_a_page_that_is_opened_early_waits_for_the_model(page: Page, server: RunningServer) -> None:
    service, server.state.service = server.state.service, None
    try:
        page.goto(f"http://127.0.0.1:{server.port}/")
        expect(page.get_by_text("Waiting for the model")).to_be_visible()
    finally:
        server.state.service = service
    expect(page.get_by_label("Model", exact=True)).to_have_value("tiny")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_what_is_said_is_shown_as_text_and_scripts_but_its_own_do_not_run(page: Page, server: RunningServer) -> None:
    visit(page, server)
    page.get_by_label("Most tokens").fill("1")
    say(page, "<img src=x onerror='document.title=1'><script>document.title = 2</script>")
    expect(page.locator("#log .user")).to_contain_text("<img src=x")
    wait_for_end(page)
    assert page.title() == "Try the model"
    policy = server.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_the_columns_of_the_prompt_are_a_form_and_the_answer_a_label_with_probabilities(
    page: Page, labelling: RunningServer
) -> None:
    row = {"review": "The kettle is good", "product": "kettle"}
    expected = labelling.post("/v1/predict", {"rows": [row]}).body["predictions"][0]
    visit(page, labelling)
    expect(page.get_by_role("radio", name="Form")).to_be_checked()
    for column, value in row.items():
        page.get_by_label(column).fill(value)
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#result .value")).to_have_text(expected["value"])
    shares = sorted(expected["probabilities"].values(), reverse=True)
    expect(page.locator("#result td:last-child")).to_have_text([f"{100 * share:.1f} %" for share in shares])
    assert Axe().run(page).response["violations"] == []


def test_a_row_that_is_refused_is_told_beside_the_form(page: Page, labelling: RunningServer) -> None:
    visit(page, labelling)
    page.get_by_label("review").fill("x" * 300)
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("alert")).to_contain_text("tokens")
    expect(page.get_by_role("button", name="Ask")).to_be_enabled()
    page.get_by_text("Chat", exact=True).click()
    expect(page.get_by_label("Message")).to_be_visible()


def test_a_server_without_a_task_for_rows_shows_no_form(page: Page, server: RunningServer) -> None:
    visit(page, server)
    page.wait_for_load_state("networkidle")
    expect(page.get_by_role("radio", name="Chat")).to_be_checked()
    expect(page.get_by_text("Form", exact=True)).to_be_hidden()


def test_nothing_is_fetched_from_elsewhere(page: Page, server: RunningServer) -> None:
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    visit(page, server)
    own = (f"http://127.0.0.1:{server.port}/", "data:")
    assert [address for address in addresses if not address.startswith(own)] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 800), (360, 640)])
def test_it_is_accessible_and_fits_in_light_and_dark_on_screens_and_phones(
    page: Page, server: RunningServer, scheme: Any, size: tuple[int, int]
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": size[0], "height": size[1]})
    visit(page, server)
    expect(page.get_by_role("button", name="Send")).to_be_in_viewport()
    page.locator("#settings").evaluate("details => details.open = true")
    say(page, "Hello")
    wait_for_end(page)
    say(page, "x" * 300)
    expect(page.get_by_role("alert")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]
    found = Axe().run(page)
    assert found.response["violations"] == [], found.generate_report()
