"Hiding what an attacker looks at: exact areas, fair controls, originals untouched, and one clear line for what can't be played"
import hashlib
import json

import cv2
import numpy as np
import pytest

from captcha_lab.attackers import ProbeAttacker, TunedAttacker, kept_back
from captcha_lab.core import InputError
from captcha_lab.data import square
from captcha_lab.defence import defence_tiles
from captcha_lab.defend import centre_scores, crop_away, grey, hide, map_scores, random_scores, top_area
from captcha_lab.rounds import GUIDES, Hiding, Shots, guide_gain, guide_scores, hide_once, play_levels, step_measures, with_erased
from captcha_lab.tile_table import open_tile
from commands import one, run
from hypothesis import given, settings, strategies as st

pytestmark = pytest.mark.usefixtures('one_thread', 'own_data')
SIDE, MARK = 128, 28
COLORS = [(230, 40, 40), (40, 220, 40), (60, 60, 250)]


def marked(n, seed):
    "Grey noise with one coloured square; its colour is the class, `boxes` say where it is"
    rng = np.random.default_rng(seed)
    pictures, labels = np.repeat(rng.integers(60, 160, (n, SIDE, SIDE, 1), dtype=np.uint8), 3, 3), np.arange(n) % 3
    boxes = rng.integers(0, SIDE - MARK, (n, 2))
    for p, k, (y, x) in zip(pictures, labels, boxes): p[y:y + MARK, x:x + MARK] = COLORS[k]
    return Shots(pictures, labels), boxes


@pytest.fixture(scope='module')
def game():
    train, test = marked(90, 0)[0], marked(60, 1)[0]
    return train, test, ProbeAttacker().fit(*train)


# ---- areas

@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(2, 40), st.floats(0, 1), st.floats(0, 1), st.integers(0, 9))
def test_area_is_exact_and_grows(n, size, a, b, seed):
    a, b = sorted((a, b))
    scores = np.random.default_rng(seed).random((n, size, size)).round(1) # many ties
    small = top_area(scores, a, seed=seed)
    assert (small.sum((1, 2)) == round(a*size*size)).all()
    large = top_area(scores, b, small, seed)
    assert (large.sum((1, 2)) == round(b*size*size)).all() and large[small].all()
    for s, m in zip(scores, small):
        if m.any() and not m.all(): assert s[m].min() >= s[~m].max()


def test_no_corner_is_preferred_where_a_map_says_nothing():
    masks = top_area(np.zeros((40, 32, 32)), .3).mean(0)
    assert abs(masks[:16, :16].mean() - .3) < .02 and abs(masks[16:, 16:].mean() - .3) < .02


def test_guides_hide_the_same_area_in_pieces_of_like_size(game):
    _, test, attacker = game
    hidden = {g: top_area(guide_scores(g, attacker, test), .3) for g in GUIDES}
    assert len({m.sum() for m in hidden.values()}) == 1
    borders = {g: np.mean([cv2.findContours(m.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0].__len__() for m in ms])
               for g, ms in hidden.items()}
    assert borders['centre'] == 1 and borders['random'] < 8 # regions, not grains


@pytest.mark.parametrize('fill', ['mean', 'blur', 'crop'])
def test_originals_stay(game, fill):
    _, test, attacker = game
    before = test.pictures.copy()
    hiding = Hiding(test, fill)
    hiding.more(guide_scores('map', attacker, test), .2)
    now = hiding.more(guide_scores('map', attacker, hiding.now), .4)
    assert (test.pictures == before).all() and now.pictures.shape == before.shape and (now.pictures != before).any()


def test_crop_keeps_what_is_not_to_go():
    (pictures, _), boxes = marked(20, 3)
    scores = np.zeros(pictures.shape[:3], np.float32)
    for s, (y, x) in zip(scores, boxes): s[y:y + MARK, x:x + MARK] = 1
    left = crop_away(pictures, scores, .75) # a quarter of the area that hardly meets the mark can be found for each
    colored = np.ptp(left.astype(int), axis=3).max((1, 2)) > 100
    assert colored.mean() < .1


def test_hide_touches_nothing_else():
    pictures = marked(5, 4)[0].pictures
    masks = top_area(centre_scores(5, SIDE), .3)
    for fill in ('mean', 'blur'):
        found = hide(pictures, masks, fill)
        assert (found[~masks] == pictures[~masks]).all() and (found[masks] != pictures[masks]).any()
    assert np.ptp(grey(pictures), axis=3).max() == 0


