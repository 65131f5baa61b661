"""Pairs of a title and what stands under it."""

from collections import Counter

import pytest

from cptk.mining import Document, neighbouring_text, titled_text

MANUAL = """# The tool

What it is for, in a few words.

## Use

Call it by its name, with a file.

```sh
# no heading
tool file
```

### Why does it wait?

It waits until the file is there.

## Empty

## Files

- `config`: what it reads at the beginning of a run
- `cache`: what it keeps between two of its runs
"""


def mined(kind, text=MANUAL, **options):
    document = Document("manual.md", text, "tool", "MIT", options.pop("title", ""))
    parts = list(titled_text([document], kind=kind, min_words=3, **options))
    return [(p["query"], p["document"]) for part in parts for p in part]


def test_headings_and_sections():
    assert mined("heading")[:3] == [
        ("The tool", "What it is for, in a few words."),
        ("The tool: Use", "Call it by its name, with a file."),
        ("The tool: Use: Why does it wait?", "It waits until the file is there."),
    ]


def test_what_falls_is_counted_by_rule():
    counts = Counter()
    mined("heading", counts=counts)
    assert counts["empty"] == 1
    assert sum(counts.values()) == 5
    mined("title", "no heading here", counts=counts)
    assert counts["no title"] == 1


def test_titles_and_bodies():
    ((query, document),) = mined("title")
    assert query == "The tool"
    assert document.startswith("What it is for, in a few words. Call it by its name")
    assert "#" not in document
    ((query, _),) = mined("title", "A few words of a text that has no heading.", title="The name")
    assert query == "The name"


def test_questions_and_answers():
    text = (
        "Q: What is this here?\nA: A tool for files.\n\nWho has made it?\n\nNobody knows it.\n\n"
        "And more.\n\n## Next\n\nNot of the answer."
    )
    assert mined("question", text) == [
        ("What is this here?", "A tool for files."),
        ("Who has made it?", "Nobody knows it. And more."),
    ]
    assert mined("question") == [("Why does it wait?", "It waits until the file is there.")]


@pytest.mark.parametrize(
    "text",
    [
        "heap: a tree of nodes\nstack: last in is out",
        "heap -- a tree of nodes\nstack -- last in is out",
        "heap\n: a tree of nodes\n\nstack\n: last in is out",
        "heap\n     n 1: a tree of nodes [syn: {pile}]\nstack\n     n 1: last in is out",
        "- **heap**: a tree of nodes\n- **stack**: last in is out",
    ],
)
def test_terms_and_glosses(text):
    assert mined("term", text) == [("heap", "a tree of nodes"), ("stack", "last in is out")]


def test_one_colon_makes_no_list_of_terms():
    assert mined("term", "Note: this is no list of definitions at all.") == []


def test_long_bodies_are_cut_between_paragraphs():
    text = "# Title\n\none two three four\n\nfive six seven\n\neight nine ten"
    assert mined("heading", text, max_words=8) == [("Title", "one two three four five six seven")]
    assert mined("heading", text, max_words=3) == []


def test_pairs_say_where_they_stand():
    (pairs,) = titled_text([Document("manual.md", MANUAL, "tool", "MIT")], min_words=3)
    lines = MANUAL.split("\n")
    for pair in pairs:
        assert [pair[name] for name in ("path", "source", "license")] == [
            "manual.md",
            "tool",
            "MIT",
        ]
        assert pair["query"].split(": ")[-1] in lines[pair["line"] - 1]
        assert pair["document"].split()[-1] in lines[pair["end_line"] - 1]


def test_no_text_is_on_both_sides():
    for kind in ("title", "heading", "question", "term"):
        for query, document in mined(kind):
            assert query not in document


def test_windows_of_tokens():
    text = " ".join(f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(600))
    (pairs,) = neighbouring_text([("a", text)], unit="token", pieces=(5, 9))
    assert len(pairs) > 30
    taken = [
        word for pair in pairs for side in ("query", "document") for word in pair[side].split()
    ]
    assert taken == text.split()[: len(taken)]
    lengths = {len(pair[side].split()) for pair in pairs for side in ("query", "document")}
    assert lengths == set(range(5, 10))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "chapter"}, "`kind` should be one of"),
        ({"min_words": 9, "max_words": 8}, "Limits should not cross"),
        ({"min_words": 0}, "`min_words` should be"),
    ],
)
def test_bad_options_are_refused_before_the_work(options, message):
    with pytest.raises(ValueError, match=message):
        titled_text([], **options)


def test_what_is_no_document_is_refused():
    with pytest.raises(TypeError, match="a path and a text"):
        list(titled_text(["a.md"]))
