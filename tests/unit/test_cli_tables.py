"""Tables of the commands on a narrow terminal."""

from io import StringIO

from rich.console import Console

from receiver.cli.terminal import new_table

REF = "01JZ2Q7V3N0123456789ABCDEF"


def printed(*rows: str, headers: tuple[str, ...]) -> str:
    table = new_table(*headers)
    table.add_row(*rows)
    console = Console(width=80, file=StringIO())
    console.print(table)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_a_narrow_terminal_shows_a_ref_and_a_state_on_one_line() -> None:
    headers = ("ref", "state", "model", "submitted", "assets", "message")
    row = (REF, "submitting", "gpt-image-1.5", "2027-01-15T08:00:00.000Z", "1/10", "bad_asset")
    text = printed(*row, headers=headers)
    assert f" {REF} " in text
    assert " submitting " in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) == 80


def test_a_narrow_terminal_shows_a_path_and_a_hash_whole() -> None:
    where, sha256 = f"/srv/data/archive/2027/01/15/{REF}/0.png", "0123456789abcdef" * 4
    text = printed("0", where, sha256, "x" * 99, headers=("asset", "where", "SHA-256", "reason"))
    columns = [line.split("│")[1:-1] for line in text.splitlines() if line.startswith("│")]
    cells = ["".join(part.strip() for part in parts) for parts in zip(*columns, strict=True)]
    assert cells == ["0", where, sha256, "x" * 99]
