"""Fonts for names in pictures: Chinese ones need a font that has their characters.

Where no installed font can write a name, it is never drawn as empty boxes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

PLAIN = "DejaVu Sans"  # comes with matplotlib
LAST_RESORT = "Last Resort"  # fonts of boxes, which say of every sign that they have it
CHINESE_FONTS = ("Noto Sans CJK SC", "Source Han Sans SC", "PingFang SC", "Microsoft YaHei", "WenQuanYi Zen Hei")


def fonts_for(texts: Sequence[str]) -> list[str]:
    """Font families that can write all of these texts together; [] if none of those installed can."""
    missing = _signs(texts) - _signs_of(PLAIN)
    if not missing:
        return [PLAIN]
    family = next((family for family in _families() if missing <= _signs_of(family)), None)
    return [] if family is None else [PLAIN, family]


def writable(text: str) -> str:
    """The text with signs that no installed font has by their code points, as `U+6EE1`."""
    return "".join(sign if sign.isspace() or fonts_for([sign]) else f"U+{ord(sign):04X} " for sign in text).strip()


def _signs(texts: Iterable[str]) -> set[int]:
    return {ord(sign) for text in texts for sign in text if not sign.isspace()}


def _families() -> list[str]:
    """Installed families, those known to have Chinese signs first."""
    from matplotlib import font_manager

    names = font_manager.fontManager.get_font_names()
    installed = {name for name in names if not name.startswith(LAST_RESORT)}
    return [*(name for name in CHINESE_FONTS if name in installed), *sorted(installed - {*CHINESE_FONTS, PLAIN})]


@cache
def _signs_of(family: str) -> frozenset[int]:
    from matplotlib import font_manager, ft2font

    path = font_manager.findfont(font_manager.FontProperties(family=[family]))
    return frozenset(ft2font.FT2Font(path).get_charmap())
