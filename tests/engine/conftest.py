from motioncache_pack.tests.core.kv_places import kept_in

__all__ = ["kept_in"]
