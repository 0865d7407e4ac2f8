"""All that speaks to ComfyUI itself: attach to a model, samplers, memory, files."""
