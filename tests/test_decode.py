"Decoding against every path there is, and against torch's own CTC"
import itertools
import math
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captcha_lab.core import InputError
from captcha_lab.decode import (Vocab, align, beam_batch, beam_decode, frames_needed, greedy_batch, greedy_decode,
                                text_logp)

seeds = st.integers(0, 2**32 - 1)
shapes = st.sampled_from([(1, 2), (2, 3), (3, 2), (4, 3), (5, 4), (6, 3), (6, 4)])


def random_logp(shape, seed, sharp=1.5):
    o = np.random.default_rng(seed).normal(size=shape)*sharp
    return o - np.logaddexp.reduce(o, axis=-1, keepdims=True)


def spell(path): return tuple(k for k, _ in itertools.groupby(path) if k)


def enumerate_paths(lp):
    "text -> (probability, the best path's log probability)"
    found = {}
    for path in itertools.product(range(lp.shape[1]), repeat=len(lp)):
        score = lp[np.arange(len(lp)), path].sum()
        total, best = found.get(spell(path), (0, -np.inf))
        found[spell(path)] = total + math.exp(score), max(best, score)
    return found


@settings(max_examples=30)
@given(shapes, seeds, st.sampled_from([.3, 1.5, 4]))
def test_all_against_brute_force(shape, seed, sharp):
    lp, vocab = random_logp(shape, seed, sharp), Vocab('ABC'[:shape[1] - 1])
    truth = enumerate_paths(lp)
    assert sum(p for p, _ in truth.values()) == pytest.approx(1, abs=1e-9)
    for ids, (p, best) in truth.items():
        assert text_logp(lp, ids) == pytest.approx(math.log(p), abs=1e-9)
        assert align(lp, ids).logp == pytest.approx(best, abs=1e-9)
        assert frames_needed(ids) <= len(lp)
    found = beam_decode(lp, vocab, width=5000)
    assert len(found) == len(truth)
    assert found[0].text == vocab.decode(max(truth, key=lambda t: truth[t][0]), collapse=False)
    for b in found: assert b.logp == pytest.approx(math.log(truth[tuple(vocab.encode(b.text))][0]), abs=1e-9)
    text, conf = greedy_decode(lp, vocab)
    assert text == vocab.decode(lp.argmax(1))
    assert conf == pytest.approx(truth[tuple(vocab.encode(text))][0], abs=1e-9)
    assert found[0].logp >= math.log(conf) - 1e-9


def test_against_torch():
    torch = pytest.importorskip('torch')
    rng = np.random.default_rng(0)
    for n_frames, n_symbols, length in ((12, 5, 4), (50, 20, 5), (30, 3, 8), (7, 4, 0), (1, 4, 1)):
        lp = random_logp((n_frames, n_symbols), n_frames)
        ids = rng.integers(1, n_symbols, length)
        loss = torch.nn.CTCLoss(reduction='none')(torch.tensor(lp)[:, None], torch.tensor(ids)[None],
                                                  torch.tensor([n_frames]), torch.tensor([length]))
        assert -text_logp(lp, ids) == pytest.approx(loss.item(), abs=1e-9)


@settings(max_examples=50)
@given(st.text(min_size=1, max_size=12, alphabet=st.characters(exclude_categories=('Cs',))), st.data())
def test_vocab_round_trip(symbols, data):
    alphabet = ''.join(dict.fromkeys(symbols))
    vocab = Vocab(alphabet)
    text = data.draw(st.text(alphabet, max_size=10))
    ids = vocab.encode(text)
    assert vocab.decode(ids, collapse=False) == text
    path = [k for i in ids for k in (i, i, 0)] # each symbol twice, then a blank
    assert vocab.decode(path) == vocab.decode(np.array(path, dtype=int)) == text
    assert Vocab(vocab.alphabet) == vocab and len(vocab) == len(alphabet) + 1 and hash(vocab) == hash(Vocab(alphabet))
    assert frames_needed(text) == frames_needed(ids) == len(text) + sum(a == b for a, b in zip(text, text[1:]))


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(1, 14), st.integers(2, 5), seeds, st.sampled_from([1., .5, 2.5]), st.data())
def test_a_batch_is_its_items(n, n_frames, n_symbols, seed, temperature, data):
    lp, vocab = random_logp((n, n_frames, n_symbols), seed), Vocab('ABCD'[:n_symbols - 1])
    widths = data.draw(st.lists(st.integers(1, n_frames), min_size=n, max_size=n))
    for given_widths in (None, widths, np.array(widths)):
        texts, conf = greedy_batch(lp, vocab, given_widths, temperature)
        cut = [o[:w] for o, w in zip(lp, widths if given_widths is not None else [n_frames]*n)]
        alone = [greedy_decode(o, vocab, temperature) for o in cut]
        assert texts == [t for t, _ in alone]
        assert conf == pytest.approx([c for _, c in alone], abs=1e-12)
        assert ((conf >= 0) & (conf <= 1)).all()
    texts, conf = beam_batch(lp, vocab, widths, width=6, temperature=temperature)
    assert texts == [beam_decode(o[:w], vocab, 6, temperature)[0].text for o, w in zip(lp, widths)]


