"""transformers' own classes on our folders: the same ids, the same fills, training, saving."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import openglm
from openglm.checkpoints.native import load_model, read_config, save_model
from openglm.errors import CheckpointError, InputError, OptionError
from openglm.infill.infiller import Infiller
from openglm.infill.prompt import build_prompt
from openglm.network.model import GLMModel
from openglm.network.prompt import PromptOptions, add_prompt
from openglm.tokenizer import BilingualTokenizer, Tokenizer, load_tokenizer
from openglm.vocabularies.load import LAYOUTS

transformers = pytest.importorskip("transformers")

from openglm.integrations.transformers import (  # noqa: E402
    OpenGLMConfig,
    OpenGLMForMultipleChoice,
    OpenGLMForSeq2SeqLM,
    OpenGLMModel,
    OpenGLMTokenizer,
    from_pretrained,
)
from openglm.integrations.transformers.generation import WholeText  # noqa: E402

TEXTS = [
    "the old [MASK] found the river",
    "我的邻居走到了[MASK]。",
    "A young doctor sold [sMASK] Nobody knows.",
    "Long ago [gMASK]",
    "[MASK]",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> Path:
    """A folder in openglm's own format."""
    path = tmp_path_factory.mktemp("folder")
    save_model(path, tiny_model, tokenizer)
    return path


