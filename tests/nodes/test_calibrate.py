"""The calibrate node: it changes no picture, and MotionCache finds what it wrote."""

import importlib
import json
import logging

import pytest
import torch
from motioncache_pack.motioncache_core import (
    ConflictError,
    MotionCacheSettings,
    ProfileError,
    UnsupportedModelError,
)
from motioncache_pack.motioncache_core.report.report_json import summary
from motioncache_pack.motioncache_core.report.report_text import text
from motioncache_pack.tests.support.node_runs import MIXED, STEPS, marks, network_of, options_of


@pytest.fixture
def models(pack, monkeypatch, tmp_path):
    """ComfyUI's models folder, empty; `models.profiles()` lists the files below."""
    monkeypatch.setattr(importlib.import_module("folder_paths"), "models_dir", str(tmp_path))
    return Models(tmp_path)


class Models:
    def __init__(self, path):
        self.folder = path / "motioncache"

    def profiles(self):
        return sorted(self.folder.iterdir()) if self.folder.exists() else []

    def change(self, **fields):
        """Other fields in the only profile there is."""
        (file,) = self.profiles()
        file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | fields), "utf-8")
        return file


def calibrate(pack, model=None):
    (recorded,) = pack.execute("MotionCacheCalibrate", pack.wan() if model is None else model)
    return recorded


@pytest.fixture
def calibrated(pack, models):
    """A profile of the small model is there."""
    pack.sample(calibrate(pack))
    (file,) = models.profiles()
    return file


def test_a_recorded_run_is_bit_identical_and_leaves_the_model_as_it_was(pack, models):
    model = pack.wan()
    pack.sample(model, steps=1)
    before = options_of(model), network_of(model)
    recorded = calibrate(pack, model)
    assert (options_of(model), network_of(model)) == before
    own = options_of(recorded)
    assert torch.equal(pack.sample(recorded), pack.sample(pack.wan()))
    assert options_of(recorded) == own
    assert (options_of(model), network_of(model)) == before
    assert len(models.profiles()) == 1


def test_the_file_says_what_was_recorded_in_one_batch_or_two_calls(
    pack, models, monkeypatch, caplog
):
    model = pack.wan()
    with caplog.at_level(logging.INFO):
        pack.sample(calibrate(pack, model))
    (file,) = models.profiles()
    assert f"{STEPS} evaluations recorded, profile written to {file}" in caplog.text
    data = json.loads(file.read_text("utf-8"))
    sigmas = pack.host.sigmas(model, STEPS).tolist()
    assert data["sigmas"] == pytest.approx(sigmas[:-1], abs=1e-4)
    assert data["end"] == sigmas[-1] == 0
    assert data["fingerprint"] in file.name and data["model"] == "Wan 128 wide, 2 blocks"
    for name in ("output_change", "input_change", "embedding_change"):
        assert len(data[name]) == STEPS - 1 and all(v > 0 for v in data[name])
    pack.host.run_short_of_memory(monkeypatch)
    pack.sample(calibrate(pack))
    assert models.profiles() == [file]
    apart = json.loads(file.read_text("utf-8"))
    for name in ("output_change", "input_change", "embedding_change"):
        assert apart[name] == pytest.approx(data[name], rel=1e-4)


def test_motioncache_finds_the_profile_and_says_so(pack, calibrated):
    _, trace = pack.cached()
    assert calibrated.name in trace.distance
    assert trace.distance.startswith("calibrated profile (Wan 128 wide, 2 blocks")
    words = text(trace)
    assert f"the profile {calibrated.name}" in words and "not calibrated" not in words
    recorded = json.loads(calibrated.read_text("utf-8"))["output_change"]
    found = [e.chunks[0].distance for e in trace.evaluations]
    # the same levels: the distances are those that were recorded
    assert found[0] is None and found[1:] == pytest.approx(recorded, rel=1e-3)


