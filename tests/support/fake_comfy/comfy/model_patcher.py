"""ModelPatcher: a handle on a shared model with its own options, wrappers and patches."""

from __future__ import annotations

from . import model_management, patcher_extension
from .patcher_extension import CallbacksMP
from .utils import deepcopy_list_dict, get_attr, set_attr


def create_model_options_clone(orig_model_options):
    return patcher_extension.copy_nested_dicts(orig_model_options)


class ModelPatcher:
    def __init__(self, model, load_device, offload_device, size=0, weight_inplace_update=False):
        self.model, self.size = model, size
        self.load_device, self.offload_device = load_device, offload_device
        self.model_options = {"transformer_options": {}}
        self.object_patches, self.object_patches_backup = {}, {}
        self.attachments, self.wrappers, self.callbacks = {}, {}, {}
        self.parent = None

    def clone(self):
        n = type(self)(self.model, self.load_device, self.offload_device, self.model_size())
        n.model_options = deepcopy_list_dict(self.model_options)
        n.object_patches = dict(self.object_patches)
        # what stood in the shared model is known to every handle on it
        n.object_patches_backup = self.object_patches_backup
        n.wrappers, n.callbacks = (
            deepcopy_list_dict(self.wrappers),
            deepcopy_list_dict(self.callbacks),
        )
        n.attachments = {
            key: value.on_model_patcher_clone()
            if hasattr(value, "on_model_patcher_clone")
            else value
            for key, value in self.attachments.items()
        }
        n.parent = self
        self._notify(CallbacksMP.ON_CLONE, n)
        return n

    def is_clone(self, other):
        return getattr(other, "model", None) is self.model

    def is_dynamic(self):
        return False

    def model_size(self):
        self.size = self.size or model_management.module_size(self.model)
        return self.size

    def model_dtype(self):
        return self.model.get_dtype() if hasattr(self.model, "get_dtype") else None

    def memory_required(self, input_shape):
        return self.model.memory_required(input_shape)

    def get_free_memory(self, device):
        return model_management.get_free_memory(device)

    # options and patches

    def set_model_patch(self, patch, name):
        patches = self.model_options["transformer_options"].setdefault("patches", {})
        patches[name] = [*patches.get(name, []), patch]

    def set_model_patch_replace(self, patch, name, block_name, number, transformer_index=None):
        block = (block_name, number)
        block = block if transformer_index is None else (*block, transformer_index)
        # the host replaces these dicts by copies, so one taken earlier does not see the change
        options = dict(self.model_options["transformer_options"])
        replace = dict(options.get("patches_replace", {}))
        replace[name] = {**replace.get(name, {}), block: patch}
        options["patches_replace"] = replace
        self.model_options["transformer_options"] = options

    def set_model_unet_function_wrapper(self, unet_wrapper_function):
        self.model_options["model_function_wrapper"] = unet_wrapper_function

    def add_object_patch(self, name, obj):
        self.object_patches[name] = obj

    def get_model_object(self, name):
        for place in (self.object_patches, self.object_patches_backup):
            if name in place:
                return place[name]
        return get_attr(self.model, name)

    def set_attachments(self, key, attachment):
        self.attachments[key] = attachment

    def get_attachment(self, key):
        return self.attachments.get(key)

    # wrappers and callbacks

    def add_wrapper_with_key(self, wrapper_type, key, wrapper):
        patcher_extension._append(self.wrappers, wrapper_type, key, wrapper)

    def remove_wrappers_with_key(self, wrapper_type, key):
        self.wrappers.get(wrapper_type, {}).pop(key, None)

    def get_wrappers(self, wrapper_type, key):
        return self.wrappers.get(wrapper_type, {}).get(key, [])

    def get_all_wrappers(self, wrapper_type):
        return patcher_extension._all(self.wrappers, wrapper_type)

    def add_callback_with_key(self, call_type, key, callback):
        patcher_extension._append(self.callbacks, call_type, key, callback)

    def get_all_callbacks(self, call_type):
        return patcher_extension._all(self.callbacks, call_type)

    def _notify(self, call_type, *args):
        for callback in self.get_all_callbacks(call_type):
            callback(self, *args)

    # life cycle

    def patch_model(self, device_to=None):
        for name, obj in self.object_patches.items():
            self.object_patches_backup.setdefault(name, set_attr(self.model, name, obj))
        return self.model

    def unpatch_model(self, device_to=None):
        for name, obj in self.object_patches_backup.items():
            set_attr(self.model, name, obj)
        self.object_patches_backup.clear()

    def load_for_run(self):
        """What loading for a run does to the model: earlier object patches out, own ones in."""
        self._call_patch_objects("to", self.load_device)
        self._call_patch_objects("to", self.model_dtype())
        self.unpatch_model()
        self.patch_model()

    def detach(self, unpatch_all=True):
        self.unpatch_model()
        self._notify(CallbacksMP.ON_DETACH, unpatch_all)
        return self.model

    def pre_run(self):
        self.model.current_patcher = self
        self._notify(CallbacksMP.ON_PRE_RUN)

    def prepare_state(self, timestep, model_options):
        self._notify(CallbacksMP.ON_PREPARE_STATE, timestep, model_options)

    def cleanup(self):
        self._call_patch_objects("cleanup")
        self.model.current_patcher = None
        self._notify(CallbacksMP.ON_CLEANUP)

    def _call_patch_objects(self, method, *args):
        """The host calls `to` and `cleanup` on patch objects that happen to have them."""
        options = self.model_options["transformer_options"]
        groups = [dict(enumerate(group)) for group in options.get("patches", {}).values()]
        groups += options.get("patches_replace", {}).values()
        groups.append({0: self.model_options.get("model_function_wrapper")})
        for group in groups:
            for patch in group.values():
                if hasattr(patch, method):
                    getattr(patch, method)(*args)
