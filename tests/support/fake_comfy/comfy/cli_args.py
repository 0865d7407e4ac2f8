from types import SimpleNamespace

args = SimpleNamespace(cpu=True, lowvram=False, novram=False, highvram=False, gpu_only=False)
