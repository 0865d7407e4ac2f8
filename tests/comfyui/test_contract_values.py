"""The stand-in against the real ComfyUI: clones, life cycle, numbers."""

import pytest
import torch

pytestmark = pytest.mark.comfy


# clones and the life cycle


def test_clone_copies_the_structure_and_shares_the_leaves(same, toy, current):
    class Leaf:
        pass

    def facts(host):
        patcher, leaf = toy(host), Leaf()
        options = patcher.model_options["transformer_options"]
        options["mine"] = {"leaf": leaf, "list": [{"deep": 1}]}
        patcher.add_wrapper_with_key("apply_model", "a", print)
        patcher.add_callback_with_key("on_cleanup", "a", print)
        patcher.set_attachments("mine", leaf)
        clone = patcher.clone()
        changed = clone.model_options["transformer_options"]["mine"]
        changed["more"], changed["list"][0]["deep"] = 1, 2
        clone.add_wrapper_with_key("apply_model", "a", print)
        clone.add_wrapper_with_key("apply_model", "b", print)
        clone.add_callback_with_key("on_cleanup", "a", print)
        clone.set_model_patch(print, "double_block")
        clone.add_object_patch("latent_format", leaf)
        clone.set_attachments("other", leaf)
        return {
            "model shared": clone.model is patcher.model,
            "leaf shared": changed["leaf"] is leaf,
            "attachment shared": clone.get_attachment("mine") is leaf,
            "parent options": options == {"mine": {"leaf": leaf, "list": [{"deep": 1}]}},
            "parent wrappers": patcher.wrappers == {"apply_model": {"a": [print]}},
            "parent callbacks": patcher.callbacks == {"on_cleanup": {"a": [print]}},
            "parent objects": patcher.object_patches == {},
            "parent attachments": patcher.get_attachment("other") is None,
            "is_clone": clone.is_clone(patcher),
            "object": clone.get_model_object("latent_format") is leaf,
        }

    found = same(facts)
    assert all(found.values()), found


def test_clone_hands_an_attachment_the_chance_to_copy_itself(same, toy):
    class Attachment:
        def on_model_patcher_clone(self):
            return "a copy"

    def facts(host):
        patcher, heard = toy(host), []
        patcher.set_attachments("mine", Attachment())
        patcher.add_callback_with_key("on_clone", "a", lambda *args: heard.append(len(args)))
        return patcher.clone().get_attachment("mine"), heard

    assert same(facts) == ("a copy", [2])


def test_block_replacement_has_one_slot_and_leaves_earlier_dicts_alone(same, toy):
    def facts(host):
        patcher = toy(host)
        patcher.set_model_patch_replace("first", "dit", "double_block", 0)
        before = patcher.model_options["transformer_options"]["patches_replace"]["dit"]
        patcher.set_model_patch_replace("second", "dit", "double_block", 0)
        after = patcher.model_options["transformer_options"]["patches_replace"]["dit"]
        return before, after

    key = ("double_block", 0)
    assert same(facts) == ({key: "first"}, {key: "second"})


def test_object_patch_stays_in_the_shared_model_until_the_next_load(same, toy, run):
    def facts(host):
        base = toy(host)
        original = base.get_model_object("model_sampling")
        patched, other = base.clone(), type(original)(base.model.model_config)
        patched.add_object_patch("model_sampling", other)
        run(host, patched, steps=1)
        during = (
            base.model.model_sampling is other,
            base.get_model_object("model_sampling") is original,
        )
        run(host, base, steps=1)
        return *during, base.model.model_sampling is original

    assert same(facts) == (True, True, True)


def test_patch_objects_are_moved_on_load_and_cleaned_up_after(same, toy, run, current):
    class Patch:
        def __init__(self):
            self.heard = []

        def __call__(self, args, extra):
            return extra["original_block"](args)

        def to(self, target):
            self.heard.append(type(target).__name__)
            return self

        def cleanup(self):
            self.heard.append("cleanup")

    def facts(host):
        patcher, patch = toy(host), Patch()
        patcher.set_model_patch_replace(patch, "dit", "double_block", 0)
        run(host, patcher, steps=1)
        return (
            patch.heard[:1] + patch.heard[-1:],
            "dtype" in patch.heard,
            patch.heard.count("cleanup"),
        )

    assert same(facts) == (["device", "cleanup"], True, 1)


def test_interrupt_stops_the_run_is_reset_and_cleanup_still_happens(same, tiny, run, current):
    def facts(host):
        patcher, heard = tiny(host), []
        management = host.model_management

        def outer(executor, *args, **kwargs):
            try:
                return executor(*args, **kwargs)
            finally:
                heard.append("outer finally")

        def stop_at_second(executor, *args, **kwargs):
            heard.append("step")
            if heard.count("step") == 2:
                management.interrupt_current_processing()
            return executor(*args, **kwargs)

        patcher.add_wrapper_with_key("outer_sample", "t", outer)
        patcher.add_wrapper_with_key("predict_noise", "t", stop_at_second)
        patcher.add_callback_with_key("on_cleanup", "t", lambda p: heard.append("cleanup"))
        with pytest.raises(management.InterruptProcessingException):
            run(host, patcher, steps=4)
        left = management.processing_interrupted(), patcher.model.current_patcher
        return heard, *left, issubclass(management.InterruptProcessingException, Exception)

    heard, pending, current_patcher, is_exception = same(facts)
    assert heard == ["step", "step", "cleanup", "outer finally"]
    assert not pending
    assert current_patcher is None
    assert not is_exception


