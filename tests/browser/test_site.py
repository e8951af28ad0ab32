"Every page on a phone, and what all pages share: search, navigation, dark mode"
import pytest

from tools import browse
from tools.browse import SITE

PAGES = sorted(p.relative_to(SITE).as_posix() for p in SITE.rglob('*.html')) or ['index.html']
BACKGROUND = 'getComputedStyle(document.body).backgroundColor'
BROKEN = '''async () => {
    const images = [...document.images];
    images.forEach((e) => { e.loading = "eager"; });
    await Promise.all(images.map((e) => e.decode().catch(() => null)));
    return images.filter((e) => !e.naturalWidth || !e.alt).map((e) => e.src);
}'''
TOO_WIDE = '''() => [...document.querySelectorAll("main *")].filter((e) => e.getBoundingClientRect().right > innerWidth + 1
    && !e.closest("pre, .sd-table, .cell-output-display, .math.display, .katex-mathml")).map((e) => e.outerHTML.slice(0, 90))'''


@pytest.fixture(scope='module')
def phone(browser, home):
    "One window for all pages, and what goes wrong on them"
    window, wrong = browse.window(browser, 'phone'), []
    page = window.new_page()
    browse.watch(page, home, wrong)
    yield page, wrong
    window.close()


@pytest.mark.parametrize('name', PAGES)
def test_page_on_a_phone(phone, home, name):
    page, wrong = phone
    wrong.clear()
    page.goto(f'{home}/{name}')
    if name == 'try.html': page.wait_for_load_state('networkidle')
    assert page.evaluate('document.documentElement.scrollWidth') <= 390
    assert page.evaluate(TOO_WIDE) == [], 'cut off at the right'
    assert page.evaluate(BROKEN) == [], 'not there, or without alt text'
    assert wrong == []


def test_search_leads_to_a_page(visit):
    page = visit('index.html')
    page.fill('#quarto-search input', 'exact_match')
    page.click('.smalldocs-search-results a >> nth=0')
    page.wait_for_url(lambda url: '/index.html' not in url)
    assert page.locator('main h1').count() == 1


def test_search_by_keyboard_on_a_phone(visit):
    page = visit('index.html', 'phone')
    page.click('.navbar-toggler')
    page.locator('#quarto-search input:visible').fill('seed_everything')
    page.wait_for_selector('.search-result')
    page.keyboard.press('Enter')
    page.wait_for_url('**/core.html*')


def test_menu_on_a_phone(visit):
    page = visit('render.html', 'phone')
    page.click('.navbar-toggler')
    page.click('.navbar-nav a:has-text("Try it")')
    page.wait_for_url('**/try.html')


def test_sidebar_on_a_phone_by_keyboard(visit):
    page = visit('render.html', 'phone')
    page.press('.quarto-btn-toggle', 'Enter')
    page.press('#quarto-sidebar .sidebar-item-toggle >> nth=0', 'Enter')
    page.click('#quarto-sidebar a[href$="lessons/sequences.html"]')
    page.wait_for_url('**/lessons/sequences.html')


def test_dark_is_remembered(visit):
    page = visit('index.html')
    light = page.evaluate(BACKGROUND)
    page.click('.quarto-color-scheme-toggle >> visible=true')
    page.wait_for_function(f'{BACKGROUND} !== "{light}"')
    dark = page.evaluate(BACKGROUND)
    page.goto(page.url.replace('index', 'core'))
    assert page.evaluate(BACKGROUND) == dark


def test_dark_where_the_system_is(visit):
    assert visit('core.html', scheme='dark').evaluate(BACKGROUND) != visit('core.html').evaluate(BACKGROUND)
