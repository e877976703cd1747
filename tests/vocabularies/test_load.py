"""A folder's tokenizer follows from what lies in it; what does not fit together is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from openglm.errors import OptionError, TokenizerError
from openglm.tokenizer import (
    CONFIG_FILE,
    LAYOUTS,
    BertTokenizer,
    BilingualTokenizer,
    ChineseTokenizer,
    GPT2Tokenizer,
    RobertaTokenizer,
    Tokenizer,
    load_tokenizer,
)

KINDS = {"chinese": ChineseTokenizer, "gpt2": GPT2Tokenizer, "roberta": RobertaTokenizer, "bert": BertTokenizer}


@pytest.fixture(scope="session")
def folders(chinese_folder: Path, gpt2_folder: Path, roberta_folder: Path, bert_folder: Path) -> dict[str, Path]:
    return {"chinese": chinese_folder, "gpt2": gpt2_folder, "roberta": roberta_folder, "bert": bert_folder}


def copied(source: Path, target: Path, **others: Mapping[str, Any]) -> Path:
    """The files of a folder, and JSON files beside them (name without its ending -> content)."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    for name, content in others.items():
        (target / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return target


def written(tokenizer: Tokenizer, folder: Path) -> Path:
    for name, content in tokenizer.files().items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_decide(folders: dict[str, Path], kind: str) -> None:
    found = load_tokenizer(folders[kind])
    assert type(found) is KINDS[kind]
    assert found.config() == load_tokenizer(folders[kind], layout=kind).config()
    assert found.identity == load_tokenizer(str(folders[kind])).identity


def test_other_name_of_the_chinese_file(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(folders["chinese"] / "cog-pretrain.model", tmp_path / "spiece.model")
    assert load_tokenizer(tmp_path).identity == load_tokenizer(folders["chinese"]).identity


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(folders: dict[str, Path], tmp_path: Path, layout: str) -> None:
    kind = LAYOUTS[layout].kind
    tokenizer = load_tokenizer(folders[kind], layout=layout)
    assert type(tokenizer) is KINDS[kind]
    assert LAYOUTS[layout].settings.items() <= tokenizer.config().items()
    # What was chosen once is kept in openglm's own folders, with or without being asked for again.
    folder = written(tokenizer, tmp_path)
    for again in (load_tokenizer(folder), load_tokenizer(folder, layout=layout, rows=tokenizer.num_tokens)):
        assert (again.identity, again.special) == (tokenizer.identity, tokenizer.special)
    others = [name for name in LAYOUTS if name != layout]
    for other in others:
        with pytest.raises(TokenizerError, match="leave one out"):
            load_tokenizer(folder, layout=other)


def test_all_layouts_differ(folders: dict[str, Path]) -> None:
    found = [load_tokenizer(folders[known.kind], layout=name) for name, known in LAYOUTS.items()]
    assert len({tokenizer.identity for tokenizer in found}) == len(LAYOUTS)
    assert len({str(sorted(tokenizer.special.items())) for tokenizer in found}) == len(LAYOUTS)


def test_unknown_layouts(folders: dict[str, Path]) -> None:
    with pytest.raises(OptionError, match=r"Did you mean .*'gpt2'"):
        load_tokenizer(folders["gpt2"], layout="gtp2")
    with pytest.raises(TokenizerError, match="bert vocabulary, but there is gpt2 only"):
        load_tokenizer(folders["gpt2"], layout="bert")


# --- what else lies in the folder ------------------------------------------------------------

FIRST_10B = {"num_layers": 48, "hidden_size": 4096}


@pytest.mark.parametrize(
    ("config", "collides"),
    [
        (FIRST_10B, True),
        ({**FIRST_10B, "vocab_size": 50048, "max_sequence_length": 1024}, True),
        ({**FIRST_10B, "model_type": "glm"}, False),
        ({**FIRST_10B, "auto_map": {}}, False),
        ({"num_layers": 24, "hidden_size": 1024}, False),
        ({}, False),
    ],
)
def test_chinese_layout_by_model(
    folders: dict[str, Path], tmp_path: Path, config: dict[str, Any], collides: bool
) -> None:
    """GLM-10B-Chinese alone was trained with one id for two tokens; the hub's copy was repaired."""
    special = load_tokenizer(copied(folders["chinese"], tmp_path, config=config)).special
    assert (special["gmask"] == special["eop"]) == collides
    # Who knows better is believed.
    chosen = load_tokenizer(tmp_path, layout="chinese" if collides else "chinese-not-fixed").special
    assert (chosen["gmask"] == chosen["eop"]) != collides


def test_the_size_of_a_10b_model_means_nothing_for_english(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["gpt2"], tmp_path, config=FIRST_10B)
    assert load_tokenizer(folder).identity == load_tokenizer(folders["gpt2"]).identity


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "gpt2-flagai"])
def test_added_tokens_choose_the_layout(folders: dict[str, Path], tmp_path: Path, layout: str) -> None:
    kind = LAYOUTS[layout].kind
    expected = load_tokenizer(folders[kind], layout=layout)
    added = {expected.special_text[name]: token for name, token in expected.special.items() if name != "unk"}
    added["[UNUSED1]"] = 5
    # The tokenizer's description on the hub is not openglm's: it names no type.
    hub = {"tokenizer_class": "GLM", "eos_token": "<|endoftext|>"}
    folder = copied(folders[kind], tmp_path, added_tokens=added, tokenizer_config=hub)
    assert load_tokenizer(folder).special == expected.special


