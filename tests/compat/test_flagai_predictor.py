"""FlagAI's predictor: recorded strings in both layouts; what sampling and beams must do; bad input."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from flagai.data.tokenizer import GLMLargeChTokenizer, Tokenizer
from flagai.model.glm_model import GLMForSeq2Seq, GLMForSingleTokenCloze, GLMModel
from flagai.model.predictor._decoding import Choice, Reader, beam_search
from flagai.model.predictor.predictor import Predictor
from openglm.errors import ContextLengthError, InputError, OptionError

TEXT = "老师[MASK]走到了河边。"
SOURCE = "老师走到了河边"


# --- recorded strings ------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded_model(reference: Path) -> GLMModel:
    return GLMModel.from_pretrain(download_path=reference, model_name="flagai-tiny")


def test_recorded_fills(recorded_model: GLMModel, infill_runs: list[dict[str, Any]], chinese_vocabulary: Path) -> None:
    """All texts, both tables of special tokens, both classes of tokenizer."""
    newer = {
        fix: Predictor(
            recorded_model,
            Tokenizer.from_pretrained("GLM-large-ch", chinese_vocabulary.parent, fix_command_token=fix),
        )
        for fix in (True, False)
    }
    older = {
        fix: Predictor(recorded_model, GLMLargeChTokenizer(chinese_vocabulary, fix_command_token=fix))
        for fix in (True, False)
    }
    runs = [run for run in infill_runs if not run.get("no_mask")]
    assert len(runs) == 60
    for run in runs:
        options = {"out_max_length": run["out_max_length"], "top_k": 1}
        fix = run["fix_command_token"]
        assert newer[fix].predict_generate_randomsample(run["text"], **options) == run["decoded"]
        plain = older[fix].predict_generate_randomsample(run["text"], **options)
        assert plain == older[fix].tokenizer.DecodeIds(run["output_ids"])


def test_recorded_targets(
    recorded_model: GLMModel, infill_runs: list[dict[str, Any]], chinese_vocabulary: Path
) -> None:
    tokenizer = Tokenizer.from_pretrained("GLM-large-ch", chinese_vocabulary.parent, fix_command_token=False)
    wrapped = GLMForSeq2Seq(recorded_model.config, network=recorded_model.network)
    runs = [run for run in infill_runs if run.get("no_mask")]
    assert len(runs) == 6
    for run, model in itertools.product(runs, (recorded_model, wrapped)):
        tokenizer = Tokenizer.from_pretrained(
            "GLM-large-ch", chinese_vocabulary.parent, fix_command_token=run["fix_command_token"]
        )
        predictor = Predictor(model, tokenizer)
        assert tokenizer.encode_plus(run["text"]) == run["encode_plus"]
        length = run["out_max_length"]
        greedy = predictor.predict_generate_randomsample(run["text"], out_max_length=length, top_k=1)
        assert greedy == run["greedy"]
        penalized = predictor.predict_generate_randomsample(
            run["text"], out_max_length=length, top_k=1, repetition_penalty=4.0
        )
        assert penalized == run["greedy_repetition_penalty_4"]
        for beams, expected in run["beam"].items():
            found = predictor.predict_generate_beamsearch(
                run["text"], out_max_length=run["beam_out_max_length"], beam_size=int(beams)
            )
            assert found == expected


# --- what follows from the definitions ---------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, small_chinese_model: bytes) -> GLMLargeChTokenizer:
    path = tmp_path_factory.mktemp("vocabulary") / "cog-pretrain.model"
    path.write_bytes(small_chinese_model)
    return GLMLargeChTokenizer(vocab_path=path)


def make_model(rows: int = 512, **changes: Any) -> GLMModel:
    torch.manual_seed(4)
    config = {
        "num_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "vocab_size": rows,
        "max_sequence_length": 64,
    }
    model = GLMModel({**config, **changes})
    for name, parameter in model.named_parameters():
        if "layernorm" not in name:
            parameter.data.mul_(10)
    return model


@pytest.fixture(scope="module")
def predictor(tokenizer: GLMLargeChTokenizer) -> Predictor:
    return Predictor(make_model(), tokenizer)


def fills(predictor: Predictor, text: str, **options: Any) -> list[list[int]]:
    """The ids of each fill of the returned sequence."""
    found: list[list[int]] = []
    decoded: list[int] = []
    decode = predictor.tokenizer.DecodeIds
    predictor.tokenizer.DecodeIds = lambda ids: (decoded.extend(ids), decode(ids))[1]  # type: ignore[method-assign]
    try:
        predictor.predict_generate_randomsample(text, **options)
    finally:
        del predictor.tokenizer.DecodeIds
    sop = predictor.tokenizer.get_command_id("sop")
    for token in decoded:
        if token == sop:
            found.append([])
        elif found:
            found[-1].append(token)
    return found


def test_the_whole_sequence_comes_back(predictor: Predictor) -> None:
    found = predictor.predict_generate_randomsample(TEXT, top_k=1, out_max_length=5)
    assert found.startswith("[CLS]老师[MASK]走到了河边。<|endoftext|><|startofpiece|>")
    open_end = predictor.predict_generate_randomsample("老师[gMASK]", top_k=1, out_max_length=5)
    assert open_end.startswith("[CLS]老师[gMASK]<|startofpiece|>")
    assert "<|startofpiece|>" not in predictor.predict_generate_randomsample(SOURCE, top_k=1, out_max_length=5)


def test_seeds_repeat_samples(predictor: Predictor) -> None:
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(predictor.predict_generate_randomsample(TEXT, out_max_length=20, temperature=2.0))
    assert found[0] == found[1] != found[2]


def test_ids_of_no_token_are_never_drawn(tokenizer: GLMLargeChTokenizer) -> None:
    predictor = Predictor(make_model(1024), tokenizer)
    torch.manual_seed(0)
    drawn = fills(predictor, TEXT, out_max_length=60, top_k=0, temperature=50.0)[0]
    assert len(drawn) > 5
    assert max(drawn) < len(tokenizer)


def test_top_p_applies_to_blanks(predictor: Predictor) -> None:
    greedy = fills(predictor, TEXT, top_k=1, out_max_length=10)
    assert fills(predictor, TEXT, top_k=0, top_p=1e-6, out_max_length=10) == greedy
    torch.manual_seed(0)
    assert fills(predictor, TEXT, top_k=0, temperature=3.0, out_max_length=10) != greedy


def test_repetition_penalty_applies_to_blanks(predictor: Predictor) -> None:
    plain = fills(predictor, TEXT, top_k=1, out_max_length=30)[0]
    penalized = fills(predictor, TEXT, top_k=1, repetition_penalty=50.0, out_max_length=30)[0]
    assert len(set(penalized)) == len(penalized) > 5
    assert len(set(plain)) / len(plain) < 1
    seen = set(predictor.tokenizer.EncodeAsIds(TEXT))
    assert not seen & set(penalized)


def test_choice_keeps_what_it_says() -> None:
    logits = torch.tensor([3.0, 2.0, 1.0, 0.0, -1.0])
    banned = torch.tensor([True, False, False, False, False])
    torch.manual_seed(0)

    def drawn(**options: Any) -> set[int]:
        return {Choice(**{"top_k": 0, **options}).draw(logits, banned, set()) for _ in range(200)}

    assert drawn() == {1, 2, 3, 4}
    assert drawn(top_k=2) == {1, 2}
    assert drawn(top_p=0.7) == {1, 2}  # 0.64 + 0.24
    assert drawn(temperature=0.05) == {1}
    assert Choice(top_k=1, repetition_penalty=9.0).draw(logits, banned, {1}) == 2


@torch.no_grad()
def test_beams_find_the_most_probable_target(tokenizer: GLMLargeChTokenizer) -> None:
    """Wide enough, the search is exact: compared with all sequences of three tokens of five, or shorter."""
    model = make_model().eval()
    prompt = tokenizer.encode_plus(SOURCE)["input_ids"]
    words, end = [5, 6, 7, 8], tokenizer.get_command_id("eop")
    banned = torch.ones(512, dtype=torch.bool)
    banned[[*words, end]] = False

    def place(number: int) -> tuple[int, int]:
        return len(prompt) + number - 1, 1

    def score(tokens: tuple[int, ...], ended: bool) -> float:
        ids = torch.tensor([[*prompt, *tokens]])
        positions = torch.stack([torch.arange(ids.shape[1]), (torch.arange(ids.shape[1]) >= len(prompt)).long()])[None]
        logits = model(ids, positions, torch.tensor([0]))["logits"][0].log_softmax(-1)
        wanted = [*tokens, *([end] if ended else [])]
        return sum(float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(wanted))

    everything = {
        (tokens, ended): score(tokens, ended)
        for length in range(4)
        for tokens in itertools.product(words, repeat=length)
        for ended in ((True,) if length < 3 else (False,))
    }
    best = max(everything, key=everything.__getitem__)
    found = beam_search(Reader(model.network, prompt, 0), place, banned, (end,), 3, 64)
    assert (found.tokens, found.ended) == best
    assert found.score == pytest.approx(everything[best], abs=1e-4)
    narrow = beam_search(Reader(model.network, prompt, 0), place, banned, (end,), 3, 1)
    assert narrow.score == pytest.approx(everything[narrow.tokens, narrow.ended], abs=1e-4)


@torch.no_grad()
def test_finished_hypotheses_stay() -> None:
    """The best end is not the best continuation at its step; FlagAI would have thrown it away."""
    table = torch.full((8, 8), -1e9)
    end = 7
    table[0, [1, end]] = torch.tensor([0.6, 0.4]).log()
    table[1, [2, 3, 4]] = torch.tensor([1 / 3, 1 / 3, 1 / 3]).log()
    table[2:7, [5, 6]] = 0.0

    class Table:
        logits = table[:1]

        def feed(self, tokens: list[int], position: int, block_position: int) -> None:
            self.logits = table[tokens]

        def select(self, rows: list[int]) -> None:
            pass

    banned = torch.zeros(8, dtype=torch.bool)
    found = beam_search(Table(), lambda n: (n, 1), banned, (end,), 4, 2)  # type: ignore[arg-type]
    assert (found.tokens, found.ended) == ((), True)
    assert found.score == pytest.approx(-0.916, abs=1e-3)


def test_beams_fill_blanks_too(predictor: Predictor) -> None:
    text = "老师[MASK]走到了[MASK]。"
    greedy = predictor.predict_generate_randomsample(text, out_max_length=6, top_k=1)
    assert predictor.predict_generate_beamsearch(text, out_max_length=6, beam_size=1) == greedy
    wide = predictor.predict_generate_beamsearch(text, out_max_length=6, beam_size=4)
    assert wide.count("<|startofpiece|>") == 2


def test_long_texts_are_cut_with_a_warning(predictor: Predictor) -> None:
    text = "昨天" * 20 + TEXT + "今年" * 20
    with pytest.warns(UserWarning, match="far from the blanks"):
        found = predictor.predict_generate_randomsample(text, input_max_length=30, out_max_length=3, top_k=1)
    prompt = found.split("<|endoftext|>")[0]
    assert "老师[MASK]走到了河边。" in prompt
    assert len(predictor.tokenizer.EncodeAsIds(prompt)) in (28, 29, 30, 31)  # a piece may begin anew where it was cut
    with pytest.warns(UserWarning, match="its end is left out"):
        predictor.predict_generate_randomsample(SOURCE * 20, input_max_length=20, out_max_length=3, top_k=1)
    with pytest.raises(ContextLengthError, match="blanks span more"):
        predictor.predict_generate_randomsample("[MASK]" + SOURCE * 9 + "[MASK]", input_max_length=20)


def test_the_context_bounds_what_is_written(tokenizer: GLMLargeChTokenizer) -> None:
    predictor = Predictor(make_model(max_sequence_length=16), tokenizer)
    predictor._network.word_embeddings.weight.data[[tokenizer.get_command_id(n) for n in ("eop", "eos")]] = 0
    with pytest.warns(UserWarning, match="context ends after 16 tokens"):
        drawn = fills(predictor, "老师[MASK]", top_k=1)
    assert len(drawn[0]) == 16
    length = len(tokenizer.EncodeAsIds(SOURCE)) + 2
    with pytest.warns(UserWarning, match=f"context ends after {18 - length} tokens"):
        predictor.predict_generate_randomsample(SOURCE, top_k=1)


def test_other_models_of_blanks_are_warned_of(tokenizer: GLMLargeChTokenizer) -> None:
    predictor = Predictor(make_model(blanks=["[MASK]"]), tokenizer)
    with pytest.warns(UserWarning, match=r"trained without \[gMASK\]"):
        predictor.predict_generate_randomsample("老师[gMASK]", out_max_length=2, top_k=1)


def test_nothing_is_changed_or_printed(tokenizer: GLMLargeChTokenizer, capfd: pytest.CaptureFixture[str]) -> None:
    before = set(vars(tokenizer))
    model = make_model().train()
    Predictor(model, tokenizer).predict_generate_randomsample(TEXT, out_max_length=3)
    assert set(vars(tokenizer)) == before
    assert not model.training
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": -1}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"out_max_length": 0}, "out_max_length"),
        ({"input_max_length": 2}, "input_max_length"),
        ({"prompts_tokens": [1]}, "prompts_tokens"),
    ],
)
def test_bad_options(predictor: Predictor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        predictor.predict_generate_randomsample(TEXT, **options)


def test_bad_input(predictor: Predictor, tokenizer: GLMLargeChTokenizer, tmp_path: Path) -> None:
    for text in ("", "  ", None, ["a"]):
        with pytest.raises(InputError, match="must be a string"):
            predictor.predict_generate_randomsample(text)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no blank in '老师\\[xMASK\\]'"):
        predictor.predict_generate_randomsample("老师[xMASK]")
    with pytest.raises(OptionError, match="beam_size"):
        predictor.predict_generate_beamsearch(TEXT, beam_size=0)
    with pytest.raises(OptionError, match="GLMForSingleTokenCloze"):
        Predictor(GLMForSingleTokenCloze(predictor.model.config), tokenizer)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="not str"):
        Predictor(predictor.model, "tokenizer")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="belong to different models"):
        Predictor(make_model(128), tokenizer)
