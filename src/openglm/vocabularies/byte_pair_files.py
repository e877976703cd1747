"""`vocab.json` and `merges.txt`: reading them, and finding out when one is damaged.

A list of merges that was cut short would be read without complaint and give other ids, so
the two files are checked against each other.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..errors import TokenizerError
from .sources import Source, read_json, read_lines

VOCAB_FILE = "vocab.json"
MERGES_FILE = "merges.txt"
_HEAD = "#version: 0.2"


def _byte_signs() -> dict[str, int]:
    """How the files write each byte: visible Latin-1 characters as themselves, others from U+0100 up."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = sorted(set(range(256)) - set(visible))
    return {chr(byte): byte for byte in visible} | {chr(0x100 + i): byte for i, byte in enumerate(hidden)}


_BYTE_OF = _byte_signs()


@dataclass(frozen=True)
class BytePairs:
    """A byte-level BPE vocabulary.

    Attributes:
        vocab: piece -> id, 0 .. len - 1.
        merges: pairs of pieces to join, the first one first.
    """

    vocab: Mapping[str, int]
    merges: tuple[tuple[str, str], ...]

    @property
    def spelling(self) -> list[bytes]:
        """The bytes of each piece, by id."""
        pieces = sorted(self.vocab, key=self.vocab.__getitem__)
        return [bytes(_BYTE_OF[sign] for sign in piece) for piece in pieces]

    @property
    def files(self) -> dict[str, bytes]:
        """File name -> content, the same for the same vocabulary."""
        vocab = json.dumps(dict(sorted(self.vocab.items(), key=lambda item: item[1])), ensure_ascii=False)
        merges = "\n".join([_HEAD, *(f"{left} {right}" for left, right in self.merges)]) + "\n"
        return {VOCAB_FILE: vocab.encode(), MERGES_FILE: merges.encode()}


def read_byte_pairs(
    vocab: Source, merges: Source, *, frame: Collection[str], leftovers: Collection[str] = ()
) -> BytePairs:
    """Read both files.

    Args:
        frame: pieces that no merge makes and that must be there (special tokens).
        leftovers: pieces that no merge makes and that may be there.

    Raises:
        TokenizerError: a file is missing, damaged or cut short, they do not belong together,
            or the vocabulary cannot spell every byte.
    """
    pieces, name = _read_vocab(vocab)
    pairs, merges_name = _read_merges(merges)
    missing = [piece for piece in frame if piece not in pieces]
    if missing:
        raise TokenizerError(f"{name}: lacks {', '.join(missing)}, so this is the vocabulary of another model")
    if not _BYTE_OF.keys() <= pieces.keys() or not _BYTE_OF.keys() >= set("".join(pieces)):
        raise TokenizerError(f"{name}: not a byte-level vocabulary (one piece for each of the 256 bytes, as GPT-2 has)")
    made = {left + right for left, right in pairs}
    unknown = [pair for pair in pairs if not {*pair, "".join(pair)} <= pieces.keys()]
    if unknown:
        raise TokenizerError(
            f"{merges_name}: joins {' and '.join(map(repr, unknown[0]))}, which {name} does not know; "
            "the two files belong to different vocabularies, or one is damaged"
        )
    unmade = [p for p in pieces if len(p) > 1 and p not in made and p not in frame and p not in leftovers]
    if unmade:
        raise TokenizerError(
            f"{merges_name}: makes no {unmade[0]!r} ({len(unmade)} pieces of {name} in all); "
            "it is cut short, or the two files belong to different vocabularies"
        )
    return BytePairs(pieces, tuple(pairs))


def holds_pieces(vocab: Source, pieces: Collection[str]) -> bool:
    """Whether a `vocab.json` holds all these pieces.

    Raises:
        TokenizerError: not readable, or no vocabulary.
    """
    return set(pieces) <= _read_vocab(vocab)[0].keys()


def _read_vocab(vocab: Source) -> tuple[dict[str, int], str]:
    pieces, name = read_json(vocab)
    ids = list(pieces.values()) if isinstance(pieces, dict) else []
    if not ids or not all(type(i) is int for i in ids) or sorted(ids) != list(range(len(ids))):
        raise TokenizerError(f"{name}: not a vocabulary, which is a JSON object of pieces and their ids 0, 1, 2, ...")
    return pieces, name


def _read_merges(merges: Source) -> tuple[list[tuple[str, str]], str]:
    lines, name = read_lines(merges)
    pairs = []
    for number, line in enumerate(lines, 1):
        if number == 1 and line.startswith("#version"):
            continue
        left, _, right = line.partition(" ")
        if not left or not right or " " in right:
            raise TokenizerError(f"{name}, line {number}: not a pair of pieces with a space between: {line[:40]!r}")
        pairs.append((left, right))
    return pairs, name