def test_erasing_adds_copies():
    shots = marked(9, 5)[0]
    both = with_erased(*shots, seed=2)
    assert len(both.labels) == 18 and (both.pictures[:9] == shots.pictures).all() and (both.pictures[9:] != shots.pictures).any()


@pytest.mark.parametrize('size', [128, 160])
def test_erasing_hides_what_is_not_hidden_already(size):
    "At 128 px chance has as many cells as the copies: other lots are needed, else the same places go again"
    shots = Shots(np.full((80, size, size, 3), 255, np.uint8), np.arange(80) % 2)
    learn = Hiding(shots, seed=3).more(random_scores(80, size//32, size, 3), .3)
    both = with_erased(*learn, seed=3).pictures
    gone = (both != 255).all(3).mean((1, 2))
    assert gone[:80] == pytest.approx(.3, abs=.001) and (gone[80:] - gone[:80]).mean() > .1


@pytest.mark.parametrize('fill', ['mean', 'blur', 'crop'])
def test_erasing_is_done_as_the_defence_does(fill):
    shots = marked(12, 5)[0]
    copies = with_erased(*shots, seed=2, fill=fill).pictures[12:]
    flat = (copies == (124, 116, 104)).all(3).mean((1, 2))
    assert (copies != shots.pictures).any() and (flat.mean() > .1) == (fill == 'mean')


def test_nothing_to_hide():
    with pytest.raises(InputError, match='no pictures'): top_area(np.zeros((0, 8, 8)), .3)


def test_half_a_map_is_half_a_picture():
    maps = np.zeros((1, 2, 2), np.float32)
    maps[0, :, 0] = 1
    mask = top_area(map_scores(maps, 32), .5)[0]
    assert mask[:, :16].all() and not mask[:, 16:].any()


# ---- attackers

def test_map_covers_the_mark_sooner_than_chance(game):
    shots, boxes = marked(40, 6)
    def covered(guide):
        masks = top_area(guide_scores(guide, game[2], shots), .3)
        return np.mean([m[y:y + MARK, x:x + MARK].mean() for m, (y, x) in zip(masks, boxes)])
    assert covered('map') > covered('random') + .3


def test_attackers_forget():
    train, test = marked(60, 7)[0], marked(30, 8)[0]
    attacker = ProbeAttacker().fit(*train)
    first = attacker.probs(test.pictures)
    attacker.fit(train.pictures, (train.labels + 1) % 3)
    assert (attacker.fit(*train).probs(test.pictures) == first).all()


def test_same_seed_same_tuned_attacker():
    train, test = marked(36, 9)[0], marked(12, 10)[0]
    found = [TunedAttacker(epochs=1).fit(*train, seed).probs(test.pictures) for seed in (0, 0, 1)]
    assert np.allclose(found[0], found[1], atol=1e-3) and not np.allclose(found[0], found[2], atol=1e-3)


@pytest.mark.parametrize('labels, says', [([0]*9, 'one class'), ([0]*7 + [1]*2, 'class 1 has 2'), ([0, 1]*4, '8 labels for 9')])
def test_nothing_to_learn(labels, says):
    for attacker in (ProbeAttacker(), TunedAttacker()):
        with pytest.raises(InputError, match=says): attacker.fit(marked(9, 0)[0].pictures, np.array(labels))


def test_kept_back_of_each_class():
    labels = np.array([0]*50 + [1]*5 + [2])
    assert np.bincount(labels[kept_back(labels, 3)]).tolist() == [10, 1, 1]


@pytest.mark.parametrize('make', [ProbeAttacker, lambda: TunedAttacker(epochs=1)])
def test_versions_of_a_picture_stay_together(make, monkeypatch):
    "Of a picture and its erased copy, none is learnt from while the other is kept back"
    import captcha_lab.attackers as attackers
    dealt, deal = [], attackers.kept_back
    monkeypatch.setattr(attackers, 'kept_back', lambda *args, **kwargs: dealt.append(deal(*args, **kwargs)) or dealt[-1])
    both = with_erased(*marked(30, 12)[0])
    make().fit(*both, 0, np.tile(np.arange(30), 2))
    assert (dealt[0][:30] == dealt[0][30:]).all() and 0 < dealt[0].sum() < 30
    with pytest.raises(InputError, match='30 groups for 60'): make().fit(*both, 0, np.arange(30))


def test_rounds_deal_copies_together(game, monkeypatch):
    train, test, basic = game
    seen = []
    class Noting(ProbeAttacker):
        def fit(self, pictures, labels, seed=0, groups=None):
            seen.append((len(labels), groups))
            return super().fit(pictures, labels, seed, groups)
    play_levels(train, test, Noting, basic, 'centre', 1, .2)
    assert [n for n, _ in seen] == [90, 180] and seen[0][1] is None
    assert (seen[1][1][:90] == seen[1][1][90:]).all() and len(set(seen[1][1])) == 90


# ---- rounds

def test_hiding_the_mark_is_worth_more_than_chance(game):
    train, test, basic = game
    rows = {g: hide_once(train, test, ProbeAttacker, basic, g, (.3,)) for g in ('map', 'random')}
    assert np.mean(basic.probs(test.pictures).argmax(1) == test.labels) > .9
    assert guide_gain([rows['map']], [rows['random']], np.arange(60), 'static')[0]['gain']['ci95'][0] > 0


def test_levels_are_the_same_again(game):
    train, test, basic = game
    one, two = (play_levels(train, test, ProbeAttacker, basic, 'random', 2, .1, seed=s) for s in (5, 5))
    assert one == two and [r['area'] for r in one] == [.1, .2]
    assert play_levels(train, test, ProbeAttacker, basic, 'random', 1, .1, seed=6)[0] != one[0]


def test_seeds_do_not_count_as_pictures():
    row = lambda right: [{'step': 'level 1', 'guide': 'map', 'area': .1, 'retrained': right}]
    half, width = [1]*30 + [0]*30, lambda m: m['ci95'][1] - m['ci95'][0]
    one, five = (step_measures([row(half)]*n, np.arange(60))[0]['retrained'] for n in (1, 5))
    assert one == five and one['n'] == 60 and width(one) > .2
    assert guide_gain([row([1, 0])]*2, [row([1, 1])]*2, [0, 1])[0]['gain']['value'] == .5
    seeds = [row([1]*k + [0]*(60 - k)) for k in (10, 20, 30, 40, 50)] # the same mean, but which training it was matters
    apart = step_measures(seeds, np.arange(60))[0]['retrained']
    assert apart['value'] == pytest.approx(.5) and width(apart) > 1.3*width(one)
    gain = guide_gain(seeds, [row([1]*60)]*5, np.arange(60))[0]['gain']
    assert gain['per_seed'] == [.8333, .6667, .5, .3333, .1667] and width(gain) > 1.3*width(one)
    assert width(guide_gain(seeds, seeds, np.arange(60))[0]['gain']) == 0, 'seeds are compared in pairs'


# ---- the command

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A folder of class folders"
    home, (pictures, labels) = tmp_path_factory.mktemp('marks')/'marks', marked(90, 11)[0]
    for i, (p, k) in enumerate(zip(pictures, labels)):
        (home/'abc'[k]).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(home/'abc'[k]/f'{i}.png'), p[..., ::-1])
    return home


def digests(folder): return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob('*.png')}


