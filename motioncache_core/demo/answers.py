"""Whole evaluations foretold where a network's output is the velocity, as the demo model's is."""

from __future__ import annotations

from torch import Tensor

from ..engine.answers.answer_session import AnswerSession
from ..models.adapter import ModelFacts
from ..models.wan import WAN
from ..sampling.answer_call import AnswerCall
from ..sampling.model_call import ModelCall


class VelocityAnswers:
    """Takes a network's calls to a session that knows clean latents."""

    def __init__(self, session: AnswerSession) -> None:
        self._session = session
        self._sigma: float | None = None

    def evaluate(self, call: ModelCall) -> Tensor:
        """The velocity, computed or foretold; calls at one noise level are one evaluation."""
        facts: ModelFacts = WAN.facts(call.network)
        video = WAN.video(call.x)
        x, sigma = video[:, : facts.out_channels], float(call.timestep[0]) / WAN.timestep_scale
        if sigma != self._sigma:
            self._session.begin(sigma)
            self._sigma = sigma
        made: list[tuple[Tensor, Tensor]] = []

        def run() -> Tensor:
            velocity = call.run(dict(call.options))
            clean = x - sigma * velocity
            made.append((clean, velocity))
            return clean

        size = (x.shape[1], x.shape[2], x.shape[3], x.shape[4])
        clean = self._session.evaluate(
            AnswerCall(call.network, run, x, call.branches, size, facts.patch, WAN.name)
        )
        if made and clean is made[0][0]:
            # as the network gave it, to the bit
            return made[0][1]
        return (x - clean) / sigma
