"""Code inside of sentences, when the site is built; a hook of mkdocs."""

import re


def on_page_content(html: str, **_) -> str:
  """Marks options, which browsers would break behind their hyphens.

  docs/site.css keeps what is marked in one line. Blocks of code stay as they
  are: they are scrolled.
  """
  parts = re.split(r"(<pre.*?</pre>|<code>.*?</code>)", html, flags=re.S)
  for i, part in enumerate(parts):
    if part.startswith("<code>"):
      parts[i] = re.sub(
        r"(?<![\w-])--[\w.-]{1,30}(?![\w.-])",
        r'<span class="option">\g<0></span>', part,
      )
  return "".join(parts)
