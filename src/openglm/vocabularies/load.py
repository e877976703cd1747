"""A folder -> its tokenizer: openglm's own, or what the published models keep beside their weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import OptionError, TokenizerError, suggest
from .base import CLASS_KEY, CONFIG_FILE, MODEL_FILE, SPECIAL_TEXT, Tokenizer
from .byte_pair_files import MERGES_FILE, VOCAB_FILE, holds_pieces
from .byte_pairs import GPT2Tokenizer, RobertaTokenizer
from .pieces import BilingualTokenizer, ChineseTokenizer
from .wordpiece import VOCAB_FILE as WORDPIECE_FILE
from .wordpiece import BertTokenizer

SENTENCEPIECE_FILES = ("cog-pretrain.model", "spiece.model")
TASK_MASKS = {SPECIAL_TEXT["gmask"], SPECIAL_TEXT["smask"]}
MODEL_CONFIG_FILE = "config.json"
ADDED_TOKENS_FILE = "added_tokens.json"
ROUNDING = 128  # published models round their rows up to a multiple of this ...
MOST_SPARE_ROWS = 8 * ROUNDING  # ... for each of their parallel ranks


@dataclass(frozen=True)
class SpecialLayout:
    """The special tokens of some releases.

    Attributes:
        kind: of vocabulary.
        settings: what its class is built with.
    """

    kind: str
    settings: Mapping[str, bool | str]


# The first of each kind is what a folder gets that says nothing else.
LAYOUTS: Mapping[str, SpecialLayout] = {
    "chinese": SpecialLayout("chinese", {"fix_command_token": True}),
    "chinese-not-fixed": SpecialLayout("chinese", {"fix_command_token": False}),
    "gpt2": SpecialLayout("gpt2", {"numbering": "thudm"}),
    "gpt2-flagai": SpecialLayout("gpt2", {"numbering": "flagai"}),
    "roberta": SpecialLayout("roberta", {"task_masks": False}),
    "roberta-task-masks": SpecialLayout("roberta", {"task_masks": True}),
    "bert": SpecialLayout("bert", {"task_masks": False}),
    "bert-task-masks": SpecialLayout("bert", {"task_masks": True}),
}


def load_tokenizer(folder: str | Path, *, layout: str | None = None, rows: int | None = None) -> Tokenizer:
    """The tokenizer of a folder.

    Args:
        folder: one that openglm wrote (`Tokenizer.files`), or a published model's with
            `cog-pretrain.model` or `spiece.model`, `vocab.json` and `merges.txt`, or
            `vocab.txt` in it. The file that is there decides.
        layout: which release's special tokens, a name in `LAYOUTS`:

            - "chinese": GLM-Large-Chinese, and GLM-10B-Chinese as the hub has it;
            - "chinese-not-fixed": GLM-10B-Chinese as FlagAI and the research code have it;
            - "gpt2": GLM-2B, GLM-10B; "gpt2-flagai": the ids FlagAI's code gives instead;
            - "roberta": GLM-RoBERTa; "bert": the other English models;
            - "roberta-task-masks", "bert-task-masks": with `[gMASK]` and `[sMASK]`, which
              those weights never learnt.

            By default it is found out from what else is in the folder (`config.json`,
            `added_tokens.json`); if that says nothing it is the first of its kind.
        rows: of the model's word embedding, to check that the vocabulary is the model's, and
            to choose where a folder has several.

    Raises:
        TokenizerError: a missing or damaged file, an unknown kind of tokenizer, several
            vocabularies, special tokens other than `layout` says, or a vocabulary that
            does not fit `rows`.
        OptionError: an unknown layout.
    """
    folder = Path(folder)
    if layout is not None and layout not in LAYOUTS:
        raise OptionError(f"no layout {layout!r}.{suggest(layout, LAYOUTS)} Known are {', '.join(LAYOUTS)}")
    saved = _saved_settings(folder)
    tokenizer = _published(folder, layout, rows) if saved is None else _own(folder, saved, layout)
    if rows is not None and not 0 <= rows - tokenizer.num_tokens < MOST_SPARE_ROWS:
        raise TokenizerError(
            f"{folder}: the vocabulary has {tokenizer.num_tokens:,} tokens, the model {rows:,} rows: "
            "it is cut short or belongs to another model; put the model's own vocabulary there"
        )
    return tokenizer


# --- folders that openglm wrote --------------------------------------------------------------


def _saved_settings(folder: Path) -> dict[str, Any] | None:
    """The settings that openglm saved; None if there are none, or only those of another library."""
    path = folder / CONFIG_FILE
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(settings, dict):
        raise TokenizerError(f"{path}: not a tokenizer configuration (a JSON object with a `type`)")
    return settings if "type" in settings else None


def _own(folder: Path, saved: Mapping[str, Any], layout: str | None) -> Tokenizer:
    path = folder / CONFIG_FILE
    kind, settings = saved["type"], {key: value for key, value in saved.items() if key not in ("type", CLASS_KEY)}
    kinds = ("bilingual", *dict.fromkeys(known.kind for known in LAYOUTS.values()))
    if kind not in kinds:
        raise TokenizerError(f"{path}: unknown tokenizer type {kind!r}; known are {', '.join(kinds)}")
    for name, value in settings.items():
        if name != "numbering" and not isinstance(value, bool):
            raise TokenizerError(f"{path}: {name} must be true or false, not {value!r}")
    try:
        tokenizer = _build(folder, kind, settings, saved=True)
    except TypeError as error:
        raise TokenizerError(f"{path}: unknown settings for a {kind} tokenizer: {sorted(settings)}") from error
    except OptionError as error:
        raise TokenizerError(f"{path}: {error}") from error
    if layout is not None:
        asked = {"type": LAYOUTS[layout].kind, **LAYOUTS[layout].settings}
        if not asked.items() <= tokenizer.config().items():
            raise TokenizerError(f"{path}: says {tokenizer.config()}, the layout {layout!r} {asked}; leave one out")
    return tokenizer


# --- folders of published models ---------------------------------------------------------------


def _published(folder: Path, layout: str | None, rows: int | None) -> Tokenizer:
    kinds = _kinds(folder)
    if not kinds:
        raise TokenizerError(
            f"{folder}: no vocabulary there; put {CONFIG_FILE} and {MODEL_FILE} there, or those of a published model: "
            f"{' or '.join(SENTENCEPIECE_FILES)}, {VOCAB_FILE} and {MERGES_FILE}, or {WORDPIECE_FILE}"
        )
    if layout is not None:
        asked = LAYOUTS[layout]
        if asked.kind not in kinds:
            raise TokenizerError(
                f"{folder}: the special tokens {layout!r} belong to a {asked.kind} vocabulary, "
                f"but there is {' and '.join(kinds)} only"
            )
        return _build(folder, asked.kind, asked.settings)
    found = [_with_its_layout(folder, kind) for kind in kinds]
    if len(found) == 1:
        return found[0]
    fitting = [tokenizer for tokenizer in found if rows == -(-tokenizer.num_tokens // ROUNDING) * ROUNDING]
    if len(fitting) == 1:
        return fitting[0]
    raise TokenizerError(
        f"{folder}: several vocabularies ({', '.join(kinds)}) and none is clearly the model's; keep its own only"
    )


def _kinds(folder: Path) -> list[str]:
    """The kinds of vocabulary whose files are there."""
    kinds = ["chinese"] if _sentencepiece_file(folder) else []
    if (folder / VOCAB_FILE).is_file():
        kinds.append("roberta" if holds_pieces(folder / VOCAB_FILE, RobertaTokenizer.FRAME) else "gpt2")
    if (folder / WORDPIECE_FILE).is_file():
        kinds.append("bert")
    return kinds


def _sentencepiece_file(folder: Path) -> Path | None:
    return next((folder / name for name in SENTENCEPIECE_FILES if (folder / name).is_file()), None)


def _with_its_layout(folder: Path, kind: str) -> Tokenizer:
    """The tokenizer with the special tokens that the rest of the folder tells of."""
    layouts = [known.settings for known in LAYOUTS.values() if known.kind == kind]
    added = _json_object(folder / ADDED_TOKENS_FILE)
    if added:
        return _with_added_tokens(folder, kind, layouts, added)
    if kind == "chinese" and _is_first_chinese_10b(_json_object(folder / MODEL_CONFIG_FILE)):
        return _build(folder, kind, LAYOUTS["chinese-not-fixed"].settings)
    return _build(folder, kind, layouts[0])


def _with_added_tokens(
    folder: Path, kind: str, layouts: Sequence[Mapping[str, bool | str]], added: Mapping[str, Any]
) -> Tokenizer:
    """The first layout with these ids, if possible one that has `[gMASK]` and `[sMASK]` where they are listed."""
    found = None
    for settings in layouts:
        tokenizer = _build(folder, kind, settings)
        if _agree(tokenizer, added):
            if added.keys() & TASK_MASKS <= set(tokenizer.special_text.values()):
                return tokenizer
            found = found or tokenizer
    if found is None:
        raise TokenizerError(
            f"{folder / ADDED_TOKENS_FILE}: other ids than any published {kind} vocabulary has; "
            "if they are wrong, name the release's layout instead"
        )
    return found


def _agree(tokenizer: Tokenizer, added: Mapping[str, Any]) -> bool:
    """Whether special tokens have the ids that the hub's list of added tokens gives them."""
    # Not [UNK]: the hub's tokenizers look it up in the vocabulary itself.
    ours = {tokenizer.special_text[name]: id_ for name, id_ in tokenizer.special.items() if name != "unk"}
    return all(id_ == ours[text] for text, id_ in added.items() if text in ours)


def _is_first_chinese_10b(model: Mapping[str, Any]) -> bool:
    """GLM-10B-Chinese, unless its weights were converted for the hub, which moved `[gMASK]`."""
    hub = model.get("model_type") == "glm" or "auto_map" in model
    return not hub and model.get("num_layers") == 48 and model.get("hidden_size") == 4096


def _json_object(path: Path) -> Mapping[str, Any]:
    """A JSON object, or an empty one if there is no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: not readable as JSON ({error})") from error
    return content if isinstance(content, dict) else {}


def _build(folder: Path, kind: str, settings: Mapping[str, Any], *, saved: bool = False) -> Tokenizer:
    if kind == "bilingual":
        return BilingualTokenizer(folder / MODEL_FILE, **settings)
    if kind == "chinese":
        published = None if saved else _sentencepiece_file(folder)
        return ChineseTokenizer(published or folder / MODEL_FILE, **settings)
    if kind == "bert":
        return BertTokenizer(folder / WORDPIECE_FILE, **settings)
    byte_pairs = GPT2Tokenizer if kind == "gpt2" else RobertaTokenizer
    return byte_pairs(folder / VOCAB_FILE, folder / MERGES_FILE, **settings)
