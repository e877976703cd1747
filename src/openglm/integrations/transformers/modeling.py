"""The network as models of transformers: a thin wrapper around `GLMModel`, which stays the only one.

    encoder side    Part A: [CLS] text with one [MASK] <eos>
    decoder side    Part B: <sop> fill, whose positions are those of the blank

Parameter names are those of the network, so that weights, adapters and states go both ways. Both
sides are read by one stack of layers; their keys and values lie in one cache of transformers, Part
A's first. A text has one blank here; `openglm.load` fills several.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, PreTrainedModel
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput, MultipleChoiceModelOutput, Seq2SeqLMOutput

from ...checkpoints.checksums import SummingReader, write_checksums
from ...checkpoints.find import find_folder
from ...checkpoints.formats import CONFIG_FILE, OPENGLM, read_json
from ...checkpoints.native import write_config
from ...checkpoints.resolve import open_checkpoint
from ...checkpoints.safetensors_files import write_files
from ...checkpoints.weights import TensorInfo
from ...errors import InputError, OptionError, TokenizerError
from ...files import write_atomically
from ...network.model import GLMModel
from ...tokenizer import Tokenizer
from .configuration import OpenGLMConfig
from .generation import WholeText
from .reading import Cached, PartAOutput, PartAReader, part_a

GENERATION_FILE = "generation_config.json"
IGNORED = -100  # a label without a loss
# What transformers passes to every model's from_pretrained and what means nothing here.
_PASSED = (
    "adapter_kwargs",
    "config",
    "revision",
    "token",
    "trust_remote_code",
    "use_safetensors",
    "local_files_only",
    "cache_dir",
)


class OpenGLMPreTrainedModel(PreTrainedModel):
    """What the models here share: the network, and its files.

    Args:
        network: the one to wrap; by default a fresh one.
    """

    config_class = OpenGLMConfig
    config: OpenGLMConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: OpenGLMConfig, network: GLMModel | None = None) -> None:
        super().__init__(config)
        network = GLMModel(config.to_glm()) if network is None else network
        object.__setattr__(self, "network", network)  # not a child: its own children are ours
        self.vocabulary: Tokenizer | None = None
        for name, child in network.named_children():
            setattr(self, name, child)
        self.post_init()

    network: GLMModel

    def _init_weights(self, module: nn.Module) -> None:
        """Weights are drawn by the network itself, or come from a file."""

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings, which also make the logits."""
        words: nn.Module = self.word_embeddings
        return words

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Refused: ids and rows belong together.

        Raises:
            OptionError: always.
        """
        raise OptionError("the word embeddings of a GLM cannot be exchanged: its vocabulary belongs to it")

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Compute activations a second time instead of keeping them."""
        self.transformer.activation_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep activations."""
        self.transformer.activation_checkpointing = False

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *args: Any, **options: Any) -> Any:
        """A model by a name or folder that `openglm.load` knows, in any format, in evaluation mode.

        Args:
            options: `dtype` (default: float32), `device_map` ("cpu", "cuda", ...), `revision`; `config`
                changes values such as dropout.

        Raises:
            ModelNotFoundError, CheckpointError, ConfigError: as `openglm.load`; a trained prompt or a
                classification head is refused.
            OptionError: an option that means something elsewhere, and nothing here.
        """
        dtype = options.pop("dtype", options.pop("torch_dtype", None))
        device = options.pop("device_map", None)
        config = options.get("config")
        unknown = [
            name for name, value in options.items() if value and not name.startswith("_") and name not in _PASSED
        ]
        if unknown or (device is not None and not isinstance(device, (str, torch.device))) or device == "auto":
            listed = ", ".join(unknown) or "device_map"
            raise OptionError(f"{listed}: openglm's models take dtype, revision, config and a device as device_map")
        checkpoint = open_checkpoint(find_folder(str(name_or_path), revision=options.get("revision")))
        kind = torch.float32 if dtype in (None, "auto") else getattr(torch, dtype) if isinstance(dtype, str) else dtype
        network = checkpoint.network(device=str(device or "cpu"), dtype=kind, taker="a model of transformers")
        for parameter in network.parameters():
            parameter.data = parameter.data.clone()  # it may be a window onto the file
        if isinstance(config, OpenGLMConfig) and config.to_glm() != network.config:
            own = GLMModel(config.to_glm())  # with another dropout, say
            own.load_state_dict(network.state_dict())
            network = own.to(device or "cpu", kind)
        vocabulary: Tokenizer | None = None
        try:
            vocabulary = checkpoint.tokenizer()
            known = OpenGLMConfig.of(network.config, vocabulary)
        except TokenizerError:  # a checkpoint of a Trainer that was given no tokenizer
            known = OpenGLMConfig.of(network.config)
            known.token_ids = dict(read_json(checkpoint.folder / CONFIG_FILE).get("token_ids") or {})
        known.name_or_path = str(name_or_path)
        model = cls(known, network.requires_grad_(True)).eval()
        model.vocabulary = vocabulary
        chosen = checkpoint.folder / GENERATION_FILE
        if checkpoint.format == OPENGLM and chosen.is_file() and model.can_generate():
            model.generation_config.update(**read_json(chosen))
        return model

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        push_to_hub: bool = False,
        **options: Any,
    ) -> None:
        """Write a folder in openglm's own format; the tokenizer's files are the tokenizer's business.

        Args:
            state_dict: the weights, if they are not those of this process.
        """
        if not is_main_process:
            return
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        state = dict(self.state_dict() if state_dict is None else state_dict)
        infos = {name: TensorInfo(tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()}
        read = SummingReader(lambda name: state[name].contiguous(), infos)
        write_files(folder, infos, read)
        write_config(folder, self.config.to_glm(), token_ids=self.config.token_ids)
        write_checksums(folder, read.sums)
        if self.can_generate():
            values = self.generation_config.to_json_string(use_diff=True)
            write_atomically(folder / GENERATION_FILE, values.encode())
        if push_to_hub:
            self.push_to_hub(options.get("repo_id") or folder.name)


class OpenGLMModel(OpenGLMPreTrainedModel):
    """The network alone: hidden states of texts, as Part A."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> BaseModelOutput:
        """[B, S] ids -> hidden states, [B, S, D]."""
        positions, mask = part_a(input_ids, attention_mask)
        return BaseModelOutput(last_hidden_state=self.network.hidden_states(input_ids, positions, mask))


