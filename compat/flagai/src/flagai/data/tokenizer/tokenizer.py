"""`GLMTokenizer`: FlagAI's methods over one of openglm's vocabularies, and its command tokens.

Knows a vocabulary and which of its special tokens are on; not where it came from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

from openglm.errors import ContextLengthError, OptionError, TokenizerError
from openglm.tokenizer import BertTokenizer, ChineseTokenizer, GPT2Tokenizer, RobertaTokenizer

Vocabulary = ChineseTokenizer | GPT2Tokenizer | RobertaTokenizer | BertTokenizer
Process = Callable[[str], str] | None

_NAMES = {"gmask": "gMASK", "smask": "sMASK", "dblock": "dBLOCK"}  # FlagAI's spelling of ours
_GPT2_NAMES = {**_NAMES, "mask": "MASK", "addnew": "mask"}
_ALIASES = {"enc": "cls"}
_BLANKS = ("mask", "gmask", "smask")
# Without block symbols only these are special; GPT-2's vocabulary itself has but the first two.
_FRAME = ("pad", "eos", "sep", "cls", "mask", "unk")


class CommandToken:
    """A special token.

    Attributes:
        name: what it is called (`sop`, `gMASK`, ...).
        token: how it is written.
        Id: its id; also what `int()` of it gives.
        lstrip, rstrip: whether white space before or behind it is dropped.
    """

    def __init__(self, name: str, token: str, Id: int, lstrip: bool = False, rstrip: bool = False) -> None:
        self.name = name
        self.token = token
        self.Id = Id
        self.lstrip = lstrip
        self.rstrip = rstrip

    def __index__(self) -> int:
        return self.Id

    def __str__(self) -> str:
        return f"CommandToken(name={self.name!r}, token={self.token!r}, Id={self.Id})"

    __repr__ = __str__


class GLMTokenizer:
    """FlagAI's tokenizer methods.

    Args:
        tokenizer: openglm's.
        add_block_symbols: whether `<|startofpiece|>` and all that GLM adds are special; filling needs them.
        after_special: what decoding puts behind each special token (FlagAI's newer class: a space, Chinese only).

    Attributes:
        tokenizer: openglm's.
        num_tokens: ids in use.
        num_text_tokens: those of the vocabulary itself.
        command_name_map, command_token_map, command_id_map: the special tokens by name, text and id.
    """

    def __init__(self, tokenizer: Vocabulary, *, add_block_symbols: bool = True, after_special: str = "") -> None:
        self.tokenizer = tokenizer
        self._after_special = after_special
        self._command_tokens = _command_tokens(tokenizer, add_block_symbols)
        self.num_text_tokens = tokenizer.num_pieces
        self.num_tokens = max(self.num_text_tokens, *(token.Id + 1 for token in self._command_tokens))
        self.num_command_tokens = len(self._command_tokens)
        self.command_name_map = {token.name: token for token in self._command_tokens}
        self.command_token_map = {token.token: token for token in self._command_tokens}
        self.command_id_map = {token.Id: token for token in self._command_tokens}
        self._split = re.compile("(" + "|".join(map(re.escape, self.command_token_map)) + ")")

    def __len__(self) -> int:
        return self.num_tokens

    def __call__(self, text: str, process_fn: Process = None) -> list[int]:
        """The same as `EncodeAsIds`."""
        return self.EncodeAsIds(text, process_fn)

    # --- special tokens ---------------------------------------------------------------

    def get_command(self, name: str) -> CommandToken:
        """The special token of this name, in any case (`ENC` is `cls`).

        Raises:
            TokenizerError: there is none; lists those there are.
        """
        if name in self.command_name_map:
            return self.command_name_map[name]
        wanted = _ALIASES.get(name.lower(), name.lower())
        for known, token in self.command_name_map.items():
            if known.lower() == wanted:
                return token
        raise TokenizerError(f"no special token {name!r} here; there are {', '.join(self.command_name_map)}")

    def get_command_id(self, name: str) -> int:
        """Its id. Raises as `get_command`."""
        return self.get_command(name).Id

    def CommandTokenIds(self, exception: Iterable[str] | None = None) -> list[int]:
        """Ids of all special tokens but those of these names."""
        spared = set(exception or ())
        return [token.Id for token in self._command_tokens if token.name not in spared]

    # --- text and ids -----------------------------------------------------------------

    def EncodeAsIds(self, text: str, process_fn: Process = None) -> list[int]:
        """Ids of a text, in which the wording of special tokens means these tokens.

        Raises:
            TokenizerError: not Unicode text.
        """
        text = process_fn(text) if process_fn else text
        if not text.strip():
            return []
        parts, ids = self._split.split(text), []
        for i, part in enumerate(parts):
            if i % 2:
                ids.append(self.command_token_map[part].Id)
                continue
            if i + 1 < len(parts) and self.command_token_map[parts[i + 1]].lstrip:
                part = part.rstrip()
            ids += self.tokenizer.encode(part) if part else []
        return ids

    def DecodeIds(self, Ids: Iterable[int]) -> str:
        """Text of ids, special tokens included; ids that no vocabulary knows read as U+FFFD or ` ⁇ `.

        Raises:
            TokenizerError: a negative id.
        """
        ids = [int(token) for token in Ids]
        if isinstance(self.tokenizer, BertTokenizer):
            return self.tokenizer.decode_spaced(ids)
        text = self.tokenizer.decode(ids, after_special=self._after_special)
        return text.strip() if self._after_special else text

    def encode(self, text: str) -> list[int]:
        """Ids of a text in which nothing is special."""
        return self.tokenizer.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """The same as `DecodeIds`."""
        return self.DecodeIds(ids)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    # --- single tokens ----------------------------------------------------------------

    def IdToToken(self, Id: int) -> str:
        """How one token is written; pieces that begin a Chinese vocabulary's word with `▁`."""
        if Id in self.command_id_map:
            return self.command_id_map[int(Id)].token
        text = self.tokenizer.token_text(int(Id))
        return text.replace(" ", "▁") if isinstance(self.tokenizer, ChineseTokenizer) else text

    def TokenToId(self, token: str | CommandToken) -> int:
        """The id of a token as `IdToToken` writes it.

        Raises:
            TokenizerError: no such token.
        """
        if isinstance(token, CommandToken):
            return token.Id
        if token not in self.vocab:
            raise TokenizerError(f"{token!r} is no token of this vocabulary; EncodeAsTokens gives the tokens of a text")
        return self.vocab[token]

    @cached_property
    def vocab(self) -> dict[str, int]:
        """Token -> id; of several tokens that are written the same the first."""
        found: dict[str, int] = {}
        for token in range(self.num_tokens):
            found.setdefault(self.IdToToken(token), token)
        return found

    def get_vocab(self) -> dict[str, int]:
        """The same as `vocab`."""
        return self.vocab

    def EncodeAsTokens(self, text: str, process_fn: Process = None) -> list[str]:
        """Tokens of a text in which nothing is special."""
        return self.convert_ids_to_tokens(self.tokenizer.encode(process_fn(text) if process_fn else text))

    def tokenize(self, text: str) -> list[str]:
        """The same as `EncodeAsTokens`."""
        return self.EncodeAsTokens(text)

    def DecodeTokens(self, Tokens: Iterable[str | CommandToken]) -> str:
        """Text of tokens."""
        return self.DecodeIds(map(self.TokenToId, Tokens))

    def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]:
        """Ids of tokens. Raises as `TokenToId`."""
        return [self.TokenToId(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """Tokens of ids."""
        return [self.IdToToken(token) for token in ids]

    # --- sequence to sequence ---------------------------------------------------------

    def encode_plus(
        self,
        source_text: str,
        target_text: str | None = None,
        second_text: str | None = None,
        truncation: bool = True,
        max_length: int | None = None,
    ) -> dict[str, Any]:
        """FlagAI's layout of a source and what is written behind it: `sop source sep target eop`.

        All of it is read from left to right, and block positions are 0.

        Args:
            max_length: most tokens of the whole; sources are cut at their end to fit, then targets.
            truncation: whether to cut at all; if not, a text that is too long is an error.

        Returns:
            `input_ids`, `position_ids` (positions, block positions), `attention_mask` (0), and
            `loss_mask`; with a target also `target_ids`: what each input should predict. The
            loss mask is 1 where that is a token of the target or its end.

        Raises:
            OptionError: a second text, or a `max_length` that leaves no room.
            ContextLengthError: too long, and not to be cut.
        """
        if second_text is not None:
            raise OptionError("GLM's layout takes a source and a target, no second text")
        source = self.EncodeAsIds(source_text)
        target = self.EncodeAsIds(target_text) if target_text else None
        frame = 2 if target is None else 3
        if max_length is not None:
            if max_length <= frame:
                raise OptionError(f"max_length must be above {frame}, not {max_length}")
            if not truncation and len(source) + len(target or ()) + frame > max_length:
                raise ContextLengthError(f"the text has {len(source)} tokens, more than max_length {max_length} holds")
            source = source[: max_length - frame]
            target = None if target is None else target[: max_length - frame - len(source)]
        sop, eop, sep = (self.get_command_id(name) for name in ("sop", "eop", "sep"))
        tokens = [sop, *source, sep, *([] if target is None else [*target, eop])]
        inputs = tokens if target is None else tokens[:-1]
        sample: dict[str, Any] = {
            "input_ids": inputs,
            "attention_mask": 0,
            "position_ids": [list(range(len(inputs))), [0] * len(inputs)],
            "loss_mask": [0] * len(inputs),
        }
        if target is not None:
            sample["target_ids"] = tokens[1:]
            sample["loss_mask"] = [int(i > len(source)) for i in range(len(inputs))]
        return sample


def _command_tokens(tokenizer: Vocabulary, add_block_symbols: bool) -> list[CommandToken]:
    names = _GPT2_NAMES if isinstance(tokenizer, GPT2Tokenizer) else _NAMES
    kept: Sequence[str] = list(tokenizer.special)
    if not add_block_symbols:
        kept = [name for name in _FRAME if name in tokenizer.special]
        if isinstance(tokenizer, GPT2Tokenizer):
            kept = ["pad", "eos"]
    strips = not isinstance(tokenizer, BertTokenizer)
    text, ids = tokenizer.special_text, tokenizer.special
    return [CommandToken(names.get(name, name), text[name], ids[name], strips and name in _BLANKS) for name in kept]
