"""The TFDS builder that writes nights as ArrayRecord, shard by shard."""

import functools
import os
import pathlib

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core import writer
from tensorflow_datasets.proto import tf_example_pb2

tfds.disable_progress_bar()


class NightRecords(tfds.core.ShardBasedBuilder):
    """Signal or token nights; one record is one segment (see :mod:`data_pipelines.store`).

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

        features = {"recording": tfds.features.Text(), "segment": np.int32}
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
    """Writes records as they are: noise does not compress, and reading them back is faster.

    The features of each example are put in order of name. An example is a map, which protobuf
    serializes in an order that changes from process to process; the same nights would not give the
    same bytes.
    """

    def write(self, path, examples):
        records = array_record_module.ArrayRecordWriter(
            os.fspath(path), "group_size:1,uncompressed"
        )
        for _, example in examples:
            records.write(_sorted(example))
        records.close()


def _sorted(example):
    return tf_example_pb2.Example.FromString(example).SerializeToString(deterministic=True)


def _examples(nights):
    key = 0
    for night in nights:
        for record in night.records():
            yield key, record
            key += 1
