"""Texts that come out right in LaTeX, whatever a user called an arm or a column.

The result compiles with pdflatex (UTF-8 input, its default) and needs no package.
"""

import re
import unicodedata

_CODE_POINT = re.compile(r"U\+[0-9A-F]{4,6}(?=U\+)")
_LONG, _PIECE = 20, 11  # letters of a word that may break, and between its breaks

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    # in pdflatex's default encoding these three print as something else
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": r"$-$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
    "←": r"$\leftarrow$",
    "√": r"$\surd$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≠": r"$\neq$",
    "≈": r"$\approx$",
    "∞": r"$\infty$",
    "½": r"$\frac{1}{2}$",
    "·": r"$\cdot$",
    "°": r"$^\circ$",
    "²": r"$^2$",
    "³": r"$^3$",
    "µ": r"$\mu$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "“": "``",
    "”": "''",
    "‘": "`",
    "’": "'",
    "§": r"\S{}",
    "†": r"\dag{}",
    "\u00a0": "~",
    "ß": r"\ss{}",
    "ο": "o",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "ı": r"\i{}",
}
# in the order of Unicode; omicron has no command
_ALPHABET = """alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi - pi rho
    varsigma sigma tau upsilon phi chi psi omega"""
_GREEK = tuple(_ALPHABET.split())
_SPECIAL |= {chr(0x3B1 + i): rf"$\{name}$" for i, name in enumerate(_GREEK) if name != "-"}
_CAPITALS = dict(zip("ΓΔΘΛΞΠΣΥΦΨΩ", (2, 3, 7, 10, 13, 15, 18, 20, 21, 23, 24), strict=True))
_SPECIAL |= {letter: rf"$\{_GREEK[i].capitalize()}$" for letter, i in _CAPITALS.items()}
_ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0304": "=",
    "\u0306": "u",
    "\u0307": ".",
    "\u0308": '"',
    "\u030a": "r",
    "\u030b": "H",
    "\u030c": "v",
    "\u0327": "c",
}


def escape(text: str) -> str:
    r"""`text` as LaTeX that prints it; line breaks and control characters become spaces.

    A letter that no LaTeX command writes is printed as its code point, since a table that does not
    compile helps nobody.

    >>> print(escape("a_b & 50 % γ<2"))
    a\_b \& 50 \% $\gamma$$<$2
    >>> print(escape("Müller 中"))
    M\"{u}ller U+4E2D
    """
    return "".join(_letter(letter) for letter in str(text))


def _letter(letter: str) -> str:
    if letter in _SPECIAL:
        return _SPECIAL[letter]
    if letter.isascii():
        return letter if letter.isprintable() else " "
    if unicodedata.category(letter) in {"Cc", "Cf", "Zs", "Zl", "Zp"}:
        return " "
    parts = unicodedata.normalize("NFD", letter)
    if len(parts) == 2 and parts[0].isascii() and parts[1] in _ACCENTS:
        return f"\\{_ACCENTS[parts[1]]}{{{parts[0]}}}"
    plain = unicodedata.normalize("NFKD", letter)
    if plain.isascii():
        return "".join(_SPECIAL.get(part, part) for part in plain)
    return f"U+{ord(letter):04X}"


def breakable(text: str) -> str:
    r"""`escape`, with places where a line may end inside long words, as in file names.

    >>> print(breakable("resnet_with_a_very_long_name"))
    resnet\_with\allowbreak{}\_a\_very\_lon\allowbreak{}g\_name
    """
    return " ".join(_breakable(word) for word in str(text).split())


def _breakable(word: str) -> str:
    pieces = [escape(word[i : i + _PIECE]) for i in range(0, len(word), _PIECE)]
    whole = "\\allowbreak{}".join(pieces) if len(word) > _LONG else "".join(pieces)
    # letters printed as code points make a long word of a short one
    return _CODE_POINT.sub(r"\g<0>\\allowbreak{}", whole)
