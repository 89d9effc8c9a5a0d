"""A person plays in a real browser: whole games, mistakes, failures, a phone, hostile words, a token."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator
from typing import Any

import pytest
from browser import DESK, NO_BROWSER, PHONE, Tab, chromium, open_tab, running_browser
from playwright.sync_api import Browser, Route, expect
from service_cases import wait_for
from service_process import REPOSITORY, ServiceProcess, running_service
from stage import HOSTILE

from envs.alfworld.expert import Expert

pytestmark = pytest.mark.skipif(chromium() is None, reason=NO_BROWSER)

TOKEN = "a-secret-of-the-tests"
STAGE = {"PYTHONPATH": os.pathsep.join((str(REPOSITORY), str(REPOSITORY / "tests")))}


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    with running_browser() as running:
        yield running


@pytest.fixture(scope="module")
def alfworld() -> Generator[ServiceProcess]:
    with running_service("env.size=small", "drain_s=0") as service:
        yield service


@pytest.fixture(scope="module")
def stage() -> Generator[ServiceProcess]:
    """A service that says hostile things and has room for one."""
    limits = ("max_sessions=1", "queue=0", "drain_s=0")
    with running_service(*limits, name="stage:create_app", environment=STAGE) as service:
        yield service


@contextlib.contextmanager
def open_page(browser: Browser, viewport: dict[str, int] = DESK, **options: Any) -> Generator[Tab]:
    """Open a tab that ends its game before it is closed: a browser that is closed may do so too late."""
    with open_tab(browser, viewport, **options) as tab:
        yield tab
        tab.page.evaluate("async () => { if (typeof leave === 'function') await leave(); }")


@pytest.fixture
def tab(browser: Browser) -> Generator[Tab]:
    with open_page(browser) as opened:
        yield opened


def begin(tab: Tab, service: ServiceProcess, number: int = 0) -> None:
    tab.page.goto(f"{service.url}/play")
    expect(tab.page.locator("#range")).not_to_be_empty()
    tab.page.get_by_label("Task 0").fill(str(number))
    tab.page.get_by_role("button", name="Start", exact=True).click()
    expect(tab.page.locator(".turn")).to_have_count(1)


def win(tab: Tab, send: Callable[[int, str], None]) -> int:
    """Play the expert's commands until the game is over, and return how many there were."""
    expert = Expert("new")
    turns = tab.page.locator(".turn")
    for step in range(100):
        if tab.page.locator(".note.end").count():
            return step
        send(step, expert.act(turns.last.locator(".text").inner_text()))
        expect(turns).to_have_count(step + 2)
    raise AssertionError("the expert did not win in 100 steps")


def typed(tab: Tab, *texts: str) -> None:
    for box, text in zip(tab.page.locator("#inputs textarea").all(), texts, strict=False):
        box.fill(text)
    tab.page.locator("#inputs textarea").first.press("Enter")


def test_a_person_wins_a_game_by_clicking_and_typing(tab: Tab, alfworld: ServiceProcess) -> None:
    page = tab.page
    page.goto(f"{alfworld.url}/play")
    expect(page).to_have_title("Play alfworld")
    expect(page.get_by_role("heading", name="alfworld")).to_be_visible()
    expect(page.locator("#range")).to_have_text("0–99,999")
    expect(page.get_by_label("command", exact=True)).to_be_disabled()
    page.get_by_label("Task 0").fill("7")
    page.get_by_label("Task 0").press("Enter")
    expect(page.locator(".turn")).to_have_count(1)
    expect(page.get_by_role("log")).to_contain_text("Your task is to:")
    expect(page.get_by_label("command", exact=True)).to_be_focused()

    def send(step: int, command: str) -> None:
        if step % 2:
            page.get_by_label("command", exact=True).fill(command)
            page.get_by_label("command", exact=True).press("Enter")
        else:
            page.locator("#chips").get_by_role("button", name=command, exact=True).click()

    steps = win(tab, send)
    expect(page.locator(".note.end")).to_contain_text(f"Won{steps} steps, reward 10.")
    expect(page.locator(".turn").last).to_contain_text("reward +10")
    expect(page.locator("#steps")).to_have_text(str(steps))
    expect(page.get_by_role("status")).to_have_text(f"Won after {steps} steps.")
    expect(page.get_by_label("command", exact=True)).to_be_disabled()
    wait_for(alfworld, active_sessions=0)

    expect(page.get_by_role("button", name="Next task")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#task")).to_contain_text("-8")
    expect(page.locator(".turn")).to_have_count(1)
    expect(page.locator("#steps")).to_have_text("0")
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith((alfworld.url, "data:"))] == []


