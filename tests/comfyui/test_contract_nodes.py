"""The stand-in against the real ComfyUI: node schemas, what the server tells, outputs, previews."""

import dataclasses
import inspect

import pytest
import torch
from motioncache_pack.tests.support import fake_comfy

pytestmark = pytest.mark.comfy


@pytest.fixture
def apis(host):
    from comfy_api import latest

    return fake_comfy.comfy_api.latest, latest


TYPES = ["Model", "Latent", "Image", "Mask", "Conditioning", "Vae", "Sampler", "Sigmas", "Guider",
         "Noise", "Boolean", "Int", "Float", "String", "Combo"]  # fmt: skip


def test_input_and_output_parameters(apis, current):
    def facts(io, name):
        kind = io.Custom("MINE") if name == "Custom" else getattr(io, name)
        signatures = [inspect.signature(c.__init__).parameters for c in (kind.Input, kind.Output)]
        return kind.io_type, [[(p.name, p.default) for p in s.values()] for s in signatures]

    mine, theirs = ({name: facts(api.io, name) for name in [*TYPES, "Custom"]} for api in apis)
    assert mine == theirs


def test_schema_fields_and_defaults(apis, current):
    def facts(io):
        made = io.Schema(node_id="a")
        return {field.name: getattr(made, field.name) for field in dataclasses.fields(io.Schema)}

    mine, theirs = (facts(api.io) for api in apis)
    assert list(mine) == list(theirs)
    assert mine == theirs


def make_node(api):
    io = api.io

    class Node(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(
                node_id="Node", display_name="A node", category="MotionCache", description="what",
                search_aliases=["other"], is_output_node=True, hidden=[io.Hidden.unique_id],
                inputs=[
                    io.Model.Input("model", tooltip="a model"),
                    io.Combo.Input("mode", options=["a", "b"], default="a", advanced=True),
                    io.Float.Input("amount", default=0.5, min=0.0, max=1.0, step=0.01, round=0.01),
                    io.Int.Input("steps", default=3, max=9, display_mode=io.NumberDisplay.slider),
                    io.Boolean.Input("on", default=False, label_on="yes", optional=True),
                    io.String.Input("text", default="", multiline=True, extra_dict={"mark": 1}),
                    io.Custom("MINE").Input("mine", optional=True, raw_link=True),
                ],
                outputs=[
                    io.Model.Output(display_name="patched", tooltip="t"), io.Custom("MINE").Output()
                ],
            )  # fmt: skip

        @classmethod
        def execute(cls, model, mode, amount, steps, text, on=False, mine=None):
            return io.NodeOutput(model, mine, ui=api.ui.PreviewText(mode))

    return Node


def test_what_the_server_tells_about_a_node(apis, current):
    mine, theirs = (make_node(api) for api in apis)
    assert mine.INPUT_TYPES() == theirs.INPUT_TYPES()
    info, reference = mine.GET_NODE_INFO_V1(), theirs.GET_NODE_INFO_V1()
    assert info == {key: reference[key] for key in info}
    assert len(info) > 12
    for name in ("RETURN_TYPES", "RETURN_NAMES", "CATEGORY", "OUTPUT_NODE", "FUNCTION"):
        assert getattr(mine, name) == getattr(theirs, name), name


def test_node_output(apis):
    mine, theirs = (make_node(api).execute("m", "a", 1.0, 2, "t", mine=3) for api in apis)
    assert mine.result == theirs.result == ("m", 3)
    assert mine.ui.as_dict() == theirs.ui.as_dict() == {"text": ("a",)}


def test_image_preview(apis, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    mine, theirs = (api.ui.PreviewImage(torch.zeros(2, 4, 4, 3)).as_dict() for api in apis)
    assert mine.keys() == theirs.keys()
    assert len(mine["images"]) == len(theirs["images"]) == 2
    assert mine["images"][0].keys() == dict(theirs["images"][0]).keys()
    assert mine["animated"] == theirs["animated"]
    assert len(list(tmp_path.iterdir())) == 2


def test_duplicate_ids_are_refused_by_both(apis):
    for api in apis:

        class Twice(api.io.ComfyNode):
            @classmethod
            def define_schema(cls, io=api.io):
                return io.Schema(node_id="N", inputs=[io.Int.Input("a"), io.Int.Input("a")])

            @classmethod
            def execute(cls, a):
                return None

        with pytest.raises(ValueError, match="unique"):
            Twice.GET_SCHEMA()
