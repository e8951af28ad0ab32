"data/models/README.md from the cards inside the shipped models. `--check` only compares: python -m tools.model_cards [--check]"
import sys
from pathlib import Path

from captcha_lab.bundle import model_zoo, read_meta
from captcha_lab.core import cards_table, load_cards, show_measure

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT/'data'/'models'/'README.md'
JUDGED_BY = {'ctc_captcha_v2': ('ctc_captcha_v2_cv_pretrained', 'trained and judged in folds'), # the shipped one was trained on every image
             'letters_rendered': ('letters_level0', 'fresh images of level 0, the easiest'),
             'tiles': ('tiles_model', 'test tiles that it never saw'), 'pets': ('pets_model', 'test photos that it never saw')}
SHOWN = {'exact_match': 'exact match', 'accuracy': 'cat or dog', 'top1': 'likeliest class is the folder', 'map': 'mAP over all that can be seen'} # measure -> its name
HEAD = """# Shipped models

Made by `python -m tools.model_cards` from the cards inside the models. Each is a `.safetensors` file (no pickle) with an ONNX twin that reads the same.

For learning, on images that are yours to use. They know the fonts and distortions they were trained on and little else; they are not meant for third-party sites.
"""

PREPARED = {'letters_naive': 'captcha-lab render --level 0 --n 12500 --seed 1 --out train && captcha-lab split train --naive --out letters && '} # the folder that its command names

def reads(meta):
    "What a model is for, in words"
    if meta['task'] == 'tiles': return f"which of {', '.join(meta['vocab'])} are on a picture, seen at {meta['input']['height']}x{meta['input']['width']} pixels"
    if meta['task'] == 'pets': return f"whether a photo shows a cat or a dog, seen at {meta['input']['height']}x{meta['input']['width']} pixels"
    if meta['task'] == 'ctc': return f"lines of `{meta['vocab']}`, {meta['input']['height']} pixels high, any width"
    return f"words whose letters can be cut apart, all of {' or all of '.join(f'`{a}`' for a in meta['alphabets'] or [meta['vocab']])}"

def section(name, entry, results):
    "Title and table of one model"
    meta = read_meta(next(f for f in entry['files'] if f.suffix == '.safetensors'))
    card, (judged, how) = meta['card'], JUDGED_BY.get(name, (None, None))
    measures = results.get(judged, card)['measures']
    rows = {'reads': reads(meta),
            'learned from': f"{card['data']['id']} ({card['split']})", 'made by': f"`{PREPARED.get(name, '')}{card['command']}`",
            'on': f"{card['date']}, {card['hardware']['cores']} CPU cores, {card['training_seconds']/60:.0f} minutes of training",
            'size': ', '.join(f'{f.name} {f.stat().st_size/1e6:.2f} MB' for f in entry['files'])}
    where = f' (run card `{judged}`: {how})' if judged in results else ' on fresh images'
    rows |= {title: show_measure(measures[k]) + where for k, title in SHOWN.items() if k in measures}
    return f'## {name}\n\n' + cards_table([{'': k, 'what': v} for k, v in rows.items()]) + '\n'

def page():
    results = load_cards(ROOT/'data'/'results')
    return '\n'.join([HEAD] + [section(n, e, results) for n, e in model_zoo(ROOT/'data'/'models').items()])

if __name__ == '__main__':
    text = page()
    if '--check' in sys.argv: sys.exit('data/models/README.md is out of date: python -m tools.model_cards' if not PAGE.exists() or PAGE.read_text(encoding='utf-8') != text else 0)
    PAGE.write_text(text, encoding='utf-8')