def test_defend(folder, tmp_path):
    before, out = digests(folder), tmp_path/'out'
    args = ['defend', '--data', folder, '--out', out, '--n', 15, '--seeds', 1, '--size', 96, '--levels', 2, '--area', .15, '--workers', 0, '--classes', 'a', 'b', 'c']
    card = one(*args)
    assert digests(folder) == before
    assert [r['step'] for r in card['measures']['table']] == ['basic', 'grey', 'level 1', 'level 2']
    assert set(card['measures']['table'][0]) == {'step', 'area', 'a', 'b', 'c', 'all classes'} and card['seeds'] == [0]
    assert card['options'] | {'n': 15, 'levels': 2, 'area': .15, 'areas': [.1, .3, .5, .7, .9], 'epochs': 0, 'fill': 'mean'} == card['options']
    assert [o['step'] for o in card['measures']['falls']] == ['level 2'] and 'erasing_level_2_over_random' in card['measures']
    assert card == json.loads((out/'defence.json').read_text())
    page = (out/'report.html').read_text()
    assert page.count('<img alt="') == 2 and 'http' not in page
    new = digests(out/'pictures')
    assert len(new) == 2*card['measures']['steps'][0]['static']['n']
    for p in new:
        changed = (open_tile(p) != square(open_tile(folder/p.parent.name/p.name), 96)).any(2).mean()
        assert changed == pytest.approx({'level_1': .15, 'level_2': .3}[p.parts[-3]], abs=.01)
    code, _, err = run(*args)
    assert code == 2 and 'already in use' in err
    assert one(*args, '--resume')['measures'] == card['measures']
    code, _, err = run(*args, '--resume', '--fill', 'blur')
    assert code == 2 and 'begun with other options: fill mean, not blur' in err
    seed = out/'runs'/'seed0.json'
    old = json.loads(seed.read_text())
    assert old.pop('options')
    seed.write_text(json.dumps(old)) # as seeds were left before options were kept
    assert one(*args, '--resume')['measures'] == card['measures']
    (out/'notes.txt').write_text('mine'), (out/'runs'/'seed7.json').write_text('{}'), (out/'pictures'/'level_9').mkdir()
    for bad, says in ((['--fill', 'paint'], 'unknown way'), (['--arch', 'nonet'], 'nonet'), (['--classes', 'a', 'd'], "no class 'd'")):
        code, _, err = run(*args, '--force', *bad)
        assert code == 2 and says in err and (out/'runs'/'seed7.json').exists(), 'nothing goes before the options are right'
    again = one(*args, '--force', '--levels', 1)
    assert [r['step'] for r in again['measures']['table']] == ['basic', 'grey', 'level 1']
    assert sorted(p.name for p in (out/'runs').iterdir()) == ['seed0.json'] and (out/'notes.txt').read_text() == 'mine'
    assert [p.name for p in (out/'pictures').iterdir()] == ['level_1']


