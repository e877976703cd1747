"""Bodies of other people's interfaces: what clients send is read, and what does not matter is passed over.

A field that this server does not know is named in the answer's header `OpenGLM-Ignored`, unless it
would change what is written (a grammar, a penalty, a bias): then the request is refused. So is a name that
looks like a known one misspelt.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import ConfigDict, model_validator

from .errors import refused
from .schemas import Strict

HEADER = "OpenGLM-Ignored"
MOST_NAMES = 16
ALIKE = 0.85  # of two names, the shorter for the longer mostly: above, one is the other misspelt

# What none of the interfaces can do here, with the values that ask for nothing.
CONSTRAINTS: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        ("grammar", "json_schema", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
         "structured_outputs", "logit_bias", "stop_token_ids", "allowed_token_ids", "bad_words", "prompt_embeds",
         "prompt_logprobs", "use_beam_search", "ignore_eos", "images"),
        (None, False, "", [], {}),
    ),
    "response_format": (None, {"type": "text"}),
    "format": (None, ""),
}  # fmt: skip
# What bends the distribution: refused where whoever asks means it, passed over where editors send it by default.
SHAPING: Mapping[str, tuple[Any, ...]] = {
    "min_p": (None, 0),
    "typical_p": (None, 1),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "no_repeat_ngram_size": (None, 0),
}


class Lenient(Strict):
    """A body with fields that are not looked at."""

    model_config = ConfigDict(extra="allow")
    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = CONSTRAINTS

    @model_validator(mode="after")
    def _extra_fields_do_not_matter(self) -> Lenient:
        for name, value in (self.model_extra or {}).items():
            if name in self.unsupported:
                if value not in self.unsupported[name]:
                    raise refused(name, f"{name} is not supported; leave it out", "unsupported_parameter")
            elif name not in CONSTRAINTS and name not in SHAPING:
                near = difflib.get_close_matches(name[:64], type(self).model_fields, n=1, cutoff=ALIKE)
                if near:
                    raise refused(name, f"unknown parameter {name}; did you mean {near[0]}?", "unknown_parameter")
        return self

    @property
    def ignored(self) -> str:
        """Names of the fields that were not looked at, for a header."""
        names = [name for name in self.model_extra or {} if re.fullmatch(r"[\w.-]{1,64}", name, re.ASCII)]
        return ", ".join(names[:MOST_NAMES])
