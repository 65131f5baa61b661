"""Functions with their documentation in the languages of CodeSearchNet and TypeScript."""

import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from cptk.mining import Document, Rules, functions, functions_in_source

ALL = Rules(min_words=1, min_lines=1, tests=True, standard=True)


def mined(path, source, rules=ALL, counts=None):
    """Name → (query, document), of one file."""
    found = {}
    for pairs in functions([(path, source)], rules=rules, counts=counts):
        for row in pairs:
            assert source.split("\n")[row["line"] - 1].strip()
            found[row["name"]] = (row["query"], row["document"])
    return found


JAVA = """
package a;
/** A class. */
public class Box<T> {
    private int size; // Not this.

    /**
     * Adds <b>one</b> {@code item} to the box.
     * Twice if it must.
     *
     * More of it.
     * @param item the item
     */
    @Override
    public void add(T item) {
        // A comment inside stays.
        /* and this */
        size++;
    }

    // One line says it.
    Box() { }

    /** Nobody sees this. */

    int far() { return 1; }

    /** {@inheritDoc} */
    int inherited() { return 1; }

    interface Inner {
        /** Has no body. */
        void nothing();
        /** Has a default body. */
        default int some() { return 2; }
    }
    enum Kind { A; /** In an enum. */ int one() { return 1; } }
}
"""


def test_java():
    counts = Counter()
    found = mined("Box.java", JAVA, counts=counts)
    assert found["Box.add"] == (
        "Adds one item to the box. Twice if it must.",
        "@Override\npublic void add(T item) {\n    // A comment inside stays.\n    /* and this */\n"
        "    size++;\n}",
    )
    assert found["Box.Box"] == ("One line says it.", "Box() { }")
    assert found["Box.Inner.some"] == ("Has a default body.", "default int some() { return 2; }")
    assert found["Box.Kind.one"][0] == "In an enum."
    assert set(found) == {"Box.add", "Box.Box", "Box.Inner.some", "Box.Kind.one"}
    assert counts == {"taken": 4, "no documentation": 2, "no body": 1}


GO = """
// Package p does things.
package p

// Area gives the area
// of a square.
//
// It is exact.
func Area(a int) int { return a * a }

// Scale makes it larger.
//go:noinline
func (b *Box[T]) Scale(by float64) {
\t// inside
\tb.w *= by
}

// A comment that belongs to nothing.

func alone() {}

/* Block says so. */
func Block() {}
"""


def test_go():
    found = mined("p.go", GO)
    assert found == {
        "Area": ("Area gives the area of a square.", "func Area(a int) int { return a * a }"),
        "Box.Scale": (
            "Scale makes it larger.",
            "func (b *Box[T]) Scale(by float64) {\n\t// inside\n\tb.w *= by\n}",
        ),
        "Block": ("Block says so.", "func Block() {}"),
    }


RUBY = """
# frozen_string_literal: true

module Tools
  class Saw
    # Cuts the wood
    # in two.
    #
    # @param wood [Wood]
    def cut(wood)
      # inside
      wood.halves
    end

    # Makes a new saw.
    def self.make = new

    # Hidden from others.
    private def hide
      1
    end

    attr_reader :teeth

    def bare; end
  end
end
"""


def test_ruby():
    found = mined("saw.rb", RUBY)
    assert found == {
        "Tools.Saw.cut": (
            "Cuts the wood in two.",
            "def cut(wood)\n  # inside\n  wood.halves\nend",
        ),
        "Tools.Saw.make": ("Makes a new saw.", "def self.make = new"),
        "Tools.Saw.hide": ("Hidden from others.", "private def hide\n  1\nend"),
    }


PHP = """<?php
namespace A;

/**
 * Joins the parts.
 *
 * @return string
 */
function join_all(array $parts) {
    return implode("/** not a comment */", $parts);
}

class Box {
    /** Opens the box. */
    #[Pure]
    public function open(): int
    {
        return 1; // stays
    }
}
?>
<p>/** Not this. */</p>
"""


def test_php():
    found = mined("box.php", PHP)
    assert found == {
        "join_all": (
            "Joins the parts.",
            "function join_all(array $parts) {\n"
            '    return implode("/** not a comment */", $parts);\n}',
        ),
        "Box.open": (
            "Opens the box.",
            "#[Pure]\npublic function open(): int\n{\n    return 1; // stays\n}",
        ),
    }


