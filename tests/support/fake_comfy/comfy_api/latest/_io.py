"""Node schemas: types as data, `Schema`, `ComfyNode` and what the server tells a browser."""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import dataclass, field, fields
from enum import Enum
from types import SimpleNamespace

_FALSE = ("optional", "multiline", "is_output_list")
_RENAMED = {"raw_link": "rawLink", "force_input": "forceInput", "display_mode": "display",
            "dynamic_prompts": "dynamicPrompts"}  # fmt: skip
_SOCKET = "id display_name optional tooltip lazy {} extra_dict raw_link advanced"
_WIDGETS = {
    "BOOLEAN": "default label_on label_off socketless force_input",
    "INT": "default min max step control_after_generate display_mode socketless force_input",
    "FLOAT": "default min max step round display_mode gradient_stops socketless force_input",
    "STRING": "multiline placeholder default dynamic_prompts socketless force_input",
}
_COMBO = "id options display_name optional tooltip lazy default control_after_generate upload"
_COMBO += " image_folder remote socketless extra_dict raw_link advanced"


def _make_init(names, required):
    """An `__init__` that stores its arguments, with the host's parameter names in its signature."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("self", kind)]
    for name in names:
        default = False if name in _FALSE else None
        default = inspect.Parameter.empty if name in required else default
        parameters.append(inspect.Parameter(name, kind, default=default))
    signature = inspect.Signature(parameters)

    def init(self, *args, **kwargs):
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        for name, value in list(bound.arguments.items())[1:]:
            setattr(self, name, value)
        self.finish()

    init.__signature__ = signature
    return init


class Input:
    def finish(self):
        self.extra_dict = self.extra_dict or {}

    def as_dict(self):
        """The options the browser gets: everything that was given, `id` apart."""
        said = {_RENAMED.get(k, k): getattr(v, "value", v) for k, v in vars(self).items()}
        extra = said.pop("extra_dict")
        return {k: v for k, v in {**said, **extra}.items() if v is not None and k != "id"}


class ComboInput(Input):
    def finish(self):
        super().finish()
        if isinstance(self.options, type) and issubclass(self.options, Enum):
            self.options = [member.value for member in self.options]
        if isinstance(self.default, Enum):
            self.default = self.default.value
        self.multiselect = False


class Output:
    def finish(self):
        self.display_name = self.display_name or self.id


def _type(io_type, inputs=None, base=Input, outputs="id display_name tooltip is_output_list"):
    names = (inputs or _SOCKET.format(_WIDGETS.get(io_type, ""))).split()
    shared = {"io_type": io_type}
    init = _make_init(names, required=("id",))
    output_init = _make_init(outputs.split(), required=())
    return type(io_type.title(), (), {
        **shared,
        "Input": type("Input", (base,), {**shared, "__init__": init}),
        "Output": type("Output", (Output,), {**shared, "__init__": output_init}),
    })  # fmt: skip


def Custom(io_type):  # noqa: N802
    return _type(io_type)


Model, Latent, Image, Mask = _type("MODEL"), _type("LATENT"), _type("IMAGE"), _type("MASK")
Conditioning, Vae, Sampler = _type("CONDITIONING"), _type("VAE"), _type("SAMPLER")
Sigmas, Guider, Noise = _type("SIGMAS"), _type("GUIDER"), _type("NOISE")
Clip = _type("CLIP")
Boolean, Int, Float, String = _type("BOOLEAN"), _type("INT"), _type("FLOAT"), _type("STRING")
Combo = _type("COMBO", _COMBO, ComboInput, "id display_name options tooltip is_output_list")


class NumberDisplay(str, Enum):
    number = "number"
    slider = "slider"


class Hidden(str, Enum):
    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"
    dynprompt = "DYNPROMPT"


@dataclass
class Schema:
    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list = field(default_factory=list)
    outputs: list = field(default_factory=list)
    hidden: list = field(default_factory=list)
    description: str = ""
    search_aliases: list = field(default_factory=list)
    is_input_list: bool = False
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    is_dev_only: bool = False
    is_api_node: bool = False
    price_badge: object = None
    not_idempotent: bool = False
    enable_expand: bool = False
    accept_all_inputs: bool = False
    essentials_category: str | None = None
    has_intermediate_output: bool = False

    def finalize(self):
        for i, output in enumerate(self.outputs):
            output.id = output.id or f"_{i}_{output.io_type}_"
        if self.is_output_node:
            # what a node that saves files needs
            more = (Hidden.prompt, Hidden.extra_pnginfo)
            self.hidden = [*self.hidden, *(item for item in more if item not in self.hidden)]

    def validate(self):
        for side in (self.inputs, self.outputs):
            twice = [name for name, n in Counter(x.id for x in side).items() if n > 1]
            if twice:
                raise ValueError(f"ids must be unique: {self.node_id} has {twice} more than once")

    def input_dict(self):
        found = {"required": {}}
        for item in self.inputs:
            said = item.as_dict()
            group = "optional" if said.pop("optional") else "required"
            found.setdefault(group, {})[item.id] = (item.io_type, said)
        for item in self.hidden:
            found.setdefault("hidden", {})[item.name] = (item.value,)
        return found


class _FromSchema:
    """A class attribute that is read from the schema, as the executor does."""

    def __init__(self, read):
        self.read = read

    def __get__(self, instance, owner):
        return self.read(owner.GET_SCHEMA())


class ComfyNode:
    FUNCTION = "EXECUTE_NORMALIZED"
    RETURN_TYPES = _FromSchema(lambda s: [o.io_type for o in s.outputs])
    RETURN_NAMES = _FromSchema(lambda s: [o.display_name or o.io_type for o in s.outputs])
    CATEGORY = _FromSchema(lambda s: s.category)
    OUTPUT_NODE = _FromSchema(lambda s: s.is_output_node)
    hidden = SimpleNamespace(unique_id=None, prompt=None, extra_pnginfo=None, dynprompt=None)

    @classmethod
    def define_schema(cls):
        raise NotImplementedError

    @classmethod
    def execute(cls, **kwargs):
        raise NotImplementedError

    @classmethod
    def GET_SCHEMA(cls):  # noqa: N802
        schema = cls.define_schema()
        schema.finalize()
        schema.validate()
        return schema

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return cls.GET_SCHEMA().input_dict()

    @classmethod
    def GET_NODE_INFO_V1(cls):  # noqa: N802
        schema = cls.GET_SCHEMA()
        groups = schema.input_dict()
        info = {f.name: getattr(schema, f.name) for f in fields(schema) if f.name in _INFO_AS_IS}
        return info | {
            "name": schema.node_id,
            "input": groups,
            "input_order": {group: list(items) for group, items in groups.items()},
            "output": [o.io_type for o in schema.outputs],
            "output_name": [o.display_name or o.io_type for o in schema.outputs],
            "output_tooltips": [o.tooltip for o in schema.outputs],
            "output_is_list": [o.is_output_list for o in schema.outputs],
            "output_node": schema.is_output_node,
            "deprecated": schema.is_deprecated,
            "experimental": schema.is_experimental,
            "search_aliases": schema.search_aliases or None,
        }

    @classmethod
    def EXECUTE_NORMALIZED(cls, *args, **kwargs):  # noqa: N802
        out = cls.execute(*args, **kwargs)
        if isinstance(out, NodeOutput):
            return out
        return NodeOutput(*(out if isinstance(out, tuple) else (out,)))


_INFO_AS_IS = ("display_name", "description", "category", "is_input_list", "essentials_category",
               "has_intermediate_output")  # fmt: skip


class NodeOutput:
    def __init__(self, *args, ui=None, expand=None, block_execution=None):
        self.args, self.ui, self.expand = args, ui, expand
        self.block_execution = block_execution

    @property
    def result(self):
        return self.args or None

    def __getitem__(self, index):
        return self.args[index]
