"Each page of the app in a real browser, on a desk and on a phone: it answers, fits the window, and asks no other host"
import numpy as np
import pytest
from PIL import Image
from skimage.data import chelsea

from apps import MISSING, running
from captcha_lab.toy_street import toy_tile
from captcha_lab.views import captcha
from tools.browse import SIZES, window

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)
WAIT = 60_000  # ms, for a machine that does other things, too
TABS = ('Read', 'Tiles and grid', 'Cats and dogs', 'Calculator')


@pytest.fixture(scope='module')
def app(browser, tmp_path_factory):
    with running(tmp_path_factory.mktemp('app')) as app:
        print(f'the app started in {app.seconds:.1f} s')
        yield app


@pytest.fixture
def visit(browser, app):
    "A function that opens the app; a complaint of the browser's, or a request to another host, fails the test in the end"
    opened, wrong = [], []

    def visit(size='desk', scheme='light'):
        opened.append(window(browser, size, scheme))
        page = opened[-1].new_page()
        page.set_default_timeout(WAIT)
        page.on('console', lambda m: wrong.append(m.text) if m.type == 'error' else None)
        page.on('pageerror', lambda e: wrong.append(str(e)))
        page.on('request', lambda r: None if r.url.startswith((app.home, 'data:', 'blob:')) else wrong.append(r.url))
        page.goto(app.home)
        page.get_by_role('button', name='Predict').wait_for()
        return page
    yield visit
    for o in opened: o.close()
    assert wrong == []


def pictures(page): return page.locator('figure img:visible')


def fits(page):
    "Nothing is wider than the window, and all pictures are there"
    assert page.evaluate('document.documentElement.scrollWidth <= window.innerWidth')
    assert page.eval_on_selector_all('figure img', 'all => all.filter(e => !e.naturalWidth || !e.alt).length') == 0


@pytest.mark.parametrize('size', SIZES)
def test_read(visit, size):
    page = visit(size)
    assert pictures(page).count() == 3
    first = pictures(page).first.get_attribute('src')
    page.get_by_role('button', name='Generate').click()
    page.wait_for_function('(first) => document.querySelector("figure img").src != first', arg=first)
    page.wait_for_function('document.querySelectorAll(".lab-pair figure img").length >= 0 && !document.body.innerText.includes("The image says")')
    page.get_by_role('button', name='Predict').click()
    page.get_by_text('The image says').wait_for()
    assert pictures(page).count() == 3
    fits(page)


def test_read_another_kind(visit):
    page = visit()
    page.get_by_label('Kind of image').click()
    page.get_by_role('option', name='Level 0').click()
    page.wait_for_function('!document.body.innerText.includes("The image says")')
    page.get_by_role('button', name='Predict').click()
    page.get_by_text('has never seen such letters').wait_for()


def test_read_an_image_of_ones_own(visit, tmp_path):
    page, sample = visit(), captcha('Level 1', number=11)
    Image.fromarray(sample.image).save(tmp_path/'mine.png')
    page.locator('input[type=file]').first.set_input_files(tmp_path/'mine.png')
    page.wait_for_function('(text) => document.querySelector(".lab-pair code")?.textContent == text', arg=sample.text)


@pytest.mark.parametrize('size', SIZES)
def test_tiles_and_grid(visit, size, tmp_path):
    page = visit(size)
    page.get_by_role('tab', name='Tiles and grid').click()
    page.get_by_text('row 3 column 2').wait_for()
    page.get_by_role('button', name='Traffic lights, 3 x 3').click()
    page.get_by_text('Traffic Light: ').wait_for()
    Image.fromarray(toy_tile(['Bicycle'], np.random.default_rng(1), side=200)).save(tmp_path/'street.png')
    page.locator('input[type=file]').nth(1).set_input_files(tmp_path/'street.png')
    page.get_by_role('alert').wait_for()  # no grid
    page.get_by_label('one picture').check()
    page.get_by_text('It shows').wait_for()
    pictures(page).nth(1).wait_for()
    assert pictures(page).count() == 2
    fits(page)


def test_bad_upload(visit, tmp_path):
    (tmp_path/'text.png').write_text('no picture at all')
    page = visit()
    page.get_by_role('tab', name='Tiles and grid').click()
    page.get_by_text('row 3 column 2').wait_for()
    page.locator('input[type=file]').nth(1).set_input_files(tmp_path/'text.png')
    page.get_by_role('alert').wait_for()
    assert page.get_by_role('alert').inner_text().startswith('not an image: text.png')


@pytest.mark.parametrize('size', SIZES)
def test_cats_and_dogs(visit, size, tmp_path):
    Image.fromarray(chelsea()).save(tmp_path/'chelsea.png')
    page = visit(size)
    page.get_by_role('tab', name='Cats and dogs').click()
    page.get_by_text('Give a photo').wait_for()
    page.locator('input[type=file]').last.set_input_files(tmp_path/'chelsea.png')
    page.locator('.lab-large', has_text='A cat').wait_for()
    pictures(page).nth(1).wait_for()
    assert pictures(page).count() == 2
    fits(page)


@pytest.mark.parametrize('size', SIZES)
def test_calculator(visit, size):
    page = visit(size)
    page.get_by_role('tab', name='Calculator').click()
    page.get_by_text('10.2 %, one in 9.8').wait_for()
    page.get_by_role('button', name='Guessing: 50 %').click()
    page.get_by_text('one in 4,096').wait_for()
    fits(page)


def test_in_the_dark(visit):
    page = visit('desk', 'dark')
    for name in TABS:
        page.get_by_role('tab', name=name).click()
        fits(page)
