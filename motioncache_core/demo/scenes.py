"""Generated scenes for the demo model: shapes moving over a static or panned textured background.

A scene is described by classes only (kind, colour, start cell, direction, speed ...), which are
also what the model is told: each class is one axis of the text space, so the "text states" of a
scene need no text encoder and no stored table. Classes leave the exact places and velocities
open; a `Take` fixes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SIZE = 64
KINDS = ("disc", "square", "triangle")
COLOURS = ("red", "green", "blue", "yellow", "magenta", "white")
SIZES = ("small", "large")
CELLS = 16
DIRECTIONS = ("right", "down right", "down", "down left", "left", "up left", "up", "up right")
SPEEDS = ("still", "slow", "fast")
TEXTURES = ("plain", "waves", "checks", "stripes")
PALETTES = ("slate", "olive", "brown", "plum")
PANS = ("none", "left", "right")

_RGB = torch.tensor(
    [[0.9, 0.15, 0.12], [0.15, 0.8, 0.25], [0.15, 0.3, 0.95], [0.95, 0.85, 0.1],
     [0.85, 0.2, 0.8], [0.95, 0.95, 0.95]]
)  # fmt: skip
_GROUND = torch.tensor(
    [[0.32, 0.37, 0.44], [0.40, 0.42, 0.30], [0.45, 0.35, 0.28], [0.40, 0.30, 0.40]]
)
# pixels per frame, and radius in pixels
_SPEED = ((0.0, 0.0), (1.0, 1.8), (2.2, 3.4))
_PAN = (0.7, 1.5)
_RADIUS = (9.0, 14.0)
# directions are octants; a take may be this far off their middle
_ANGLE = math.radians(15)
_START = 3.0

_SHAPE_CLASSES = (len(KINDS), len(COLOURS), len(SIZES), CELLS, len(DIRECTIONS), len(SPEEDS), 3)
_GROUND_CLASSES = (len(TEXTURES), len(PALETTES), len(PANS), 4)
TEXT_DIM = 4096
# the axes that are used: the constant one and one per class
TEXT_AXES = 1 + sum(_GROUND_CLASSES) + sum(_SHAPE_CLASSES)
_TEXT_SCALE = 8.0

Point = tuple[float, float]


@dataclass(frozen=True)
class Shape:
    """One moving shape; every field is an index into the class tuples of this module."""

    kind: int
    colour: int
    size: int
    cell: int
    direction: int
    speed: int

    def classes(self, layer: int) -> tuple[int, ...]:
        """Class indices; `layer` is the shape's place in the scene, later ones in front."""
        return (self.kind, self.colour, self.size, self.cell, self.direction, self.speed, layer)

    def start(self) -> Point:
        """Middle of the start cell `(x, y)` in pixels."""
        step = SIZE / 4
        return ((self.cell % 4 + 0.5) * step, (self.cell // 4 + 0.5) * step)

    def velocity(self) -> Point:
        """Middle of the velocities the classes allow, pixels per frame `(x, y)`."""
        return _polar(sum(_SPEED[self.speed]) / 2, self.direction * math.pi / 4)

    def radius(self) -> float:
        return _RADIUS[self.size]


@dataclass(frozen=True)
class Scene:
    """One to three shapes (later ones in front) over a background."""

    shapes: tuple[Shape, ...]
    texture: int = 0
    palette: int = 0
    pan: int = 0

    def classes(self) -> tuple[int, ...]:
        return (self.texture, self.palette, self.pan, len(self.shapes))


@dataclass(frozen=True)
class Take:
    """What a scene's classes leave open.

    Attributes:
        starts: centre of each shape at frame 0, pixels `(x, y)`.
        velocities: pixels per frame `(x, y)`.
        pan: shift of the ground's coordinates, pixels per frame.
        phase: four phases of the texture, radians.
    """

    starts: tuple[Point, ...]
    velocities: tuple[Point, ...]
    pan: float
    phase: tuple[float, ...]

    def centre(self, shape: int, frame: int) -> Point:
        """Where a shape is, pixels `(x, y)`."""
        (x, y), (dx, dy) = self.starts[shape], self.velocities[shape]
        return (x + dx * frame, y + dy * frame)


def _polar(length: float, angle: float) -> Point:
    return (length * math.cos(angle), length * math.sin(angle))


def draw_take(scene: Scene, rng: torch.Generator) -> Take:
    """Random places, velocities and texture within the scene's classes."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=rng))

    starts, velocities = [], []
    for shape in scene.shapes:
        x, y = shape.start()
        starts.append((x + uniform(-_START, _START), y + uniform(-_START, _START)))
        angle = shape.direction * math.pi / 4 + uniform(-_ANGLE, _ANGLE)
        velocities.append(_polar(uniform(*_SPEED[shape.speed]), angle))
    pan = (0.0, 1.0, -1.0)[scene.pan] * uniform(*_PAN)
    phase = tuple(uniform(0, 2 * math.pi) for _ in range(4))
    return Take(tuple(starts), tuple(velocities), pan, phase)


def coverage(scene: Scene, take: Take, index: int, frames: int, size: int = SIZE) -> Tensor:
    """Antialiased coverage `(frames, size, size)` in 0..1 of one shape, hidden parts too."""
    shape = scene.shapes[index]
    t = torch.arange(frames).float()[:, None, None]
    (x0, y0), (vx, vy) = take.starts[index], take.velocities[index]
    axis = torch.arange(size).float() + 0.5
    x = axis[None, None, :] - (x0 + vx * t)
    y = axis[None, :, None] - (y0 + vy * t)
    r = shape.radius()
    if shape.kind == 0:
        distance = (x**2 + y**2).sqrt() - r
    elif shape.kind == 1:
        distance = torch.maximum(x.abs(), y.abs()) - 0.88 * r
    else:
        side = 0.5 * math.sqrt(3)
        slope = torch.maximum(side * x - 0.5 * y, -side * x - 0.5 * y)
        distance = torch.maximum(slope, y) - 0.58 * r
    return torch.sigmoid(-distance / 0.6)


def moving_mask(scene: Scene, take: Take, frames: int, size: int = SIZE) -> Tensor:
    """Where a moving shape is, `(frames, size, size)` bool: the take's known motion."""
    mask = torch.zeros(frames, size, size, dtype=torch.bool)
    for i, velocity in enumerate(take.velocities):
        if velocity != (0.0, 0.0):
            mask |= coverage(scene, take, i, frames, size) > 0.5
    return mask


def background(scene: Scene, take: Take, frames: int, size: int = SIZE) -> Tensor:
    """Textured ground `(frames, size, size, 3)`, shifted over time when the camera pans."""
    phase = take.phase
    axis = torch.arange(size).float() + 0.5
    t = torch.arange(frames).float()[:, None, None]
    x = axis[None, None, :] + take.pan * t
    y = axis[None, :, None].expand(frames, size, 1)
    k = 2 * math.pi / size
    if scene.texture == 0:
        pattern = 0.6 * torch.sin(k * x + phase[0]) * torch.sin(k * y + phase[1])
    elif scene.texture == 1:
        pattern = torch.sin(2 * k * x + phase[0] + 1.5 * torch.sin(2 * k * y + phase[1]))
    elif scene.texture == 2:
        pattern = 1.2 * torch.sin(3 * k * x + phase[0]) * torch.sin(3 * k * y + phase[1])
    else:
        pattern = torch.sin(k * (3 * x + 2 * y) + phase[0])
    pattern = pattern.expand(frames, size, size)[..., None]
    return (_GROUND[scene.palette] * (1 + 0.28 * pattern)).clamp(0, 1)


def render(scene: Scene, take: Take, frames: int) -> Tensor:
    """RGB `(frames, 64, 64, 3)` in 0..1."""
    return draw_shapes(background(scene, take, frames), scene, take)


def draw_shapes(video: Tensor, scene: Scene, take: Take) -> Tensor:
    """The shapes over a video `(F, 64, 64, 3)`, later ones in front."""
    for i, shape in enumerate(scene.shapes):
        alpha = coverage(scene, take, i, len(video))[..., None]
        video = video * (1 - alpha) + _RGB[shape.colour] * alpha
    return video


def colour(shape: Shape) -> Tensor:
    """The shape's colour, RGB `(3,)` in 0..1."""
    return _RGB[shape.colour]


def sample_scene(frames: int, rng: torch.Generator) -> Scene:
    """A random scene whose moving shapes stay in the picture for `frames` frames.

    Colours differ within a scene: they are what binds a shape's text to its pixels.
    """

    def pick(n: int) -> int:
        return int(torch.randint(n, (), generator=rng))

    shapes: list[Shape] = []
    count = 1 + int(torch.multinomial(torch.tensor([0.45, 0.4, 0.15]), 1, generator=rng))
    colours = torch.randperm(len(COLOURS), generator=rng).tolist()
    # the speed is drawn first: rejection over all classes would favour shapes that stand still
    speeds = torch.multinomial(torch.tensor([0.2, 0.3, 0.5]), count, True, generator=rng).tolist()
    for shade, speed in zip(colours, speeds, strict=False):
        while True:
            kind, size, cell, direction = pick(3), pick(2), pick(CELLS), pick(len(DIRECTIONS))
            shape = Shape(kind, shade, size, cell, direction, speed)
            (x, y), (dx, dy) = shape.start(), shape.velocity()
            if all(2 <= p <= SIZE - 2 for p in (x + dx * (frames - 1), y + dy * (frames - 1))):
                break
        shapes.append(shape)
    pan = 1 + pick(2) if pick(3) == 0 else 0
    return Scene(tuple(shapes), pick(len(TEXTURES)), pick(len(PALETTES)), pan)


def describe(scene: Scene) -> str:
    """The scene in words."""
    parts = []
    for s in scene.shapes:
        move = f"moving {SPEEDS[s.speed]} to the {DIRECTIONS[s.direction]}" if s.speed else "still"
        parts.append(f"a {SIZES[s.size]} {COLOURS[s.colour]} {KINDS[s.kind]}, {move}")
    ground = f"{PALETTES[scene.palette]} {TEXTURES[scene.texture]}"
    pan = "" if scene.pan == 0 else f", camera panning {PANS[scene.pan]}"
    return f"{'; '.join(parts)}; over {ground}{pan}"


def text_states(scene: Scene | None, keep: Tensor | None = None) -> Tensor:
    """Text states `(1 + 3, 4096)` of a scene: the ground, then up to three shapes.

    `None` is the empty prompt. `keep` (bool, one per class) drops single classes in training.
    """
    states = torch.zeros(4, TEXT_DIM)
    states[:, 0] = _TEXT_SCALE
    if scene is None:
        return states
    flags = iter(keep.tolist()) if keep is not None else None
    shapes = [(s.classes(i), _SHAPE_CLASSES) for i, s in enumerate(scene.shapes)]
    rows = [(scene.classes(), _GROUND_CLASSES), *shapes]
    for row, (values, sizes) in enumerate(rows):
        axis = 1 if row == 0 else 1 + sum(_GROUND_CLASSES)
        for value, size in zip(values, sizes, strict=True):
            if flags is None or next(flags):
                states[row, axis + value] = _TEXT_SCALE
            axis += size
    return states


def _shape(kind: str, colour: str, size: str, cell: int, direction: str, speed: str) -> Shape:
    drawn = KINDS.index(kind), COLOURS.index(colour), SIZES.index(size)
    return Shape(*drawn, cell, DIRECTIONS.index(direction), SPEEDS.index(speed))


# cells count 4x4 from the top left
SCENES: dict[str, Scene] = {
    "disc to the right": Scene((_shape("disc", "red", "large", 5, "right", "fast"),), 1, 0),
    "square falling": Scene((_shape("square", "yellow", "large", 2, "down", "fast"),), 3, 2),
    "triangle rising, disc still": Scene(
        (
            _shape("triangle", "green", "large", 13, "up", "fast"),
            _shape("disc", "white", "small", 3, "right", "still"),
        ),
        0,
        3,
    ),
    "two discs crossing": Scene(
        (
            _shape("disc", "blue", "large", 0, "down right", "fast"),
            _shape("disc", "yellow", "small", 3, "down left", "fast"),
        ),
        2,
        1,
    ),
    "fast and slow": Scene(
        (
            _shape("square", "red", "small", 0, "right", "fast"),
            _shape("disc", "blue", "small", 12, "right", "slow"),
        ),
        0,
        0,
    ),
}