def test_a_bad_command_is_marked_and_earlier_ones_come_back(tab: Tab, alfworld: ServiceProcess) -> None:
    begin(tab, alfworld)
    page, box = tab.page, tab.page.get_by_label("command", exact=True)
    typed(tab, "open the pod bay doors")
    expect(page.locator(".turn").last).to_contain_text("invalid")
    expect(page.locator(".turn").last).to_contain_text("Nothing happens.")
    expect(page.locator("#steps")).to_have_text("1")
    typed(tab, "look")
    expect(page.locator(".turn")).to_have_count(3)
    expect(page.locator(".turn").last).not_to_contain_text("invalid")
    for key, shown in (
        ("ArrowUp", "look"),
        ("ArrowUp", "open the pod bay doors"),
        ("ArrowUp", "open the pod bay doors"),
        ("ArrowDown", "look"),
        ("ArrowDown", ""),
    ):
        box.press(key)
        expect(box).to_have_value(shown)
    typed(tab, "  \n ")  # nothing to send
    box.fill("one")
    box.press("Shift+Enter")
    box.press_sequentially("two")
    expect(box).to_have_value("one\ntwo")
    expect(page.locator(".turn")).to_have_count(3)
    assert tab.complaints == []


def test_commands_are_found_by_their_words(tab: Tab, alfworld: ServiceProcess) -> None:
    begin(tab, alfworld)
    chips, search = tab.page.locator("#chips button"), tab.page.get_by_label("Filter commands")
    everything = chips.all_inner_texts()
    numbered = [text for text in everything if text.startswith("go to cabinet ")]
    assert numbered == sorted(numbered, key=lambda text: int(text.rpartition(" ")[2]))
    search.fill("GO cab")
    assert chips.all_inner_texts() == numbered
    expect(tab.page.locator("#count")).to_have_text(f"{len(numbered)} of {len(everything)}")
    search.fill("nothing like it")
    expect(tab.page.locator("#chips")).to_have_text("No command has these words.")
    search.press("Enter")
    search.fill("inventory")
    search.press("Enter")
    expect(tab.page.locator(".turn")).to_have_count(2)
    expect(tab.page.locator(".turn").last).to_contain_text("You are not carrying anything.")
    expect(search).to_have_value("")
    expect(chips).to_have_count(len(everything))


def test_a_reload_ends_the_game_and_keeps_the_choice(tab: Tab, alfworld: ServiceProcess) -> None:
    page = tab.page
    page.goto(f"{alfworld.url}/play")
    page.get_by_label("Split").fill("valid_seen")
    page.get_by_label("Split").press("Tab")
    expect(page.locator("#range")).to_have_text("0–999")
    page.get_by_role("button", name="Choose a random task").click()
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator(".turn")).to_have_count(1)
    chosen, shown = page.locator("#number").input_value(), page.get_by_role("log").inner_text()
    assert 0 <= int(chosen) < 1000
    wait_for(alfworld, active_sessions=1)
    page.reload()
    wait_for(alfworld, active_sessions=0)
    expect(page.get_by_role("heading", name="You are the agent")).to_be_visible()
    expect(page.get_by_label("Split")).to_have_value("valid_seen")
    expect(page.locator("#number")).to_have_value(chosen)
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("log")).to_have_text(shown, use_inner_text=True)
    page.goto("about:blank")
    wait_for(alfworld, active_sessions=0)
    assert tab.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "viewport", [DESK, PHONE, {"width": 320, "height": 568}], ids=["desk", "phone", "small"]
)
def test_it_fits_stays_put_and_can_be_read(
    browser: Browser, alfworld: ServiceProcess, viewport: dict[str, int], scheme: Any
) -> None:
    phone = viewport is not DESK
    with open_page(browser, viewport, color_scheme=scheme, is_mobile=phone, has_touch=phone) as tab:
        places: list[Any] = []

        def look() -> None:
            parts = [
                tab.page.locator(part).bounding_box() for part in (".bar", ".log", ".commands", ".composer")
            ]
            places.append(parts)
            assert tab.sticking_out == []
            assert tab.pale == []
            assert tab.page.evaluate("document.documentElement.scrollHeight") <= viewport["height"]

        tab.page.goto(f"{alfworld.url}/play")
        expect(tab.page.locator("#range")).not_to_be_empty()
        look()
        begin(tab, alfworld)
        look()
        tab.page.get_by_label("command", exact=True).fill("x" * 300)
        tab.page.locator("#send").click()
        expect(tab.page.locator(".turn")).to_have_count(2)
        look()
        tab.page.get_by_label("Split").fill("nowhere")
        tab.page.get_by_label("Split").press("Tab")
        expect(tab.page.get_by_role("alert")).to_contain_text("ALFWorld has train, valid_seen, valid_unseen.")
        expect(tab.page.locator("#splits option")).to_have_count(3)
        look()
        tab.page.get_by_label("Split").fill("train")
        tab.page.get_by_label("Split").press("Tab")
        begin(tab, alfworld)
        win(tab, lambda _, command: typed(tab, command))
        look()
        assert places == places[:1] * len(places)


