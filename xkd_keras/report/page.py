"""Markdown for people: text that shows as it is, tables, pictures, and one page of it all."""

import base64
import html
import re
from collections.abc import Iterable, Mapping, Sequence

import markdown


def escape(text: object) -> str:
    """Return `text` as one line of Markdown that shows exactly it, also within a table."""
    text = re.sub(r"([\\`*_\[\]#])", r"\\\1", " ".join(str(text).split()))
    return re.sub(r"[<>&|~$]", lambda match: f"&#{ord(match[0])};", text)


def code(text: str) -> str:
    """Return lines of code as a Markdown block."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def picture(name: str, words: str) -> str:
    """Return the Markdown of plots/NAME, `words` standing in where it cannot be seen."""
    return f"![{words}](plots/{name})"


def grid(headings: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """Return a Markdown table whose first `words` columns are words, the others numbers."""
    rule = [":---"] * words + ["---:"] * (len(headings) - words)
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, rule, *rows))


def aligned(rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """Return rows as plain text in columns, the first `words` of them words, the others numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def both(names: Iterable[str]) -> str:
    """Return names as "a, b and c"."""
    names = list(names)
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def circumstances(config: Mapping, versions: Mapping) -> list[str]:
    """Return the settings and the versions of packages, which are the last part of a report."""
    parts = []
    for heading, columns, facts in (
        ("Settings", ["flag", "value"], config),
        ("Versions", ["package", "version"], versions),
    ):
        rows = [[escape(name), escape(_value(value))] for name, value in facts.items()]
        parts += [f"## {heading}", grid(columns, rows, words=2)]
    return parts


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return "  ".join(map(str, value)) or "–"
    return "–" if value in ("", None) else str(value)


_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ --ink: #1d232b; --soft: #5d6673; --line: #dfe3e8; --paper: #fff; --tint: #f4f6f8;
  --mark: #0072b2; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e4e7eb; --soft: #a0a8b3; --line: #343b45; --paper: #15191e; --tint: #1e242b;
    --mark: #56b4e9; }}
  img {{ filter: brightness(.93); }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 56rem; padding: 2rem 1rem 5rem; color: var(--ink);
  background: var(--paper); overflow-wrap: break-word;
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }}
h1 {{ font-size: 1.9rem; line-height: 1.2; margin: 0 0 1rem; }}
h1 + p {{ font-size: 1.2rem; line-height: 1.45; margin: 0 0 .6rem; }}
h1 + p + p {{ color: var(--soft); font-size: .92rem; }}
h2 {{ font-size: 1.25rem; margin: 2.8rem 0 .8rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }}
strong {{ color: var(--mark); }}
td[style*=right] {{ white-space: nowrap; }}
.wide {{ overflow-x: auto; margin: 1rem 0; background: /* a shadow where there is more */
  linear-gradient(to left, var(--paper), transparent) right / 3rem 100% no-repeat local,
  linear-gradient(to left, var(--line), transparent) right / 1rem 100% no-repeat scroll; }}
table {{ border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line);
  text-align: left; }}
th {{ overflow-wrap: normal; color: var(--soft); font-weight: 600; vertical-align: bottom; }}
pre {{ overflow-x: auto; padding: .8rem 1rem; border-radius: 8px; background: var(--tint);
  font-size: .86rem; line-height: 1.5; }}
code {{ font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }}
img {{ display: block; max-width: 100%; height: auto; margin: 1rem 0; padding: .5rem;
  border-radius: 8px; background: #fff; }}
@media (max-width: 38rem) {{ img {{ max-width: 36rem; }} }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def whole(title: str, text: str, pictures: Mapping[str, bytes]) -> str:
    """Return the Markdown as a page that needs no other file."""

    def embed(match: re.Match) -> str:
        name = match["name"]
        kind = "svg+xml" if name.endswith(".svg") else "png"
        return (
            f'{match["tag"]}data:image/{kind};base64,{base64.b64encode(pictures[name]).decode()}"'
        )

    body = markdown.markdown(text, extensions=["tables"], output_format="html")
    # Only real tags can match: in text, `<` is escaped.
    body = re.sub(r'(?P<tag><img [^>]*src=")plots/(?P<name>[a-z_.]+)"', embed, body)
    body = body.replace("<p><img", '<p class="wide"><img')
    body = body.replace("<table>", '<div class="wide"><table>').replace(
        "</table>", "</table></div>"
    )
    return _TEMPLATE.format(title=html.escape(title), body=body)
