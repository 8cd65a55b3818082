"""Recipes: what each family of models reads, one file a family.

A recipe says which signals a family takes, at which rates, of which channels of a recording, and
how they are made. A store's manifest and a model's export carry its name and version, and whatever
prepares recordings, reads a store or embeds finds it by that name (:func:`find_recipe`), as sources
and objectives are found: the folder's listing is the registry, and a dotted name is a module of the
user's own (:mod:`data_pipelines.plugins`).

A file has ``TOKEN_S`` (seconds of a token), ``VERSION`` (another number where the same recording
gives other signals), ``ROWS`` (name -> :class:`Row`) and ``RECIPE`` (a :class:`Recipe` of these).
A module elsewhere needs ``RECIPE`` alone, whose name is the module's dotted name.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping

from data_pipelines import plugins
from data_pipelines.store import EPOCH_S, NightStore

if typing.TYPE_CHECKING:  # a source that reads a store needs neither SciPy nor readers
    from data_pipelines.channels.quality import RecordingQuality
    from data_pipelines.recordings.base import Recording
    from data_pipelines.store import ChannelSignal

# Of stores and exports made before they carried a recipe.
FIRST_OF_MODALITIES = {"name": "sleep2vec", "version": 1}
FIRST_OF_CHANNELS = {"name": "hypnos", "version": 1}


class RecipeError(ValueError):
    """A recipe that is not known here, or in another version."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A signal that a family reads.

    Attributes:
        name: In stores, configs and batches.
        rate_hz: Samples per second.
        made_of: Canonical channels that it can be made of, best first.
        made: How it is made, a word that the recipe's ``make`` knows.
        band_hz: Of its filter; None leaves that side open.
        scaling: What its samples are: ``robust_z``, ``robust_iqr`` (in interquartile ranges of
            the night around its median), ``z`` (mean and standard deviation of the night),
            ``rolling_z``, ``fixed`` (a fixed centre and scale), ``code`` (whole numbers), ``none``
            (as they were given).
        unit: Of the signal before it is scaled; "" where a site's own.
        id: Row of the family's channel embedding, where it has one.
    """

    name: str
    rate_hz: int
    made_of: tuple[str, ...]
    made: str
    band_hz: tuple[float | None, float | None] = (None, None)
    scaling: str = "robust_z"
    unit: str = ""
    id: int | None = None

    @property
    def frames(self) -> int:
        """Samples of an epoch of 30 s, which is a token of models of epochs."""
        return EPOCH_S * self.rate_hz


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The signals that a family reads, and the making of them; picklable.

    Attributes:
        name: Of the file, or of the module elsewhere.
        version: Of what is made.
        token_s: Seconds of a token.
        rows: Name -> row, in canonical order.
        sets: Name -> names of rows; the first is the family's own choice.
        make: ``(rows, recording, quality, mains_hz) -> (signals, facts, refused)``: name ->
            :class:`~data_pipelines.store.ChannelSignal` of what could be made; what the manifest
            says of them under ``qc`` (``findings`` among it join those of the night, and
            ``scaling`` is name -> centre and scale, which give the unit back); and name -> reason
            of what could not.
        provenance: Further facts of all stores of the recipe.
        stand_ins: Whether, in a cohort that lacks a channel, the nearest one recorded may stand
            for it (``table.CohortLabel``), such as Fpz-Cz for C3-M2 in Sleep-EDF.
        absent_rows: Whether a row that no night of a store has may be read all the same, as absent
            everywhere: for models whose rows are fixed.
        declared: What the identity says beside name and version, as JSON values.
        of: Identity -> the recipe, where the rows are declared there; None where they are the
            file's.
    """

    name: str
    version: int
    token_s: int
    rows: Mapping[str, Row]
    sets: Mapping[str, tuple[str, ...]]
    make: Callable[
        [list[Row], Recording, RecordingQuality, int],
        tuple[dict[str, ChannelSignal], dict, dict[str, str]],
    ]
    provenance: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stand_ins: bool = True
    absent_rows: bool = False
    declared: Mapping = dataclasses.field(default_factory=dict)
    of: Callable[[Mapping], Recipe] | None = None

    @property
    def identity(self) -> dict:
        """``{"name", "version"}`` and what is declared, as manifests and exports carry it."""
        return {"name": self.name, "version": self.version, **self.declared}

    def wanted(self, text: str = "") -> tuple[str, ...]:
        """Return names for a set's name, or names by commas; "" is the first set.

        Raises:
            RecipeError: One that is unknown.
        """
        if not text:
            return next(iter(self.sets.values()))
        if text in self.sets:
            return self.sets[text]
        given = [name.strip() for name in text.split(",") if name.strip()]
        unknown = [name for name in given if name not in self.rows]
        if unknown or not given:
            known = ", ".join([*self.sets, *self.rows])
            raise RecipeError(f"{text!r}: {unknown} not among {known} of the recipe {self.name}")
        # The order is the table's: another order is the same store.
        return tuple(name for name in self.rows if name in given)

    def channels_for(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the canonical channels that rows can be made of, each once."""
        return tuple(dict.fromkeys(channel for n in names for channel in self.rows[n].made_of))


def find_recipe(name: str) -> Recipe:
    """Return the recipe of a name.

    Raises:
        RecipeError: No such recipe, a module that nobody allowed, or one without a recipe.
    """
    try:
        module = plugins.find(__name__, name)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    recipe = vars(module).get("RECIPE")
    if not isinstance(recipe, Recipe) or recipe.name != name:
        raise RecipeError(f"{module.__name__} holds no RECIPE of the name {name!r}")
    return recipe


def recipe_of(identity: Mapping, where: str) -> Recipe:
    """Return the recipe of an identity.

    Args:
        identity: ``{"name", "version"}`` and what the recipe declares.
        where: What carries it, for messages.

    Raises:
        RecipeError: It is not known here, or in another version; the message has the command that
            prepares the recordings anew.
    """
    name, version = identity["name"], identity["version"]
    again = f"prepare the recordings anew: python -m launch.prepare_nights --recipe={name}"
    try:
        recipe = find_recipe(name)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}. Or {again}") from error
    if recipe.version != version:
        raise RecipeError(
            f"{where} is of version {version} of the recipe {name}; here is version"
            f" {recipe.version}: {again} --output=NEW"
        )
    return recipe.of(identity) if recipe.of else recipe


def recipe_of_store(store: NightStore) -> Recipe:
    """Return the recipe that a store was prepared by; of one that does not say it, by its nights.

    Raises:
        RecipeError: See :func:`recipe_of`.
    """
    provenance = store.manifest["provenance"]
    of_modalities = provenance.get("nights", provenance).get("modalities")
    first = FIRST_OF_MODALITIES if of_modalities else FIRST_OF_CHANNELS
    return recipe_of(store.recipe or first, str(store.path))


def recipe_of_model(config: Mapping) -> Recipe:
    """Return the recipe of a model; of one that does not say it, by the rows that it reads.

    Args:
        config: Of an export.

    Raises:
        RecipeError: See :func:`recipe_of`.
    """
    of_modalities = any("frames" in row for row in config["modalities"])
    first = FIRST_OF_MODALITIES if of_modalities else FIRST_OF_CHANNELS
    return recipe_of(config.get("recipe") or first, "the model")