def test_without_a_profile_the_report_says_what_is_not_calibrated(pack, models):
    _, trace = pack.cached()
    assert trace.distance == "input change"
    assert "Chosen: the presets' thresholds are not calibrated for this model" in text(trace)


def test_another_model_does_not_find_it(pack, calibrated):
    patched, handle = pack.patch(pack.wan(seed=3))
    pack.sample(patched)
    assert handle.latest.distance == "input change"


def test_another_dtype_finds_it(pack, calibrated):
    identify = importlib.import_module("motioncache_pack.nodes.host.profiles").identify
    model = pack.wan()
    wanted = identify(model)
    model.model.diffusion_model.to(torch.bfloat16)
    assert identify(model) == wanted and wanted in calibrated.name


def test_a_wrong_file_is_an_error_before_anything_is_sampled(pack, models, calibrated):
    file = models.change(fingerprint="f" * 16)
    patched, handle = pack.patch(pack.wan())
    before = options_of(patched)
    with pytest.raises(ProfileError, match="another model") as error:
        pack.sample(patched)
    assert str(file) in str(error.value)
    assert options_of(patched) == before and handle.latest is None
    file.unlink()
    pack.sample(patched)
    assert handle.latest.distance == "input change"


def test_two_files_of_one_model_are_an_error(pack, models, calibrated):
    calibrated.with_name(f"mine-{calibrated.name}").write_bytes(calibrated.read_bytes())
    with pytest.raises(ProfileError, match=r"2 profiles: .*Keep one"):
        pack.cached()
    recorded, calls = calibrate(pack), []
    recorded.model.diffusion_model.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(ProfileError, match=r"2 profiles: .*Keep one"):
        pack.sample(recorded)
    assert calls == []


def test_a_renamed_file_is_found_and_replaced(pack, models, calibrated):
    mine = calibrated.rename(calibrated.with_name(f"mine-{calibrated.name}"))
    _, trace = pack.cached()
    assert mine.name in trace.distance
    pack.sample(calibrate(pack), steps=9)
    assert models.profiles() == [mine]
    assert len(json.loads(mine.read_text("utf-8"))["sigmas"]) == 9


def test_a_run_beyond_the_recording_does_not_use_it(pack, models, calibrated):
    models.change(end=0.05)
    _, trace = pack.cached()
    assert calibrated.name in trace.distance
    rows = {n: [0.1] * 5 for n in ("output_change", "input_change", "embedding_change")}
    models.change(sigmas=[0.5, 0.4, 0.3, 0.2, 0.1, 0.05], end=0.0, **rows)
    _, trace = pack.cached()
    assert trace.distance == "input change"
    assert any("is not used" in why and calibrated.name in why for why in trace.why)


def broken(pack, recorded, how):
    """Keyword arguments of a run that breaks half way, and its error."""
    interrupt = pack.host.model_management.InterruptProcessingException
    if how == "callback":

        def callback(step, *_):
            if step == 8:
                raise interrupt

        return {"callback": callback}, interrupt
    calls = []

    def hook(*_):
        calls.append(1)
        if len(calls) == 9:
            raise OSError("the disk is gone")

    recorded.model.diffusion_model.blocks[1].register_forward_pre_hook(hook)
    return {}, OSError


@pytest.mark.parametrize("how", ["callback", "error in a block"])
def test_a_broken_recording_leaves_no_file_and_no_patch(pack, models, monkeypatch, how):
    calibration = importlib.import_module("motioncache_pack.motioncache_core.engine.calibration")
    seen = []
    close = calibration.Recorder.close

    def watched(self):
        seen.append((self, len(self._branches)))
        close(self)

    monkeypatch.setattr(calibration.Recorder, "close", watched)
    recorded, restored = calibrate(pack), []

    def outermost(executor, *args, **kwargs):
        guider, options = executor.class_obj, executor.class_obj.model_options
        try:
            return executor(*args, **kwargs)
        finally:
            # the host restores its own only after the wrappers
            restored.append(guider.model_options is options)

    kind = pack.host.patcher_extension.WrappersMP.OUTER_SAMPLE
    recorded.wrappers[kind] = {"probe": [outermost], **recorded.wrappers[kind]}
    before = options_of(recorded)
    given, error = broken(pack, recorded, how)
    with pytest.raises(error):
        pack.sample(recorded, **given)
    assert models.profiles() == []
    assert options_of(recorded) == before and restored == [True]
    ((recorder, branches),) = seen
    assert branches == 2 and recorder._branches == {}


