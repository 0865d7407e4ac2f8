"""The cases of the kernels under the name that the benches' tests know."""

from motioncache_pack.tests.kernels.cases import CASES as CASES
from motioncache_pack.tests.kernels.cases import Sizes as Sizes
