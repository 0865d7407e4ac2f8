"""Which model files there are: none, until a test says otherwise. And a folder to throw away."""

import functools
import tempfile

# nothing is there, until a test says otherwise
models_dir = "no-models"
files: dict[str, dict[str, str]] = {"diffusion_models": {}, "vae": {}}


def get_filename_list(folder_name):
    return sorted(files[folder_name])


def get_full_path_or_raise(folder_name, filename):
    if filename not in files[folder_name]:
        raise FileNotFoundError(f"Model in folder '{folder_name}' with filename '{filename}'")
    return files[folder_name][filename]


def get_folder_paths(folder_name):
    return [f"{models_dir}/{folder_name}"]


@functools.cache
def _temp():
    return tempfile.TemporaryDirectory(prefix="fake_comfy_")


def get_temp_directory():
    return _temp().name