@settings(max_examples=40)
@given(st.integers(1, 12), st.lists(st.integers(1, 3), max_size=6), seeds)
def test_alignment_spells_its_text(n_frames, ids, seed):
    lp = random_logp((n_frames, 4), seed)
    if frames_needed(ids) > n_frames:
        assert text_logp(lp, ids) == -math.inf
        with pytest.raises(InputError): align(lp, ids)
        return
    path = align(lp, ids)
    assert Vocab('ABC').decode(path.labels) == Vocab('ABC').decode(ids, collapse=False)
    assert path.logp == pytest.approx(lp[np.arange(n_frames), path.labels].sum())
    assert path.logp <= text_logp(lp, ids) + 1e-9
    for (a, b), k in zip(path.spans, ids): assert b > a and (path.labels[a:b] == k).all()
    assert (path.spans[1:, 0] >= path.spans[:-1, 1]).all()


def test_spelled_path_equals_probability_one():
    lp = np.log(np.eye(4)[[0, 1, 1, 0, 1, 2, 0]] + 1e-300)
    assert greedy_decode(lp, Vocab('ABC')) == ('AAB', pytest.approx(1))
    assert align(lp, [1, 1, 2]).spans.tolist() == [[1, 3], [4, 5], [5, 6]]


def test_temperature_moves_confidence_not_text():
    lp, vocab = random_logp((20, 30, 6), 1, sharp=3), Vocab('ABCDE')
    results = [greedy_batch(lp, vocab, temperature=t) for t in (.5, 1, 3)]
    assert results[0][0] == results[1][0] == results[2][0]
    assert results[0][1].mean() > results[1][1].mean() > results[2][1].mean()


def test_long_and_unlikely():
    lp = np.full((1, 2000, 50), -math.log(50))
    assert greedy_batch(lp, Vocab(''.join(map(chr, range(65, 114)))))[1][0] == 0 # below the smallest number, no error
    lp[:, :, 0] = 0
    assert greedy_batch(lp.astype(np.float32), Vocab(''.join(map(chr, range(65, 114)))))[0] == ['']
    assert greedy_decode(lp[0, :0], Vocab(''.join(map(chr, range(65, 114))))) == ('', 1)


def test_narrow_beam_is_a_lower_bound():
    for seed in range(10):
        lp, vocab = random_logp((25, 6), seed), Vocab('ABCDE')
        for b in beam_decode(lp, vocab, width=4): assert b.logp <= text_logp(lp, vocab.encode(b.text)) + 1e-9


@pytest.mark.parametrize('call, word', [
    (lambda: Vocab(''), 'empty'), (lambda: Vocab('ABA'), "'A'"), (lambda: Vocab(['AB']), "'AB'"), (lambda: Vocab([1]), '1'),
    (lambda: Vocab('\ud800'), 'not one symbol'), (lambda: Vocab('AB').encode('AxB'), "'x'"),
    (lambda: Vocab('AB').decode([3]), '0..2'), (lambda: Vocab('AB').decode([-1]), '0..2'),
    (lambda: greedy_decode(np.zeros((4, 5)), Vocab('AB')), '[frames, 3]'),
    (lambda: greedy_batch(np.zeros((4, 3)), Vocab('AB')), '[items, frames, 3]'),
    (lambda: greedy_batch(np.full((2, 4, 3), np.nan), Vocab('AB')), 'NaN'),
    (lambda: greedy_decode(np.full((4, 3), np.nan), Vocab('AB')), 'NaN'),
    (lambda: beam_decode(np.full((4, 3), np.nan), Vocab('AB')), 'NaN'),
    (lambda: greedy_batch(np.zeros((2, 4, 3)), Vocab('AB'), widths=[5, 1]), '0..4'),
    (lambda: greedy_batch(np.zeros((2, 4, 3)), Vocab('AB'), widths=[1]), '2 numbers'),
    (lambda: greedy_batch(np.zeros((2, 4, 3)), Vocab('AB'), temperature=0), 'temperature'),
    (lambda: beam_decode(np.zeros((4, 3)), Vocab('AB'), width=0), 'beam'),
    (lambda: text_logp(np.zeros((4, 3)), [0]), '1..2'), (lambda: align(np.zeros((4, 3)), [3]), '1..2'),
    (lambda: align(np.zeros((2, 3)), [1, 1]), 'needs 3')])
def test_bad_input(call, word):
    with pytest.raises(InputError) as e: call()
    assert word in str(e.value) and '\n' not in str(e.value)


def test_one_image_is_quick():
    "Aim: 60 millionths of a second; the bar is higher, for busy machines"
    lp = np.full((1, 50, 20), math.log(.001/19), dtype=np.float32)
    path = np.zeros(50, dtype=int)
    path[5:45:8] = [1, 2, 3, 4, 5]
    lp[0, np.arange(50), path] = math.log(.999)
    vocab, best = Vocab('2345678bcdefgmnpwxy'), math.inf
    for _ in range(300):
        start = time.perf_counter()
        texts, conf = greedy_batch(lp, vocab)
        best = min(best, time.perf_counter() - start)
    assert texts == ['23456'] and conf[0] > .9
    assert best < 400e-6


def test_needs_numpy_only():
    code = "import sys, captcha_lab.decode; print([m for m in ('torch', 'fastai', 'cv2', 'onnxruntime') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'