def test_what_an_environment_says_stays_text(tab: Tab, stage: ServiceProcess) -> None:
    begin(tab, stage)
    expect(tab.page.locator("#description")).to_have_text(HOSTILE)
    expect(tab.page.locator("#task")).to_have_text(f"{HOSTILE} 0")
    expect(tab.page.locator(".turn .text").first).to_have_text(HOSTILE)
    expect(tab.page.locator(".turn .facts").last).to_contain_text(HOSTILE)
    typed(tab, HOSTILE)
    expect(tab.page.locator(".turn").last.locator(".did")).to_contain_text(HOSTILE)
    typed(tab, "crash")
    expect(tab.page.get_by_role("alert")).to_contain_text(f"the stage collapsed {HOSTILE}")
    assert tab.page.locator("main img, main script, main b").count() == 0
    assert tab.page.evaluate("window.hacked") is None


def test_the_policy_lets_nothing_else_run(tab: Tab, stage: ServiceProcess) -> None:
    begin(tab, stage)
    attacks = {
        "markup": "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=hacked=3>')",
        "script": "Object.assign(document.createElement('script'), {text: 'hacked = 4'})",
        "handler": "document.body.setAttribute('onclick', 'window.hacked = 5')",
    }
    for name, attack in attacks.items():
        refused = f"() => {{ try {{ {attack}; return false; }} catch (error) {{ return error.name; }} }}"
        assert tab.page.evaluate(refused) == "TypeError", name
    remote = "() => fetch('http://127.0.0.1:9/').then(() => 'went', (error) => error.name)"
    assert tab.page.evaluate(remote) == "TypeError"
    assert any("Content Security Policy" in text for text in tab.complaints)
    assert tab.page.evaluate("window.hacked") is None


def test_the_form_is_made_from_the_schema(tab: Tab, stage: ServiceProcess) -> None:
    page = tab.page
    begin(tab, stage)
    expect(page.locator("#inputs textarea")).to_have_count(
        2
    )  # not loudness, which is no text, and not metadata
    expect(page.get_by_label("aside")).to_have_attribute("placeholder", "for the audience")
    expect(page.locator("#commands")).to_be_hidden()
    with page.expect_request("**/step") as sent:
        typed(tab, "", "hush")
    body = sent.value.post_data_json
    assert body is not None
    assert body["action"] == {"aside": "hush"}
    expect(page.locator(".turn").last.locator(".did")).to_have_text("asidehush")
    expect(page.locator(".turn").last.locator(".facts")).to_have_text("applause4")  # only what has changed
    typed(tab, "one", "two")
    expect(page.locator(".turn").last.locator(".text")).to_have_text("one\ntwo", use_inner_text=True)
    typed(tab, "stop")
    expect(page.locator(".note.end")).to_contain_text("Not won3 steps, reward −1.5.")
    expect(page.locator(".turn").last).to_contain_text("reward −1.5")
    page.get_by_role("button", name="Play it again").click()
    expect(page.locator("#task")).to_have_text(f"{HOSTILE} 0")
    expect(page.locator(".turn")).to_have_count(1)
    assert tab.complaints == []


def test_a_broken_environment_offers_to_start_again(tab: Tab, stage: ServiceProcess) -> None:
    begin(tab, stage, 1)
    typed(tab, "crash")
    expect(tab.page.get_by_role("alert")).to_contain_text("env.step")
    expect(tab.page.get_by_label("say")).to_be_disabled()
    tab.page.get_by_role("button", name="Start again").click()
    expect(tab.page.locator(".turn")).to_have_count(1)
    expect(tab.page.locator("#task")).to_have_text(f"{HOSTILE} 1")
    expect(tab.page.get_by_label("say")).to_be_enabled()


def test_a_lost_session_offers_to_start_again(tab: Tab, stage: ServiceProcess) -> None:
    begin(tab, stage)
    tab.page.evaluate("async () => { await release(game); }")
    wait_for(stage, active_sessions=0)
    typed(tab, "hello")
    expect(tab.page.get_by_role("alert")).to_contain_text("is over: closed by its client.")
    expect(tab.page.get_by_role("alert")).to_contain_text("session.ended")
    tab.page.get_by_role("button", name="Start again").click()
    expect(tab.page.get_by_label("say")).to_be_enabled()
    expect(tab.page.locator(".turn")).to_have_count(1)


def test_a_page_that_comes_back_says_that_its_game_is_over(tab: Tab, stage: ServiceProcess) -> None:
    begin(tab, stage)
    # What a browser does that keeps a page while another one is shown, and this one does not.
    tab.page.evaluate("() => { dispatchEvent(new PageTransitionEvent('pagehide', {persisted: true})); }")
    wait_for(stage, active_sessions=0)
    tab.page.evaluate("() => { dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true})); }")
    expect(tab.page.get_by_role("alert")).to_contain_text("This game ended when you left the page.")
    expect(tab.page.get_by_label("say")).to_be_disabled()