def test_an_exception_in_prepare_sampling_skips_the_cleanup_callback(same, toy, run):
    def facts(host):
        patcher, heard = toy(host), []

        def fail(executor, *args, **kwargs):
            raise ValueError("no")

        patcher.add_wrapper_with_key("prepare_sampling", "t", fail)
        patcher.add_callback_with_key("on_cleanup", "t", lambda p: heard.append("cleanup"))
        with pytest.raises(ValueError, match="no"):
            run(host, patcher, steps=1)
        return heard

    assert same(facts) == []


# numbers


@pytest.mark.parametrize(
    ("sampler", "case"),
    [
        ("heun", "plain"), ("euler", "cfg 1"), ("euler", "image"), ("heun", "mask"),
        ("euler", "part"),
    ],
)  # fmt: skip
def test_latents_of_a_toy_network_are_equal(standin, host, toy, run, sampler, case):
    def latent(host):
        kwargs = {"cfg": 1.0 if case == "cfg 1" else 5.0, "steps": 6, "sampler": sampler}
        image = torch.randn(host.latent().shape, generator=torch.Generator().manual_seed(5))
        if case in ("image", "mask"):
            kwargs |= {"latent": image, "denoise": 0.5}
        if case == "mask":
            kwargs["noise_mask"] = (image[:, :1] > 0).float()
        if case == "part":
            kwargs |= {"start_step": 1, "last_step": 4, "force_full_denoise": True}
        return run(host, toy(host), **kwargs)

    mine, theirs = latent(standin), latent(host)
    assert theirs.std() > 0.1
    assert torch.equal(mine, theirs)


def test_cases_of_the_comparison_above_differ(standin, toy, run):
    cases = (6, 5.0, "euler"), (6, 1.0, "euler"), (6, 5.0, "heun"), (5, 5.0, "euler")
    outs = [
        run(standin, toy(standin), steps=steps, cfg=cfg, sampler=sampler).double().sum().item()
        for steps, cfg, sampler in cases
    ]
    assert len(set(outs)) == len(outs)


def test_sampler_and_guider_called_directly(standin, host, toy):
    def latent(host):
        patcher = toy(host)
        guider = host.guider(patcher, host.text(1), host.text(2), cfg=3.0)
        noise, sigmas = host.sample.prepare_noise(host.latent(), 3), host.sigmas(patcher, 5)
        first = guider.sample(noise, host.latent(), host.samplers.ksampler("euler"), sigmas, seed=3)
        second = host.sample.sample_custom(
            patcher, noise, 3.0, host.samplers.ksampler("euler"), sigmas,
            host.text(1), host.text(2), host.latent(), disable_pbar=True, seed=3,
        )  # fmt: skip
        assert torch.equal(first, second)
        return first

    assert torch.equal(latent(standin), latent(host))


def test_flow_schedule(same):
    class Config:
        sampling_settings = {"shift": 8.0}  # noqa: RUF012

    def facts(host):
        flow = host.model_sampling.ModelSamplingDiscreteFlow(Config())
        percents = [float(flow.percent_to_sigma(p)) for p in (0.0, 0.1, 0.5, 0.95, 1.0)]
        steps = {
            n: host.samplers.calculate_sigmas(flow, "simple", n).tolist() for n in (1, 7, 20, 50)
        }
        ends = float(flow.sigma_min), float(flow.sigma_max), float(flow.timestep(flow.sigma_max))
        return percents, steps, ends, flow.shift, flow.multiplier, flow.sigmas.tolist()

    percents, steps, *_ = same(facts)
    assert percents == sorted(percents, reverse=True)
    assert len(steps[7]) == 8


def test_flow_arithmetic(same):
    def facts(host):
        flow, sigma = host.model_sampling.CONST(), torch.tensor([0.7, 0.2])
        generator = torch.Generator().manual_seed(0)
        a, b = torch.randn(2, 2, 3, 1, 2, 2, generator=generator)
        one = sigma[:1]
        outs = [flow.calculate_denoised(sigma, a, b), flow.noise_scaling(one, a, b)]
        outs += [flow.inverse_noise_scaling(one, a), flow.calculate_input(sigma, a)]
        with pytest.raises(RuntimeError):
            flow.calculate_denoised(torch.ones(2, 1).expand(2, 3), a, b)
        return [out.tolist() for out in outs]

    assert len(same(facts)) == 4


def test_wan_latent_format(same):
    def facts(host):
        wan = host.latent_formats.Wan21()
        latent = torch.randn(1, 16, 2, 3, 3, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(wan.process_out(wan.process_in(latent)), latent, atol=1e-5)
        sizes = wan.latent_channels, wan.latent_dimensions
        return wan.process_in(latent).tolist(), wan.process_out(latent).tolist(), *sizes

    assert same(facts)[2:] == (16, 3)


def test_empty_latent_takes_the_models_channels(same, toy):
    def facts(host):
        patcher = toy(host)
        fix = host.sample.fix_empty_latent_channels
        shapes = (1, 4, 3, 8, 8), (1, 16, 8, 8), (1, 4, 8, 8)
        return [tuple(fix(patcher, torch.zeros(shape)).shape) for shape in shapes]

    assert same(facts) == [(1, 16, 3, 8, 8), (1, 16, 1, 8, 8), (1, 16, 1, 8, 8)]


def test_progress_bar_tells_its_hook(same):
    def facts(host):
        heard, utils = [], host.utils
        previous = utils.PROGRESS_BAR_HOOK
        utils.set_progress_bar_global_hook(
            lambda *args, node_id=None: heard.append((*args, node_id))
        )
        try:
            bar = utils.ProgressBar(4, node_id="7")
            bar.update_absolute(1)
            bar.update_absolute(9, preview="picture")
        finally:
            utils.set_progress_bar_global_hook(previous)
        return heard

    assert same(facts) == [(1, 4, None, "7"), (4, 4, "picture", "7")]
