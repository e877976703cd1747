"""Small vocabularies in the file layout of the published ones, trained on the tests' own text."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from openglm.tokenizer import BertTokenizer, ChineseTokenizer, GPT2Tokenizer, RobertaTokenizer

PIECES = 600


def write_byte_pairs(folder: Path, lines: list[str], first: list[str], last: list[str]) -> Path:
    """`vocab.json` and `merges.txt`, with special entries in front of and behind the pieces."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES - len(last), special_tokens=first, initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator(lines, trainer)
    trained.model.save(str(folder))
    path = folder / "vocab.json"
    vocab = json.loads(path.read_text(encoding="utf-8"))
    vocab |= {piece: len(vocab) + i for i, piece in enumerate(last)}
    path.write_text(json.dumps(vocab), encoding="utf-8")
    assert len(vocab) == PIECES
    return folder


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory, text_lines: list[str]) -> Path:
    return write_byte_pairs(tmp_path_factory.mktemp("gpt2"), text_lines, [], ["<|endoftext|>"])


@pytest.fixture(scope="session")
def roberta_folder(tmp_path_factory: pytest.TempPathFactory, text_lines: list[str]) -> Path:
    first = ["<s>", "<pad>", "</s>", "<unk>"]
    return write_byte_pairs(tmp_path_factory.mktemp("roberta"), text_lines, first, ["madeupword0000", "<mask>"])


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory, text_lines: list[str]) -> Path:
    """Some Chinese characters and Greek words beside the text, and pieces BERT leaves unused."""
    folder = tmp_path_factory.mktemp("bert")
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer = normalizers.BertNormalizer(lowercase=True)
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    first = ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    more = [
        "καὶ ὁ λόγος ἦν πρὸς τὸν θεόν ὀδυσσεύς",
        "'\"()[]{}“”‘’-–—…$#%/\\_@+=*<>&|~^`.,!?;:",
        "a1 b2 3 4 5 6 7 8 9 0",
    ]
    trainer = trainers.WordPieceTrainer(vocab_size=PIECES, special_tokens=first, show_progress=False)
    trained.train_from_iterator([*text_lines, *more * 5], trainer)
    trained.model.save(str(folder))
    return folder


@pytest.fixture(scope="session")
def chinese_folder(tmp_path_factory: pytest.TempPathFactory, text_lines: list[str]) -> Path:
    """BPE pieces, full-width signs normalised, no bytes for unknown characters, `<n>` a piece of its own."""
    folder = tmp_path_factory.mktemp("chinese")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text_lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=PIECES,
        character_coverage=1.0,
        normalization_rule_name="nmt_nfkc",
        user_defined_symbols=["<n>"],
        num_threads=1,
        minloglevel=2,
    )
    (folder / "cog-pretrain.model").write_bytes(model.getvalue())
    return folder


@pytest.fixture(scope="session")
def chinese(chinese_folder: Path) -> ChineseTokenizer:
    return ChineseTokenizer(chinese_folder / "cog-pretrain.model")


@pytest.fixture(scope="session")
def gpt2(gpt2_folder: Path) -> GPT2Tokenizer:
    return GPT2Tokenizer(gpt2_folder / "vocab.json", gpt2_folder / "merges.txt")


@pytest.fixture(scope="session")
def roberta(roberta_folder: Path) -> RobertaTokenizer:
    return RobertaTokenizer(roberta_folder / "vocab.json", roberta_folder / "merges.txt")


@pytest.fixture(scope="session")
def bert(bert_folder: Path) -> BertTokenizer:
    return BertTokenizer(bert_folder / "vocab.txt")
