"""The format of a table file: its kind, encoding, delimiter and line ends, detected or given by options."""

from __future__ import annotations

import codecs
import contextlib
import csv
import dataclasses
import itertools
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

from linklab.cli import UserError
from linklab.tables import csv_stream

SNIFFED_BYTES = 64 << 10
SNIFFED_ROWS = 100
DELIMITERS = (",", ";", "\t", "|")
_INNER_QUOTE = re.compile(r'(?:^|,)[^",\r\n]+"(?=[^",\r\n])', re.MULTILINE)  # an unquoted cell: 12" pipe
_BLANK_LINE = re.compile(r"\n[ \t]*\r?\n")
NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe", " ": "space"}

# The first bytes of unsupported file types, and the advice for each.
_UNPACK = "unpack it first"
_SAVE_AS = "save the table as CSV, Excel (.xlsx), Parquet or JSON Lines"
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "compressed (gzip)", _UNPACK),
    (b"BZh", "compressed (bzip2)", _UNPACK),
    (b"\xfd7zXZ\0", "compressed (xz)", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd)", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "compressed (7z archive)", _UNPACK),
    (b"Rar!", "compressed (RAR archive)", _UNPACK),
    (b"%PDF", "a PDF document", _SAVE_AS),
    (b"\x89PNG", "a PNG picture", _SAVE_AS),
    (b"\xff\xd8\xff", "a JPEG picture", _SAVE_AS),
    (b"GIF8", "a GIF picture", _SAVE_AS),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook (.xls)", "save it as .xlsx or CSV"),
    (b"SQLite format 3\0", "an SQLite database", "export the table as CSV"),
    (b"\x89HDF", "an HDF5 file", _SAVE_AS),
    (b"ARROW1", "an Arrow (Feather) file", "save it as Parquet or CSV"),
    (b"ORC", "an ORC file", "save it as Parquet or CSV"),
    (b"Obj\x01", "an Avro file", "save it as Parquet or CSV"),
    (b"\x93NUMPY", "a NumPy array", _SAVE_AS),
    (b"RDX", "an R data file", "write.csv() saves the table as CSV"),
    (b"RDA", "an R data file", "write.csv() saves the table as CSV"),
    (b"$FL2", "an SPSS file", _SAVE_AS),
    (b"<stata_dta>", "a Stata file", _SAVE_AS),
    (b"{\\rtf", "an RTF document", _SAVE_AS),
    (b"GGUF", "model weights (GGUF)", "give a table"),
    (b"\x7fELF", "a program", "give a table"),
    (b"MZ\x90", "a program", "give a table"),
    (b"\x80\x04\x95", "a pickle file", _SAVE_AS),
    (b"\x80\x05\x95", "a pickle file", _SAVE_AS),
)
_MARKUP = (
    ("<table", "a web page (HTML)"),
    ("<!doctype html", "a web page (HTML)"),
    ("<html", "a web page (HTML)"),
    ("<?xml", "an XML file"),
    ("<svg", "a picture (SVG)"),
)


@dataclasses.dataclass(frozen=True)
class Dialect:
    """The format of a table file.

    `kind` is csv, parquet, xlsx, jsonl or dataset (a folder saved by `datasets`); the other fields describe a CSV.
    `plain` files (UTF-8, comma, LF or CRLF, nothing to clean) are read block by block by `csv_stream`.
    """

    kind: str
    encoding: str = "utf-8"
    delimiter: str = ","
    line_end: str = "LF"
    separator_line: bool = False  # the file starts with Excel's `sep=;`
    spaced: bool = False  # a space follows every delimiter
    plain: bool = False
    sheet: int = 0  # of an Excel workbook

    def describe(self) -> str:
        """Return the format in a few words: `delimiter ';' (semicolon), utf-8 with BOM, CRLF`."""
        if self.kind != "csv":
            return {"parquet": "Parquet", "xlsx": "Excel workbook", "jsonl": "JSON Lines"}.get(
                self.kind, "datasets folder"
            )
        encoding = "utf-8 with BOM" if self.encoding == "utf-8-sig" else self.encoding
        shown = "\\t" if self.delimiter == "\t" else self.delimiter
        name = NAMES.get(self.delimiter, "given")
        parts = [f"delimiter '{shown}' ({name})", encoding, f"{self.line_end} line ends"]
        return ", ".join(parts + ["a sep= line"] * self.separator_line)


