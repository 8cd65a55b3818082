"""``pip install -e .[prepare,probe,test]``; ``make setup`` does this in .venv."""

from setuptools import find_packages, setup

setup(
    name="hypnos_jax",
    version="0.1.0",
    description="Sleep foundation models from polysomnography, in JAX.",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["hypnos_jax*", "data_pipelines*", "launch*", "configs*"]),
    package_data={
        "hypnos_jax.export": ["templates/*.md"],
        "hypnos_jax.reports": ["templates/*.html", "templates/*.js", "templates/*.css"],
        "data_pipelines.scoring.words": ["*.csv"],
    },
    install_requires=[
        "jax>=0.10",  # the numerics; 0.10 is the first release with the mesh API used here
        "flax>=0.12",  # Linen modules: one pytree of named collections
        "optax>=0.2.6",  # optimizers and schedules
        "orbax-checkpoint>=0.12.6",  # asynchronous checkpoints (the v1 API)
        "grain>=0.2.16",  # deterministic input pipelines over ArrayRecord
        "array_record>=0.8",  # random-access record files (grain's own format)
        "tensorflow-datasets>=4.9.9",  # builders of ArrayRecord, without TensorFlow
        "numpy>=2.0",  # host arrays
        "edfio>=0.4.18",  # EDF+ files: simulated and generated nights
        "scipy>=1.14",  # filters, polyphase resampling
        "ml-collections>=1.0",  # configs
        "absl-py>=2.1",  # flags and logging
        "safetensors>=0.5",  # exports that load without this repository
        "flatbuffers>=24.3",  # what jax.export writes and reads programs with, and does not install
        "tensorboardX>=2.6",  # TensorBoard files without TensorFlow
        "psutil>=6",  # whether the process that works on a checkpoint still lives; orbax has it too
        "tqdm>=4.66",  # progress with rate and time left
        "rich>=13",  # the live table of a sweep's runs; flax brings it
        "PyYAML>=6",  # Kubernetes manifests of a sweep, model cards; ml-collections brings it
        "Jinja2>=3.1",  # HTML reports and the model card that every export carries
    ],
    extras_require={
        "prepare": [
            "mne>=1.8",  # mne.io.Raw in and out of the reader
            "wfdb>=4.1",  # PhysioNet records
            "defusedxml>=0.7",  # scoring XML from strangers
        ],
        "probe": [
            "scikit-learn>=1.5",  # logistic-regression probes and their metrics
            "matplotlib>=3.9",  # pictures of reconstructions and probe reports
        ],
        "arrays": ["pyarrow>=15"],  # nights of features as Parquet files; NPZ needs nothing more
        "beam": ["apache-beam>=2.60"],  # spread a builder over a cluster engine
        "interop": [
            "huggingface_hub>=0.30",  # published weights by hub id; files need nothing more
        ],
        "clip": [  # the published tokenizer of captions; models of our own need none of it
            "tokenizers>=0.20",  # byte-pair encoding
            "open_clip_torch>=2.20",  # carries CLIP's merges, the one file of it that is read
        ],
        "captions": [  # scores of common words, beside those of the facts that captions say
            "sacrebleu>=2.4",  # BLEU and chrF
            "rouge-score>=0.1.2",  # ROUGE-L
        ],
        # spindles and slow waves of the EEG, as facts beside the captions; Bland-Altman statistics
        "yasa": ["yasa>=0.8"],
        # eval jobs on runs behind a URL; beside it the package of your store, such as gcsfs or s3fs
        "remote": ["fsspec>=2024.12"],
        "slurm": ["submitit>=1.5.4"],  # sweeps on Slurm: arrays, requeueing when preempted
        # the TPU compiler that this jax wants: to train on TPUs, or to compile for them without any
        "tpu": ["jax[tpu]>=0.10"],
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.6",  # two tests at a time: most of them wait for one core
            "hypothesis>=6.100",  # property-based tests of parsers and samplers
            "ruff>=0.9",  # linter and formatter
            "import-linter>=2.17",  # the import rules in pyproject.toml
            "submitit>=1.5.4",  # its local executor, and the sbatch files that it writes
            "kubeflow-trainer-api>=2.3",  # the schema of JobSets and pods, as pydantic models
        ],
    },
)
