from . import latest as latest
from . import torch_helpers as torch_helpers
