"""Fill the texts of a table, whatever kind of table: the step for one's own pipeline.

`FillColumns` is called with a batch and gives it back with columns added. A batch is a mapping of
columns (Ray Data, `datasets.map(batched=True)`) or a pandas DataFrame (Dask, Spark's
`mapInPandas`). It can be sent to a worker: the model is loaded there, when it is first needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..engine.options import FillOptions
from ..errors import OpenGLMError, OptionError
from ..infill.infiller import Infiller
from ..infill.loading import load


class FillColumns:
    """Adds what a model writes into the blanks of a column.

    Args:
        model: as in `openglm.load`.
        text: the column of texts with blanks.
        filled, logprob, error: columns to add: the filled text, its log-probability in nats, and
            what is wrong with a text; None for none of that kind. A row with an error has
            no filled text, and the others are filled all the same.
        load_options: of `openglm.load`.
        options: of `Infiller.fill`.

    Raises:
        OptionError: a wrong option, or, when called, a batch without the column.

    >>> step = FillColumns(text="sentence", max_new_tokens=4)
    >>> batch = step({"sentence": ["I come from [MASK] York."], "id": [7]})
    >>> sorted(batch)
    ['error', 'filled', 'id', 'logprob', 'sentence']
    """

    def __init__(
        self,
        model: str = "default",
        *,
        text: str = "text",
        filled: str | None = "filled",
        logprob: str | None = "logprob",
        error: str | None = "error",
        load_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        FillOptions(**options)  # wrong options are reported here, not on a worker
        self._model, self._text, self._options = model, text, options
        self._names = (filled, logprob, error)
        self._load_options = dict(load_options or {})
        self._infiller: Infiller | None = None

    def __call__(self, batch: Any) -> Any:
        """The batch with its new columns."""
        if self._text not in batch:
            raise OptionError(f"the batch has no column {self._text!r}; it has {', '.join(map(str, batch))}")
        if self._infiller is None:
            self._infiller = load(self._model, **self._load_options)
        texts = [str(text) for text in batch[self._text]]
        results = list(self._infiller.fill_iter(texts, on_error="return", **self._options))
        values: tuple[list[Any], ...] = (
            [None if isinstance(result, OpenGLMError) else result.text for result in results],
            [None if isinstance(result, OpenGLMError) else result.logprob for result in results],
            [str(result) if isinstance(result, OpenGLMError) else None for result in results],
        )
        added = {name: column for name, column in zip(self._names, values, strict=True) if name is not None}
        if hasattr(batch, "assign"):
            return batch.assign(**added)
        return {**batch, **added}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_infiller": None}
