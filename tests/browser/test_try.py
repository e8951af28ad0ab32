"The page that reads CAPTCHAs says what the library says, and is kind to whoever drops something else"
import io
import json

import numpy as np
import pytest
from PIL import Image

from tools.browse import SITE

ANSWERED = 'document.querySelector("#try-answer strong")?.textContent'
READ_ALL = '''async (images) => {
    const { openReader } = await import("/try/reader.js");
    const { readers } = await (await fetch("/try/readers.json")).json();
    const found = {};
    for (const info of readers) {
        const read = await openReader(info);
        found[info.name] = [];
        for (const src of images) {
            const image = Object.assign(new Image(), { src: `/try/${src}` });
            await image.decode();
            const { text, confidence } = await read(image);
            found[info.name].push([text, confidence]);
        }
    }
    return found;
}'''


@pytest.fixture(scope='module')
def known():
    path = SITE/'try'/'readers.json'
    if not path.exists(): pytest.skip('this site was built without onnxruntime-web')
    return json.loads(path.read_text(encoding='utf-8'))


@pytest.fixture
def page(visit, known):
    page = visit('try.html')
    page.wait_for_function(ANSWERED)
    return page


def drop(page, name, content):
    "Choose a file, and what the page says to it"
    page.evaluate('document.querySelector("#try-answer").textContent = ""')
    page.set_input_files('#try-file', dict(name=name, mimeType='image/png', buffer=content))
    page.wait_for_function('document.querySelector("#try-answer").textContent')
    return page.text_content('#try-answer')


def test_reads_as_in_python(page, known):
    pytest.importorskip('onnxruntime')
    from captcha_lab.bundle import find_bundle, load_bundle
    files = [o['file'] for s in known['sets'] for o in s['images']]
    arrays = [np.array(Image.open(SITE/'try'/f)) for f in files]
    assert len(files) >= 36
    for name, answers in page.evaluate(READ_ALL, files).items():
        wanted = load_bundle(find_bundle(name, onnx=True)).predict(arrays)
        assert [text for text, _ in answers] == [o['text'] for o in wanted]
        np.testing.assert_allclose([c for _, c in answers], [o['confidence'] for o in wanted], atol=2e-3)


def test_most_are_read(page, known):
    "Each set by the reader that has learned such images; level 4 is hard"
    files = [o['file'] for s in known['sets'] for o in s['images']]
    found = {name: {f: text for f, (text, _) in zip(files, rows)} for name, rows in page.evaluate(READ_ALL, files).items()}
    right = {s['name']: np.mean([found[s['reader']][o['file']] == o['text'] for o in s['images']]) for s in known['sets']}
    assert min(right.values()) >= .5 and max(right.values()) == 1, right


def test_by_keyboard(page, known):
    before = page.get_attribute('#try-image', 'src')
    page.focus('#try-set')
    page.keyboard.press('ArrowDown')
    page.keyboard.press('Tab')
    page.keyboard.press('Tab')
    page.keyboard.press('Enter')
    page.wait_for_function(f'document.querySelector("#try-image").src !== "{before}"')
    assert 'level 2' in page.get_attribute('#try-image', 'alt')
    assert page.get_attribute('#try-answer', 'aria-live') == 'polite'


def test_own_image(page, known):
    first = known['sets'][0]['images'][0]
    asked = []
    page.on('request', lambda r: asked.append(r.url) if not r.url.startswith('blob:') else None)
    assert f'Read: {first["text"]} ' in drop(page, 'mine.png', (SITE/'try'/first['file']).read_bytes())
    assert asked == [], 'nothing leaves the page'


def test_bad_files_are_answered_kindly(page):
    line = io.BytesIO()
    Image.new('L', (5000, 10)).save(line, 'PNG')
    assert drop(page, 'notes.txt', b'hello') == 'notes.txt is not an image that this browser can open.'
    assert 'cut.png is not an image' in drop(page, 'cut.png', b'\x89PNG\r\n\x1a\n' + bytes(50))
    assert 'empty.png is not an image' in drop(page, 'empty.png', b'')
    assert drop(page, 'huge.png', bytes(5_000_001)) == 'huge.png is too large: 5 MB at most.'
    assert 'too wide' in drop(page, 'line.png', line.getvalue())


def test_site_without_a_reader(browser, home, known):
    page = browser.new_page()
    page.route('**/readers.json', lambda route: route.fulfill(status=404))
    page.goto(f'{home}/try.html')
    page.wait_for_function('document.querySelector("#try-answer").textContent.includes("without the reader")')
    page.close()