class OpenGLMForSeq2SeqLM(OpenGLMPreTrainedModel, GenerationMixin):
    """Fills the blank of each text: `generate`, and training on targets."""

    def __init__(self, config: OpenGLMConfig, network: GLMModel | None = None) -> None:
        super().__init__(config, network)
        object.__setattr__(self, "_reader", PartAReader(self.network.word_embeddings))
        ids = config.token_ids
        if ids:
            self.generation_config = GenerationConfig(
                decoder_start_token_id=ids["sop"],
                eos_token_id=[ids["eop"], ids["eos"]],
                pad_token_id=ids["eos"],
                suppress_tokens=list(ids["never"]) or None,
                max_new_tokens=64,
            )

    def get_encoder(self, *args: Any, **options: Any) -> PartAReader:
        """The encoder's side."""
        reader: PartAReader = self._reader
        return reader

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        encoder_outputs: PartAOutput | None = None,
        past_key_values: EncoderDecoderCache | DynamicCache | None = None,
        use_cache: bool | None = None,
        brings_space: Tensor | None = None,
        **options: Any,
    ) -> Seq2SeqLMOutput:
        """Logits over the vocabulary for every token of the decoder's side, [B, T, V].

        Args:
            input_ids: [B, S] texts with one blank each, padded at either side; attention_mask: [B, S], 0
                on padding.
            decoder_input_ids: [B, T], `<sop>` and what is written so far; with a cache, the new ones.
            labels: [B, T] what belongs into the blanks, the end included, -100 on padding; the loss is the
                mean over them in nats.
            encoder_outputs: in place of `input_ids`.

        Raises:
            InputError: a text without a blank, or with several.
        """
        text = input_ids if encoder_outputs is None else encoder_outputs["text_ids"]
        if text is None:
            raise InputError("give input_ids: texts with a blank each")
        if decoder_input_ids is None:
            if labels is None:
                raise InputError("give labels, or decoder_input_ids; generate makes them itself")
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        past = getattr(past_key_values, "self_attention_cache", past_key_values)
        if past is None and use_cache:
            past = DynamicCache()
        hidden = self._read(text, attention_mask, decoder_input_ids, past)
        logits = self.network.logits(hidden)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED)
        kept = past if past_key_values is None else past_key_values
        return Seq2SeqLMOutput(loss=loss, logits=logits, past_key_values=kept)

    def _read(self, text: Tensor, mask: Tensor | None, fill: Tensor, past: DynamicCache | None) -> Tensor:
        """Hidden states of the tokens of the fill, [B, T, D]; the text is read before the first of them."""
        B, S = text.shape
        before = 0 if past is None else past.get_seq_length()
        written = max(0, before - S)  # tokens of the fill that the cache holds
        position = self._blank_positions(text, mask)[:, None].expand(fill.shape)
        count = torch.arange(written + 1, written + fill.shape[1] + 1, device=text.device).expand(fill.shape)
        positions = torch.stack([position, count], 1)
        real = torch.ones_like(text, dtype=torch.bool) if mask is None else mask.bool()
        T = written + fill.shape[1]
        causal = torch.ones(T, T, dtype=torch.bool, device=text.device).tril()[written:]
        sees = torch.cat([real[:, None].expand(B, fill.shape[1], S), causal.expand(B, -1, -1)], 2)
        if before:
            ids = fill
        else:
            ids = torch.cat([text, fill], 1)
            of_text, text_sees = part_a(text, mask)
            positions = torch.cat([of_text, positions], 2)
            hidden = text_sees.new_zeros(B, 1, S, T)
            sees = torch.cat([torch.cat([text_sees.expand(B, 1, S, S), hidden], 3)[:, 0], sees], 1)
        cache = None if past is None else Cached(past)
        states = self.network.hidden_states(ids, positions, sees[:, None], cache=cache)
        return states[:, -fill.shape[1] :]

    def _blank_positions(self, text: Tensor, mask: Tensor | None) -> Tensor:
        """[B] where the blank of each text stands, padding not counted."""
        blanks = torch.tensor(self.config.token_ids.get("blanks", []), device=text.device)
        found = torch.isin(text, blanks)
        if not bool((found.sum(1) == 1).all()):
            counts = found.sum(1).tolist()
            raise InputError(
                f"each text needs exactly one blank here, not {counts}; openglm.load(...).fill fills several"
            )
        positions, _ = part_a(text, mask)
        return positions[:, 0][found]

    def generate(self, inputs: Tensor | None = None, generation_config: Any = None, **kwargs: Any) -> Any:
        """Fill the blank of each text, as `GenerationMixin.generate` does it; what `fill` would not write is left out.

        Args:
            kwargs: those of transformers, with `input_ids`, `attention_mask` and `brings_space` as the tokenizer
                gives them.
        """
        text, brings = inputs if inputs is not None else kwargs.get("input_ids"), kwargs.pop("brings_space", None)
        if self.vocabulary is not None and text is not None:
            settings = generation_config or self.generation_config
            most = kwargs.get("max_new_tokens") or (kwargs.get("max_length") or 1) - 1 or settings.max_new_tokens
            limits = (kwargs.get("min_new_tokens") or settings.min_new_tokens or 0, most)
            spaces = [False] * len(text) if brings is None else brings.tolist()
            rule = WholeText(self.vocabulary, self.config.vocab_size, text, spaces, limits)
            kwargs["logits_processor"] = LogitsProcessorList([rule, *kwargs.get("logits_processor", [])])
        return super().generate(inputs, generation_config=generation_config, **kwargs)

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """`<sop>` and all labels but the last, [B, T]."""
        ids = self.config.token_ids
        shifted = torch.cat([torch.full_like(labels[:, :1], ids["sop"]), labels[:, :-1]], 1)
        return shifted.masked_fill(shifted == IGNORED, ids["eos"])

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        """The new tokens of the fill, and what they are read with."""
        past = kwargs.get("past_key_values")
        read = past is not None and past.get_seq_length() > 0
        taken = ("attention_mask", "encoder_outputs", "past_key_values", "use_cache")
        return {
            "decoder_input_ids": input_ids[:, -1:] if read else input_ids,
            **{name: kwargs[name] for name in taken if name in kwargs},
        }


