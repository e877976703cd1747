"""Text <-> token ids, behind one interface, and the special tokens of each vocabulary.

`BilingualTokenizer` is openglm's own: lossless, every string decodes to exactly itself.
The others are those of the published models, each with the published special tokens:
`ChineseTokenizer` (SentencePiece), `GPT2Tokenizer` and `RobertaTokenizer` (byte-level BPE,
lossless), `BertTokenizer` (WordPiece, uncased). `load_tokenizer` recognises what a folder
holds. Ordinary text never turns into a special token unless the caller asks for it with
`allow_special=True`.

Knows nothing about Part A and Part B (`openglm.blanks`) or models. The code is in
`openglm.vocabularies`, one module per kind; `tokenizers` and `sentencepiece` are imported
when the first vocabulary of their kind is read.
"""

from __future__ import annotations

from .vocabularies.base import CONFIG_FILE, MODEL_FILE, SPECIAL_TEXT, Decoder, Tokenizer
from .vocabularies.byte_pairs import GPT2Tokenizer, RobertaTokenizer
from .vocabularies.load import LAYOUTS, SpecialLayout, load_tokenizer
from .vocabularies.pieces import SPACE_SIGN, BilingualTokenizer, ChineseTokenizer
from .vocabularies.wordpiece import BertTokenizer

__all__ = [
    "CONFIG_FILE",
    "LAYOUTS",
    "MODEL_FILE",
    "SPACE_SIGN",
    "SPECIAL_TEXT",
    "BertTokenizer",
    "BilingualTokenizer",
    "ChineseTokenizer",
    "Decoder",
    "GPT2Tokenizer",
    "RobertaTokenizer",
    "SpecialLayout",
    "Tokenizer",
    "load_tokenizer",
]
