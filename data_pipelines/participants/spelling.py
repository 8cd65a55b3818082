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


def one_person(text):
    """A person's name without the marks that people leave out: P-01, P_1 and ``p 1`` are one."""
    text = unicodedata.normalize("NFKC", text)
    if _SCIENTIFIC.fullmatch(text):
        return f"{float(text.replace(',', '.')):.0f}"
    text = re.sub(r"^\d{1,3}(,\d{3})+$", lambda number: number[0].replace(",", ""), text)
    text = cased(re.sub(r"[#,;:()]", " ", loose(text)))
    return loose(re.sub(r"(?<=[^\W\d_])[-_ .]+(?=\d)", "", text))


def is_changed(text):
    """Whether a spreadsheet may have made it of a name: 03-Jan of 3-1, 1.00E+05 of 1E5."""
    return bool(_DATE.fullmatch(text) or ("+" in text and _SCIENTIFIC.fullmatch(text)))


_SCIENTIFIC = re.compile(r"\d+([.,]\d+)?e\+?\d{1,2}", re.I)
# The first letters of months: English, German, French, Spanish, Italian, Portuguese, Dutch.
_MONTH = (
    "jan|ene|gen|feb|fev|fév|mar|mär|mrz|mrt|maa|apr|avr|abr|may|mai|mei|mag|maj|jun|jui|giu|jul|lug|"
    "aug|aoû|ago|sep|set|oct|okt|ott|out|nov|dec|dez|déc|dic"
)
_DATE = re.compile(
    rf"\d{{1,2}}[-. ]{{1,2}}({_MONTH})[^\W\d_]*\.?([-. ]\d{{2,4}})?"
    rf"|({_MONTH})[^\W\d_]*[-. ]\d{{2,4}}"
    r"|\d{1,2}[./]\d{1,2}[./]\d{2,4}|(19|20)\d\d-\d\d-\d\d",
    re.I,
)


def unquoted(text):
    text = unicodedata.normalize("NFC", text).replace("\u200b", "").replace("\ufeff", "")
    text = re.sub("[\u2010-\u2015\u2212]", "-", text)  # hyphens and dashes of text programs
    return text.strip().removeprefix("=").strip("\"'`´‘’“”„«» \t\xa0")


def clean(text):
    """A recording without blanks, quotes and suffix, its folders separated by slashes."""
    text = unquoted(text).replace("\\", "/")
    text = re.sub(r"\.(edf|bdf|rec|hea|dat|mat)$", "", text, flags=re.IGNORECASE)
    parts = [part.strip() for part in text.split("/")]
    return "/".join(part for part in parts if part not in ("", "."))
