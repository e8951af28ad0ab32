"The splitter: what must hold for any image, for any font, and for the ways of cutting what touches"
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from captcha_lab.render import Renderer, font_sets
from captcha_lab.split import NAIVE, Splitter, crop_letters, cut_right, ious

FONTS = [f for fonts in font_sets().values() for f in fonts]
WAYS = ('valley', 'watershed', 'halves', 'none')


@st.composite
def scribbles(draw):
    "An image of any size with lines, blobs and noise in any greys"
    h, w = draw(st.integers(8, 160)), draw(st.integers(8, 300))
    grey = st.integers(0, 255)
    img = np.full((h, w), draw(grey), np.uint8)
    for _ in range(draw(st.integers(0, 12))):
        a, b = [(draw(st.integers(-5, w + 5)), draw(st.integers(-5, h + 5))) for _ in range(2)]
        if draw(st.booleans()): cv2.line(img, a, b, draw(grey), draw(st.integers(1, 9)))
        else: cv2.rectangle(img, a, b, draw(grey), -1)
    if draw(st.booleans()):
        noise = np.random.default_rng(draw(st.integers(0, 99))).integers(-20, 21, img.shape)
        img = np.clip(img + noise, 0, 255).astype(np.uint8)
    return img


@given(scribbles(), st.sampled_from(WAYS), st.sampled_from([0, 5]), st.sampled_from(['otsu', 127]))
@settings(max_examples=150, deadline=None)
def test_boxes_of_any_image(img, way, pad, threshold):
    "Inside the image, sorted, never empty; a reason each; either boxes or an error"
    split = Splitter(touching=way, pad=pad, threshold=threshold, wide=1.2)(img)
    h, w = img.shape
    x0, y0, x1, y1 = split.boxes.T
    assert (0 <= x0).all() and (x0 < x1).all() and (x1 <= w).all()
    assert (0 <= y0).all() and (y0 < y1).all() and (y1 <= h).all()
    assert (np.diff(x0) >= 0).all()
    assert len(split.reasons) == len(split.boxes)
    assert (split.error is None) == (len(split.boxes) > 0)
    crops = crop_letters(split)
    assert crops.shape == (len(split.boxes), 28, 28) and crops.dtype == np.uint8


def line_of(font, text, gap=24, size=64):
    "Glyphs with at least `gap` px of paper between their boxes, 150 px high"
    face, x, at = ImageFont.truetype(str(font), size), 30, []
    for c in text:
        l, t, r, b = face.getbbox(c, anchor='ls')
        at.append(x - l)
        x += r - l + gap
    img = Image.new('L', (x + 30, 150), 230)
    for c, left in zip(text, at): ImageDraw.Draw(img).text((left, 95), c, 60, face, anchor='ls')
    return np.array(img)


@pytest.mark.parametrize('font', FONTS, ids=lambda f: f.stem)
def test_spaced_glyphs_give_a_box_each(font):
    "Capitals, digits and small letters, those with dots too"
    for text in ('ABCDEFGH', 'IJKLMNOP', 'QRSTUVWXYZ', '23456789', 'abcdefgh', 'ijklmnop', 'qrstuvwxyz', 'ijijij'):
        split = Splitter()(line_of(font, text))
        assert len(split.boxes) == len(text), (text, split.reasons, split.error)


@given(st.sampled_from(FONTS), st.text('ABCDEFGHIJKLMNOPQRSTUVWXYZ23456789', min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_any_spaced_word_gives_its_number(font, text):
    assert len(Splitter()(line_of(font, text)).boxes) == len(text)


def test_both_polarities_and_scales_agree():
    s = Renderer(0, seed=4)[0]
    normal = Splitter()(s.image)
    assert (Splitter()(cv2.bitwise_not(s.image)).boxes == normal.boxes).all()
    small = Splitter(blur=3)(cv2.resize(s.image, None, fx=.5, fy=.5, interpolation=cv2.INTER_AREA))
    assert (np.diag(ious(small.boxes*2, normal.boxes)) > .75).all()


def test_a_dot_stays_with_its_letter_and_a_line_does_not():
    img = line_of(FONTS[0], 'jaj')
    cv2.line(img, (0, 30), (img.shape[1] - 1, 40), 150, 1)
    split = Splitter()(img)
    assert [r.startswith('dot') for r in split.reasons] == [True, False, True]


def test_letters_at_the_border_say_so():
    img = line_of(FONTS[0], 'ABC')[:, 34:]
    assert Splitter()(img).reasons[0] == 'cut by the border'
    assert 'cut by the border' not in Splitter()(line_of(FONTS[0], 'ABC')).reasons


@pytest.mark.parametrize('way', ['valley', 'watershed'])
def test_touching_letters_are_cut_where_they_touch(way):
    "Two letters pushed together until they touch: the middle of the cut is near the true one"
    right = 0
    for pair in ('HD', 'BK', 'NP', 'EH', 'RF', 'KD', 'DB', 'PE'):
        img = line_of(FONTS[1], f'A{pair}U', gap=24)
        left, right_half = Splitter()(img).boxes[1:3]
        shift = right_half[0] - left[2] + 11  # push until they overlap a little
        joined = np.hstack([img[:, :left[2]], img[:, left[2] + shift:]])
        split = Splitter(touching=way, wide=1.4, pad=0, shares=(.55,))(joined)
        right += len(split.boxes) == 4 and abs(split.boxes[1, 2] - left[2]) <= 12
    assert right >= 6


def test_naive_is_worse_on_lines_and_never_better_on_easy_images():
    share = lambda sp, level: np.mean([cut_right(sp(s.image), s.boxes, pad=round(5*s.image.shape[0]/150)) for s in Renderer(level, seed=77)[:150]])
    assert share(Splitter(), 1) >= share(NAIVE, 1) + .1
    assert share(Splitter(), 0) >= .99
