"""Ways to write one name: as typed, and as it may also be meant."""

import re
import unicodedata


def written(text):
    return text


def cased(text):
    return " ".join(text.casefold().split())


def stripped(text):
    return re.sub(r"[-_ ](psg|eeg)$", "", cased(text)).removeprefix("sub-")


def loose(text):
    text = re.sub(r"^(\d+)[.,]0+$", r"\1", stripped(text))
    return re.sub(r"(?<!\d)0+(?=\d)", "", text)


def unquoted(text):
    text = unicodedata.normalize("NFC", text).replace("\u200b", "").replace("\ufeff", "")
    return text.strip().removeprefix("=").strip("\"'`´‘’“”„«» \t\xa0")


def clean(text):
    """A recording without blanks, quotes and suffix, its folders separated by slashes."""
    text = unquoted(text).replace("\\", "/")
    text = re.sub(r"\.(edf|bdf|rec|hea|dat|mat)$", "", text, flags=re.IGNORECASE)
    parts = [part.strip() for part in text.split("/")]
    return "/".join(part for part in parts if part not in ("", "."))