JAVASCRIPT = """
/* eslint-disable */
import x from "x";

/**
 * Adds two numbers.
 * @param {number} a
 */
export function add(a, b) { return a + b; }

// Doubles it,
// and gives it back.
const double = (a) => a * 2;

/** Assigned to something. */
exports.half = function (a) { return a / 2; };

class Box {
  /** Opens the box. */
  open() { return this; }
  /** An arrow in a field. */
  shut = () => this;
}

const tools = {
  /** In an object. */
  saw: function () { return 1; },
};

/** The default one. */
export default () => 1;
"""


def test_javascript():
    found = mined("a.mjs", JAVASCRIPT)
    assert {name: query for name, (query, _) in found.items()} == {
        "add": "Adds two numbers.",
        "double": "Doubles it, and gives it back.",
        "exports.half": "Assigned to something.",
        "Box.open": "Opens the box.",
        "Box.shut": "An arrow in a field.",
        "saw": "In an object.",
        "default": "The default one.",
    }
    assert found["add"][1] == "export function add(a, b) { return a + b; }"
    assert found["double"][1] == "const double = (a) => a * 2;"
    assert found["Box.open"][1] == "open() { return this; }"


TYPESCRIPT = """
/** Adds two numbers. */
export function add(a: number, b: number): number { return a + b; }

abstract class Box<T> {
  /** Opens the box. */
  @logged
  public open(): T { return this.what; }
  /** Has no body. */
  abstract shut(): void;
}

/** Declares alone. */
declare function outside(a: string): void;
"""


def test_typescript():
    found = mined("a.ts", TYPESCRIPT)
    assert {name: query for name, (query, _) in found.items()} == {
        "add": "Adds two numbers.",
        "Box.open": "Opens the box.",
    }
    assert found["Box.open"][1] == "@logged\n  public open(): T { return this.what; }".replace(
        "\n  ", "\n"
    )
    tsx = "/** Draws a line. */\nexport const Line = (p: Props) => <hr className={p.name} />;"
    assert mined("a.tsx", tsx)["Line"][0] == "Draws a line."


PYTHON = '''
def outer(a):
    """Does the outer thing.

    More.
    """
    def inner():
        """Not by itself."""
    return a

class Box:
    @property
    def open(self):
        r"""Opens the box.

        Args:
            nothing
        """
        return 1

    def __str__(self):
        "Says it."
        return ""

if True:
    async def late(): "Comes late."; return 2

def bare(): pass

def declared():
    """Nothing is done here."""
    raise NotImplementedError

def roles(x):
    """Takes <something> as it is, by
    :func:`other`, and gives it.
    :param x: it
    """
    return x
'''


def test_python():
    found = mined("a.py", PYTHON)
    assert {name: query for name, (query, _) in found.items()} == {
        "outer": "Does the outer thing.",
        "Box.open": "Opens the box.",
        "Box.__str__": "Says it.",
        "late": "Comes late.",
        "roles": "Takes <something> as it is, by :func:`other`, and gives it.",
    }
    assert found["Box.open"][1] == "@property\ndef open(self):\n    return 1"
    assert '"""Not by itself."""' in found["outer"][1]


def test_python_as_the_miner_by_ast_reads_it():
    """Two parsers, one answer, on modules of the standard library."""
    library = Path(sysconfig.get_path("stdlib"))
    rules = Rules(min_words=3, min_lines=1, tests=True, standard=True)
    compared = 0
    for name in ("argparse", "csv", "heapq", "shutil", "statistics", "textwrap", "zipfile"):
        file = library / f"{name}.py"
        source = (file if file.exists() else library / name / "__init__.py").read_text("utf-8")
        expected = {row["line"]: row for row in functions_in_source(source)}
        (pairs,) = functions([(f"{name}.py", source)], rules=rules)
        for row in pairs:
            other = expected.get(row["line"])
            if other is None or ">>>" in other["query"] or "#" in row["document"][-80:]:
                continue  # an example ends a description; a comment at the end stays
            compared += 1
            for column in ("query", "document", "name"):
                assert row[column] == other[column], (name, row["line"])
    assert compared > 150


# === Rules ===


def test_each_rule_is_counted():
    source = """
// Area gives the area of it.
func Area(a int) int {
\treturn a * a
}
// Two words.
func Two() int {
\treturn 2
}
// Line is one line of code.
func Line() int { return 1 }
// TestArea tests the area of it.
func TestArea() int {
\treturn 2
}
// String says what it is.
func (b B) String() string {
\treturn ""
}
func Bare() int {
\treturn 2
}
"""
    counts = Counter()
    assert set(mined("a.go", source, None, counts)) == {"Area"}
    assert counts == {
        "taken": 1,
        "short documentation": 1,
        "short code": 1,
        "test": 1,
        "standard method": 1,
        "no documentation": 1,
    }