def test_a_run_too_short_writes_nothing_and_says_so(pack, models, caplog):
    steps = 5
    with caplog.at_level(logging.INFO):
        out = pack.sample(calibrate(pack), steps=steps)
    assert torch.equal(out, pack.sample(pack.wan(), steps=steps))
    assert models.profiles() == []
    assert "no profile was written: the run has fewer than 6" in caplog.text


def test_a_folder_that_cannot_be_written_costs_no_run(pack, models, caplog):
    models.folder.write_text("in the way", "utf-8")
    with caplog.at_level(logging.INFO):
        out = pack.sample(calibrate(pack))
    assert torch.equal(out, pack.sample(pack.wan()))
    assert "cannot be written" in caplog.text


def test_a_sampler_that_evaluates_levels_twice_is_recorded(pack, models):
    pack.sample(calibrate(pack), sampler="heun")
    (file,) = models.profiles()
    assert len(json.loads(file.read_text("utf-8"))["sigmas"]) == STEPS


def test_a_cache_and_a_recording_do_not_go_together(pack, models):
    patched, _ = pack.patch(pack.wan())
    with pytest.raises(ConflictError, match=r"MotionCache is on this model.*Bypass MotionCache"):
        calibrate(pack, patched)
    recorded = calibrate(pack)
    with pytest.raises(ConflictError, match=r"Calibrate is on this model.*Bypass"):
        pack.patch(recorded)
    with pytest.raises(ConflictError, match="already has MotionCache Calibrate"):
        calibrate(pack, recorded)
    recorded.model_options["transformer_options"]["easycache"] = object()
    with pytest.raises(ConflictError, match=r"EasyCache.*is on this model"):
        pack.sample(recorded)
    assert models.profiles() == []


def test_diffusion_forcing_is_not_recorded(pack, models):
    (sampler,) = pack.execute(
        "MotionCacheDiffusionForcing",
        chunk_frames=3,
        chunk_delay=2,
        solver="euler",
        attention="bidirectional",
    )
    recorded = calibrate(pack)
    guider = pack.host.guider(recorded, pack.host.text(1), pack.host.text(2))
    noise = torch.zeros(1, 16, 6, 8, 8)
    with pytest.raises(UnsupportedModelError, match=r"diffusion-forcing.*KSampler"):
        guider.sample(noise, noise.clone(), sampler, pack.host.sigmas(recorded, 9), seed=1)
    assert models.profiles() == []


def test_a_preset_is_resolved_for_the_run_and_settings_are_not(pack, models):
    patched, handle = pack.execute("MotionCachePatcher", pack.wan(), "motion")
    pack.sample(patched, steps=12)
    data = summary(handle.latest)
    assert data["preset"] == "motion" and data["settings"]["warmup_steps"] == 1
    assert "Preset: motion (warmup_steps 1" in text(handle.latest)
    assert any("warmup_steps 1 instead of 2" in why for why in data["why"])
    assert marks(handle.latest)[2:] != "D" * 10
    chosen = MotionCacheSettings(**MIXED)
    patched, handle = pack.execute("MotionCachePatcher", pack.wan(), "balanced", chosen)
    pack.sample(patched, steps=12)
    data = summary(handle.latest)
    assert data["preset"] is None and data["settings"] == chosen.as_dict()