def sniff(path: Path, *, delimiter: str | None = None, encoding: str | None = None) -> Dialect:
    """Detect the format of a file or folder; `delimiter` and `encoding` override what is detected.

    Raises a UserError that names the type of an unsupported file, or the encoding to use.
    """
    if path.is_dir():
        if any((path / name).exists() for name in ("dataset_info.json", "dataset_dict.json")):
            return Dialect("dataset")
        raise UserError(f"{path}: is a folder; expected a file, or a folder written by datasets' save_to_disk()")
    head, whole, tail = _read_ends(path)
    if not head:
        raise UserError(f"{path}: the file is empty; a table starts with a header line")
    if kind := _other_kind(path, head):
        return Dialect(kind)
    text, encoding = _decode(path, head, encoding, whole)
    line_end = _line_end(text)
    separator_line = text[:4].lower() == "sep=" and len(text[4:6].strip("\r\n")) == 1
    if separator_line:
        delimiter = delimiter or text[4]
        text = text.split({"LF": "\n", "CR": "\r", "CRLF": "\r\n"}[line_end], 1)[-1]
    if not whole:
        text = text[: max(text.rfind("\n"), text.rfind("\r")) + 1] or text
    delimiter = _check_delimiter(path, text, delimiter) if delimiter else _delimiter(text)
    spaced = _spaced(text, delimiter)
    plain = (
        encoding == "utf-8" and delimiter == "," and line_end != "CR" and not separator_line and not spaced
        and not _ends_empty(tail) and _clean_header(path) and not _needs_cleaning(text)
    )  # fmt: skip
    return Dialect("csv", encoding, delimiter, line_end, separator_line, spaced, plain)


def _read_ends(path: Path) -> tuple[bytes, bool, bytes]:
    """Return (a file's first bytes, whether they are the whole file, its last bytes)."""
    try:
        with open(path, "rb") as handle:
            head = handle.read(SNIFFED_BYTES)
            whole = not handle.read(1)
            handle.seek(max(0, path.stat().st_size - 4096))
            return head, whole, handle.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from error


def _other_kind(path: Path, head: bytes) -> str | None:
    """Return the kind of a supported file that is not CSV, None for text; raises for unsupported types."""
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(path)
    for magic, name, advice in _MAGIC:
        if head.startswith(magic):
            raise UserError(f"{path}:1: the file is {name}; {advice}")
    start = head[:4096].lstrip(codecs.BOM_UTF8).lstrip()
    if start.startswith((b"{", b"[")) and path.suffix.lower() in (".json", ".jsonl", ".ndjson"):
        return "jsonl"
    if start.startswith((b'{"', b"{ ")) and b":" in start.split(b"\n", 1)[0]:
        return "jsonl"
    text = start[:100].decode("utf-8", "replace").lower()
    for beginning, name in _MARKUP:
        if text.startswith(beginning):
            raise UserError(f"{path}:1: the file is {name}; {_SAVE_AS}")
    if b"\0" in head and not head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and not _utf16(head):
        control = sum(byte < 9 or 13 < byte < 32 for byte in head[:4096])
        if control > 0.1 * len(head[:4096]):
            raise UserError(f"{path}:1: the file is binary data, not a table; {_SAVE_AS}")
    return None


def _zip_kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            mime = archive.read("mimetype")[:60].decode("latin-1") if "mimetype" in names else ""
    except (OSError, zipfile.BadZipFile, RuntimeError):
        raise UserError(f"{path}:1: the file is compressed (a damaged ZIP archive); copy it again") from None
    if "xl/workbook.xml" in names:
        return "xlsx"
    for part, name in (("word/", "a Word document (.docx)"), ("ppt/", "a PowerPoint file (.pptx)"),
                       ("xl/workbook.bin", "a binary Excel workbook (.xlsb)")):  # fmt: skip
        if any(entry.startswith(part) for entry in names):
            raise UserError(f"{path}:1: the file is {name}; {_SAVE_AS}")
    if "spreadsheet" in mime:
        raise UserError(f"{path}:1: the file is an OpenDocument spreadsheet (.ods); save it as .xlsx or CSV")
    if names and all(name.endswith(".npy") for name in names):
        raise UserError(f"{path}:1: the file is NumPy arrays (.npz); {_SAVE_AS}")
    inside = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    raise UserError(f"{path}:1: the file is compressed (a ZIP archive: {inside}); {_UNPACK}")


def _utf16(head: bytes) -> str | None:
    """Return the byte order of UTF-16 text without a byte order mark: every second byte of its first line is NUL."""
    first = head[:200]
    if len(first) < 8:
        return None
    if first[1::2].count(0) > 0.8 * len(first[1::2]) and not first[::2].count(0):
        return "utf-16-le"
    if first[::2].count(0) > 0.8 * len(first[::2]) and not first[1::2].count(0):
        return "utf-16-be"
    return None