@pytest.fixture(scope="module")
def infiller(folder: Path) -> Infiller:
    """What the fills are compared with."""
    return openglm.load(folder, dtype="float32")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer as the Auto classes give them."""
    return (
        transformers.AutoModelForSeq2SeqLM.from_pretrained(folder),
        transformers.AutoTokenizer.from_pretrained(folder),
    )


def test_auto_classes_know_our_folders(folder: Path) -> None:
    assert isinstance(transformers.AutoConfig.from_pretrained(folder), OpenGLMConfig)
    assert isinstance(transformers.AutoTokenizer.from_pretrained(folder), OpenGLMTokenizer)
    assert type(transformers.AutoModel.from_pretrained(folder)) is OpenGLMModel
    assert type(transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)) is OpenGLMForSeq2SeqLM
    assert type(transformers.AutoModelForMultipleChoice.from_pretrained(folder)) is OpenGLMForMultipleChoice


def test_nothing_foreign_claims_our_folders(folder: Path) -> None:
    """Where the integration is not imported, an Auto class says that it does not know the type."""
    code = f"import transformers\ntransformers.AutoConfig.from_pretrained({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "openglm" in done.stderr.splitlines()[-1] or "`openglm`" in done.stderr
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "OpenGLMTokenizer"


@pytest.fixture(scope="module")
def all_vocabularies(tokenizer: BilingualTokenizer, published_vocabularies: Path) -> list[Tokenizer]:
    """One of every kind, and of every table of special tokens."""
    folders = {"chinese": ".", "gpt2": "gpt2", "roberta": "roberta", "bert": "bert-base-uncased"}
    layouts = {name: published_vocabularies / folders[layout.kind] for name, layout in LAYOUTS.items()}
    return [tokenizer, *(load_tokenizer(folder, layout=name) for name, folder in layouts.items())]


# --- tokenizers ---------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_becomes_the_part_a_that_fill_reads(theirs: tuple[Any, Any], infiller: Infiller, text: str) -> None:
    prompt = build_prompt(text, infiller.tokenizer, infiller.model.config)
    ids = theirs[1](text)["input_ids"]
    assert ids == np.asarray(getattr(prompt.part_a, "ids", prompt.part_a)).tolist()
    assert theirs[1].decode(ids, skip_special_tokens=False) == infiller.tokenizer.decode(ids)


def test_every_vocabulary_gives_its_ids(all_vocabularies: list[Tokenizer]) -> None:
    texts = ["He lives in New York, 1984.", "北京是中国的首都。", "caf\u00e9 naïve", "a  b\nc"]
    for vocabulary in all_vocabularies:
        wrapped = OpenGLMTokenizer(vocabulary)
        for text in texts:
            expected = vocabulary.encode(text)
            assert wrapped(text, add_special_tokens=False)["input_ids"] == expected
            assert wrapped.convert_tokens_to_ids(wrapped.tokenize(text)) == expected
            assert wrapped.decode(expected) == vocabulary.decode(expected)
        assert wrapped.pad_token_id == vocabulary.eos
        assert wrapped.cls_token_id == vocabulary.cls
        names = wrapped.convert_ids_to_tokens(range(vocabulary.num_tokens))
        strange = {names[i] for i, back in enumerate(wrapped.convert_tokens_to_ids(names)) if back != i}
        assert strange <= set(vocabulary.special_text.values()), "only special tokens share a name"


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_at_either_side_changes_nothing(theirs: tuple[Any, Any], side: str) -> None:
    model, tokenizer = theirs
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = side
    fills = torch.full((len(TEXTS), 3), 5)
    together = tokenizer(TEXTS, return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = model(**together, labels=fills).logits
        for row, text in enumerate(TEXTS):
            alone = model(**tokenizer(text, return_tensors="pt"), labels=fills[:1]).logits
            assert torch.allclose(logits[row], alone[0], atol=1e-4)


def test_a_tokenizer_is_saved_copied_and_cut(theirs: tuple[Any, Any], tmp_path: Path) -> None:
    tokenizer = theirs[1]
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).identity == tokenizer.vocabulary.identity
    ids = tokenizer(TEXTS[0])["input_ids"]
    assert copy.deepcopy(tokenizer)(TEXTS[0])["input_ids"] == ids
    cut = tokenizer("the river " * 50, truncation=True, max_length=20)["input_ids"]
    assert (len(cut), cut[0], cut[-1]) == (20, ids[0], ids[-1])


# --- generation ------------------------------------------------------------------------------


def written(ids: torch.Tensor, ends: list[int]) -> list[int]:
    """What a sequence holds between `sop` and its end."""
    out = []
    for token in ids.tolist()[1:]:
        if token in ends:
            break
        out.append(token)
    return out


@pytest.mark.parametrize(
    ("ours", "options"),
    [
        ({}, {}),
        ({"num_beams": 4}, {"num_beams": 4}),
        ({"num_beams": 3, "length_penalty": 0.7}, {"num_beams": 3, "length_penalty": 0.7}),
        ({"repetition_penalty": 1.0, "min_new_tokens": 3}, {"min_new_tokens": 3}),
    ],
    ids=str,
)
def test_generate_writes_what_fill_writes(
    theirs: tuple[Any, Any], infiller: Infiller, ours: dict[str, Any], options: dict[str, Any]
) -> None:
    model, tokenizer = theirs
    batch = tokenizer(TEXTS, return_tensors="pt", padding=True)
    # fill's length penalty is 0 by default, theirs 1.
    chosen = {"length_penalty": 0.0, "early_stopping": False, "do_sample": False, **options}
    if "num_beams" not in chosen:
        del chosen["length_penalty"], chosen["early_stopping"]
    ids = model.generate(**batch, max_new_tokens=8, **chosen)
    ends = model.generation_config.eos_token_id
    for row, filled in zip(ids, infiller.fill(TEXTS, max_new_tokens=8, **ours), strict=True):
        assert written(row, ends) == list(filled.blanks[0].token_ids)


def test_the_cache_changes_nothing(theirs: tuple[Any, Any]) -> None:
    model, tokenizer = theirs
    batch = tokenizer(TEXTS, return_tensors="pt", padding=True)
    cached, plain = (model.generate(**batch, max_new_tokens=6, do_sample=False, use_cache=use) for use in (True, False))
    assert torch.equal(cached, plain)


def test_sampling_draws_from_the_distribution_that_fill_draws_from(theirs: tuple[Any, Any], infiller: Infiller) -> None:
    """First tokens of many samples against fill's probabilities: a chi-square test on the twelve likeliest."""
    model, tokenizer = theirs
    text, samples = TEXTS[0], 4000
    seen = first_tokens(infiller, text)
    torch.manual_seed(0)
    batch = tokenizer([text] * samples, return_tensors="pt")
    ids = model.generate(**batch, max_new_tokens=1, do_sample=True, top_k=0, temperature=1.0)[:, 1]
    counts = torch.bincount(ids, minlength=model.config.vocab_size).numpy()
    expected = np.array([np.exp(logprob) for _, logprob in seen]) * samples
    found = np.array([counts[token] for token, _ in seen])
    large = expected >= 5
    assert large.sum() >= 5
    statistic = float((((found - expected) ** 2) / expected)[large].sum())
    assert statistic < 3.0 * large.sum(), f"{statistic} on {large.sum()} tokens"


def first_tokens(infiller: Infiller, text: str) -> list[tuple[int, float]]:
    """The likeliest first tokens with their log-probabilities among those that may be written."""
    prompt = build_prompt(text, infiller.tokenizer, infiller.model.config)
    model = OpenGLMForSeq2SeqLM(OpenGLMConfig.of(infiller.model.config, infiller.tokenizer), infiller.model)
    ids = torch.tensor([np.asarray(getattr(prompt.part_a, "ids", prompt.part_a)).tolist()])
    with torch.no_grad():
        start = torch.tensor([[infiller.tokenizer.markers.sop]])
        logits = model(ids, decoder_input_ids=start).logits[0, -1].clone()
    brings = [infiller.tokenizer.brings_space(prompt.blanked.literals[0])]
    rule = WholeText(infiller.tokenizer, len(logits), ids, brings, (0, 1))
    logits = rule(torch.tensor([[infiller.tokenizer.markers.sop]]), logits[None])[0]
    best = logits.log_softmax(-1).topk(12)
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


