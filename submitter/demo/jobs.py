"""The jobs of the demo: several models and formats, and every fault a callback can have."""

from dataclasses import dataclass, field
from typing import Any

from receiver.model import JobState, Provider


@dataclass(frozen=True, slots=True)
class DemoJob:
    """One job: its title, request, the faults the sandbox must produce, and the expected state."""

    title: str
    prompt: str
    model: str
    size: str | None = None
    variants: int | None = None
    script: dict[str, Any] = field(default_factory=dict)
    expected_state: JobState = JobState.ARCHIVED
    provider: Provider = Provider.GRSAI

    @property
    def params(self) -> dict[str, object]:
        """More request fields; only the sandbox reads the field ``sandbox``."""
        return {"sandbox": self.script} if self.script else {}


MB = 1_000_000

DEMO_JOBS = (
    DemoJob("a PNG", "a lighthouse at dusk", "gpt-image-1.5", "1:1", script={"bytes": MB}),
    DemoJob(
        "two variants",
        "a fox in the snow, two moods",
        "gpt-image-1.5",
        "3:2",
        2,
        {"bytes": MB // 2},
    ),
    DemoJob(
        "a portrait", "an old sailor, oil on canvas", "sora-image", "2:3", script={"bytes": 2 * MB}
    ),
    DemoJob(
        "pixels for a size",
        "a city map as a circuit board",
        "gpt-image-2",
        "1024x1024",
        script={"bytes": 3 * MB},
    ),
    DemoJob(
        "a JPEG",
        "morning fog over rice terraces",
        "nano-banana",
        "16:9",
        script={"format": "jpeg", "bytes": 400_000},
    ),
    DemoJob(
        "a WebP",
        "a paper crane on a windowsill",
        "nano-banana-fast",
        "1:1",
        script={"format": "webp", "bytes": 100_000},
    ),
    DemoJob(
        "8 MB in 4K",
        "a coral reef from above, finest detail",
        "nano-banana-pro",
        "4K",
        script={"bytes": 8 * MB},
    ),
    DemoJob(
        "callback sent 3 times",
        "a violin made of glass",
        "gpt-image-1.5",
        script={"callback": {"mode": "duplicate", "times": 3}},
    ),
    DemoJob(
        "callback 3 s late",
        "a tram in the rain",
        "gpt-image-1.5",
        script={"callback": {"mode": "late", "seconds": 3}},
    ),
    DemoJob(
        "callback lost",
        "an observatory under the Milky Way",
        "nano-banana",
        script={"callback": "lost"},
    ),
    DemoJob(
        "callback before the answer",
        "a chess game of clouds",
        "gpt-image-1.5",
        script={"callback": "early"},
    ),
    DemoJob(
        "submit answer lost",
        "a lantern festival on a river",
        "nano-banana",
        script={"answer": "lost"},
    ),
    DemoJob(
        "late running after the end",
        "a desert train at noon",
        "sora-image",
        script={"callback": "reorder"},
    ),
    DemoJob(
        "file not ready at first",
        "a greenhouse on Mars",
        "gpt-image-1.5",
        script={"file": {"mode": "not_ready", "times": 2}},
    ),
    DemoJob("a forged callback", "a door in a cliff", "nano-banana", script={"callback": "forged"}),
    DemoJob("a video", "waves breaking on basalt", "sora-2", script={"bytes": 2 * MB}),
    DemoJob(
        "fal: signed, archived at once",
        "a kite over dunes",
        "fal-ai/flux/dev",
        "1024x768",
        provider=Provider.FAL,
    ),
    DemoJob(
        "Replicate: wrong signature, read back",
        "a harbour in winter",
        "black-forest-labs/flux-schnell",
        "3:2",
        script={"signature": "wrong"},
        provider=Provider.REPLICATE,
    ),
    DemoJob(
        "BFL: callback lost, 10 minutes to live",
        "a moth on a lamp",
        "flux-2-pro",
        "640x640",
        script={"callback": "lost"},
        provider=Provider.BFL,
    ),
    DemoJob(
        "kie.ai: its URLs replaced on the way",
        "an orchard at dawn",
        "google/nano-banana",
        "1:1",
        script={"signature": "other_urls"},
        provider=Provider.KIE,
    ),
    DemoJob(
        "moderated",
        "something the provider will not draw",
        "gpt-image-1.5",
        script={"fail": "output_moderation"},
        expected_state=JobState.FAILED,
    ),
)

# With the real API every picture costs money, so there are few and small ones.
LIVE_JOBS = (
    DemoJob("a fast picture", "a lighthouse at dusk, watercolour", "nano-banana-fast", "1:1"),
    DemoJob("a portrait", "an old sailor, oil on canvas", "gpt-image-1.5", "2:3"),
)
