"The built site in a real browser: `pytest tests/browser`. Without a browser, or a site, these tests are skipped, and say so"
import pytest

from tools import browse


@pytest.fixture(scope='session')
def browser():
    pytest.importorskip('playwright', reason='needs playwright, which the extra `docs` has')
    if not browse.CHROMIUM: pytest.skip(browse.NO_CHROMIUM)
    with browse.chromium() as browser: yield browser


@pytest.fixture(scope='session')
def home():
    if not (browse.SITE/'index.html').exists(): pytest.skip('no site to look at: python -m tools.site')
    with browse.serve(browse.SITE) as home: yield home


@pytest.fixture
def visit(browser, home):
    "A function that opens a page in a window of its own; whatever goes wrong on it fails the test in the end"
    opened, wrong = [], []

    def visit(name, size='desk', scheme='light'):
        opened.append(browse.window(browser, size, scheme))
        page = opened[-1].new_page()
        browse.watch(page, home, wrong)
        page.goto(f'{home}/{name}', wait_until='networkidle')
        return page
    yield visit
    for o in opened: o.close()
    assert wrong == []
