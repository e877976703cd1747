"""Any of openglm's vocabularies as a tokenizer of transformers: the same ids, by the same code.

A text becomes Part A as `Infiller.fill` reads it: `[CLS] ... <eos>`, blanks and white space before
them included, without the end behind a last `[gMASK]`. A target (`text_target=`) becomes what a
decoder learns to write: its ids and the end of a piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizer

from ...blanks import BlankedText
from ...checkpoints.checksums import write_checksums
from ...checkpoints.find import find_folder
from ...checkpoints.resolve import open_checkpoint
from ...errors import OptionError
from ...files import write_atomically
from ...tokenizer import Tokenizer

# Names of special tokens there, here.
_ROLES = {"eos_token": "eos", "pad_token": "eos", "cls_token": "cls", "mask_token": "mask", "unk_token": "unk"}


class OpenGLMTokenizer(PreTrainedTokenizer):
    """A vocabulary of openglm.

    Args:
        vocabulary: as `openglm.load(...).tokenizer` gives it.
    """

    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(self, vocabulary: Tokenizer | None = None, **options: Any) -> None:
        if vocabulary is None:
            raise OptionError("an OpenGLMTokenizer is made of a vocabulary, or by from_pretrained")
        self.vocabulary = vocabulary
        self._writes_target = False
        known, text = vocabulary.special, vocabulary.special_text
        roles = {role: text[name] for role, name in _ROLES.items() if name in known}
        further = [text[name] for name in ("sop", "eop", "smask", "gmask") if name in known]
        options = {**roles, "additional_special_tokens": further, "special_tokens_pattern": "none", **options}
        super().__init__(**options)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *args: Any, **options: Any) -> OpenGLMTokenizer:
        """Of a folder or name that `openglm.load` knows, in any format.

        Raises:
            ModelNotFoundError, CheckpointError, TokenizerError: as `openglm.load`.
        """
        checkpoint = open_checkpoint(find_folder(str(name_or_path), revision=options.get("revision")))
        names = ("padding_side", "truncation_side", "model_max_length")
        kept = {name: options[name] for name in names if name in options}
        return cls(
            checkpoint.tokenizer(),
            **{"model_max_length": checkpoint.config.max_sequence_length, "name_or_path": str(name_or_path), **kept},
        )

    def save_pretrained(self, save_directory: str | Path, *args: Any, **options: Any) -> tuple[str, ...]:
        """Write the files that openglm reads; returns their paths."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        files = self.vocabulary.files()
        for name, content in files.items():
            write_atomically(folder / name, content)
        write_checksums(folder, files=files)
        if options.get("push_to_hub"):
            self.push_to_hub(options.get("repo_id") or folder.name)
        return tuple(str(folder / name) for name in files)

    # --- texts and ids --------------------------------------------------------------------

    @cached_property
    def _names(self) -> list[str]:
        """Every id by a name of its own: how it reads, and its number where another reads the same."""
        names: list[str] = []
        seen: set[str] = set()
        for token in range(self.vocabulary.num_tokens):
            text = self.vocabulary.token_text(token)
            names.append(f"{text}<{token}>" if text in seen else text)
            seen.add(names[-1])
        return names

    @cached_property
    def _numbers(self) -> dict[str, int]:
        numbers = {name: number for number, name in enumerate(self._names)}
        special = self.vocabulary.special
        return numbers | {self.vocabulary.special_text[name]: special[name] for name in special}

    @property
    def vocab_size(self) -> int:
        """Ids in use."""
        return self.vocabulary.num_tokens

    def get_vocab(self) -> dict[str, int]:
        """Name of each token -> its id."""
        return dict(self._numbers)

    def tokenize(self, text: str, **options: Any) -> list[str]:
        """Names of the tokens of a text, blanks in it read as blanks."""
        allowed = not options.get("split_special_tokens", False)
        return [self._names[token] for token in self.vocabulary.encode(text, allow_special=allowed)]

    def _encode_plus(self, text: Any, *args: Any, **options: Any) -> Any:
        """As there; a text also says whether its fill brings the space in front of it."""
        out = super()._encode_plus(text, *args, **options)
        if isinstance(text, str) and not self._writes_target:
            brings = int(self._brings_space(text))
            as_tensors = options.get("return_tensors") is not None
            out["brings_space"] = out["input_ids"].new_tensor([brings]) if as_tensors else brings
        return out

    def _brings_space(self, text: str) -> bool:
        blanked = BlankedText.parse(text)
        return bool(blanked.kinds) and self.vocabulary.brings_space(blanked.literals[0])

    def _convert_token_to_id(self, token: str) -> int:
        return self._numbers.get(token, self.vocabulary.special.get("unk", self.vocabulary.eos))

    def _convert_id_to_token(self, index: int) -> str:
        return self._names[index] if 0 <= index < len(self._names) else self.vocabulary.decode([index])

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text that tokens spell."""
        return self.vocabulary.decode([self._convert_token_to_id(token) for token in tokens])

    def _decode(self, token_ids: int | Sequence[int], skip_special_tokens: bool = False, **options: Any) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else [int(token) for token in token_ids]
        return self.vocabulary.decode(ids, skip_special=skip_special_tokens)

    # --- what frames a text ------------------------------------------------------------------

    def build_inputs_with_special_tokens(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """Part A of a text, or of two one after the other; of a target its ids and the end."""
        ids = [*token_ids_0, *(token_ids_1 or [])]
        if self._writes_target:
            return [*ids, self.vocabulary.markers.eop]
        open_end = bool(ids) and ids[-1] == self.vocabulary.special.get("gmask")
        return [self.vocabulary.cls, *ids, *([] if open_end else [self.vocabulary.eos])]

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Tokens that frame a text."""
        return 1 if self._writes_target else 2

    def _switch_to_target_mode(self) -> None:
        self._writes_target = True

    def _switch_to_input_mode(self) -> None:
        self._writes_target = False

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_names", "_numbers")}
