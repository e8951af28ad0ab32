"Maps: equal to CAM and to the public package, on what they should point at, gone with what was learnt, and nothing left behind"
import csv
import gc

import cv2
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from captcha_lab.backbones import linear_head
from captcha_lab.bodies import vision_body
from captcha_lab.bundle import _network, _open, find_bundle
from captcha_lab.cam import CAM, GradCAM, at_rest, class_score, find_layer, label_score, overlay, resize_maps, scale_maps, symbol_score
from captcha_lab.cam_quality import auc, average_drop, deletion_curve, insertion_curve, pointing_game, randomise_layers, rank_correlation
from captcha_lab.core import InputError, share_path
from captcha_lab.toy_street import toy_tile

pytestmark = pytest.mark.usefixtures('one_thread')


def small_net(n_in=1, n_out=2):
    layer = lambda a, b, stride: [nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
    return nn.Sequential(*layer(n_in, 12, 1), *layer(12, 16, 2), *layer(16, 24, 2), *layer(24, 24, 1),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(.1), nn.Linear(24, n_out))


def our_lite0():
    net = nn.Sequential(vision_body('lite0', pretrained=False), linear_head(1280, 12))
    nn.init.normal_(net[1][-1].weight, 0, .05)  # it starts at zero
    return net


NETS = {'lite0': our_lite0, 'resnet18': lambda: torchvision.models.resnet18(weights=None), 'resnet10t': lambda: timm.create_model('resnet10t'),
        'small': lambda: small_net(3, 5)}


def seeded(name):
    torch.manual_seed(0)
    return NETS[name]().eval(), torch.randn(3, 3, 96, 64)


def winners(net, x):
    "A target that has something to show even in a random network: the class that each picture gets"
    with torch.no_grad(): return class_score(net(x).argmax(1))


def state(net): return [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()], n_hooks(net)
def n_hooks(net): return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in net.modules())
def apart(a, b): return (torch.as_tensor(a) - torch.as_tensor(b)).abs().max().item()


def shapes(n, seed, side=48):
    "Noise [n, 1, side, side] with a disc (0) or a cross (1) planted; its class, its box"
    rng = np.random.default_rng(seed)
    x, y, at = rng.normal(0, .4, (n, side, side)).astype(np.float32), rng.integers(0, 2, n), rng.integers(0, side - 13, (n, 2))
    stamps = np.zeros((2, 13, 13), np.float32)
    cv2.circle(stamps[0], (6, 6), 5, 1.2, -1)
    for a, b in (((1, 1), (11, 11)), ((11, 1), (1, 11))): cv2.line(stamps[1], a, b, 1.2, 3)
    for o, k, (a, b) in zip(x, y, at): o[b:b+13, a:a+13] += stamps[k]
    return torch.from_numpy(x)[:, None], torch.from_numpy(y), np.hstack([at, at + 13])


@pytest.fixture(scope='module')
def tiny():
    "A network that knows discs from crosses, and was never told where they are"
    torch.manual_seed(0)
    x, y, _ = shapes(800, 0)
    net = small_net()
    opt = torch.optim.Adam(net.parameters(), .005)
    for _ in range(120):
        at = torch.randint(0, len(x), (32,))
        F.cross_entropy(net(x[at]), y[at]).backward()
        opt.step()
        opt.zero_grad()
    return net.eval()


def reader(name):
    "The network of a shipped model, with its normalisation"
    path = find_bundle(name, onnx=False)
    meta, raw = _open(path)
    return _network(raw, meta, path), meta


# ---- what a map is

@pytest.mark.parametrize('name', ['small', 'lite0', 'resnet18'])
def test_equals_cam(name):
    net, x = seeded(name)
    target = winners(net, x)
    with CAM(net) as cam:
        plain, every = cam(x, target), cam.every_class(x)
        top = cam.output.argmax(1)
    with GradCAM(net, cam.layer) as grad, GradCAM(net, cam.layer, local=True) as local: maps = [grad(x, target), local(x, target), grad.every_class(x)[range(3), top]]
    assert plain.max() > 0 and every.shape[:2] == (3, grad.output.shape[1])
    for other in [every[range(3), top], *maps]: assert apart(plain, other) <= 1e-5*plain.max()


