"""Manual pages as plain text: those of man(7), and of mdoc(7), which the BSDs write.

No roff is run: requests that compute or read files (`.if`, `.so`, `.de`) are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_CHARACTERS: Final = {
    "aq": "'", "dq": '"', "lq": "“", "rq": "”", "oq": "‘", "cq": "’", "em": "—", "en": "–",
    "hy": "-", "mi": "-", "bu": "•", "co": "©", "rg": "®", "tm": "™", "ha": "^", "ti": "~",
    "ga": "`", "rs": "\\", "sl": "/", "ul": "_", "bv": "|", "ba": "|", "lB": "[", "rB": "]",
    "lC": "{", "rC": "}", "la": "⟨", "ra": "⟩", "->": "→", "<-": "←", "<=": "≤", ">=": "≥",
    "!=": "≠", "mu": "×", "+-": "±", "de": "°", "ss": "ß", "sq": "□", "at": "@", "sh": "#",
    "Do": "$", "eu": "€", "Fo": "«", "Fc": "»", "aa": "´", "12": "½", "R": "®", "Tm": "™",
    'L"': '"', 'R"': '"', "C`": '"', "C'": '"', "C+": "C++", "PI": "π", "--": "--",
}  # fmt: skip
_COMBINED = {"'": "\u0301", "`": "\u0300", ":": "\u0308", "^": "\u0302", "~": "\u0303"}
_COMBINED |= {",": "\u0327", "o": "\u030a"}
_ESCAPE = re.compile(
    r"""\\(?:
      (?P<font>[fFmMgYVk](?:\[[^\]\n]*\]|\(..|.)) |
      (?P<size>s[-+]?(?:\[[^\]\n]*\]|\(..|'[^'\n]*'|\d))
    | (?P<measure>[hvwbDlLoxXZHRSBA]'[^'\n]*') | N'(?P<number>\d{1,7})'
    | (?P<register>n[-+]?(?:\[[^\]\n]*\]|\(..|.))
    | \*?\[(?P<long>[^\]\n]*)\] | \*?\((?P<two>..) | \*(?P<one>.)
    | (?P<char>.) | $
    )""",
    re.VERBOSE,
)
_AS_IT_IS = {"-": "-", "e": "\\", "\\": "\\", "'": "'", "`": "`", ".": ".", " ": " "}
_AS_IT_IS |= {"~": " ", "0": " ", "t": "\t", "E": "\\", "_": "_"}
_ARGUMENT = re.compile(r'"((?:[^"]|"")*)"?|(\S+)')
_REQUEST = re.compile(r"[.'][ \t]*(\S*)[ \t]*(.*)")
_FONTS = frozenset("B I R SM SB".split())
_ALTERNATING = frozenset("BR RB BI IB IR RI".split())
_SPACES = frozenset("PP P LP sp Pp Lp TP TQ HP IP br It".split())
_TEXT_OF = frozenset("UR MT SY OP".split())

# Of mdoc: which macros are names within a line, and what they write around their words.
_MDOC: Final = frozenset(
    "Ad An Ao Ap Aq Ac Ar At Bc Bo Bq Brq Bro Brc Bsx Bx Cd Cm Dc Do Dq Dv Dx Em Er Ev Fa Fc Fl Fn"
    " Fo Ft Fx Ic In Li Lk Ms Mt Nd Nm No Ns Nx Oc Oo Op Ox Pa Pc Pf Po Pq Ql Qc Qo Qq Sc So Sq St"
    " Sx Sy Tn Ux Va Vt Xc Xo Xr Cx D1 Dl %A %B %C %D %I %J %N %O %P %R %T %U %V".split()
)
_AROUND: Final = {
    "Aq": "<>", "Bq": "[]", "Brq": "{}", "Dq": "“”", "Op": "[]", "Pq": "()", "Ql": "‘’",
    "Qq": '""', "Sq": "‘’",
}  # fmt: skip
_BRACKETS: Final = {
    "Ao": "<", "Ac": ">", "Bo": "[", "Bc": "]", "Bro": "{", "Brc": "}", "Do": "“", "Dc": "”",
    "Oo": "[", "Oc": "]", "Po": "(", "Pc": ")", "Qo": '"', "Qc": '"', "So": "‘", "Sc": "’",
}  # fmt: skip
_CLOSING = frozenset(".,:;)]?!")


def of_man(text: str) -> tuple[str, str]:
    r"""(plain text, title) of a manual page's source: `.SH` becomes `# `, `.SS` becomes `## `.

    Example:

    ```pycon
    >>> from cptk.mining.man_pages import of_man
    >>> of_man(".TH CAT 1\n.SH NAME\ncat \\- join files\n.SH USE\nGive it\n.BR files (5)\n.")
    ('# NAME\n\ncat - join files\n\n# USE\n\nGive it files(5)', 'cat - join files')

    ```
    """
    page = _Page()
    for line in _requests(text):
        page.read(line)
    plain = "\n".join(page.lines())
    name = re.search(r"^# NAME\n+(.+)", plain, re.MULTILINE)
    return plain, name[1] if name else page.title


def _requests(text: str) -> Iterator[str]:
    """The lines that are read: no comments, no definitions, tables or conditions."""
    until: str | None = None
    depth = 0
    for line in text.split("\n"):
        if until is not None:
            until = None if line.rstrip().replace(" ", "") == until else until
            continue
        if depth:
            depth += line.count("\\{") - line.count("\\}")
            continue
        if line.startswith(('.\\"', "'\\\"", ".\\#")):
            continue
        line = re.sub(r'(?<!\\)\\["#].*', "", line)
        request = _REQUEST.fullmatch(line)
        if request is None:
            yield line
        elif request[1] in ("de", "de1", "am", "ig"):
            words = request[2].split()
            ends = words[1:] if request[1] != "ig" else words
            until = f".{ends[0] if ends else '.'}"
        elif request[1] in ("TS", "EQ", "PS"):
            until = {"TS": ".TE", "EQ": ".EN", "PS": ".PE"}[request[1]]
        elif request[1] in ("if", "ie", "el", "while"):
            depth = max(line.count("\\{") - line.count("\\}"), 0)
        else:
            yield line


class _Page:
    """The text that stands on a page so far."""

    def __init__(self) -> None:
        self.title = ""
        self._blocks: list[str] = []
        self._words: list[str] = []
        self._verbatim = False
        self._next_is_term = False
        self._heading = ""
        self._name = ""

    def lines(self) -> Iterator[str]:
        """Its paragraphs and headings, a blank line between each."""
        self._end()
        for number, block in enumerate(self._blocks):
            if number:
                yield ""
            yield block

    def read(self, line: str) -> None:
        """Take the next line of the source."""
        request = _REQUEST.fullmatch(line)
        if request is None:
            self._add(_unescaped(line), verbatim=True)
            return
        name, rest = request[1], request[2]
        arguments = [_unescaped((a or b).replace('""', '"')) for a, b in _ARGUMENT.findall(rest)]
        joined = " ".join(arguments)
        if name in ("SH", "SS", "Sh", "Ss"):
            self._end()
            self._verbatim = False
            mark = "#" if name in ("SH", "Sh") else "##"
            if joined:
                self._blocks.append(f"{mark} {joined}")
            else:
                self._heading = mark
        elif name in ("TH", "Dt"):
            self.title = arguments[0].lower() if arguments else ""
        elif name in ("nf", "EX", "Bd"):
            self._end()
            self._verbatim = name != "Bd" or "-literal" in rest or "-unfilled" in rest
        elif name in ("fi", "EE", "Ed"):
            self._end()
            self._verbatim = False
        elif name in _SPACES:
            if name == "br" and not self._verbatim:
                return
            self._end()
            if name == "IP" and arguments and any(map(str.isalnum, arguments[0])):
                self._blocks.append(arguments[0])
            elif name == "It" and arguments:
                self._blocks.append(self._mdoc(arguments))
            self._next_is_term = name in ("TP", "TQ")
        elif name in _FONTS:
            self._add(joined)
        elif name in _ALTERNATING:
            self._add("".join(arguments))
        elif name in _TEXT_OF:
            self._add(arguments[0] if arguments else "")
        elif name in ("UE", "ME") and self._words and joined:
            self._words[-1] += joined
        elif name == "Nm" or name in _MDOC:
            self._add(self._mdoc([name, *arguments]))

    def _add(self, text: str, *, verbatim: bool = False) -> None:
        if self._verbatim:
            self._words.append(text if verbatim else text.strip())
        elif not text.strip():
            self._end()
        elif self._heading:
            self._blocks.append(f"{self._heading} {text.strip()}")
            self._heading = ""
        else:
            self._words.append(text.strip())
            if self._next_is_term:
                self._end()
        self._next_is_term = False

    def _end(self) -> None:
        """Close the paragraph."""
        if self._verbatim:
            block = "\n".join(f"    {each}".rstrip() for each in self._words).strip("\n")
        else:
            block = re.sub(r"\s+([.,;:])(?=\s|$)", r"\1", " ".join(" ".join(self._words).split()))
        if block.strip():
            self._blocks.append(block)
        self._words = []

    def _mdoc(self, words: list[str]) -> str:
        """A line of mdoc, whose words may be macros."""
        out, glued = "", True
        ends: list[str] = []
        place = 0
        while place < len(words):
            word = words[place]
            place += 1
            text = word
            if word in ("Ns", "Ap"):
                out, glued = out + ("'" if word == "Ap" else ""), True
                continue
            if word in _AROUND:
                text = _AROUND[word][0]
                ends.append(_AROUND[word][1])
            elif word in _BRACKETS:
                text = _BRACKETS[word]
                glued = glued or word.endswith("c")
            elif word == "Nd":
                text = "-"
            elif word == "Nm":
                if place < len(words) and words[place] not in _MDOC | _CLOSING:
                    self._name = self._name or words[place]
                    continue
                text = self._name
            elif word == "Fl":
                text = "-"
            elif word == "Xr" and place < len(words):
                section = words[place + 1] if place + 1 < len(words) else ""
                text = words[place] + (f"({section})" if section.isalnum() else "")
                place += 2 if section.isalnum() else 1
            elif word in _MDOC:
                continue
            if not text:
                continue
            out += text if glued or not out or text in _CLOSING else f" {text}"
            glued = word == "Fl" or word in _AROUND or (word in _BRACKETS and word.endswith("o"))
            glued = glued or word == "Pf"
        return out + "".join(reversed(ends))


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    return _ESCAPE.sub(_character, text)


def _character(found: re.Match[str]) -> str:
    if found["number"]:
        number = int(found["number"])
        return chr(number) if 31 < number < 0xD800 else ""
    name = found["long"] or found["two"] or found["one"]
    if name:
        unicode = re.fullmatch(r"u([0-9A-F]{4,5})", name)
        if unicode:
            number = int(unicode[1], 16)
            return "" if 0xD800 <= number < 0xE000 else chr(number)
        if len(name) == 2 and name[1].isalpha() and name[0] in _COMBINED:
            return name[1] + _COMBINED[name[0]]
        return _CHARACTERS.get(name, "")
    return _AS_IT_IS.get(found["char"] or "", "")
