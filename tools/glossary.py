'Links from the lessons to nbs/glossary.qmd, where each term tells its forms: <dfn id="blank" data-forms="blank,blanks">'
import re

from tools.notebook import outside_code

TERM = re.compile(r'<dfn id="([\w-]+)" data-forms="([^"]*)">(.+?)</dfn>')
NO_PROSE = re.compile(r'(^#[^\n]*$|\$\$.*?\$\$|\$[^$\n]+\$|!?\[[^\]]*\]\([^)]*\)|<[^>]+>|\{[^}]*\}|https?://\S+)', re.M | re.S)


def word_forms(page):
    "Forms of all terms of the glossary: {'blanks': 'blank'}, also with a capital at the beginning"
    found = [(f, term) for term, forms, _ in TERM.findall(page) for f in forms.split(',') if f]
    return {g: term for f, term in found for g in (f, f[0].upper() + f[1:])}


def linker(forms, href):
    "A function for the texts of one page, in order: links each term where it is used first, outside code, headings, links, formulas and HTML"
    longest = sorted(forms, key=len, reverse=True)
    words = re.compile(r'(?<![\w-])(?:' + '|'.join(r'\s+'.join(map(re.escape, f.split())) for f in longest) + r')(?![\w-])')
    seen = set()

    def link(m):
        term = forms[' '.join(m[0].split())]
        if term in seen: return m[0]
        seen.add(term)
        return f'[{m[0]}]({href}#{term})'

    def prose(text): return ''.join(p if i % 2 else words.sub(link, p) for i, p in enumerate(NO_PROSE.split(text)))
    return lambda markdown: outside_code(markdown, prose)
