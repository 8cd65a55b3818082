"""The TFDS builder that writes nights as ArrayRecord, shard by shard."""

import functools
import os
import pathlib

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core import writer
from tensorflow_datasets.proto import tf_example_pb2

from data_pipelines.record_bytes import read_bytes
from data_pipelines.store import STORED, index_of

HEAD = 64  # bytes of a record by which it is found; it begins with its length and field names

tfds.disable_progress_bar()


class NightRecords(tfds.core.ShardBasedBuilder):
    """Signal or token nights, laid out as :mod:`data_pipelines.store` says.

    A builder by shards keeps the order and holds one shard in memory. TFDS's usual generator
    builder holds up to 1 GB, then spills through a module that needs TensorFlow.

    Args:
        kind: "signals" or "tokens".
        shards: Split -> list of shards, each a list of nights with ``records()``.
        modalities: For tokens, the modalities of the code axis.
    """

    name = "nights"
    # TFDS finds this by a module it does not require to be installed (importlib_resources).
    code_path = pathlib.Path(__file__)
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, kind, shards, modalities=(), **kwargs):
        self._kind, self._shards, self._modalities = kind, shards, modalities
        super().__init__(file_format="array_record", **kwargs)

    def _info(self):
        count = len(self._modalities)

        def tensor(dtype, *shape):
            return tfds.features.Tensor(shape=(None, *shape), dtype=dtype, encoding="bytes")

        features = {"recording": tfds.features.Text()}
        features["stages"] = tensor(np.int8)
        if self._kind == "signals":
            features |= {
                "channel": tfds.features.Text(),
                "rate_hz": np.int32,
                "scale": np.float32,
                "samples": tensor(np.int16),
                "valid": tensor(np.bool_),
                "tracks": tensor(np.float32, 2),
            }
        else:
            features |= {
                "codes": tensor(np.uint16, sum(m["levels"] for m in self._modalities)),
                "present": tensor(np.bool_),
                "valid": tensor(np.bool_, count),
                "tracks": tensor(np.float32, count, 2),
            }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Polysomnography nights, preprocessed.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _example_writer(self):
        return _Writer(self.info.file_format)

    def _shard_iterators_per_split(self, dl_manager):
        del dl_manager  # nothing is downloaded here
        return {
            split: [functools.partial(_examples, nights) for nights in shards]
            for split, shards in self._shards.items()
        }


class _Writer(writer.ExampleWriter):
    """Writes records as they are, and beside them the index of where their fields lie.

    The features of each example are put in order of name. An example is a map, which protobuf
    serializes in an order that changes from process to process; the same nights would not give the
    same bytes.
    """

    def write(self, path, examples):
        path = pathlib.Path(os.fspath(path))
        records = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        heads, rows = [], []
        for _, example in examples:
            example = tf_example_pb2.Example.FromString(example)
            record = example.SerializeToString(deterministic=True)
            records.write(record)
            heads.append((record[:HEAD], len(record)))
            rows.append(_places(record, example.features.feature))
        records.close()
        place = 0
        with open(path, "rb") as file:
            for (head, size), row in zip(heads, rows, strict=True):
                # Before a record lie only headers of it and of the file.
                place += read_bytes(file, place, 8 * HEAD).index(head)
                for field in STORED:
                    if field in row:
                        row[field] += place
                place += size
        fields = [(f, np.int64) for f in rows[0] if f != "scale"] + [("scale", np.float32)]
        np.save(index_of(path), np.array([tuple(row.values()) for row in rows], fields))


def _places(record, features):
    """Where the fields lie in a record, their lengths in bytes, and the scale."""
    row = {}
    for field in STORED:
        if field in features:
            data = features[field].bytes_list.value[0]
            row |= {field: record.index(data), f"{field}_bytes": len(data)}
    scale = features["scale"].float_list.value if "scale" in features else [1.0]
    return row | {"scale": scale[0]}


def _examples(nights):
    key = 0
    for night in nights:
        for record in night.records():
            yield key, record
            key += 1