@pytest.mark.parametrize('name', ['lite0', 'resnet18', 'resnet10t'])
def test_equals_the_public_package(name):
    peer = pytest.importorskip('pytorch_grad_cam', reason='the package grad-cam is not installed')
    net, x = seeded(name)
    layer, target = find_layer(net, x), winners(net, x)
    with GradCAM(net) as cam: ours = cam(x, target)
    with torch.no_grad(): top = net(x).argmax(1).tolist()
    there = dict(net.named_modules())[layer]
    with peer.GradCAM(net, [there]) as theirs:
        small = theirs(x, [peer.utils.model_targets.ClassifierOutputTarget(k) for k in top])
        kept = theirs.activations_and_grads
        raw = theirs.get_cam_image(x, there, None, kept.activations[0].numpy(), kept.gradients[0].numpy()).clip(0)
    assert ours.max() > 0 and apart(ours/ours[0].numel(), raw) <= 1e-4*raw.max()  # theirs is the mean over places, ours the sum
    assert apart(scale_maps(ours), scale_maps(raw)) <= 1e-4
    assert small.shape == (3, 96, 64)


def test_every_class_is_each_class_where_the_head_is_not_linear():
    torch.manual_seed(0)
    net, x = nn.Sequential(small_net(3, 4), nn.LogSoftmax(1)), torch.randn(3, 3, 32, 32)
    with GradCAM(net) as cam:
        every = cam.every_class(x)
        assert apart(every, torch.stack([cam(x, class_score(k)) for k in range(4)], 1)) <= 1e-6*every.max()
    assert find_layer(net, x) == cam.layer == '0.9'
    with CAM(net) as cam, pytest.raises(InputError, match='CAM needs a network'): cam.every_class(x)


def test_an_activation_that_overwrites_its_input_changes_nothing():
    "The map of a convolution is of what it gave, by all ways"
    torch.manual_seed(0)
    make = lambda inplace: nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(inplace), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    a, b, x = make(True), make(False), torch.randn(2, 3, 16, 16)
    b.load_state_dict(a.state_dict())
    with GradCAM(a) as one, GradCAM(b) as two:
        assert apart(one(x, class_score(1)), two(x, class_score(1))) == 0
        assert apart(one.every_class(x), two.every_class(x)) == 0
        assert apart(one.every_class(x)[:, 1], one(x, class_score(1))) <= 1e-6


def test_pooling_other_than_the_mean_goes_the_long_way():
    torch.manual_seed(0)
    net, x = small_net(3, 3), torch.randn(2, 3, 32, 32)
    net[12] = nn.AdaptiveMaxPool2d(1)
    with CAM(net) as cam, pytest.raises(InputError, match='CAM needs'): cam.every_class(x)
    with GradCAM(net, '11') as cam: assert apart(cam.every_class(x)[:, 1], cam(x, class_score(1))) <= 1e-6


def test_answer_is_kept_and_asks_for_nothing():
    net, x = seeded('small')
    with torch.no_grad(): answer = net(x)
    for kind in (CAM, GradCAM):
        with kind(net) as cam:
            for maps in (cam(x, class_score(0)), cam.every_class(x)):
                assert apart(cam.output, answer) < 1e-5 and maps.dtype == torch.float32
                assert not (maps.requires_grad or cam.output.requires_grad or maps.is_inference() or cam.output.is_inference())


def test_within_inference_mode():
    net, x = seeded('small')
    with GradCAM(net) as cam: a = cam(x, class_score(1))
    with torch.inference_mode(), GradCAM(net) as cam: b = cam(x.clone(), class_score(1))
    assert a.max() > 0 and apart(a, b) == 0


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision(tiny, dtype):
    x, y, _ = shapes(20, 3)
    half = small_net()
    half.load_state_dict(tiny.state_dict())
    half.to(dtype)
    for kind in (GradCAM, CAM):
        with kind(half) as cam: maps = cam(x, class_score(y))
        assert maps.dtype == torch.float32 and cam.output.dtype == dtype
        with kind(tiny) as cam: assert rank_correlation(maps, cam(x, class_score(y))).mean() > .95
    assert half[0].weight.dtype == dtype


@pytest.mark.parametrize('name', ['small', 'lite0'])
def test_autocast(name):
    net, x = seeded(name)
    for kind in (CAM, GradCAM):
        with kind(net) as cam:
            k = cam.every_class(x).mean((2, 3)).argmax(1)
            whole = cam(x, class_score(k))
            with torch.autocast('cpu', torch.bfloat16): maps, every = cam(x, class_score(k)), cam.every_class(x)
        assert maps.dtype == every.dtype == torch.float32 and cam.output.dtype == torch.bfloat16
        assert rank_correlation(maps, whole).mean() > .9 and apart(maps, every[range(3), k]) <= .02*maps.max()


