"""Every reason in the table comes out of a real run or call, and names something to do."""

import json
import re

import pytest
import torch
from motioncache_pack.motioncache_core.common.phrases import as_data
from motioncache_pack.motioncache_core.common.reasons import (
    REASONS,
    Reason,
    because,
    code_of,
    prefixed,
)
from motioncache_pack.motioncache_core.report.report_json import as_json
from motioncache_pack.motioncache_core.report.report_text import text
from motioncache_pack.motioncache_core.report.run_summary import RunSummary
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.runs import Run, Steady
from motioncache_pack.tests.core.small_wan import TEXT_DIM, TEXT_TOKENS, small_wan
from motioncache_pack.tests.nodes import reason_makers
from motioncache_pack.tests.nodes.reason_makers_foreign import FOREIGN, INSIDE_FOREIGN, INSIDE_RUN
from motioncache_pack.tests.nodes.reason_makers_states import BESIDE, INSIDE_STATES, STATES
from motioncache_pack.tests.support.chinese import chinese, put
from motioncache_pack.tests.support.node_runs import foretold

CHINESE = {**chinese("reasons"), **chinese("report")}
MAKERS = {**reason_makers.MAKERS, **STATES, **FOREIGN}
INSIDE = {**reason_makers.INSIDE, **INSIDE_STATES, **INSIDE_FOREIGN}

# what a sentence's second part may begin with
VERBS = {
    "Choose", "Compile", "Connect", "Leave", "Lower", "Raise", "Remove", "Sample", "Set", "Switch",
    "Use",
}  # fmt: skip

ALL = {**MAKERS, "beside the model": BESIDE}


pytestmark = pytest.mark.usefixtures("no_gradients")


def test_every_reason_has_a_maker():
    made = [code for makers in (*ALL.values(), INSIDE, INSIDE_RUN) for code in makers]
    assert sorted(made) == sorted(REASONS)


@pytest.mark.parametrize("place", ALL)
def test_runs_tell_their_reason(pack, monkeypatch, place):
    for code, make in ALL[place].items():
        with monkeypatch.context() as patch:
            made = make(pack, patch)
        if isinstance(made, str):
            assert REASONS[code].action in made, code
            continue
        told = {reason["code"]: reason for reason in RunSummary(made).reasons}
        assert code in told
        sentence = told[code]["sentence"]
        # one place makes the sentence, and log, text and JSON say it alike
        assert REASONS[code].action.partition("{")[0] in sentence, code
        assert sentence in text(made), code
        in_chinese(code, sentence)
        assert told[code] in json.loads(as_json(made))["reasons"]
        assert "{" not in sentence, code
        why = RunSummary(made).why
        assert why is None or code_of(why), code


def in_chinese(code, sentence):
    """A page can say all of it in its language, but for names and what other code says."""
    data = as_data(sentence)
    assert put(data, {}).lower() == sentence.lower(), code
    english = re.findall(r"[a-z]+ [a-z]+ [a-z]+", put(data, CHINESE))
    assert english == [] or "{error}" in REASONS[code].happened, code


@pytest.mark.parametrize("code", INSIDE)
def test_runs_tell_why_their_tokens_are_unknown(pack, monkeypatch, code):
    trace = INSIDE[code](pack, monkeypatch)
    (why, computed), template = foretold(trace), REASONS[code]
    assert computed == round(0.4 * len(trace.evaluations))
    # what is filled in is different in every run
    for part in re.split(r"\{\w+\}", template.happened):
        assert part in why
    assert why.endswith(template.action[0].lower() + template.action[1:])
    assert f"Note: {why}" in text(trace)
    in_chinese(code, why)
    (told,) = [r for r in json.loads(as_json(trace))["reasons"] if r["sentence"] == why]
    assert told == {"code": "tokens_unknown", "sentence": why, "calls": 0}


@pytest.mark.parametrize("code", INSIDE_RUN)
def test_runs_tell_why_their_tokens_are_lost(pack, monkeypatch, code):
    trace, template = INSIDE_RUN[code](pack, monkeypatch), REASONS[code]
    (why,) = [remark for remark in trace.remarks if code_of(remark) == "tokens_lost"]
    assert template.happened in why and f"Note: {why}" in text(trace)
    assert why.endswith(template.action[0].lower() + template.action[1:])


def test_every_reason_says_what_to_do():
    for code, template in REASONS.items():
        assert template.action.split()[0].rstrip(":,") in VERBS, code
        assert not template.happened.endswith("."), code
        assert not template.action.endswith("."), code


def test_a_code_or_fact_that_is_missing_is_an_error():
    with pytest.raises(KeyError):
        because("no such code")
    with pytest.raises(KeyError):
        because("few_steps", steps=3)


def test_sentences_are_text_with_a_code():
    reason = because("few_steps", steps=6, most=8)
    assert isinstance(reason, Reason)
    assert f"{reason}." == "".join([*reason, "."])
    assert (code_of(reason), code_of("something else")) == ("few_steps", "")
    assert f"{reason.happened}. {reason.action}" == reason
    told = prefixed("On gpu: ", reason)
    assert told == f"On gpu: {reason}" == f"{told.happened}. {told.action}"
    assert code_of(told) == "few_steps" and prefixed("On gpu: ", "words") == "On gpu: words"


def test_a_declined_branch_beside_a_cached_one_is_told_and_counted(pack):
    run = Run(
        small_wan(),
        MotionCacheSettings(warmup_steps=1, reuse_threshold=0.5, policy="chunk"),
        profile=Steady(0.1),
    )
    for step in range(4):
        x, said = torch.randn(1, 16, 3, 4, 4), torch.randn(1, TEXT_TOKENS, TEXT_DIM)
        run.call(x, 900 - 90 * step, said, ("a",), {"ar_state": {}})
        run.call(x, 900 - 90 * step, said, ("b",))
    run.session.close()
    assert RunSummary(run.trace).why is None
    (found,) = [r for r in RunSummary(run.trace).reasons if r["code"] == "autoregressive"]
    assert found["calls"] == 4
    # of eight calls three are reused, whichever came first
    assert json.loads(as_json(run.trace))["totals"]["compute_share"] == 5 / 8
    assert "Note: the autoregressive sampler" in text(run.trace)
