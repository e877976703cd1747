"""`Infiller`: a model and its tokenizer, ready to fill blanks."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from ..blanks import BlankedText
from ..checks import check_number, check_one_of, named_options
from ..engine.engine import Engine
from ..engine.options import FillKeywords, FillOptions
from ..engine.runners import runner_for
from ..errors import InputError, OpenGLMError, OptionError
from ..network.model import GLMModel
from ..scoring.predict import Scoring
from ..tokenizer import Tokenizer
from .ahead import AHEAD, in_order
from .origin import Origin
from .planning import Planner
from .prompt import Text, numbered
from .request import Request
from .results import Filled, Piece, Scored
from .scoring import ChooseKeywords, Fills, check_choices, prompts_of, rank_answers, score_answers

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Infiller:
    """Fills blanks. It can be pickled if `openglm.load` made it: whoever opens it loads the same model.

    Args:
        model: the network; put into evaluation mode.
        tokenizer: its vocabulary.
        compile: as in `load`.

    Attributes:
        origin: what `load` was given; None for a model from elsewhere.

    Raises:
        OptionError: the vocabulary has more tokens than the model has rows.
    """

    def __init__(self, model: GLMModel, tokenizer: Tokenizer, *, compile: bool = False) -> None:
        if tokenizer.num_tokens > model.config.vocab_size:
            raise OptionError(
                f"the vocabulary has {tokenizer.num_tokens} tokens but the model only {model.config.vocab_size} rows; "
                "give the vocabulary this model was trained with"
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.origin: Origin | None = None
        self._compile = compile
        self._planner = Planner(model, tokenizer)
        self.engine = Engine(runner_for(model, tokenizer.eos, compile=compile))

    # --- filling -----------------------------------------------------------------------

    @overload
    def fill(self, text: Text, **options: Unpack[FillKeywords]) -> Filled: ...  # type: ignore[overload-overlap]

    @overload
    def fill(self, text: Sequence[Text], **options: Unpack[FillKeywords]) -> list[Filled]: ...

    @named_options(FillOptions)
    def fill(self, text: Text | Sequence[Text], **options: Any) -> Filled | list[Filled]:
        """Fill every blank of a text, or of each text in a list.

        Args:
            text: any number of `[MASK]`, `[sMASK]`, `[gMASK]` in it. `BlankedText` keeps
                text from elsewhere from being read as a blank.
            options: the fields of `openglm.FillOptions`, which says what each does.

        Returns:
            One result for a text, a list in the same order for a list. A text gives the
            same result alone and in a list: to the last bit with int8 weights where the kernel for
            attention runs, else up to rounding.

        Raises:
            InputError, UnsupportedBlankError, ContextLengthError: the text cannot be filled.
            OptionError: an unknown option, or one out of range.

        >>> model = openglm.load()
        >>> result = model.fill("The [MASK] of the United States lives in the White House.")
        >>> blank = result.blanks[0]
        >>> result.text[blank.start : blank.end] == blank.text
        True
        """
        chosen = FillOptions(**options)
        if isinstance(text, (str, BlankedText)):
            return self._fill_all([text], chosen)[0]
        return self._fill_all(_listed(text), chosen)

    @overload
    def fill_iter(
        self,
        texts: Iterable[Text],
        *,
        on_error: Literal["raise"] = ...,
        ahead: int = ...,
        **options: Unpack[FillKeywords],
    ) -> Iterator[Filled]: ...

    @overload
    def fill_iter(
        self,
        texts: Iterable[Text],
        *,
        on_error: Literal["return"],
        ahead: int = ...,
        **options: Unpack[FillKeywords],
    ) -> Iterator[Filled | OpenGLMError]: ...

    @named_options(FillOptions)
    def fill_iter(
        self, texts: Iterable[Text], *, on_error: str = "raise", ahead: int = AHEAD, **options: Any
    ) -> Iterator[Filled | OpenGLMError]:
        """Fill texts as they come; results in the same order, each as soon as it is ready.

        Args:
            texts: may be endless.
            on_error: "raise", or "return": what is wrong with a text stands in the place of its
                result, and the others go on.
            ahead: texts read before the first result is waited for, and held at most.
            options: as in `fill`.

        Raises:
            as `fill`.

        >>> model = openglm.load()
        >>> filled, wrong = model.fill_iter(["I come from [MASK] York.", "no blank here"], on_error="return")
        >>> print(wrong)
        no blank in 'no blank here': put [MASK], [sMASK], [gMASK] where text is wanted
        """
        check_one_of("on_error", on_error, ("raise", "return"))
        check_number("ahead", ahead, least=1, whole=True)
        return self._iterate(texts, FillOptions(**options), on_error == "return", ahead)

    @named_options(FillOptions)
    def check(self, text: Text, **options: Unpack[FillKeywords]) -> None:
        """Raise what `fill` would raise for this text and these options, without filling it."""
        self._planner.plan(text, FillOptions(**options))

    @named_options(FillOptions)
    def stream(self, text: Text, **options: Unpack[FillKeywords]) -> Iterator[Piece]:
        """Fill one text and give the pieces of its fills as they are decided.

        The pieces of a blank, put together, are the `Fill.text` that `fill` returns.

        Args:
            text, options: as in `fill`.

        Raises:
            as `fill`; OptionError also for beams or several answers, which have no order
            in which to stream.

        >>> model = openglm.load()
        >>> text = "北京故宫是中国[MASK]非物质文化遗产。"
        >>> "".join(piece.text for piece in model.stream(text)) == model.fill(text).blanks[0].text
        True
        """
        chosen = FillOptions(**options)
        if chosen.num_beams > 1 or chosen.num_return_sequences > 1:
            raise OptionError("stream gives one answer as it is written; leave num_beams and num_return_sequences at 1")
        return self._stream(self._planner.request(self._planner.plan(text, chosen), chosen))

    @named_options(FillOptions)
    def request(self, text: Text, *, top_logprobs: int = 0, **options: Unpack[FillKeywords]) -> Request:
        """One text made ready for the engine, for callers that run `engine` themselves.

        Args:
            text: as in `fill`.
            top_logprobs: note that many of the most probable tokens at every step (`JobOutput.top_logprobs`).
            options: as in `fill`.

        Raises:
            as `fill`.
        """
        chosen = FillOptions(**options)
        return self._planner.request(self._planner.plan(text, chosen), chosen, top_logprobs)

    # --- given answers -----------------------------------------------------------------

    @overload
    def score(  # type: ignore[overload-overlap]
        self, text: Text, fills: Fills, *, truncate: str | None = ...
    ) -> Scored: ...

    @overload
    def score(self, text: Sequence[Text], fills: Sequence[Fills], *, truncate: str | None = ...) -> list[Scored]: ...

    @named_options()
    def score(
        self, text: Text | Sequence[Text], fills: Fills | Sequence[Fills], *, truncate: str | None = None
    ) -> Scored | list[Scored]:
        """Log-probability of given fills of a text, or of each text in a list.

        Args:
            text: with as many blanks as there are fills.
            fills: one string per blank, of any length; a single string for a single blank. For a
                list of texts a list with one such entry per text. A string is scored as the
                vocabulary spells it; a `Fill` (of `Filled.blanks`) in its own tokens, without an
                end if it was cut off.
            truncate: what to drop of a text longer than the context, as in `fill`.

        Raises:
            InputError: fills and blanks, or fills and texts, differ in number; a character that
                the vocabulary cannot spell; and as `fill`.
            ContextLengthError: a fill longer than the model can count.

        >>> model = openglm.load()
        >>> likely, unlikely = model.score(["The United [MASK] of America."] * 2, ["States", "bananas"])
        >>> likely.logprob > unlikely.logprob
        True
        """
        if isinstance(text, (str, BlankedText)):
            return self._score([text], [fills], truncate)[0]  # type: ignore[list-item]
        texts, each = _listed(text), _listed(cast("Sequence[Fills]", fills), "fills")
        if len(texts) != len(each):
            raise InputError(f"{len(each)} fills for {len(texts)} texts; give one entry per text")
        return self._score(texts, each, truncate)

    @overload
    def choose(  # type: ignore[overload-overlap]
        self, text: Text, choices: Sequence[Fills], **options: Unpack[ChooseKeywords]
    ) -> list[Scored]: ...

    @overload
    def choose(
        self, text: Sequence[Text], choices: Sequence[Fills], **options: Unpack[ChooseKeywords]
    ) -> list[list[Scored]]: ...

    @named_options()
    def choose(
        self,
        text: Text | Sequence[Text],
        choices: Sequence[Fills],
        *,
        length_penalty: float = 0.0,
        calibrate: bool = False,
        context: str | None = None,
        ends: bool = True,
        truncate: str | None = None,
    ) -> list[Scored] | list[list[Scored]]:
        """Rank answers to a text, or to each text in a list, the best first.

        Args:
            choices: each a string for a single blank, or one string per blank.
            length_penalty: rank by log-probability / (number of tokens, ends included) **
                length_penalty: 0 the probability of the answer, 1 the mean over its tokens.
            calibrate: rank by how much more probable an answer is here than in an empty
                context. `Scored.logprob` stays as it is.
            context: that empty context: a text with as many blanks. By default the blanks with
                nothing around them.
            ends: count the end of every fill. Without it an answer may go on.
            truncate: what to drop of a text longer than the context, as in `fill`.

        Returns:
            One ranking for a text, a list of them in the same order for a list.

        Raises:
            OptionError: no choices, or options that are wrong or exclude each other. Otherwise
                as `score`.

        >>> model = openglm.load()
        >>> ranked = model.choose("这家餐厅的菜很好吃，总的来说[MASK]。", ["失望", "满意"], calibrate=True)
        >>> [(each.fills, each.index) for each in ranked]
        [(['满意'], 1), (['失望'], 0)]
        """
        scoring = Scoring(length_penalty, calibrate, ends)
        check_choices(choices)
        one = isinstance(text, (str, BlankedText))
        texts = [text] if isinstance(text, (str, BlankedText)) else _listed(text)
        prompts = prompts_of(texts, self.tokenizer, self.model, truncate)
        ranked = rank_answers(self.model, self.tokenizer, prompts, choices, scoring, context=context)
        return ranked[0] if one else ranked

    # --- copies ------------------------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        if self.origin is None:
            raise InputError(
                "only an Infiller that openglm.load made can be pickled, as what it was loaded from; write this model "
                "to a folder (openglm.checkpoints.native.save_model), and load and pickle that one"
            )
        self.origin.check(self.model)
        return _load, (self.origin.name_or_path, self.origin.options)

    def __copy__(self) -> Infiller:
        """The same weights, with an engine of its own."""
        other = Infiller(self.model, self.tokenizer, compile=self._compile)
        other.origin = self.origin
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Infiller:
        """Weights of its own."""
        other = Infiller(copy.deepcopy(self.model, memo), self.tokenizer, compile=self._compile)
        if self.origin is not None:
            self.origin.check(self.model)
            other.origin = self.origin.marked(other.model)
        return other

    # --- how ---------------------------------------------------------------------------

    def _score(self, texts: Sequence[Text], fills: Sequence[Fills], truncate: str | None) -> list[Scored]:
        prompts = prompts_of(texts, self.tokenizer, self.model, truncate)
        each = score_answers(self.model, self.tokenizer, prompts, [[own] for own in fills])
        return [scored for (scored,) in each]

    def _stream(self, request: Request) -> Iterator[Piece]:
        job = request.job
        self.engine.submit(job)
        try:
            while not job.done or job.events:
                if not job.events:
                    self.engine.step(job)
                    continue
                yield from request.pieces()
        finally:
            self.engine.cancel(job)
        if job.error is not None:
            raise job.error

    def _fill_all(self, texts: Sequence[Text], options: FillOptions) -> list[Filled]:
        plans = numbered(texts, lambda text: self._planner.plan(text, options))  # all errors before anything is decoded
        requests = (self._planner.request(plan, options) for plan in plans)
        return [result for result in in_order(self.engine, requests, AHEAD) if isinstance(result, Filled)]

    def _iterate(
        self, texts: Iterable[Text], options: FillOptions, returns: bool, ahead: int
    ) -> Iterator[Filled | OpenGLMError]:
        def asked() -> Iterator[Request | OpenGLMError]:
            for number, text in enumerate(texts, 1):
                try:
                    yield self._planner.request(self._planner.plan(text, options), options)
                except OpenGLMError as error:
                    if not returns:
                        raise type(error)(f"text {number}: {error}") from error
                    yield error

        return in_order(self.engine, asked(), ahead, returns=returns)


def _listed(values: Iterable[Any], what: str = "texts") -> list[Any]:
    if isinstance(values, (bytes, dict)) or not isinstance(values, Iterable):
        raise InputError(f"{what} must be text or a list, not {values!r:.80}")
    return list(values)


def _load(name_or_path: str, options: dict[str, Any]) -> Infiller:
    from .loading import load

    return load(name_or_path, **options)
