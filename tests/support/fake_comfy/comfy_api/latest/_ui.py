from __future__ import annotations


class PreviewImage:
    """An image on the node. The host writes files to its temp folder; this only names them."""

    def __init__(self, image, animated=False, cls=None, **kwargs):
        if image.ndim != 4 or image.shape[-1] not in (1, 3, 4):
            raise ValueError(f"an IMAGE is (B, H, W, C), this is {tuple(image.shape)}")
        self.image, self.animated = image, animated
        self.values = [
            {"filename": f"preview_{i:05}.png", "subfolder": "", "type": "temp"}
            for i in range(image.shape[0])
        ]

    def as_dict(self):
        return {"images": self.values, "animated": (self.animated,)}


class PreviewText:
    def __init__(self, value, **kwargs):
        self.value = value

    def as_dict(self):
        return {"text": (self.value,)}
