"README.md (and its pictures) from nbs/index.ipynb, without Quarto: `python -m tools.readme` writes them, `--check` only compares, `--command N` prints the Nth"
import base64
import re
import sys

from tools.notebook import NBS, ROOT, body, options, outside_code, read, text

NOTE = '<!-- Made from nbs/index.ipynb by `python -m tools.readme`: change it there. -->'
ALERTS = dict(note='NOTE', tip='TIP', warning='WARNING', important='IMPORTANT', caution='CAUTION')
CALLOUT = re.compile(r'^:::\s*\{\.callout-(\w+)[^}]*\}\n(.*?)\n:::$', re.M | re.S)
LOCAL = re.compile(r'\]\((?!https?:|#|mailto:)([^)\s]+)\)')


def picture(output):
    "The picture in an output: (file ending, bytes), or nothing"
    kind = next((k for k in output.get('data', {}) if k in ('image/png', 'image/jpeg')), None)
    return kind and (kind.split('/')[1].replace('jpeg', 'jpg'), base64.b64decode(text(output['data'][kind])))


def shown(output, alt, files):
    "One output as Markdown: Markdown as it is, text indented, a picture as a link to a file that is put into `files`"
    data = output.get('data', {})
    if found := picture(output):
        name = f'images/readme-{len(files) + 1}.{found[0]}'
        files[name] = found[1]
        return f'![{alt}]({name})'
    if 'text/markdown' in data: return text(data['text/markdown']).strip()
    plain = text(data.get('text/plain', output.get('text', ''))).rstrip()
    return '\n'.join(f'    {l}' for l in plain.split('\n')) if plain else ''


def parts(cell, files):
    "The pieces of Markdown that a cell becomes"
    opts, source = options(cell['source']), body(cell['source'])
    if cell['cell_type'] == 'markdown': return [source]
    if cell['cell_type'] != 'code' or 'hide' in opts: return []
    code = [f'``` python\n{source}\n```'] if source and opts.get('echo') != 'false' else []
    return code + ([] if opts.get('output') == 'false' else [shown(o, opts.get('fig-alt', ''), files) for o in cell.get('outputs', [])])


def alert(m):
    "A Quarto callout as a GitHub alert"
    return '\n'.join(f'> {l}'.rstrip() for l in [f'[!{ALERTS[m[1]]}]', *m[2].strip().split('\n')])


def from_root(link):
    "A link that starts in nbs/, as it reads from the root of the repository"
    return f']({link[3:]})' if link.startswith('../') else f'](nbs/{link})'


def render(nb):
    "The README's text, and the files in nbs/ that it shows"
    files = {}
    pieces = [p for c in nb['cells'] for p in parts(c, files) if p]
    pieces.insert(1, NOTE)
    page = CALLOUT.sub(alert, '\n\n'.join(pieces) + '\n')
    return outside_code(page, lambda s: LOCAL.sub(lambda m: from_root(m[1]), s)), files


def commands(page):
    "The README's one-line commands, in order: whatever installs something and then runs it"
    return re.findall(r'^python -m pip install .+ && .+$', page, flags=re.M)


def main(args=()):
    page, files = render(read(NBS/'index.ipynb'))
    wanted = {ROOT/'README.md': page.encode(), **{NBS/name: data for name, data in files.items()}}
    if '--command' in args: return print(commands((ROOT/'README.md').read_text(encoding='utf-8'))[int(args[-1])])
    stale = [p for p, data in wanted.items() if not p.exists() or p.read_bytes() != data]
    if '--check' in args: return f'out of date: {", ".join(p.name for p in stale)}. Run: python -m tools.readme' if stale else 0
    for p in stale: p.write_bytes(wanted[p])


if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