# ---- zero, not NaN

def test_reasons():
    net, x = seeded('small')
    with GradCAM(net) as cam:
        for target, why in ((lambda o: o[:, 0]*0, 'the gradient at the layer is zero'), (lambda o: torch.ones(3), 'the gradient at the layer is zero'),
                            (lambda o: o[:, 0]*torch.nan, 'not finite')):
            maps = cam(x, target)
            assert (maps == 0).all() and all(why in r for r in cam.reasons)
        broken = x.clone()
        broken[1, 0, 3, 3] = torch.nan
        maps = cam(broken, class_score(0))
        assert maps.isfinite().all() and 'not finite' in cam.reasons[1] and not (cam.reasons[0] and 'finite' in cam.reasons[0])
    with torch.no_grad(): net[-1].weight[0] = -1
    with CAM(net) as cam:
        every = cam.every_class(x)
        assert (every[:, 0] == 0).all() and all('nowhere positive' in r[0] for r in cam.reasons)
        assert [[why is not None for why in r] for r in cam.reasons] == (every.amax((2, 3)) == 0).tolist()
        assert cam.every_class(broken).isfinite().all() and 'not finite' in cam.reasons[1][1]


# ---- bad input

@pytest.mark.parametrize('use, match', [
    pytest.param(lambda net, x: GradCAM(net, 'layer9'), "no layer 'layer9'. Near it: ", id='layer'),
    pytest.param(lambda net, x: GradCAM(torchvision.models.resnet18(weights=None), 'layer4.1.conv3'), 'Near it: layer4.1.conv', id='near layer'),
    pytest.param(lambda net, x: GradCAM('resnet18'), 'not str', id='no network'),
    pytest.param(lambda net, x: find_layer(nn.Flatten(), x), 'no convolution', id='no convolution'),
    pytest.param(lambda net, x: find_layer(net, x, ''), "no layer ''. Near it: [0-9]", id='layer without a name'),
    pytest.param(lambda net, x: GradCAM(net)(x, class_score(0)), 'inside a with', id='no with'),
    pytest.param(lambda net, x: label_score('Buss', ['Bus', 'Car']), "unknown class 'Buss'. Use Bus", id='label')])
def test_bad_input_before_the_start(use, match):
    net, x = seeded('small')
    before = state(net.train())
    with pytest.raises(InputError, match=match) as e: use(net, x)
    assert '\n' not in str(e.value) and state(net) == before


@pytest.mark.parametrize('kind', [CAM, GradCAM])
@pytest.mark.parametrize('x, target, match', [
    pytest.param([torch.zeros(3, 32, 32), torch.zeros(3, 32, 48)], class_score(0), r'different sizes in one batch: \[3, 32, 32\] and \[3, 32, 48\]', id='sizes'),
    pytest.param([], class_score(0), 'a batch of pictures', id='empty'),
    pytest.param(np.zeros((2, 3, 32, 32)), class_score(0), 'a batch of pictures', id='array'),
    pytest.param(torch.zeros(0, 3, 32, 32), class_score(0), 'a batch of pictures', id='none'),
    pytest.param(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), class_score(0), r'uint8.*Divide by 255', id='whole numbers'),
    pytest.param(torch.zeros(2, 3, 32, 32), class_score(5), 'no class 5. Use 0 to 4', id='class'),
    pytest.param(torch.zeros(2, 3, 32, 32), class_score(-1), 'no class -1', id='negative'),
    pytest.param(torch.zeros(2, 3, 32, 32), class_score([1, 2, 3]), '2 of them for 2 pictures', id='classes'),
    pytest.param(torch.zeros(2, 3, 32, 32), symbol_score(0, 0), r'answers \[2, 5\], this needs', id='shape'),
    pytest.param(torch.zeros(2, 3, 32, 32), lambda o: o, r'gives \[2, 5\], one number', id='scores'),
    pytest.param(torch.zeros(2, 3, 32, 32), 3, r'Use class_score\(3\)', id='target')])
def test_bad_input(kind, x, target, match):
    net, _ = seeded('small')
    net.train()[0].requires_grad_(False)
    before = state(net)
    with pytest.raises(InputError, match=match) as e, kind(net) as cam: cam(x, target)
    assert '\n' not in str(e.value) and state(net) == before


@pytest.mark.parametrize('layer, match', [('13', 'no picture'), ('12', 'no picture')])
def test_a_layer_without_a_picture(layer, match):
    net, x = seeded('small')
    for use in (lambda: find_layer(net, x, layer), lambda: enter(GradCAM(net, layer), x)):
        with pytest.raises(InputError, match=match): use()
    assert n_hooks(net) == 0


