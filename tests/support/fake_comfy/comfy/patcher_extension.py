"""Wrappers and callbacks: registries of the form `{type: {key: [function, ...]}}`."""

from __future__ import annotations


class CallbacksMP:
    ON_CLONE = "on_clone"
    ON_LOAD = "on_load_after"
    ON_DETACH = "on_detach_after"
    ON_CLEANUP = "on_cleanup"
    ON_PRE_RUN = "on_pre_run"
    ON_PREPARE_STATE = "on_prepare_state"


class WrappersMP:
    OUTER_SAMPLE = "outer_sample"
    PREPARE_SAMPLING = "prepare_sampling"
    SAMPLER_SAMPLE = "sampler_sample"
    PREDICT_NOISE = "predict_noise"
    CALC_COND_BATCH = "calc_cond_batch"
    APPLY_MODEL = "apply_model"
    DIFFUSION_MODEL = "diffusion_model"


def _registry(kind, options, is_model_options, create=False):
    if is_model_options:
        options = options.setdefault("transformer_options", {})
    return options.setdefault(kind, {}) if create else options.get(kind, {})


def _append(registry, call_type, key, function):
    registry.setdefault(call_type, {}).setdefault(key, []).append(function)


def _all(registry, call_type):
    return [function for group in registry.get(call_type, {}).values() for function in group]


def add_wrapper_with_key(wrapper_type, key, wrapper, transformer_options, is_model_options=False):
    registry = _registry("wrappers", transformer_options, is_model_options, create=True)
    _append(registry, wrapper_type, key, wrapper)


def get_all_wrappers(wrapper_type, transformer_options, is_model_options=False):
    return _all(_registry("wrappers", transformer_options, is_model_options), wrapper_type)


def add_callback_with_key(call_type, key, callback, transformer_options, is_model_options=False):
    registry = _registry("callbacks", transformer_options, is_model_options, create=True)
    _append(registry, call_type, key, callback)


def get_all_callbacks(call_type, transformer_options, is_model_options=False):
    return _all(_registry("callbacks", transformer_options, is_model_options), call_type)


class WrapperExecutor:
    """A place in a chain of wrappers; calling it runs the next place, the original is the last."""

    def __init__(self, original, class_obj, wrappers, idx):
        self.original, self.class_obj = original, class_obj
        self.wrappers, self.idx = list(wrappers), idx

    @classmethod
    def new_executor(cls, original, wrappers, idx=0):
        return cls(original, None, wrappers, idx)

    @classmethod
    def new_class_executor(cls, original, class_obj, wrappers, idx=0):
        return cls(original, class_obj, wrappers, idx)

    def execute(self, *args, **kwargs):
        if self.idx == len(self.wrappers):
            return self.original(*args, **kwargs)
        return self.wrappers[self.idx](self, *args, **kwargs)

    def __call__(self, *args, **kwargs):
        following = type(self)(self.original, self.class_obj, self.wrappers, self.idx + 1)
        return following.execute(*args, **kwargs)


def copy_nested_dicts(input_dict):
    """Copy dicts at every level and the lists in them; everything else is shared."""
    return {key: _copy_value(value) for key, value in input_dict.items()}


def _copy_value(value):
    if isinstance(value, dict):
        return copy_nested_dicts(value)
    return list(value) if isinstance(value, list) else value


def merge_nested_dicts(dict1, dict2, copy_dict1=True):
    """dict2 over dict1: dicts merge, lists are appended, other values are replaced."""
    merged = copy_nested_dicts(dict1) if copy_dict1 else dict1
    for key, value in dict2.items():
        if isinstance(value, dict):
            merged[key] = merge_nested_dicts(merged.get(key, {}), value)
        elif isinstance(value, list):
            merged.setdefault(key, []).extend(value)
        else:
            merged[key] = value
    return merged
