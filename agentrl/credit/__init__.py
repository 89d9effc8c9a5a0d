"""Credit assignment: episodes in, an advantage for every turn out. numpy only, float64 throughout.

    build({"preset": "gigpo"}).run(episodes) -> CreditResult

`stages.py` says what a method's file must look like, `pipeline.py` how the stages are chained. Nothing
here reads a model: what depends on one (log-probs of the gold answer, entropies) comes with the episodes.
"""

from agentrl.credit.batch import Batch
from agentrl.credit.pipeline import Pipeline, build
from agentrl.credit.result import ChannelCredit, CreditResult
from agentrl.credit.spread import spread

__all__ = ["Batch", "ChannelCredit", "CreditResult", "Pipeline", "build", "spread"]