def test_a_full_service_says_so_and_can_be_asked_again(tab: Tab, stage: ServiceProcess) -> None:
    status, taken = stage.post("/sessions", {})
    assert status == 201
    tab.page.goto(f"{stage.url}/play")
    expect(tab.page.locator("#range")).not_to_be_empty()
    tab.page.get_by_role("button", name="Start", exact=True).click()
    expect(tab.page.get_by_role("alert")).to_contain_text("All 1 sessions are in use")
    expect(tab.page.get_by_role("alert")).to_contain_text("service.full")
    expect(tab.page.get_by_label("say")).to_be_disabled()
    key = {"X-Session-Key": taken["session_key"]}
    assert tab.page.request.delete(f"{stage.url}/sessions/{taken['session_id']}", headers=key).ok
    tab.page.get_by_role("button", name="Try again").click()
    expect(tab.page.locator(".turn")).to_have_count(1)


def test_a_step_without_an_answer_is_sent_again_under_its_id(tab: Tab, stage: ServiceProcess) -> None:
    begin(tab, stage)
    answer = tab.page.locator(".turn").last.locator(".text").first
    sent: list[Any] = []
    lost = 0

    def lose(route: Route) -> None:
        """Let the first request reach the service and lose its answer, then lose some requests."""
        sent.append(route.request.post_data_json)
        if len(sent) == 1:
            route.fetch()
        if len(sent) <= lost:
            route.abort()
        else:
            route.continue_()

    tab.page.route("**/step", lose)
    lost = 2
    typed(tab, "hello")
    expect(answer).to_have_text("hello")
    assert len(sent) == 3

    lost = 6
    typed(tab, "are you there?")
    expect(tab.page.get_by_role("alert")).to_contain_text("The service cannot be reached.")
    expect(tab.page.locator("#inputs textarea").first).to_have_value("are you there?")
    tab.page.get_by_role("button", name="Try again").click()
    expect(answer).to_have_text("are you there?")
    expect(tab.page.locator("#steps")).to_have_text("2")
    assert len(sent) == 7
    assert len({body["request_id"] for body in sent}) == 2
    assert tab.page.evaluate("async () => (await ask('GET', place(game), {key: game.key})).step_count") == 2


def test_a_slow_answer_is_waited_for_visibly(tab: Tab, stage: ServiceProcess) -> None:
    begin(tab, stage)
    held: list[Route] = []
    tab.page.route("**/step", lambda route: held.append(route))
    typed(tab, "slowly")
    expect(tab.page.get_by_role("status")).to_have_text("Waiting for the service.")
    typed(tab, "twice")  # one thing at a time
    assert len(held) == 1
    held[0].continue_()
    expect(tab.page.locator(".turn")).to_have_count(2)
    expect(tab.page.get_by_role("status")).to_be_empty()


def test_a_stranger_at_the_address_is_named_as_one(tab: Tab, stage: ServiceProcess) -> None:
    tab.page.route("**/schema", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
    tab.page.goto(f"{stage.url}/play")
    expect(tab.page.get_by_role("alert")).to_contain_text("What answers here is not the service (HTTP 502).")
    tab.page.unroute("**/schema")
    tab.page.get_by_role("button", name="Load again").click()
    expect(tab.page.get_by_role("heading", name="stage")).to_be_visible()


def test_the_token_is_the_password_of_the_address(browser: Browser) -> None:
    with running_service(
        "drain_s=0", name="stage:create_app", environment={**STAGE, "AGENTRL_TOKEN": TOKEN}
    ) as service:
        with open_tab(browser) as tab:
            refused = tab.page.request.get(f"{service.url}/play")
            assert refused.status == 401
            assert refused.headers["www-authenticate"] == 'Basic realm="agentrl", charset="UTF-8"'
            assert "html" not in refused.text()
        with open_page(browser) as tab:
            tab.page.goto(f"{service.url.replace('://', f'://me:{TOKEN}@')}/play")
            expect(tab.page.locator("#range")).to_have_text("0–1")
            tab.page.get_by_role("button", name="Start", exact=True).click()
            expect(tab.page.locator(".turn")).to_have_count(1)
            typed(tab, "hello")
            expect(tab.page.locator(".turn").last.locator(".text").first).to_have_text("hello")
            assert TOKEN not in tab.page.content()
            assert tab.complaints == []
        # What a person types into the browser's own prompt arrives in the same way.
        with open_tab(browser, http_credentials={"username": "", "password": TOKEN}) as tab:
            tab.page.goto(f"{service.url}/play")
            expect(tab.page.get_by_role("heading", name="stage")).to_be_visible()
