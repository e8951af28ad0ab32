"Two nbdev processors, named by `procs` in settings.ini: Quarto and our own site builder show the same pages"
import re
from pathlib import Path

from execnb.nbio import mk_cell
from nbdev.config import get_config
from nbdev.process import Processor

from captcha_lab.core import load_cards
from tools.notebook import text

FENCE = re.compile(r'^```python\n.*?^```', re.M | re.S)
CODE_LINK = re.compile(r'\[(`[^`\n]+`)\]\(http[^)]+\)')


def colab_badge(path, cfg):
    "Markdown of the badge for the notebook `path` (relative to the notebooks' folder)"
    repo = cfg.git_url.removeprefix('https://github.com/')
    url = f'https://colab.research.google.com/github/{repo}/blob/{cfg.branch}/{cfg.nbs_path.name}/{path.as_posix()}'
    return f'[![Open in Colab]({"../" * (len(path.parts) - 1)}images/colab-badge.svg)]({url})'


def time_taken(card):
    "How long a lesson takes, in words, from its run card"
    where = card['hardware']
    return f"Measured: {card['seconds']/60:.1f} minutes in small mode, on {where['cores']} cores of {where['cpu']}; no GPU needed."


def lesson_note(path, cfg):
    "Badge and time of a lesson, as Markdown"
    name, badge = f"lesson_{path.stem.split('_')[0]}", colab_badge(path, cfg)
    card = load_cards(cfg.config_path/'data'/'results', name).get(name)
    return f'{badge}\n\n{time_taken(card)}' if card and path.parent.name == 'lessons' else badge


class LessonNote(Processor):
    "An 'Open in Colab' badge and the measured time under the title of each lesson"
    def begin(self):
        cfg = get_config()
        path = Path(self.nb.path_).resolve().relative_to(cfg.nbs_path.resolve())
        if path.parts[0] == 'lessons': self.nb.cells.insert(2, mk_cell(lesson_note(path, cfg), 'markdown'))


class PlainSignatures(Processor):
    "nbdev links names inside the code block of a signature, where a link can't work: undo that"
    def end(self):
        for data in (o.get('data', {}) for c in self.nb.cells for o in c.get('outputs', [])):
            if md := data.get('text/markdown'): data['text/markdown'] = FENCE.sub(lambda m: CODE_LINK.sub(r'\1', m[0]), text(md))
