"""`Predictor`: FlagAI's two ways of generating, in GLM's layout of blanks and in its layout of targets.

    blank     [CLS] text with blanks <eos> | <sop> fill      returns the whole sequence, decoded
    target    <sop> source [SEP]           | target          returns the target, decoded

A text that holds `MASK]` is in the first layout, any other in the second.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from openglm.errors import ContextLengthError, InputError, OptionError

from ...data.tokenizer.tokenizer import GLMTokenizer
from ..glm_model import GLMForSeq2Seq, GLMModel
from ._decoding import Choice, Piece, Reader, beam_search, sample

BLANKS = ("[MASK]", "[sMASK]", "[gMASK]")
BLANK_SIGN = "MASK]"
OPEN_END = "[gMASK]"  # behind it nothing follows, not even the end of the text
# FlagAI's beam search marks what it writes so; its sampling does not. Kept, as results depend on it.
BEAM_BLOCK_POSITION = 1


class Predictor:
    """Generates with a model.

    Args:
        model: a `GLMModel` or `GLMForSeq2Seq`; put into evaluation mode.
        tokenizer: its tokenizer, of any of FlagAI's classes; it is not changed.

    Raises:
        OptionError: another model or tokenizer, or a tokenizer with more tokens than the model has rows.
    """

    def __init__(self, model: GLMModel | GLMForSeq2Seq, tokenizer: GLMTokenizer) -> None:
        if not isinstance(model, (GLMModel, GLMForSeq2Seq)):
            raise OptionError(f"the predictor needs a GLMModel or GLMForSeq2Seq, not {type(model).__name__}")
        if not isinstance(tokenizer, GLMTokenizer):
            raise OptionError(f"the predictor needs one of FlagAI's GLM tokenizers, not {type(tokenizer).__name__}")
        self.model = model
        self.tokenizer = tokenizer
        self.class_name = type(model).__name__
        self._network = (model.model if isinstance(model, GLMForSeq2Seq) else model).network
        rows = self._network.config.vocab_size
        if tokenizer.num_tokens > rows:
            raise OptionError(f"the tokenizer has {tokenizer.num_tokens:,} tokens, the model {rows:,} rows; "
                              "they belong to different models")  # fmt: skip
        model.eval()

    def predict_generate_randomsample(
        self,
        text: str,
        input_max_length: int = 256,
        out_max_length: int = 200,
        top_k: int = 30,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        temperature: float = 1.0,
        prompts_tokens: Any = None,
    ) -> str:
        """Sample what fills the blanks of a text, or what follows it.

        Args:
            text: with `[MASK]`, `[sMASK]` or `[gMASK]` where something is wanted; without
                any, a source whose target is wanted.
            input_max_length: most tokens of the text that the model sees; a longer one is cut,
                never at a blank, and a warning says so.
            out_max_length: most tokens of each fill.
            top_k, top_p, repetition_penalty, temperature: see `Choice`.
            prompts_tokens: must be None; it belongs to other models.

        Returns:
            With blanks the decoded sequence: prompt and fills, each behind `<|startofpiece|>`,
            special tokens included. Without, the target alone.

        Raises:
            InputError: an empty text, or a kind of blank that the tokenizer does not have.
            OptionError: an option out of its range.
            ContextLengthError: more tokens than the model's context.
        """
        if prompts_tokens is not None:
            raise OptionError("prompts_tokens belongs to models other than GLM; leave it out")
        choice = Choice(top_k, top_p, repetition_penalty, temperature)
        self._check(text, input_max_length, out_max_length)
        if BLANK_SIGN in text:
            return self._fill(text, input_max_length, out_max_length, choice, 0)
        return self._continue(text, input_max_length, out_max_length, choice, 0)

    def predict_generate_beamsearch(
        self, text: str, input_max_length: int = 256, out_max_length: int = 100, beam_size: int = 1
    ) -> str:
        """The same, by beam search; blank after blank, each with its best fill.

        Args:
            beam_size: hypotheses kept; 1 is greedy.
        """
        _check_count("beam_size", beam_size)
        self._check(text, input_max_length, out_max_length)
        if BLANK_SIGN in text:
            return self._fill(text, input_max_length, out_max_length, None, beam_size)
        return self._continue(text, input_max_length, out_max_length, None, beam_size)

    # --- the layout of blanks ---------------------------------------------------------

    @torch.inference_mode()
    def _fill(self, text: str, most: int, limit: int, choice: Choice | None, beams: int) -> str:
        tokenizer = self.tokenizer
        known = {tokenizer.command_token_map[kind].Id for kind in BLANKS if kind in tokenizer.command_token_map}
        ids = tokenizer.EncodeAsIds(text)
        if not known & set(ids):
            raise InputError(f"no blank in {text[:40]!r} that this tokenizer knows; use [MASK], or add_task_mask=True")
        self._warn_of_blanks(text)
        ends = [] if text.endswith(OPEN_END) else [tokenizer.get_command_id("eos")]
        ids = _cut(ids, known, min(most, self._context) - 1 - len(ends))
        prompt = [tokenizer.get_command_id("cls"), *ids, *ends]
        sop, eop, eos = (tokenizer.get_command_id(name) for name in ("sop", "eop", "eos"))
        banned = self._banned([])
        reader = Reader(self._network, prompt, len(prompt))
        output = list(prompt)
        for position in [i for i, token in enumerate(prompt) if token in known]:

            def place(number: int, position: int = position) -> tuple[int, int]:
                return position, number + 1

            before = reader.cache.length
            reader.feed([sop], position, 1)
            room = self._room(limit, self._context)
            if choice is None:
                piece = beam_search(reader, place, banned, (eop, eos), room, beams)
                reader.back_to(before)
                self._read_again(reader, sop, piece, position)
            else:
                piece = sample(reader, place, choice, banned, (eop, eos), room, set(output))
            self._warn_if_cut(piece, room, limit)
            output += [sop, *piece.tokens]
        return tokenizer.DecodeIds(output)

    @staticmethod
    def _read_again(reader: Reader, sop: int, piece: Piece, position: int) -> None:
        """Feed a chosen fill, as sampling would have: the last token of one that was cut off is not read."""
        for number, token in enumerate([sop, *(piece.tokens if piece.ended else piece.tokens[:-1])], 1):
            reader.feed([token], position, number)

    def _warn_of_blanks(self, text: str) -> None:
        unknown = [kind for kind in BLANKS if kind in text and kind not in self._network.config.blanks]
        if unknown:
            warnings.warn(f"this model was trained without {' and '.join(unknown)}; use [MASK]", stacklevel=4)

    # --- the layout of targets --------------------------------------------------------

    @torch.inference_mode()
    def _continue(self, text: str, most: int, limit: int, choice: Choice | None, beams: int) -> str:
        tokenizer = self.tokenizer
        longest = min(most, self._context)
        sample_ = tokenizer.encode_plus(text, max_length=longest)
        prompt: list[int] = sample_["input_ids"]
        if len(prompt) < len(tokenizer.EncodeAsIds(text)) + 2:
            warnings.warn(f"the text is longer than {longest} tokens; its end is left out", stacklevel=3)
        eop = tokenizer.get_command_id("eop")
        banned = self._banned([token for token in tokenizer.CommandTokenIds() if token != eop])
        block = 0 if choice is not None else BEAM_BLOCK_POSITION

        def place(number: int) -> tuple[int, int]:
            return len(prompt) + number - 1, block

        reader = Reader(self._network, prompt, 0)
        # The last token written is not read, so it needs no position of its own.
        room = self._room(limit, self._network.config.position_rows - len(prompt) + 1)
        if choice is None:
            piece = beam_search(reader, place, banned, (eop,), room, beams)
        else:
            piece = sample(reader, place, choice, banned, (eop,), room, set(prompt))
        self._warn_if_cut(piece, room, limit)
        return tokenizer.DecodeIds(piece.tokens)

    # --- shared -----------------------------------------------------------------------

    @property
    def _context(self) -> int:
        return self._network.config.max_sequence_length

    def _banned(self, ids: Sequence[int]) -> Tensor:
        """[V] bool: these ids, and rows of the model that belong to no token."""
        banned = torch.zeros(self._network.config.vocab_size, dtype=torch.bool)
        banned[self.tokenizer.num_tokens :] = True
        banned[list(ids)] = True
        return banned.to(self._network.word_embeddings.weight.device)

    @staticmethod
    def _room(limit: int, context: int) -> int:
        return max(1, min(limit, context))

    @staticmethod
    def _warn_if_cut(piece: Piece, room: int, limit: int) -> None:
        if not piece.ended and room < limit:
            warnings.warn(
                f"the model's context ends after {room} tokens; out_max_length asks for {limit}", stacklevel=4
            )

    @staticmethod
    def _check(text: str, input_max_length: int, out_max_length: int) -> None:
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"the text must be a string that is not empty, not {text!r}")
        _check_count("input_max_length", input_max_length, 3)
        _check_count("out_max_length", out_max_length)


def _check_count(name: str, value: int, least: int = 1) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise OptionError(f"{name} must be a whole number from {least} up, not {value!r}")


def _cut(ids: list[int], blanks: set[int], room: int) -> list[int]:
    """Leave out tokens before the first blank and after the last one, from the longer side.

    Raises:
        ContextLengthError: the part from the first blank to the last one alone is too long.
    """
    surplus = len(ids) - room
    if surplus <= 0:
        return ids
    where = [i for i, token in enumerate(ids) if token in blanks]
    head, tail = where[0], len(ids) - 1 - where[-1]
    if surplus > head + tail:
        raise ContextLengthError(
            f"the text has {len(ids)} tokens and the blanks span more than the {room} allowed "
            "by input_max_length and the model's context; shorten it or raise input_max_length"
        )
    from_head = min(head, max(surplus - tail, (surplus + head - tail + 1) // 2, 0))
    warnings.warn(f"the text is longer than {room} tokens; {surplus} far from the blanks are left out", stacklevel=5)
    return ids[from_head : len(ids) - (surplus - from_head)]
