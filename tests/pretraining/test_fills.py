"""Samples filled by the model under training: what is shown, and that looking changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from openglm.batches import pad
from openglm.blanks import BlankKind, PartA
from openglm.data.inspect import visible as visible
from openglm.layouts import Layout, blank_out, lay_out
from openglm.network.attention import dense_mask
from openglm.network.config import GLMConfig
from openglm.network.model import GLMModel
from openglm.pretraining.fills import AFTER, BEFORE, MAX_BLANKS, SHOWN_FILL, WIDTH, FillSamples
from openglm.tensors import to_tensors
from openglm.tokenizer import BilingualTokenizer

SHORT = "Yesterday, the old teacher walked to the river; a farmer did not."


@pytest.fixture
def config(tokenizer: BilingualTokenizer) -> GLMConfig:
    return GLMConfig(
        num_layers=2,
        hidden_size=32,
        num_attention_heads=4,
        vocab_size=-(-tokenizer.num_tokens // 128) * 128,
        max_sequence_length=512,
        initializer_range=0.2,
    )


@pytest.fixture
def model(config: GLMConfig) -> GLMModel:
    torch.manual_seed(3)
    return GLMModel(config)


def blanked(
    tokenizer: BilingualTokenizer, text: str, spans: Sequence[tuple[int, int]], *, order: Sequence[int] | None = None
) -> Layout:
    """`text` with the given spans of its tokens (counted without [CLS]) blanked out."""
    ids = np.array([tokenizer.cls, *tokenizer.encode(text), tokenizer.eos])
    starts, ends = (np.array(column) + 1 for column in zip(*spans, strict=True))
    blank = tokenizer.blank_id(BlankKind.MASK)
    chosen = None if order is None else np.array(order)
    return blank_out(ids, starts, ends, blank, tokenizer.markers, order=chosen)


def rest_of_document(tokenizer: BilingualTokenizer, text: str, start: int) -> Layout:
    ids = np.array([tokenizer.cls, *tokenizer.encode(text), tokenizer.eos])
    blank = tokenizer.blank_id(BlankKind.GMASK)
    return blank_out(
        ids, np.array([start + 1]), np.array([len(ids)]), blank, tokenizer.markers, ends_with_eop=False
    )  # fmt: skip


@torch.no_grad()
def greedy(model: GLMModel, tokenizer: BilingualTokenizer, layout: Layout, blanks: int, most: int) -> list[list[int]]:
    """The fills of the first blanks, each token from a forward pass over all that precedes it."""
    part_a = layout.input_ids[: layout.separator]
    positions = [i for i, token in enumerate(part_a) if token == tokenizer.blank_id(BlankKind.MASK)][:blanks]
    fills: list[list[int]] = [[] for _ in positions]
    for k in range(len(positions)):
        while len(fills[k]) < most:
            batch = pad(
                [lay_out(PartA(part_a, np.array(positions[: k + 1])), fills[: k + 1], tokenizer.markers)], tokenizer.eos
            )
            tensors = to_tensors(batch, torch.device("cpu"))
            mask = dense_mask(tensors.documents, tensors.in_part_a)
            logits = model(tensors.input_ids, tensors.position_ids, mask)[0, -1]
            logits[tokenizer.never_generated] = -torch.inf
            logits[tokenizer.num_tokens :] = -torch.inf
            token = int(logits.argmax())
            if token in (tokenizer.markers.eop, tokenizer.eos):
                break
            fills[k].append(token)
    return fills


def test_line_shows_the_text_with_what_was_there_and_what_the_model_writes(
    model: GLMModel, tokenizer: BilingualTokenizer
) -> None:
    spans = [(2, 4), (7, 8), (10, 13)]
    layout = blanked(tokenizer, SHORT, spans, order=[2, 0, 1])
    ids = tokenizer.encode(SHORT)
    lines = FillSamples([("en/token", layout)], tokenizer, max_new_tokens=5).lines(model.eval())
    expected, done = "en/token  ", 0
    for (start, end), fill in zip(spans, greedy(model, tokenizer, layout, 3, 5), strict=True):
        cut = "…" if len(fill) == 5 else ""
        expected += visible(
            f"{tokenizer.decode(ids[done:start])}【{tokenizer.decode(ids[start:end])}→{tokenizer.decode(fill)}{cut}】"
        )
        done = end
    expected += tokenizer.decode(ids[done:])
    assert lines == [expected]


def test_a_batch_of_samples_gives_what_each_gives_alone(
    model: GLMModel, tokenizer: BilingualTokenizer, text_lines: list[str]
) -> None:
    samples = [
        ("aa/token", blanked(tokenizer, SHORT, [(2, 4), (7, 8)])),
        ("bb/token", blanked(tokenizer, text_lines[2] + text_lines[6], [(1, 3)])),
        ("cc/document", rest_of_document(tokenizer, SHORT + SHORT, 6)),
    ]
    together = FillSamples(samples, tokenizer, max_new_tokens=6).lines(model)
    alone = [line for sample in samples for line in FillSamples([sample], tokenizer, max_new_tokens=6).lines(model)]
    assert [line.split("  ", 1)[1].strip() for line in together] == [line.split("  ", 1)[1] for line in alone]


def test_the_first_layout_of_each_name_is_shown(model: GLMModel, tokenizer: BilingualTokenizer) -> None:
    whole = np.array([tokenizer.cls, *tokenizer.encode(SHORT), tokenizer.eos])
    first, second = blanked(tokenizer, SHORT, [(2, 4)]), blanked(tokenizer, "A farmer sold the market.", [(1, 2)])
    without_blank = lay_out(PartA(whole), [], tokenizer.markers)
    samples = FillSamples(
        [("a", without_blank), ("a", first), ("b", second), ("a", second)], tokenizer, max_new_tokens=3
    )
    assert len(samples) == 2
    assert [line[:4] for line in samples.lines(model)] == ["a  Y", "b  A"]
    assert FillSamples([("a", without_blank)], tokenizer).lines(model) == []


def test_long_texts_are_shown_around_their_first_blanks(
    model: GLMModel, tokenizer: BilingualTokenizer, text_lines: list[str]
) -> None:
    text = "\n".join(text_lines[i] for i in range(0, 24, 4))
    n = len(tokenizer.encode(text))
    spans = [(n // 2 + 4 * k, n // 2 + 4 * k + 1) for k in range(6)]
    (line,) = FillSamples([("en/token", blanked(tokenizer, text, spans))], tokenizer, max_new_tokens=3).lines(model)
    assert line.startswith("en/token  …")
    assert line.endswith("…")
    assert 1 <= line.count("【") <= MAX_BLANKS
    assert len(line.split("【")[0]) == len("en/token  …") + BEFORE
    assert len(line) < WIDTH + 2 * SHOWN_FILL + AFTER + 20
    assert "[MASK]" not in line
    # What stands behind the last blank shown is the original text up to the next one, and no further.
    ids = tokenizer.encode(text)
    shown = line.count("【")
    start = spans[shown - 1][1]
    after = visible(tokenizer.decode(ids[start : spans[shown][0]]))
    assert line.rsplit("】", 1)[1] == after[:AFTER] + "…"


def test_control_characters_are_visible_and_long_originals_cut(model: GLMModel, tokenizer: BilingualTokenizer) -> None:
    text = SHORT + "\n" + SHORT + "\t" + SHORT + "\n" + SHORT
    (line,) = FillSamples([("en/document", rest_of_document(tokenizer, text, 3))], tokenizer).lines(model)
    assert line == line.translate(dict.fromkeys(range(32)))
    original = line.split("【")[1].split("→")[0]
    assert "⏎" in original
    assert len(original) == SHOWN_FILL + 1
    assert original.endswith("…")
    assert "<|endoftext|>" not in line


def train(model: GLMModel, tokenizer: BilingualTokenizer, samples: FillSamples | None) -> list[torch.Tensor]:
    """Two updates with dropout, looking at samples half-way through each gradient and at its end."""
    torch.manual_seed(11)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = torch.tensor([tokenizer.encode(SHORT)])
    for _ in range(2):
        for _ in range(2):
            logits = model(ids[:, :-1])
            torch.nn.functional.cross_entropy(logits[0], ids[0, 1:]).backward()
            if samples is not None:
                samples.lines(model, precision="bf16")
        optimizer.step()
        optimizer.zero_grad()
    return [parameter.detach().clone() for parameter in model.parameters()] + [torch.rand(3)]


def test_training_does_not_notice(config: GLMConfig, tokenizer: BilingualTokenizer) -> None:
    assert config.output_dropout_prob > 0  # the updates do draw random numbers
    samples = FillSamples([("en/token", blanked(tokenizer, SHORT, [(2, 4), (7, 8)]))], tokenizer, max_new_tokens=3)
    results = []
    for shown in (None, samples):
        torch.manual_seed(5)
        np.random.seed(5)
        results.append([*train(GLMModel(config), tokenizer, shown), torch.from_numpy(np.random.rand(3))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_every_module_stays_in_its_mode(model: GLMModel, tokenizer: BilingualTokenizer) -> None:
    model.train()
    model.transformer.layers[0].eval()
    before = [module.training for module in model.modules()]
    samples = FillSamples([("en/token", blanked(tokenizer, SHORT, [(2, 4)]))], tokenizer, max_new_tokens=3)
    assert samples.lines(model) == samples.lines(model)  # no dropout
    assert [module.training for module in model.modules()] == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_nothing_is_compiled_for_it(model: GLMModel, tokenizer: BilingualTokenizer) -> None:
    compiled = 0

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        nonlocal compiled
        compiled += 1
        return graph.forward

    for layer in model.transformer.layers:
        layer.compile(backend=backend)
    ids = torch.tensor([tokenizer.encode(SHORT)])
    model(ids)
    at_first = compiled
    assert at_first > 0
    FillSamples([("en/token", blanked(tokenizer, SHORT, [(2, 4), (7, 8)]))], tokenizer, max_new_tokens=3).lines(model)
    assert compiled == at_first
    model(ids)
    assert compiled == at_first
