"""The import paths of FlagAI's GLM, as thin adapters over openglm.

Scripts written against FlagAI's GLM classes, tokenizers and predictor run as they are; what
FlagAI has beyond GLM is refused with an ImportError that says what there is. Importing this
package prints nothing and imports no torch.
"""

from __future__ import annotations

from ._coverage import COVERED, refuse_other_modules

__all__ = ["COVERED", "__version__"]
__version__ = "0.1.0"

refuse_other_modules()