@pytest.mark.parametrize(("text", "count"), [("no blank here", 0), ("the [MASK] and the [MASK]", 2)])
def test_a_text_needs_one_blank(theirs: tuple[Any, Any], text: str, count: int) -> None:
    model, tokenizer = theirs
    with pytest.raises(InputError, match=rf"exactly one blank here, not \[{count}\]"):
        model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=2)


# --- scoring and training -----------------------------------------------------------------------


def test_choices_have_the_log_probabilities_of_score(folder: Path, infiller: Infiller) -> None:
    model = transformers.AutoModelForMultipleChoice.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts, choices = TEXTS[:2], ["found", "the river bank", "卖掉了"]
    answers = tokenizer(text_target=choices, return_tensors="pt", padding=True)["input_ids"]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        out = model(**batch, choice_ids=answers.expand(2, -1, -1), labels=torch.tensor([0, 2]))
    for row, text in enumerate(texts):
        for column, choice in enumerate(choices):
            scored = infiller.score(text, choice)
            if scored.token_ids[0] == tokenizer(text_target=choice)["input_ids"][:-1]:
                assert float(out.logits[row, column]) == pytest.approx(scored.logprob, abs=1e-3)
    assert float(out.loss) == pytest.approx(
        float(torch.nn.functional.cross_entropy(out.logits, torch.tensor([0, 2]))), abs=1e-6
    )


def test_labels_give_the_loss_of_our_own_training(theirs: tuple[Any, Any], infiller: Infiller) -> None:
    model, tokenizer = theirs
    targets = ["found", "a letter", "走到了", "the bridge", "x"]
    labels = tokenizer(text_target=targets, return_tensors="pt", padding=True)
    ids = labels["input_ids"].masked_fill(labels["attention_mask"] == 0, -100)
    batch = tokenizer(TEXTS, return_tensors="pt", padding=True)
    with torch.no_grad():
        loss = float(model(**batch, labels=ids).loss)
    total, count = 0.0, 0
    for text, target in zip(TEXTS, targets, strict=True):
        own = tokenizer(text_target=target)["input_ids"]
        single = model(**tokenizer(text, return_tensors="pt"), labels=torch.tensor([own])).loss
        total, count = total + single.item() * len(own), count + len(own)
    assert loss == pytest.approx(total / count, abs=1e-4)


def test_a_trainer_trains_saves_and_goes_on(folder: Path, tmp_path: Path) -> None:
    """Seq2SeqTrainer with its own collator: the loss falls, and what it saves we load."""
    pytest.importorskip("accelerate")
    model = OpenGLMForSeq2SeqLM.from_pretrained(folder)
    tokenizer = OpenGLMTokenizer.from_pretrained(folder)
    pairs = [("the old teacher [MASK]", " found the river"), ("a young doctor [MASK]", " sold a letter")] * 4
    rows = [{**tokenizer(text), "labels": tokenizer(text_target=target)["input_ids"]} for text, target in pairs]
    collator = transformers.DataCollatorForSeq2Seq(tokenizer, model=model)
    arguments = transformers.Seq2SeqTrainingArguments(
        output_dir=str(tmp_path / "run"), max_steps=30, per_device_train_batch_size=8, learning_rate=0.01,
        save_steps=15, logging_steps=1, report_to=[], use_cpu=True, predict_with_generate=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Seq2SeqTrainer(
        model, arguments, train_dataset=rows, eval_dataset=rows, data_collator=collator, processing_class=tokenizer
    )
    trainer.train()
    losses = [each["loss"] for each in trainer.state.log_history if "loss" in each]
    assert losses[-1] < 0.3 * losses[0]
    assert trainer.predict(rows, max_new_tokens=8).metrics["test_loss"] < losses[0]
    ours = openglm.load(tmp_path / "run/checkpoint-30")
    assert ours.fill("the old teacher [MASK]", max_new_tokens=8).blanks[0].text.strip() == "found the river"
    for name, value in ours.model.state_dict().items():
        assert torch.equal(value, trainer.model.state_dict()[name].cpu()), name
    again = transformers.Seq2SeqTrainer(
        OpenGLMForSeq2SeqLM.from_pretrained(folder), arguments, train_dataset=rows, data_collator=collator,
        processing_class=tokenizer,
    )  # fmt: skip
    again.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-15"))
    assert again.state.global_step == 30


# --- folders ------------------------------------------------------------------------------------


def test_what_is_saved_is_our_own_format(theirs: tuple[Any, Any], folder: Path, tmp_path: Path) -> None:
    model, tokenizer = copy.deepcopy(theirs[0]), theirs[1]
    model.generation_config.num_beams = 3
    model.save_pretrained(tmp_path)
    assert read_config(tmp_path) == read_config(folder)
    again = OpenGLMForSeq2SeqLM.from_pretrained(tmp_path)  # without its tokenizer
    assert again.config.token_ids == model.config.token_ids
    assert again.generation_config.eos_token_id == model.generation_config.eos_token_id
    assert again.generation_config.num_beams == 3
    tokenizer.save_pretrained(tmp_path)
    expected = load_model(folder).state_dict()
    for name, value in load_model(tmp_path).state_dict().items():
        assert torch.equal(value, expected[name])
    assert transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path, dtype="bfloat16").dtype == torch.bfloat16