@pytest.mark.parametrize(
    ("docstring", "query"),
    [
        ("labels (`torch.Tensor` of shape `(batch,)`, *optional*):\n    What is right.", None),
        ("**kwargs** (`dict`): What else there is.", None),
        ("Adds what there is.\n    x (`int`, *optional*): A number.", "Adds what there is."),
        ("Labels (those of `y`) are read: all.", "Labels (those of `y`) are read: all."),
        ("TODO: this should be written again.", None),
        ("FIXME(me) it is slow with many.", None),
        ("Todo lists are read.", "Todo lists are read."),
        ("XXX_Size gives its size.", "XXX_Size gives its size."),
        ("Does so for now.\n    TODO faster.", "Does so for now. TODO faster."),
        ("https://example.org/a/page#that-says-how-it-is-done", None),
        ("Reads https://example.org and its pages.", "Reads https://example.org and its pages."),
    ],
)
def test_documentation_that_describes_nothing(docstring, query):
    source = f'def f(x):\n    """{docstring}\n    """\n    x = 1\n    return x\n'
    found = mined("a.py", source, Rules())
    assert [row[0] for row in found.values()] == ([] if query is None else [query])


def test_comments_that_describe_nothing():
    code = "function f(x) {\n  x += 1;\n  return x;\n}\n"
    for comment in ("// TODO: write this in another way", "// https://example.org/how-it-is-done"):
        assert mined("a.js", f"{comment}\n{code}", Rules()) == {}
    assert mined("a.js", f"// Adds one to it.\n{code}", Rules())


def test_a_file_that_does_not_parse_gives_what_does():
    broken = JAVA.replace("private int size;", "private int size").replace("Box() { }", "Box( { }")
    assert "Box.Kind.one" in mined("Box.java", broken)
    assert mined("a.rb", "\0\1 def ( \ud800") == {}
    assert mined("a.py", "") == {}


def test_files_of_no_language_are_counted():
    counts = Counter()
    assert list(functions([("README", "x"), ("a.c", "int f;")], counts=counts)) == []
    assert counts == {"no such language": 2}


@pytest.mark.parametrize("wrong", ["a.py", None, 3])
def test_files_that_are_none(wrong):
    with pytest.raises(TypeError):
        list(functions(wrong))


def test_a_file_that_is_no_tuple_of_texts():
    for wrong in (["a.py"], [("a.py", b"x")], [("a.py",)], [("a.py", "x", "y")]):
        with pytest.raises(TypeError, match="a path and a text"):
            list(functions(wrong))


def test_functions_say_where_they_come_from():
    text = "package a\n\n// Area gives the area.\nfunc Area(a int) int {\n\treturn a * a\n}\n"
    (pairs,) = functions([Document("a.go", text, source="shapes", license="BSD-3-Clause")])
    names = ("path", "source", "license", "line", "end_line")
    assert [pairs[0][name] for name in names] == ["a.go", "shapes", "BSD-3-Clause", 4, 6]


def test_functions_without_documentation_are_taken_for_an_index():
    source = "def plain(x):\n    return x\n\n\ndef told(x):\n    '''Says it.'''\n    return x\n"
    rules = Rules(min_words=0, min_lines=1, undocumented=True)
    assert mined("a.py", source, rules) == {
        "plain": ("", "def plain(x):\n    return x"),
        "told": ("Says it.", "def told(x):\n    return x"),
    }
    assert set(mined("a.py", source, rules._replace(undocumented=False))) == {"told"}
    assert set(mined("a.py", source, rules._replace(min_words=3))) == {"plain"}
    ruby = "class A\n  def area(a)\n    a * a\n  end\nend\n"
    assert mined("a.rb", ruby, rules) == {"A.area": ("", "def area(a)\n  a * a\nend")}


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("a.rb", "module A # :nodoc:\n  # Adds one to it.\n  def f(a)\n    a + 1\n  end\nend\n"),
        (
            "a.go",
            "package a\n\nvar x = 1 // a number\n// Adds one to it.\nfunc f() int { return 1 }\n",
        ),
        ("a.js", "var x = 1; // a number\n// Adds one to it.\nfunction f() { return 1; }\n"),
        ("A.java", "class A { // a class\n  // Adds one to it.\n  int f() { return 1; }\n}\n"),
        ("a.php", "<?php\n$x = 1; // a number\n// Adds one to it.\nfunction f() { return 1; }\n"),
    ],
)
def test_a_comment_behind_code_is_about_that_code(path, source):
    ((query, code),) = mined(path, source).values()
    assert query == "Adds one to it."
    assert "Adds one" not in code
