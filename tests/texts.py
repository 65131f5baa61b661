"""Seeded texts of every kind that tokenizers have been seen to disagree on."""

import random
import unicodedata

_CODE = (
    'def read(path):\n    """Read a file."""\n\n    with open(path) as f:\n\treturn f.read()\n\n\n',
    "const f = (a, b) => {\n  return `${a}:${b ?? 0}`;\n};\n\n// don't\n",
    'public static void main(String[] a) {\r\n\tint x = 0xFF_00L;\r\n\tSystem.out.print("é");\r\n}',
    "func (s *Server) Serve(ctx context.Context) error {\n\tif err != nil {\n\t\treturn err\n\t}\n",
    '<?php\nforeach ($rows as $k => $v) {\n    echo "$k=$v\\n";\n}\n?>\n',
    "class Foo < Bar\n  attr_accessor :x\n  def ==(o) = o.is_a?(Foo) && @x == o.x\nend\n\n\n",
)
_WORDS = (
    "the quick brown fox jumped over a lazy dog's 12 kennels and isn't WE'LL I'M they've THEY'RE "
    "naïve café Straße ﬁne ǅ Ωmega ½ ² Ⅷ ٣٤ 1234567 3.14159 2,000,000 e-mail x86_64 foo_bar "
    "camelCaseName HTTPServer #hashtag @name http://a.b/c?d=e&f=%20 …—“quoted” ‘single’ $9.99 C++"
).split()
_CJK = (
    "日本語のテキスト",
    "你好，世界！",
    "한국어 문장입니다.",
    "カタカナー",
    "漢字かな。",
    "𠮷野家",
)
_RTL = (
    "مرحبا بالعالم ١٢٣",
    "שלום עולם",
    "السَّلامُ",
    "\u202bab\u202c",
    "لا\u200fب",
    "اُردُو",
)
_EMOJI = (
    "\U0001f600",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",  # A family, joined.
    "\U0001f44d\U0001f3fd",  # With a skin tone.
    "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7",  # Two flags.
    "\u2764\ufe0f\u200d\U0001f525",
    "\u263a\ufe0e",
    "\U0001f468\U0001f3ff\u200d\U0001f4bb",
)
_COMBINING = ("e\u0301", "a\u0323\u0302", "Z\u0351\u036b\u0343", "क्षि", "ก็", "n\u0303o", "\u0301x")
_SPACES = " \u00a0\u2009\u202f\u3000\u200b\ufeff\u2028\x85\x0b"
_BREAKS = ("\n", "\n\n", "\n\n\n\n", "\r\n", "\r\n\r\n", "\r", "\t", "\t\t", " \n", "\n ", "  ")
_PLANES = [(0x20, 0xD7FF), (0xE000, 0xFFFF), *((p << 16, (p + 1 << 16) - 1) for p in range(1, 17))]


def texts(count: int, seed: int) -> list[str]:
    """`count` texts, the same ones for the same seed on every machine."""
    rng = random.Random(seed)
    return [_text(rng) for _ in range(count)]


def _text(rng: random.Random) -> str:
    pieces = [_piece(rng) for _ in range(rng.randint(1, 7))]
    joints = (*_BREAKS, *_SPACES, "", " ", " ", " ")
    text = "".join(piece + rng.choice(joints) for piece in pieces)
    return text if rng.random() < 0.5 else text.strip()


def _piece(rng: random.Random) -> str:
    kind = rng.randrange(12)
    if kind < 3:
        return " ".join(rng.choices(_WORDS, k=rng.randint(1, 9)))
    if kind == 3:
        code = rng.choice(_CODE)
        start = rng.randrange(len(code))
        return code[start : start + rng.randint(1, 80)]
    if kind == 4:
        return "".join(rng.choices(_BREAKS, k=rng.randint(1, 6)))
    if kind == 5:
        return "".join(rng.choices((*_SPACES, " ", "\n", "x", "1"), k=rng.randint(1, 8)))
    if kind == 6:
        return "".join(rng.choices((*_CJK, *_RTL, *_EMOJI, *_COMBINING), k=rng.randint(1, 5)))
    if kind == 7:
        return "".join(rng.choices((*_EMOJI, *_COMBINING, " ", "a", "'s"), k=rng.randint(1, 8)))
    if kind == 8:
        return "".join(chr(rng.randint(*rng.choice(_PLANES))) for _ in range(rng.randint(1, 12)))
    if kind == 9:
        return "".join(chr(rng.randint(0, 0x2FF)) for _ in range(rng.randint(1, 20)))
    if kind == 10:
        return rng.choice(("a", "ab", "Ñ", "0", "!", "_", "—")) * rng.randint(1, 300)
    return unicodedata.normalize(rng.choice(("NFC", "NFD", "NFKD")), rng.choice(_WORDS) + "Å é ệ")
