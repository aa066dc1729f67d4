"""What the demo submits: jobs of several kinds, and everything that can go wrong with a callback."""

from dataclasses import dataclass, field
from typing import Any

from receiver.model import JobState


@dataclass(frozen=True, slots=True)
class Scene:
    """One job: what it shows, what is asked for, what the sandbox is told to get wrong, and how it must end."""

    title: str
    prompt: str
    model: str
    size: str | None = None
    variants: int | None = None
    script: dict[str, Any] = field(default_factory=dict)
    ends: JobState = JobState.ARCHIVED

    @property
    def params(self) -> dict[str, object]:
        """The request fields beyond model and prompt; ``sandbox`` is read by the sandbox alone."""
        return {"sandbox": self.script} if self.script else {}


MB = 1_000_000

SCENES = (
    Scene("a PNG", "a lighthouse at dusk", "gpt-image-1.5", "1:1", script={"bytes": MB}),
    Scene(
        "two variants",
        "a fox in the snow, two moods",
        "gpt-image-1.5",
        "3:2",
        2,
        {"bytes": MB // 2},
    ),
    Scene(
        "a portrait", "an old sailor, oil on canvas", "sora-image", "2:3", script={"bytes": 2 * MB}
    ),
    Scene(
        "pixels for a size",
        "a city map as a circuit board",
        "gpt-image-2",
        "1024x1024",
        script={"bytes": 3 * MB},
    ),
    Scene(
        "a JPEG",
        "morning fog over rice terraces",
        "nano-banana",
        "16:9",
        script={"format": "jpeg", "bytes": 400_000},
    ),
    Scene(
        "a WebP",
        "a paper crane on a windowsill",
        "nano-banana-fast",
        "1:1",
        script={"format": "webp", "bytes": 100_000},
    ),
    Scene(
        "8 MB in 4K",
        "a coral reef from above, finest detail",
        "nano-banana-pro",
        "4K",
        script={"bytes": 8 * MB},
    ),
    Scene(
        "callback sent 3 times",
        "a violin made of glass",
        "gpt-image-1.5",
        script={"callback": {"mode": "duplicate", "times": 3}},
    ),
    Scene(
        "callback 3 s late",
        "a tram in the rain",
        "gpt-image-1.5",
        script={"callback": {"mode": "late", "seconds": 3}},
    ),
    Scene(
        "callback lost",
        "an observatory under the Milky Way",
        "nano-banana",
        script={"callback": "lost"},
    ),
    Scene(
        "callback before the answer",
        "a chess game of clouds",
        "gpt-image-1.5",
        script={"callback": "early"},
    ),
    Scene(
        "submit answer lost",
        "a lantern festival on a river",
        "nano-banana",
        script={"answer": "lost"},
    ),
    Scene(
        "late running after the end",
        "a desert train at noon",
        "sora-image",
        script={"callback": "reorder"},
    ),
    Scene(
        "file not ready at first",
        "a greenhouse on Mars",
        "gpt-image-1.5",
        script={"file": {"mode": "not_ready", "times": 2}},
    ),
    Scene("a forged callback", "a door in a cliff", "nano-banana", script={"callback": "forged"}),
    Scene("a video", "waves breaking on basalt", "sora-2", script={"bytes": 2 * MB}),
    Scene(
        "moderated",
        "something the provider will not draw",
        "gpt-image-1.5",
        script={"fail": "output_moderation"},
        ends=JobState.FAILED,
    ),
)

# Against the real API every picture costs money: few and small ones.
LIVE_SCENES = (
    Scene("a fast picture", "a lighthouse at dusk, watercolour", "nano-banana-fast", "1:1"),
    Scene("a portrait", "an old sailor, oil on canvas", "gpt-image-1.5", "2:3"),
)
