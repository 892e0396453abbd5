"""What the gallery says of an example, as Markdown: a card in the index, and a page."""

WIDTH = 90  # columns of what examples print, for which a page has room

CARDS = """\
```{{toctree}}
:hidden:
{names}
```

````{{container}} gallery
{cards}
````
"""

CARD = """\
```{{container}} gallery-card
[![{title}]({picture})]({name}.md)

[{title}]({name}.md)

{sentence}
```
"""

PAGE = """\
# {title}

{sentence}

{pictures}

{text}

## Run it

In a checkout, with `pip install ".[docs]"` for the libraries of all examples:

```sh
{long}
{short}
```

The second line is the short form, which took {seconds:.0f} s when this page was built. It drew what
is shown above, and printed what follows: enough to see the example work, too little to judge by.

```text
{output}
```

## Source

{source}
"""

SOURCE = """\
```{{literalinclude}} {path}
:language: python
:caption: examples/{name}
```
"""

FOLDED = """\
<details>
<summary><code>examples/{name}</code></summary>

{source}

</details>
"""


def parts(example):
    """(the first line of its text, the rest), which are Markdown as they stand."""
    first, _, rest = example.doc.partition("\n")
    return first, rest.strip("\n")


def cards(found):
    """The index of (example, result) pairs: the pages' order, and a card for each."""
    made = []
    for example, result in found:
        words = {"title": example.title, "name": example.name, "sentence": parts(example)[0]}
        made.append(CARD.format(picture=result["pictures"][0], **words))
    names = "\n".join(example.name for example, _ in found)
    return CARDS.format(names=names, cards="\n".join(made))


def page(example, result, folder):
    """An example's text, its pictures, how to run it, what it printed, and its source."""
    sentence, text = parts(example)
    long = f"mpirun -n {example.ranks} " * bool(example.ranks)
    long += f"python examples/{example.path.name}"
    pictures = [f"![{example.title}: {name}]({name})" for name in result["pictures"]]
    return PAGE.format(
        title=example.title,
        sentence=sentence,
        pictures="\n\n".join(pictures),
        text=text,
        long=long,
        short=f"{long} --quick --output {example.name}.png",
        seconds=result["seconds"],
        output=result["output"].strip("\n"),
        source=sources(example, folder),
    )


def sources(example, folder):
    """The program, and folded up the modules beside it; the folder is as seen from docs/."""
    files = [example.path, *example.companions]
    blocks = [SOURCE.format(path=f"/{folder}/{path.name}", name=path.name) for path in files]
    names = (path.name for path in files[1:])
    folded = (FOLDED.format(name=n, source=b) for n, b in zip(names, blocks[1:], strict=True))
    return "\n".join([blocks[0], *folded])