@pytest.mark.parametrize('force', ['--force', '--resume'])
def test_out_is_kept_apart(folder, tmp_path, force):
    "Neither another project's runs nor the pictures are deleted"
    theirs = tmp_path/'project'/'runs'/'model.json'
    theirs.parent.mkdir(parents=True)
    theirs.write_text('{}')
    if force == '--force':
        code, _, err = run('defend', '--data', folder, '--out', tmp_path/'project', force)
        assert code == 2 and 'not the folder of a game' in err and theirs.exists()
    before = digests(folder)
    for out in (folder, folder/'a', folder.parent):
        code, _, err = run('defend', '--data', folder, '--out', out, force)
        assert code == 2 and 'in one another' in err and digests(folder) == before


@pytest.mark.parametrize('args, says', [
    (['--classes', 'a,d'], "no class 'd'"), (['--classes', 'a', 'b', 'd'], "no class 'd'"), (['--classes', 'a'], 'one class'), (['--levels', 5, '--area', .2], 'Hide less'),
    (['--fill', 'paint'], 'unknown way to hide'), (['--arch', 'nonet'], 'nonet'), (['--data', 'nowhere'], 'nowhere')])
def test_what_cannot_be_played(folder, tmp_path, args, says):
    code, out, err = run('defend', '--data', folder, '--out', tmp_path/'out', '--n', 10, '--seeds', 1, '--size', 64, '--workers', 0, *args)
    assert (code, out) == (2, '') and says in err and err.splitlines()[-1].startswith('captcha-lab: ')
    assert 'Traceback' not in err


def test_enough_of_each_class_is_left_after_dealing(folder, tmp_path):
    "Many copies of a few pictures are not many pictures"
    for c in 'ab':
        (tmp_path/c).mkdir()
        some = sorted((folder/c).iterdir())[:4 if c == 'b' else 30]
        for i in range(30): (tmp_path/c/f'{i}.png').write_bytes(some[i % len(some)].read_bytes())
    with pytest.raises(InputError, match="class 'b' has [012] pictures to (learn from|be named)"): defence_tiles(str(tmp_path), n=20)


@pytest.mark.parametrize('what', ['two', 'broken', 'empty'])
def test_folders_that_make_no_test(folder, tmp_path, what):
    home = tmp_path/'home'
    for c in 'ab':
        (home/c).mkdir(parents=True)
        for p in sorted((folder/c).iterdir()): (home/c/p.name).write_bytes(p.read_bytes())
    (home/'c').mkdir()
    if what == 'two':
        for p in sorted((folder/'c').iterdir())[:2]: (home/'c'/p.name).write_bytes(p.read_bytes())
    if what == 'broken':
        for i, p in enumerate(sorted((folder/'c').iterdir())): (home/'c'/p.name).write_bytes(p.read_bytes()[:i and 9999 or 40])
    code, out, err = run('defend', '--data', home, '--out', tmp_path/'out', '--seeds', 1, '--size', 64, '--workers', 0)
    last = err.splitlines()[-1]
    assert (code, out) == (2, '') and last.startswith('captcha-lab: ') and not (tmp_path/'out'/'defence.json').exists()
    assert {'two': "class 'c' has ", 'broken': '.png', 'empty': 'no image'}[what] in last