def test_a_fresh_model_and_other_dropout(folder: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(folder)
    torch.manual_seed(0)
    fresh = transformers.AutoModelForSeq2SeqLM.from_config(config)
    assert fresh.num_parameters() == config.to_glm().num_parameters
    assert 0.1 < float(fresh.word_embeddings.weight.std()) < 0.3, "drawn as the network draws them"
    config.output_dropout_prob = 0.5
    model = OpenGLMForSeq2SeqLM.from_pretrained(folder, config=config)
    assert model.config.output_dropout_prob == 0.5
    assert model.transformer.layers[0].dropout.p == 0.5


@pytest.mark.parametrize("name", ["hf-tiny", "flagai-tiny"])
def test_published_formats_load_and_agree(reference: Path, chinese_vocabulary: Path, tmp_path: Path, name: str) -> None:
    """The hub's format with the hub's own vocabulary files, and FlagAI's."""
    path = Path(shutil.copytree(reference / name, tmp_path / name, copy_function=shutil.copyfile))
    shutil.copyfile(chinese_vocabulary, path / "cog-pretrain.model")
    expected = openglm.load(path, dtype="float32")
    model, tokenizer = from_pretrained(path)
    texts = ["北京是中国的[MASK]。", "凯旋门位于[MASK]巴黎市"]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    ids = model.generate(**batch, max_new_tokens=5, do_sample=False)
    for row, filled in zip(ids, expected.fill(texts, max_new_tokens=5), strict=True):
        assert written(row, model.generation_config.eos_token_id) == list(filled.blanks[0].token_ids)


def test_what_would_be_left_out_is_refused(tiny_model: GLMModel, folder: Path, tmp_path: Path) -> None:
    from openglm.checkpoints.beside import save_prompt

    prompted = copy.deepcopy(tiny_model)
    add_prompt(prompted, PromptOptions(3, "none"))
    save_model(tmp_path, tiny_model, load_tokenizer(folder))
    save_prompt(tmp_path, prompted, PromptOptions(3, "none"), base_model="x")
    with pytest.raises(CheckpointError, match=r"prompt\.json: .* a model of transformers cannot apply it"):
        transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    with pytest.raises(OptionError, match="load_in_8bit: openglm's models take"):
        OpenGLMForSeq2SeqLM.from_pretrained(folder, load_in_8bit=True)
    with pytest.raises(OptionError, match="cannot be exchanged"):
        OpenGLMForSeq2SeqLM.from_pretrained(folder).resize_token_embeddings(7000)


def test_adapters_of_peft_go_both_ways(folder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from openglm.finetuning.adapter_files import load_adapter

    model = peft.get_peft_model(
        OpenGLMForSeq2SeqLM.from_pretrained(folder),
        peft.LoraConfig(r=4, target_modules=["query_key_value"], init_lora_weights=False),
    ).eval()
    model.save_pretrained(tmp_path)
    ours = openglm.load(folder, dtype="float32")
    load_adapter(ours, tmp_path)
    ids, fill = torch.tensor([[5, 9, ours.tokenizer.special["mask"], 7]]), torch.tensor([[3, 4]])
    plain = OpenGLMForSeq2SeqLM(OpenGLMConfig.of(ours.model.config, ours.tokenizer), ours.model)
    with torch.no_grad():
        expected = plain(ids, decoder_input_ids=fill).logits
        base = OpenGLMForSeq2SeqLM.from_pretrained(folder)(ids, decoder_input_ids=fill).logits
        assert (expected - base).abs().max() > 0.01
        assert torch.equal(model(input_ids=ids, decoder_input_ids=fill).logits, expected)
