"Hand-made features and the support vector machine that learns by them"
import numpy as np
import pytest
from hypothesis import given, settings as hypothesis_settings, strategies as st
from skimage.color import rgb2hsv

from captcha_lab.classic import (classic_features, classic_model, colour_cells, edge_cells, edge_maps, pair_features,
                                 pattern_cells)
from captcha_lab.core import InputError


def noise(n=1, side=64, seed=0):
    "Blurred noise in all colours"
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(128, 60, (n, side//4, side//4, 3)).repeat(4, 1).repeat(4, 2) + rng.normal(0, 12, (n, side, side, 3)), 0, 255).astype(np.uint8)


def toys(n, seed=0):
    "Stripes (0) and checks (1), in any colour, with noise"
    rng, y, x = np.random.default_rng(seed), *np.indices((64, 64))
    found = []
    for k in range(n):
        wide, dy, dx = rng.integers(4, 8), *rng.integers(0, 16, 2)
        light = ((y + dy)//wide + (k % 2)*((x + dx)//wide)) % 2
        found.append(rng.uniform(60, 120, 3) + rng.uniform(40, 100, 3)*light[..., None] + rng.normal(0, 20, (64, 64, 3)))
    return np.clip(found, 0, 255).astype(np.uint8), np.arange(n) % 2


# ---- colours

@given(st.integers(0, 10**6), st.integers(1, 5), st.tuples(*[st.integers(1, 10)]*3))
@hypothesis_settings(max_examples=30, deadline=None)
def test_each_cell_has_unit_length(seed, grid, bands):
    found = colour_cells(noise(seed=seed)[0], bands, grid).reshape(grid*grid, -1)
    assert found.shape[1] == np.prod(bands) and found.dtype == np.float32
    assert np.allclose((found**2).sum(1), 1, atol=1e-5)


def test_colours_do_not_care_where_within_a_cell():
    p = noise()[0]
    mixed = p.reshape(-1, 3)[np.random.default_rng(0).permutation(64*64)].reshape(p.shape)
    assert (colour_cells(mixed, grid=1) == colour_cells(p, grid=1)).all()
    assert not (colour_cells(mixed, grid=3) == colour_cells(p, grid=3)).all()


@pytest.mark.parametrize('rgb', [(255, 0, 0), (0, 255, 0), (0, 0, 255), (250, 240, 30), (90, 20, 110), (255, 0, 20), (128, 128, 128), (0, 0, 0), (255, 255, 255)])
def test_bands_are_those_of_hsv(rgb):
    p, bands = np.full((4, 4, 3), rgb, np.uint8), (6, 4, 4)
    h, s, v = np.minimum((rgb2hsv(p)[0, 0]*bands).astype(int), np.array(bands) - 1)
    assert colour_cells(p, bands, 1).argmax() == (h*4 + s)*4 + v


# ---- edges

@pytest.mark.parametrize('k', range(4))
def test_edges_turn_with_the_picture(k):
    "A quarter turn to the left is two directions of eight back"
    p = noise()[0]
    turned = np.roll(np.rot90(edge_maps(p), k), -2*k, axis=2)
    assert np.allclose(edge_maps(np.rot90(p, k)), turned, atol=1e-4)


def test_edges_of_cells_ignore_contrast_and_side():
    light = noise()[0][..., :1].repeat(3, 2)//2 + 60
    maps = edge_maps(light, 16)
    assert np.allclose(edge_cells(3*maps), edge_cells(maps), atol=.02)
    assert np.allclose(edge_cells(np.roll(maps, 8, axis=2)), edge_cells(maps), atol=1e-6)
    assert np.sqrt((edge_cells(maps).reshape(-1, 32)**2).sum(1)) == pytest.approx(1, abs=.02)


# ---- patterns

def test_patterns_ignore_exposure():
    p = noise()[0][..., :1].repeat(3, 2)//2
    for brighter in (p + 40, p*2): assert (pattern_cells(brighter) == pattern_cells(p)).all()


@pytest.mark.parametrize('reach', [1, 3])
def test_patterns_pixel_by_pixel(reach):
    "As the definition says"
    p = noise(side=16)[0][..., :1].repeat(3, 2)
    g, around, r, changes = p[..., 0].astype(int), [(0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1)], reach, []
    for y in range(r, 16 - r):
        for x in range(r, 16 - r):
            bits = [g[y + r*dy, x + r*dx] >= g[y, x] for dy, dx in around]
            changes.append(sum(a != b for a, b in zip(bits, bits[1:] + bits[:1])))
    rough = pattern_cells(p, reach, grid=1)[58]**2
    assert rough == pytest.approx(np.mean(np.array(changes) > 2), abs=1e-6)


# ---- what goes with what

def test_pairs_ignore_what_lies_outside_the_middle():
    p = noise(side=128)[0]
    other = p.copy()
    other[:10], other[:, -10:] = 255, 0
    assert np.allclose(pair_features(other)[1], pair_features(p)[1], atol=1e-4)
    assert not np.allclose(pair_features(other)[0], pair_features(p)[0], atol=.05)


# ---- all together

def test_order_is_kept_and_nothing_leaks():
    p = noise(5)
    found = classic_features(p, 64)
    order = [3, 0, 4, 1, 2]
    assert np.allclose(classic_features(p[order], 64), found[order], atol=1e-5)
    assert np.allclose(classic_features((o for o in p), 64), found, atol=1e-5)
    assert np.allclose(classic_features(p[2:3], 64)[0], found[2], atol=1e-5)
    assert found.dtype == np.float32 and np.isfinite(found).all()


def test_pictures_are_left_alone():
    p = noise(2)
    before = p.copy()
    p.flags.writeable = False
    classic_features(p, 64)
    assert (p == before).all()


@pytest.mark.parametrize('shade', [0, 128, 255])
def test_picture_of_one_grey(shade):
    found = classic_features(np.full((1, 64, 64, 3), shade, np.uint8), 64)
    assert np.isfinite(found).all() and found.any()


def test_any_shape_and_size():
    found = classic_features([noise(side=64)[0][:20], noise(side=128)[0][:, :90], np.zeros((1, 1, 3), np.uint8)], 128)
    assert found.shape == (3, 13790) and np.isfinite(found).all()


@pytest.mark.parametrize('bad, what', [
    ([np.zeros((64, 64), np.uint8)], 'picture 0 is not uint8'), (np.zeros((2, 64, 64, 3), np.float32), 'picture 0 is not uint8'),
    ([np.zeros((64, 64, 3), np.uint8), None], 'picture 1 is not'), ([np.zeros((0, 64, 3), np.uint8)], 'picture 0 is not'),
    (np.zeros((64, 64, 3), np.uint8), 'picture 0 is not'), ([np.zeros((64, 64, 4), np.uint8)], 'picture 0 is not'), ([], 'there are no pictures'), (iter(()), 'there are no pictures')])
def test_not_pictures(bad, what):
    with pytest.raises(InputError, match=what): classic_features(bad)


@pytest.mark.parametrize('size', [0, -32, 32, 100, 127])
def test_bad_size(size):
    with pytest.raises(InputError, match='not a multiple of 32'): classic_features(noise(1), size)


# ---- the machine

def test_learns_a_toy_task():
    x, y = toys(80)
    features = classic_features(x, 64)
    model = classic_model().fit(features[:40], y[:40])
    assert model.score(features[40:], y[40:]) > .95
    assert (classic_model().fit(features[:40], y[:40]).decision_function(features) == model.decision_function(features)).all()


def test_learns_nothing_from_lots():
    x, _ = toys(120)
    features, lots = classic_features(x, 64), np.random.default_rng(1).integers(0, 2, 120)
    assert .25 < classic_model().fit(features[:60], lots[:60]).score(features[60:], lots[60:]) < .75
