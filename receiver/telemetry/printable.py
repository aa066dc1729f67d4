"""Makes untrusted text harmless where a person reads it: terminal, log, page and JSON.

Providers and callers write what they like into prompts, models, messages and URLs. A control
character can move the cursor or rename the window. A bidirectional one can show another text than
there is. A newline can begin a line that looks like ours. All such text passes ``printable``.
"""

import json
import unicodedata

# Joiners: without them emoji and some scripts are written wrongly, and they change nothing else.
_JOINERS = "\u200c\u200d"
_JSON_WHITESPACE = "\n\r\t"


def printable(text: str | None, *, as_json: bool = False, keep: str = "") -> str:
    r"""Return the text with every character escaped that is not visible, as in ``\x1b``.

    These are control characters (C0, C1, newlines), bidirectional and other format characters,
    line separators, surrogates, and what is not assigned. ``keep`` is not escaped.

    ``as_json``: the text is a JSON document. Its value stays the same: such characters are only in
    strings, and ``\u001b`` is another spelling of them.
    """
    text = text or ""
    if text.isprintable():
        return text
    if as_json:
        keep += _JSON_WHITESPACE  # between values; inside strings they are escaped already
    return "".join(
        character if _is_harmless(character) or character in keep else _escaped(character, as_json)
        for character in text
    )


def _is_harmless(character: str) -> bool:
    return (
        character.isprintable()
        or character in _JOINERS
        or unicodedata.category(character) == "Zs"  # spaces, such as the wide one of Chinese
    )


def _escaped(character: str, as_json: bool) -> str:  # noqa: FBT001 - as above
    return json.dumps(character)[1:-1] if as_json else repr(character)[1:-1]
