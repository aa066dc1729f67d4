"""An exhaustive search through the states of a small model, breadth first: shortest paths."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

S = TypeVar("S", bound=Hashable)
Step = tuple[str, S]
# Says what is wrong with a step from one state to the next; "" if nothing is.
Check = Callable[[S, S], str]


@dataclass(slots=True)
class Found(Generic[S]):
    """``broken``: what was found, "" if nothing; ``path``: the shortest way there."""

    states: int
    broken: str = ""
    path: list[str] = field(default_factory=list)


def explore(
    start: S,
    steps: Callable[[S], Iterable[Step[S]]],
    check: Check[S],
    is_done: Callable[[S], bool],
) -> Found[S]:
    """Visit every state that can be reached, and check every step.

    At last check that a state that ``is_done`` can still be reached from everywhere: a state from
    which it cannot is one in which something waits for ever.
    """
    came: dict[S, Step[S] | None] = {start: None}
    before: dict[S, list[S]] = {start: []}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        for name, following in steps(state):
            if following not in came:
                came[following] = name, state
                before[following] = []
                queue.append(following)
            before[following].append(state)
            if broken := check(state, following):
                return Found(len(came), broken, [*_path(came, state), name])
    stuck = came.keys() - _leading_to([state for state in came if is_done(state)], before)
    if stuck:
        first = min((_path(came, state) for state in stuck), key=len)
        return Found(len(came), "3: it can never end", first)
    return Found(len(came))


def _path(came: Mapping[S, Step[S] | None], state: S) -> list[str]:
    names = []
    while step := came[state]:
        name, state = step
        names.append(name)
    return names[::-1]


def _leading_to(wanted: Iterable[S], before: Mapping[S, list[S]]) -> set[S]:
    """Return every state from which a wanted one can be reached."""
    found = set(wanted)
    queue = deque(found)
    while queue:
        for earlier in before[queue.popleft()]:
            if earlier not in found:
                found.add(earlier)
                queue.append(earlier)
    return found