def test_masks_that_no_release_has(folders: dict[str, Path], tmp_path: Path) -> None:
    """The weights never learnt these two, so their ids do not matter to the rest."""
    bert = load_tokenizer(folders["bert"])
    folder = copied(folders["bert"], tmp_path, added_tokens={"<|startofpiece|>": bert.markers.sop, "[gMASK]": 7})
    assert load_tokenizer(folder).special == bert.special


def test_added_tokens_of_no_release(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["chinese"], tmp_path, added_tokens={"[MASK]": 17})
    with pytest.raises(TokenizerError, match=r"added_tokens\.json: other ids"):
        load_tokenizer(folder)
    assert load_tokenizer(folder, layout="chinese").special["mask"] == 603


@pytest.mark.parametrize("name", ["added_tokens.json", "config.json", CONFIG_FILE])
def test_damaged_descriptions(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = copied(folders["chinese"], tmp_path)
    for content in (b"{", b"", b"\xff{}"):
        (folder / name).write_bytes(content)
        with pytest.raises(TokenizerError, match=name):
            load_tokenizer(folder)


# --- rows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_rows(folders: dict[str, Path], kind: str) -> None:
    tokenizer = load_tokenizer(folders[kind])
    count = tokenizer.num_tokens
    for rows in (count, -(-count // 128) * 128, count + 1000):
        assert load_tokenizer(folders[kind], rows=rows).identity == tokenizer.identity
    for rows in (0, count - 1, count + 1024, 50_304):
        with pytest.raises(TokenizerError, match=f"{count} tokens, the model {rows:,} rows"):
            load_tokenizer(folders[kind], rows=rows)


def test_several_vocabularies(folders: dict[str, Path], tmp_path: Path) -> None:
    """Rows tell them apart if they are rounded up as in published models; or the caller says it."""
    copied(folders["gpt2"], tmp_path)
    shutil.copy(folders["bert"] / "vocab.txt", tmp_path)
    with pytest.raises(TokenizerError, match=r"several vocabularies \(gpt2, bert\)"):
        load_tokenizer(tmp_path)
    with pytest.raises(TokenizerError, match="several vocabularies"):
        load_tokenizer(tmp_path, rows=640)  # both have that many when rounded up
    assert isinstance(load_tokenizer(tmp_path, layout="bert"), BertTokenizer)
    (tmp_path / "vocab.txt").write_text("\n".join(f"{i}[UNK]" for i in range(2000)), encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"vocab\.txt: lacks"):
        load_tokenizer(tmp_path, rows=640)
    pieces = [*BertTokenizer.FRAME, *map(str, range(2000))]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces), encoding="utf-8")
    assert isinstance(load_tokenizer(tmp_path, rows=640), GPT2Tokenizer)
    assert isinstance(load_tokenizer(tmp_path, rows=2048), BertTokenizer)


# --- folders without a vocabulary, or with an incomplete one --------------------------------------


def test_nothing_there(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(TokenizerError, match=r"no vocabulary there; put .*cog-pretrain\.model.*vocab\.txt"):
            load_tokenizer(folder)


def test_vocab_without_merges(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(folders["gpt2"] / "vocab.json", tmp_path)
    with pytest.raises(TokenizerError, match=r"merges\.txt: no such"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("saved", "problem"),
    [
        ({"type": "gpt2", "numbering": "other"}, "numbering must be one of thudm, flagai"),
        ({"type": "gpt2", "numbering": True}, "numbering must be one of thudm, flagai"),
        ({"type": "gpt2", "task_masks": 1}, "task_masks must be true or false"),
        ({"type": "gpt2", "colour": True}, r"unknown settings for a gpt2 tokenizer: \['colour'\]"),
        ({"type": "roberta"}, "lacks <s>"),
        ({"type": "bert"}, r"vocab\.txt: no such"),
        ({"type": "GPT2"}, "unknown tokenizer type 'GPT2'; known are bilingual, chinese, gpt2, roberta, bert"),
        ({"type": ["gpt2"]}, "unknown tokenizer type"),
    ],
)
def test_wrong_settings(folders: dict[str, Path], tmp_path: Path, saved: dict[str, Any], problem: str) -> None:
    folder = copied(folders["gpt2"], tmp_path, tokenizer_config=saved)
    with pytest.raises(TokenizerError, match=problem):
        load_tokenizer(folder)


def test_openglm_s_own_vocabulary_has_no_layout(tokenizer: BilingualTokenizer, tmp_path: Path) -> None:
    folder = written(tokenizer, tmp_path)
    assert load_tokenizer(folder, rows=640).identity == tokenizer.identity
    with pytest.raises(TokenizerError, match="leave one out"):
        load_tokenizer(folder, layout="chinese")


@pytest.mark.parametrize(
    ("kind", "library"), [("gpt2", "tokenizers"), ("bert", "tokenizers"), ("chinese", "sentencepiece")]
)
def test_libraries_are_imported_when_needed(folders: dict[str, Path], kind: str, library: str) -> None:
    code = (
        "import sys, openglm.tokenizer as t\n"
        "known = {'torch', 'tokenizers', 'sentencepiece'}\n"
        "print(*sorted(known & sys.modules.keys()), sep=',')\n"
        "t.load_tokenizer(sys.argv[1]).encode('the old teacher')\n"
        "print(*sorted(known & sys.modules.keys()), sep=',')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folders[kind])], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert done.stdout == f"\n{library}\n"