def _decode(path: Path, head: bytes, given: str | None, whole: bool) -> tuple[str, str]:
    """Return (text of a file's first bytes, encoding); raises a UserError for an unknown or wrong encoding."""
    encoding = _encoding(head, given)
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    try:
        text = decoder.decode(head, final=whole)
    except UnicodeError:  # UTF-16 or UTF-32 without a byte order mark
        text = "\ufffd"
    if given and not encoding.startswith("utf-8") and text.startswith("\ufffd"):
        raise UserError(f"{path}: --encoding {given}: the file is not {encoding} text; leave the option out, or give "
                        f"another")  # fmt: skip
    return text, encoding


def _encoding(head: bytes, given: str | None) -> str:
    marks = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
             codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip
    found = next((name for mark, name in marks.items() if head.startswith(mark)), _utf16(head) or "utf-8")
    if given is None:
        return found
    try:
        name = codecs.lookup(given).name
        "".encode(name)  # fails for codecs that do not encode text: hex, zip
    except LookupError:
        raise UserError(f"--encoding {given}: no such encoding; utf-8, cp1252, latin-1 and utf-16 are common") from None
    if name == "utf-8":
        return found if found.startswith("utf-8") else "utf-8"
    return found if name == "utf-16" and found.startswith("utf-16") else name


def _line_end(text: str) -> str:
    if "\n" not in text:
        return "CR" if "\r" in text else "LF"
    return "CRLF" if text.count("\r\n") > text.count("\n") / 2 else "LF"


def first_records(text: str, delimiter: str, *, spaced: bool = False) -> list[list[str]]:
    """Return the first rows of a text, up to one that cannot be read; blank lines are left out."""
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter, skipinitialspace=spaced)
    rows = []
    with contextlib.suppress(csv.Error):
        for cells in itertools.islice(filter(None, reader), SNIFFED_ROWS):
            rows.append(cells)
    return rows


def _delimiter(text: str) -> str:
    """Return the delimiter that cuts header and rows into the same number of cells; the comma if none does."""
    scores = {d: _score(first_records(text, d)) for d in DELIMITERS}
    if not any(width for _, width in scores.values()):  # no header with two columns: a title line first, or spaces
        cut = {d: itertools.dropwhile(lambda row: len(row) < 2, first_records(text, d)) for d in DELIMITERS}
        scores = {d: _score(list(rows)) for d, rows in cut.items()}
        if not any(width for _, width in scores.values()) and _score(first_records(text, " ", spaced=True))[0] == 1.0:
            return " "
    return max(scores, key=lambda delimiter: scores[delimiter])


def _score(rows: list[list[str]]) -> tuple[float, int]:
    """Return (share of rows as wide as the first row or one cell wider, its width); zeros if it has one cell."""
    if not rows or len(rows[0]) < 2:
        return 0.0, 0
    width = len(rows[0])
    share = sum(len(row) in (width, width + 1) for row in rows[1:]) / max(1, len(rows) - 1)
    return round(share, 1), width


def _check_delimiter(path: Path, text: str, delimiter: str) -> str:
    """Return the given delimiter; raises a UserError if it does not occur and another one does."""
    if delimiter not in text and (found := _delimiter(text)) in text:
        shown = {"\t": "tab"}.get(delimiter, delimiter)
        raise UserError(f"{path}: --delimiter {shown} does not occur in the first rows; their delimiter is "
                        f"{found!r} ({NAMES[found]}): leave the option out")  # fmt: skip
    return delimiter


def _spaced(text: str, delimiter: str) -> bool:
    """True if a space follows every delimiter of the first rows, or spaces align the cells in columns."""
    rows = first_records(text, delimiter)
    if delimiter == " ":
        return _score(first_records(text, delimiter, spaced=True)) > _score(rows)
    later = [cell for row in rows for cell in row[1:]]
    return len(rows) > 1 and bool(later) and all(cell.startswith(" ") for cell in later)


def _needs_cleaning(text: str) -> bool:
    """True if the first rows hold something that only the row reader can read, not the block reader."""
    header, *rows = first_records(text, ",")
    unnamed_first = {len(row) for row in rows} == {len(header) + 1}  # R's write.table: no name above row names
    return unnamed_first or bool(_BLANK_LINE.search(text) or _INNER_QUOTE.search(text))


def have_row_names(rows: Sequence[Sequence[str]]) -> bool:
    """True if the rows' first cells all differ, as row names do; the first halves of numbers like 0,5 may not."""
    return len({row[0] for row in rows}) == len(rows)


def _ends_empty(tail: bytes) -> bool:
    """True if the last line is blank or holds only delimiters."""
    lines = tail.replace(b"\r\n", b"\n").removesuffix(b"\n").split(b"\n")
    return len(lines) > 1 and not lines[-1].strip(b", \t\r\x1a")  # DOS files end with Ctrl-Z


def _clean_header(path: Path) -> bool:
    try:
        header = csv_stream.scan_header(path)
    except UserError:
        return False
    return header.problem is None and not header.bom
