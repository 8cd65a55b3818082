"""Writes EDF and BDF bytes for tests, field by field, so that any field can be made wrong."""

import numpy as np

PATIENT = "X F 01-JAN-1950 Erika_Mustermann"
RECORDING = "Startdate 24-APR-1989 PSG-4711 Dr_Seltsam Serial_998877"


def signal(label, samples, *, unit="uV", physical=("-1000", "1000"), digital=("-32768", "32767")):
    """One signal: ``samples`` are digital values ``[records, samples per record]``."""
    return {
        "label": label,
        "unit": unit,
        "physical": physical,
        "digital": digital,
        "samples": np.asarray(samples),
    }


def annotations(texts, size=64):
    """The annotation signal of EDF+: one ``bytes`` of TALs per record."""
    block = np.zeros((len(texts), size), np.uint8)
    for row, text in zip(block, texts):
        row[: len(text)] = np.frombuffer(text, np.uint8)
    return signal("EDF Annotations", block.view("<i2"), unit="", physical=("-1", "1"))


def onset(seconds, *notes):
    """The bytes of a record that starts at ``seconds``; notes are ``(onset, duration, text)``."""
    tals = [f"+{seconds}\x14\x14".encode()]
    for at, duration, text in notes:
        length = "" if duration is None else f"\x15{duration}"
        tals.append(f"+{at}{length}\x14{text}\x14".encode())
    return b"\x00".join(tals) + b"\x00"


def edf(
    signals,
    *,
    record_s="1",
    reserved="",
    records=None,
    start="16.13.00",
    version=b"0       ",
    width=2,
    header_bytes=None,
):
    """Bytes of a file; fields may be text or bytes of the wrong kind on purpose."""

    def field(value, size):
        raw = value if isinstance(value, bytes) else str(value).encode("latin-1")
        return raw[:size].ljust(size)

    count = len(signals[0]["samples"])
    head = [
        version,
        field(PATIENT, 80),
        field(RECORDING, 80),
        field("24.04.89", 8),
        field(start, 8),
        field(256 * (len(signals) + 1) if header_bytes is None else header_bytes, 8),
        field(reserved, 44),
        field(count if records is None else records, 8),
        field(record_s, 8),
        field(len(signals), 4),
    ]
    columns = [
        [field(s["label"], 16) for s in signals],
        [field("Transducer of Erika", 80) for s in signals],
        [field(s["unit"], 8) for s in signals],
        [field(s["physical"][0], 8) for s in signals],
        [field(s["physical"][1], 8) for s in signals],
        [field(s["digital"][0], 8) for s in signals],
        [field(s["digital"][1], 8) for s in signals],
        [field("HP:0.1Hz by Erika", 80) for s in signals],
        [field(s["samples"].shape[1], 8) for s in signals],
        [field("", 32) for s in signals],
    ]
    body = []
    for record in range(count):
        for s in signals:
            values = s["samples"][record].astype("<i4")
            body.append(np.ascontiguousarray(values).view(np.uint8).reshape(-1, 4)[:, :width])
    data = b"".join(block.tobytes() for block in body)
    return b"".join(head) + b"".join(b"".join(column) for column in columns) + data


def write(path, signals, **fields):
    path.write_bytes(edf(signals, **fields))
    return path


def ramp(records, per_record, start=0):
    """Digital values that say where they are: sample n holds ``start + n``."""
    return (start + np.arange(records * per_record)).reshape(records, per_record)