def enter(cam, x):
    with cam: return cam(x, class_score(0))


def test_answers_that_are_no_scores_and_layers_that_do_not_fit():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.unused = small_net(3, 4), nn.Conv2d(3, 3, 1)

        def forward(self, x): return {'scores': self.body(torch.cat([x, x.flip(3)])).view(2, -1, 4).mean(0)}
    net, x = Two(), torch.randn(3, 3, 32, 32)
    with pytest.raises(InputError, match='answers dict, this needs'): enter(GradCAM(net.body.append(Dict())), x)
    del net.body[-1]
    with pytest.raises(InputError, match='gives 6 maps for 3 pictures. Use the network inside'): enter(GradCAM(net), x)
    with pytest.raises(InputError, match="'unused' is not used"): enter(GradCAM(net, 'unused'), x)
    assert n_hooks(net) == 0


class Dict(nn.Module):
    def forward(self, x): return {'scores': x}


def test_a_list_of_equal_pictures_is_a_batch():
    net, x = seeded('small')
    with GradCAM(net) as cam: assert apart(cam(x, class_score(0)), cam(list(x), class_score(0))) == 0


# ---- nothing is left behind

@pytest.mark.parametrize('kind', [CAM, GradCAM])
def test_all_is_as_before(kind):
    net, x = seeded('small')
    net.train()[1].eval()
    net[:6].requires_grad_(False)
    net[9].weight.grad = torch.ones_like(net[9].weight)
    before, weights = state(net), {k: v.clone() for k, v in net.state_dict().items()}
    with kind(net) as cam:
        cam(x, class_score(0)), cam.every_class(x)
        assert n_hooks(net) == 0 and not any(m.training for m in net.modules())  # hooks live no longer than a call
        net.train()
        maps = cam(x, class_score(0))  # still in evaluation mode
        with kind(net) as other: assert apart(maps, other(x, class_score(0))) == 0
    assert state(net) == before and all(torch.equal(v, weights[k]) for k, v in net.state_dict().items())
    assert (net[9].weight.grad == 1).all() and net[-1].weight.grad is None

    def oh(output): raise KeyError('oh')
    with pytest.raises(KeyError), kind(net) as cam: cam(x, oh)
    assert state(net) == before
    with pytest.raises(RuntimeError), kind(net) as cam: cam(torch.zeros(1, 7, 32, 32), class_score(0))  # seven channels
    assert state(net) == before


def test_fifty_rounds_leave_no_hook_and_no_memory():
    psutil = pytest.importorskip('psutil', reason='the package psutil is not installed')
    net, x = small_net(3, 4), torch.randn(8, 3, 64, 64)

    def rounds(n):
        for i in range(n):
            for kind in (CAM, GradCAM):
                with kind(net) as cam:
                    cam(x, class_score(i % 4)), cam.every_class(x)
                if i % 5 == 0:
                    with pytest.raises(InputError), kind(net) as cam: cam(x, class_score(9))
        gc.collect()
        return sum(o.numel() for o in gc.get_objects() if type(o) is torch.Tensor), psutil.Process().memory_info().rss
    kept, rss = rounds(10)
    again, later = rounds(50)
    assert n_hooks(net) == 0
    assert again <= kept and later - rss < 20e6, (kept, again, rss, later)  # one round's activations are 6 MB


def test_at_rest_inside_at_rest():
    net = small_net()
    with GradCAM(net) as cam, pytest.raises(InputError, match='open already'):
        with cam: pass
    assert net.training
    net[0].requires_grad_(False)
    before = state(net)
    with at_rest(net), at_rest(net): pass
    assert state(net) == before


def test_a_frozen_body_is_no_hindrance():
    net, x = seeded('lite0')
    with GradCAM(net) as cam: a = cam(x, winners(net, x))
    net.requires_grad_(False)
    with GradCAM(net) as cam: b = cam(x, winners(net, x))
    assert a.max() > 0 and apart(a, b) == 0


# ---- do they tell the truth?

def test_pointing(tiny):
    x, y, boxes = shapes(400, 1)
    for kind in (CAM, GradCAM):
        with kind(tiny) as cam: maps = resize_maps(cam(x, class_score(y)), x.shape[2:])
        assert (cam.output.argmax(1) == y).float().mean() > .95
        assert pointing_game(maps, boxes).mean() >= .95


