"""Run notebooks in place and keep tidy outputs: `python -m tools.run_nbs [NOTEBOOK...] [--flags slow] [--n_workers 2] [--card]`

Like `nbdev_test`, but what comes out is saved. Cells flagged `eval: false` or with one of `tst_flags` keep the outputs they have."""
import argparse
import base64
import io
import multiprocessing
import os
import re
import sys
import time
from pathlib import Path

from tools.notebook import NBS, ROOT, notebooks, options, text

BAR = re.compile(r'\|[\u2588#-]*\s*[\u2588#-]*\| +[\d.]+%')
SMALL, MOST = 10_000, 40_000  # bytes of a picture: below the first nothing is done, above the second it isn't committed


def last_state(stream):
    "What a terminal would still show: of each line the part after the last carriage return, and no progress bars"
    lines = [next((p for p in reversed(l.split('\r')) if p.strip(' \u2588')), '').rstrip() for l in stream.split('\n')]
    kept = '\n'.join(l for l in lines if not BAR.search(l)).strip('\n')
    return kept + '\n' if kept.strip() else ''


def lighter(image):
    "Ever lighter forms of a picture: (kind, bytes)"
    from PIL import Image
    half = image.resize([max(1, s // 2) for s in image.size], Image.Resampling.LANCZOS)
    forms = [('image/png', image.quantize(128, dither=Image.Dither.NONE), {}), ('image/jpeg', image, dict(quality=80)), ('image/jpeg', half, dict(quality=80)),
             ('image/jpeg', half, dict(quality=60))]
    for kind, form, kw in forms:
        out = io.BytesIO()
        form.save(out, kind.split('/')[1], optimize=True, **kw)
        yield kind, out.getvalue()


def small_picture(out):
    "Swap a big PNG of an output for the first lighter form that may be committed, in place"
    raw = base64.b64decode(text(out['data']['image/png']))
    if len(raw) < SMALL: return
    from PIL import Image
    image = Image.open(io.BytesIO(raw)).convert('RGB')
    for kind, small in lighter(image):
        if len(small) <= MOST: break
    size = out['metadata'].pop('image/png', None) or dict(zip(('width', 'height'), image.size))
    del out['data']['image/png']
    out['data'][kind], out['metadata'][kind] = base64.b64encode(small).decode(), size


def tidy(outputs):
    "Outputs worth committing: no standard error, no bars, small pictures, one form of each table"
    res = []
    for o in outputs:
        data = o.get('data', {})
        if 'image/png' in data: small_picture(o)
        if 'text/markdown' in data: data.pop('text/plain', None)
        if o.get('output_type') == 'stream': o['text'] = last_state(text(o['text'])).splitlines(True)
        if o.get('name') != 'stderr' and (o.get('output_type') != 'stream' or o['text']): res.append(o)
    return res


def wanted(source, skip):
    "Is this code run, given the flags to `skip`?"
    opts = options(source)
    return 'nbdev_export(' not in source and opts.get('eval', '').lower() != 'false' and not skip & opts.keys()


def run(path, skip):
    "Run one notebook and write it back; raises what its first failing cell raises"
    from execnb.nbio import read_nb, write_nb
    from execnb.shell import CaptureShell
    from fastcore.xtras import working_directory
    from nbdev.clean import clean_nb
    nb = read_nb(path)
    done = [c for c in nb.cells if c.cell_type == 'code' and wanted(c.source, skip)]
    ids = {id(c) for c in done}
    with working_directory(path.parent): CaptureShell(path).run_all(nb, exc_stop=True, preproc=lambda c: id(c) not in ids)
    for c in done: c.outputs = tidy(c.get('outputs', []))
    clean_nb(nb)
    write_nb(nb, path)


def save_time(path, seconds):
    "Keep how long a lesson took, as the run card `lesson_02`: the lesson table is made from these"
    from captcha_lab.core import run_card, save_card, share_path
    name = f'lesson_{path.stem.split("_")[0]}'
    card = run_card(name, f'python -m tools.run_nbs {path.relative_to(ROOT).as_posix()} --card', {'id': path.name}, {}, seconds=seconds)
    save_card(card, share_path('results'), force=True)


def timed(job):
    "Run one notebook in a process of its own: (path, seconds, error or '')"
    path, skip = job
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault('CAPTCHA_LAB_PROGRESS', 'none')
    t0, error = time.time(), ''
    try: run(path, skip)
    except Exception as e: error = f'{type(e).__name__}: {e}'
    return path, time.time() - t0, error


def main(args=None):
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('notebook', nargs='*', type=Path, help='which notebooks; all by default')
    p.add_argument('--flags', default='', help='run cells with these flags too: "slow cuda"')
    p.add_argument('--card', action='store_true', help='save the time each lesson took as a run card in data/results')
    p.add_argument('--n_workers', type=int, default=1, help='how many at once')
    a = p.parse_args(args)
    from nbdev.config import get_config
    skip = set(get_config().tst_flags.split()) - set(a.flags.split())
    jobs = [(f.resolve(), skip) for f in a.notebook or notebooks(NBS)]
    failed = 0
    with multiprocessing.get_context('spawn').Pool(a.n_workers, maxtasksperchild=1) as pool:
        for path, seconds, error in pool.imap(timed, jobs):
            print(f'{seconds:6.1f} s  {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}  {error}', flush=True)
            failed += bool(error)
            if a.card and not error and path.parent == NBS/'lessons': save_time(path, seconds)
    return 1 if failed else 0


if __name__ == '__main__': sys.exit(main())
