"""What the page `try` needs beside its scripts: readers, images and onnxruntime-web, in `try/` of a built site

`python -m tools.site` does this; after Quarto: `python -m tools.try_page [_docs]`"""
import json
import shutil
import sys
from pathlib import Path

from PIL import Image

from captcha_lab.bundle import find_bundle, read_meta
from captcha_lab.render import Renderer
from tools import npm
from tools.notebook import ROOT

READERS = {'ctc_rendered': 'the reader of rendered images', 'ctc_captcha_v2': 'the reader of captcha_v2'}
SETS = {**{f'level {n}': dict(level=n) for n in range(1, 5)}, 'look-alikes of captcha_v2': dict(style='captcha_v2')}
KNOWN_BY = {'look-alikes of captcha_v2': 'ctc_captcha_v2'}  # who has learned such images; the first reader has learned the others
SEED, MANY = 70707, 12  # no reader was trained with this seed


def reader(name, folder):
    "Copy a model into `folder`; what the page must know about it"
    path = find_bundle(name, onnx=True)
    shutil.copyfile(path, folder/path.name)
    meta = read_meta(path)
    return {'name': name, 'title': READERS[name], 'file': path.name} | {k: meta[k] for k in ('vocab', 'blank', 'input', 'decode')}


def images(what, options, folder):
    "Render one set of images into `folder`, one entry each"
    r, short = Renderer(seed=SEED, **options), what.split()[-1]
    (folder/'images').mkdir(exist_ok=True)
    for i in range(MANY):
        file = f'images/{short}-{i:02}.png'
        Image.fromarray(r[i].image).save(folder/file, optimize=True)
        yield {'file': file, 'text': r[i].text}


def build(site):
    "Put it all into `site`; False where onnxruntime-web can't be had, and the page says so itself"
    folder, runtime = Path(site)/'try', npm.fetch('onnxruntime-web')
    if not runtime: return False
    shutil.copytree(runtime, folder/'onnxruntime-web', dirs_exist_ok=True)
    sets = [{'name': what, 'reader': KNOWN_BY.get(what, next(iter(READERS))), 'images': list(images(what, o, folder))} for what, o in SETS.items()]
    page = {'readers': [reader(name, folder) for name in READERS], 'sets': sets}
    (folder/'readers.json').write_text(json.dumps(page, indent=1), encoding='utf-8')
    return True


if __name__ == '__main__': sys.exit(not build(sys.argv[1] if len(sys.argv) > 1 else ROOT/'_docs'))