class OpenGLMForMultipleChoice(OpenGLMForSeq2SeqLM):
    """Ranks answers to texts: the logits are the answers' log-probabilities."""

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        choice_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **options: Any,
    ) -> MultipleChoiceModelOutput:
        """Log-probability in nats of each of C answers, [B, C].

        Args:
            input_ids: [B, S] texts with one blank each, or [B, C, S] one per answer.
            choice_ids: [B, C, T] answers as the tokenizer's `text_target` gives them, -100 or padding
                behind their end.
            labels: [B] number of the right answer.

        Raises:
            InputError: no answers.
        """
        if choice_ids is None:
            raise InputError("give choice_ids: the answers of each text")
        B, C, _ = choice_ids.shape
        if input_ids.dim() == 2:
            input_ids = input_ids[:, None].expand(B, C, -1)
            attention_mask = None if attention_mask is None else attention_mask[:, None].expand(B, C, -1)
        mask = None if attention_mask is None else attention_mask.flatten(0, 1)
        targets = self._without_padding(choice_ids.flatten(0, 1))
        fills = self.prepare_decoder_input_ids_from_labels(targets)
        logits = self.network.logits(self._read(input_ids.flatten(0, 1), mask, fills, None)).float()
        losses = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
        scores = -losses.sum(1).view(B, C)
        loss = None if labels is None else F.cross_entropy(scores, labels)
        return MultipleChoiceModelOutput(loss=loss, logits=scores)

    def _without_padding(self, targets: Tensor) -> Tensor:
        """Everything behind the first end of each answer set to -100."""
        ends = targets == self.config.token_ids["eop"]
        behind = ends.cumsum(1) - ends.long() > 0
        return targets.masked_fill(behind, IGNORED)
