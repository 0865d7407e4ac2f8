from . import latest as latest