def test_curves(tiny):
    x, y, _ = shapes(100, 2)
    probability = lambda o: class_score(y)(o.softmax(1))
    with CAM(tiny) as cam: maps = cam(x, class_score(y))
    for fill in ('mean', 'blur'):
        (low, low_chance), (high, high_chance) = ([auc(f(tiny, x, m, probability, 10, fill)).mean() for m in (maps, 0*maps)] for f in (deletion_curve, insertion_curve))
        assert low < low_chance - .05 and high > high_chance + .05, (fill, low, low_chance, high, high_chance)
    assert average_drop(tiny, x, torch.ones_like(maps), probability) < 1e-6 < average_drop(tiny, x, maps, probability) < 1


def test_random_weights_destroy_the_map(tiny):
    x, y, _ = shapes(100, 4)
    before = {k: v.clone() for k, v in tiny.state_dict().items()}
    with GradCAM(tiny) as cam: maps = cam(x, class_score(y))
    alike = []
    for _, net in randomise_layers(tiny):
        with GradCAM(net) as cam: alike.append(rank_correlation(maps, cam(x, class_score(y))).mean())
    assert len(alike) == 9 and abs(alike[-1]) < .2, alike
    assert all(torch.equal(v, before[k]) for k, v in tiny.state_dict().items())


def test_random_weights_destroy_the_map_of_street_tiles():
    "The shipped model, on drawn tiles"
    model, meta = reader('tiles')
    rng, side = np.random.default_rng(0), meta['input']['height']
    tiles = np.stack([toy_tile([thing], rng, side) for thing in ('Bus', 'Bicycle', 'Traffic Light', 'Palm')*5])
    x = torch.from_numpy(tiles).permute(0, 3, 1, 2)*model.scale - model.shift
    with CAM(model.net) as cam:
        every, top = cam.every_class(x), class_score(cam.output.argmax(1))
        maps = cam(x, top)
        bus = cam(x[:1], label_score('Bus', meta['vocab']))
    assert apart(bus, every[:1, meta['vocab'].index('Bus')]) < 1e-4 and every.shape[1] == len(meta['vocab'])
    *_, (_, net) = randomise_layers(model.net)
    with CAM(net) as cam: alike = rank_correlation(maps, cam(x, top))
    assert abs(alike.mean()) < .2


def test_columns_that_made_a_symbol():
    "The shipped reader of rendered lines, where all places are known"
    model, meta = reader('ctc_rendered')
    hits, plain = [], []
    for row in csv.DictReader(share_path('samples', 'manifest.csv').open(encoding='utf-8')):
        image = cv2.imread(str(share_path('samples', row['file'])), cv2.IMREAD_GRAYSCALE)
        x = torch.from_numpy(image)[None]
        if not row['boxes'] or len(image) != meta['input']['height']: continue
        with torch.no_grad(): best = model(x)[0].argmax(1)
        frames = [t for t, k in enumerate(best) if k and (not t or k != best[t - 1])]
        if len(frames) != len(row['text']): continue
        target, many = symbol_score(frames, best[frames]), x.expand(len(frames), -1, -1)
        boxes = [[x0 - 4, 0, x1 + 4, 99] for x0, _, x1, _ in (map(int, b.split(',')) for b in row['boxes'].split())]  # a column sees 4 px more
        for local, found in ((True, hits), (False, plain)):
            with GradCAM(model, local=local) as cam: maps = cam(many, target)
            assert maps.shape[1:] == (1, model(x).shape[1])
            found += pointing_game(resize_maps(maps, image.shape), boxes).tolist()
    assert len(hits) >= 30 and np.mean(hits) >= .95 and np.mean(plain) < np.mean(hits), (np.mean(hits), np.mean(plain))


# ---- pictures

@pytest.mark.parametrize('shape', [(37, 90), (37, 90, 3), (1, 1)])
def test_overlay_has_the_size_of_its_picture(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    before = image.copy()
    shown = overlay(image, scale_maps(torch.rand(3, 4)))
    assert shown.shape == (*shape[:2], 3) and shown.dtype == np.uint8 and (image == before).all()


def test_cold_is_darker_than_hot_in_grey_too():
    ramp = overlay(np.zeros((1, 256), np.uint8), np.linspace(0, 1, 256)[None], 1)
    assert (np.diff(cv2.cvtColor(ramp, cv2.COLOR_RGB2GRAY)[0].astype(int)) >= -1).all() and np.ptp(cv2.cvtColor(ramp, cv2.COLOR_RGB2GRAY)) > 150
