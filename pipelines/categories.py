"""A category for items that come without one: items of one category share their attribute keys and the nouns of titles.

Items become vectors over attribute keys and title words, weighted by rarity. Spherical k-means groups them (many small
groups); each group is named after the noun phrase its titles share, and groups of one name are one category. That gives
readable names and categories of unequal size; a name that tells nothing is replaced at the end. Learned on a sample,
applied to every item. No judgment is read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Keys that say how a thing is shipped, measured or certified, not what it is.
SHIPPING_KEY = re.compile(
    r"(^|_)(package|pallet|carton|case|weight|width|height|depth|length|dimensions?|temperature|humidity|altitude"
    r"|certification|certificates?|country|colou?r|warranty|rohs|quantity|customs|harmonized|oem|last_change|launch"
    r"|status|manual|compliance|sustainability|energy|imperial|shape|material|compatib\w+|brand|purpose|segment)(_|$)"
)
# The only words of fewer than four letters that may name a category: the others are mostly model codes.
SHORT_NOUNS = _words("tv ups kvm pdu cd dvd ssd hub ink fan bag mat pen toy cup cap pad box bed pot")
# Nouns that name something only together with the word before them.
GENERIC_NOUNS = _words(
    "unit units device devices part parts accessory accessories component components system systems equipment "
    "card cards kit kits set sets pack supply switch screen panel drive head port media format station license "
    "board"
)
# Nouns that name something only together with the word after them.
LEADING_NOUNS = _words("power network networking interface audio video laser parallel hard mobile data hand")
# Words that no category is named after: grammar, colours, units, marketing, materials of a description.
NOT_NOUNS = _words(
    "with for and the of in to a an on by from pcs piece pieces black white grey gray blue red silver yellow cyan "
    "magenta green original inch pixels full ultra dpi ppm mbit watt gen high standard series value pro premium "
    "professional plus super single type serial capacity equivalent pages sheets year years duplex multimode "
    "singlemode snagless molded shielded unshielded booted assembled utp sstp stp male female port ports internal "
    "external indoor outdoor wired wireless bluetooth color colour colours light dark large small medium size "
    "format multi purpose dual core matt matte gloss glossy windows vista home business basic use low profile lga "
    "socket ghz ddr sdram sdr gddr li ion lead acid sealed vrla rechargeable alkaline style vertical cat category "
    "jacket wall rack mountable compatible express pci ata sata usb vga dvi hdmi displayport lan ethernet fast "
    "gigabit wi fi lcd led tft hd smart android intel xeon nvidia geforce amd radeon core singlepack multipack "
    "patchcord cms sm mm am pm line interactive output input ceiling flat desk mini micro compact portable "
    "universal digital mobile packs spare over select unmanaged managed onsite vesa optional cleaning rugged "
    "retail bulk box boxed oem replacement refurbished direct thermal dot matrix"
)
# Words that happen to be what titles of a group share, and say nothing or the wrong thing of it.
NOT_NAMES = _words("only squared ssd compaq netshelter")
WITH_KEY = "items with "
LENGTHS = (1.0, 1.8, 2.2)  # weight of a phrase of one, two and three words
LEAST_SHARE = 0.05  # of a category's titles that must hold the phrase which replaces its name
GROUPS = 240
SAMPLE = 30_000
NEAR = 0.45  # cosine from which two items count as neighbours when the first centres are chosen
FAR = 0.15  # an item less alike than this to every centre has no category
TITLE_SHARE = 0.6  # weight of the title's part of a vector beside 1 for the keys' part
MIN_ITEMS = 5  # a word or key of fewer items tells nothing about groups


@dataclass(frozen=True)
class CategoryModel:
    """What assigns a category: the vocabulary with its weights, unit centres (K, D) and the name of each centre."""

    vocabulary: dict[str, int]
    weights: np.ndarray  # (D,) float64: inverse document frequency, title words scaled
    key_count: int  # the first columns are attribute keys, the others title words
    centres: np.ndarray  # (K, D) float64
    names: tuple[str, ...]  # (K,) names may repeat: such groups are one category


def title_words(title: str) -> list[str]:
    """Lower-case words of a title, letters only, that may take part in a category's name."""
    words = re.findall(r"[a-z]+", title.lower())
    return [w for w in words if (len(w) > 3 or w in SHORT_NOUNS) and w not in NOT_NOUNS]


def _features(keys: Sequence[str], title: str) -> set[str]:
    told = {f"k:{key}" for key in keys if not SHIPPING_KEY.search(key)}
    return told | {f"t:{word}" for word in title_words(title)}


def _vectors(items: pd.DataFrame, vocabulary: dict[str, int], weights: np.ndarray, key_count: int) -> sp.csr_matrix:
    rows, columns = [], []
    for row, (keys, title) in enumerate(zip(items["keys"], items["title"], strict=True)):
        told = _features(keys if keys is not None else (), title or "")
        found = sorted(vocabulary[f] for f in told if f in vocabulary)
        rows += [row] * len(found)
        columns += found
    values = weights[columns] if columns else np.zeros(0)
    matrix = sp.csr_matrix((values, (rows, columns)), shape=(len(items), len(vocabulary)))
    parts = sp.hstack([_unit(matrix[:, :key_count]), TITLE_SHARE * _unit(matrix[:, key_count:])])
    return _unit(sp.csr_matrix(parts))


def _unit(matrix: sp.csr_matrix) -> sp.csr_matrix:
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    lengths[lengths == 0] = 1.0
    return sp.csr_matrix(sp.diags(1.0 / lengths) @ matrix)


def _first_centres(vectors: sp.csr_matrix, groups: int) -> list[int]:
    """Rows to start from: each the one with most neighbours that no earlier one has. Ties go to the lowest row."""
    sample = np.arange(0, vectors.shape[0], max(1, vectors.shape[0] // 4000))
    near = (vectors[sample] @ vectors[sample].T).toarray() > NEAR
    free = np.ones(len(sample), dtype=bool)
    counts = near.sum(axis=1)
    chosen: list[int] = []
    while len(chosen) < groups and free.any():
        best = int(counts.argmax())
        if counts[best] < 1:
            break
        chosen.append(int(sample[best]))
        taken = near[best] & free
        counts = counts - near[:, taken].sum(axis=1)
        free &= ~taken
    return chosen


def _phrases(title: str, brand_words: set[str]) -> dict[str, float]:
    """Runs of one to three neighbouring nouns of a title; words with digits, brands and stop words break a run.

    A run in lower case weighs 1, another 0.4: shops write the kind of thing in lower case and its model in capitals.
    """
    found: dict[str, float] = {}
    run: list[str] = []
    for token in re.findall(r"[A-Za-z]+(?!\w)|\S+", title):
        word = token.lower()
        noun = word in GENERIC_NOUNS or (title_words(word) == [word] and word not in brand_words)
        run = [*run[-2:], token] if noun else []
        for start in range(len(run)):
            phrase = " ".join(run[start:])
            if run[start].lower() not in GENERIC_NOUNS and token.lower() not in LEADING_NOUNS:
                weight = 1.0 if phrase.islower() else 0.4
                found[phrase.lower()] = max(weight, found.get(phrase.lower(), 0.0))
    return found


def _name_groups(phrases: list[dict[str, float]], groups: np.ndarray, keys: list[list[str]]) -> list[str]:
    """A name for each group: the phrase most of its titles hold, longer before shorter, else its most telling key."""
    everywhere: Counter[str] = Counter()
    for found in phrases:
        everywhere.update(found)
    names = []
    for group, told in enumerate(keys):
        members = np.flatnonzero(groups == group)
        here: Counter[str] = Counter()
        for member in members:
            here.update(phrases[member])

        def worth(phrase: str, here: Counter[str] = here) -> float:
            own = here[phrase] / everywhere[phrase]
            return here[phrase] * LENGTHS[phrase.count(" ")] * (0.4 + 0.6 * own)

        best = max(sorted(here), key=worth, default="")
        if best and here[best] >= max(1.0, 0.1 * len(members)):
            names.append(best)
        else:
            names.append(WITH_KEY + _key_words(told[0]) if told else "other")
    return names


def _key_words(key: str) -> str:
    return " ".join(key.replace("_", " ").split())


def _clear_names(
    names: list[str], phrases: list[dict[str, float]], groups: np.ndarray, keys: list[list[str]], plain: set[str]
) -> list[str]:
    """Another name for each category that is named after a key or a word of `NOT_NAMES`; which groups share one stays.

    The largest chooses first: the phrase of words in `plain` that most of its titles hold. Where another category has
    that name, a short key of its own is added to it. Where no phrase is held by enough titles, the name stays.
    """
    members = {name: np.isin(groups, [g for g, other in enumerate(names) if other == name]) for name in set(names)}
    unclear = [name for name in members if name.startswith(WITH_KEY) or NOT_NAMES & set(name.split())]
    taken = set(members) - set(unclear)
    replaced: dict[str, str] = {}
    for name in sorted(unclear, key=lambda name: (-int(members[name].sum()), name)):
        here: Counter[str] = Counter()
        for member in np.flatnonzero(members[name]):
            here.update(phrases[member])
        least = max(2.0, LEAST_SHARE * members[name].sum())
        worth = {
            phrase: here[phrase] * LENGTHS[phrase.count(" ")]
            for phrase in sorted(here)
            if here[phrase] >= least and set(phrase.split()) <= plain - NOT_NAMES
        }
        told = []
        if best := max(worth, key=worth.__getitem__, default=""):
            own = sorted((_key_words(key) for key in keys[names.index(name)]), key=lambda key: key.count(" "))
            told = [best, *(f"{best} with {key}" for key in own if not set(key.split()) & set(best.split()))]
        replaced[name] = next(choice for choice in [*told, name] if choice not in taken)
        taken.add(replaced[name])
    return [replaced.get(name, name) for name in names]


def _brand_words(items: pd.DataFrame) -> set[str]:
    """Words that, where a title holds them, are mostly the brand of that very item."""
    seen, own = Counter[str](), Counter[str]()
    for title, brand in zip(items["title"], items["brand"], strict=True):
        words = set(title_words(title))
        seen.update(words)
        own.update(words & set(title_words(brand or "")))
    return {word for word, count in own.items() if count > 0.5 * seen[word]}


def fit_categories(items: pd.DataFrame, groups: int = GROUPS) -> CategoryModel:
    """Learn categories from a sample of items with columns keys (list of attribute keys), title and brand.

    The result depends on the order of rows: sort them. Raises ValueError for an empty sample.
    """
    if items.empty:
        raise ValueError("There is no item with attributes to learn categories from.")
    counts = Counter(
        feature for keys, title in zip(items["keys"], items["title"], strict=True) for feature in _features(keys, title)
    )
    brand_words = _brand_words(items)
    least = min(MIN_ITEMS, max(1, len(items) // 20))
    kept = sorted(f for f, n in counts.items() if n >= least and not (f[0] == "t" and f[2:] in brand_words))
    if not kept:
        raise ValueError("No attribute key or title word is shared by enough items to learn categories from.")
    vocabulary = {feature: i for i, feature in enumerate(kept)}  # "k:..." sorts before "t:..."
    weights = np.array([np.log1p(len(items) / counts[feature]) for feature in kept])
    key_count = sum(feature[0] == "k" for feature in kept)
    vectors = _vectors(items, vocabulary, weights, key_count)
    centres = vectors[_first_centres(vectors, groups)].toarray()
    for _ in range(10):
        nearest = (vectors @ centres.T).argmax(axis=1)
        member = sp.csr_matrix(
            (np.ones(len(nearest)), (nearest, np.arange(len(nearest)))), (len(centres), len(nearest))
        )
        sums = (member @ vectors).toarray()
        lengths = np.linalg.norm(sums, axis=1)
        centres = sums[lengths > 0] / lengths[lengths > 0, None]
    nearest = (vectors @ centres.T).argmax(axis=1)
    told = [[kept[c][2:] for c in np.argsort(-row[:key_count], kind="stable")[:3] if row[c] > 0] for row in centres]
    phrases = [_phrases(title, brand_words) for title in items["title"]]
    # A word that no title writes in lower case is a product line or a slogan more often than a kind of thing.
    plain = {word for title in items["title"] for word in title.split() if word.isalpha() and word.islower()}
    names = _clear_names(_name_groups(phrases, nearest, told), phrases, nearest, told, plain)
    return CategoryModel(vocabulary, weights, key_count, centres, tuple(names))


def assign_categories(model: CategoryModel, items: pd.DataFrame) -> list[str | None]:
    """Category of each item (columns keys, title); None where it has no attributes or is like no category."""
    if items.empty:
        return []
    likeness = _vectors(items, model.vocabulary, model.weights, model.key_count) @ model.centres.T
    nearest, best = likeness.argmax(axis=1), likeness.max(axis=1)
    return [
        model.names[group] if value >= FAR and keys is not None and len(keys) else None
        for group, value, keys in zip(nearest, best, items["keys"], strict=True)
    ]


def with_derived_category(items: DataFrame, groups: int = GROUPS) -> DataFrame:
    """Add `category` to items with item_id, title, brand and `keys` (array of attribute keys); other columns stay.

    Learns on at most 30,000 items, chosen by a hash of the id, on the driver; assigns in the workers.
    """
    told = items.where((F.size("keys") > 0) & F.col("title").isNotNull()).select("item_id", "title", "brand", "keys")
    sample = told.orderBy(F.xxhash64("item_id"), "item_id", "title").limit(SAMPLE).toPandas()
    if sample.empty:
        return items.withColumn("category", F.lit(None).cast("string"))
    sample["keys"] = [sorted(keys) for keys in sample["keys"]]
    model = fit_categories(sample.sort_values(["item_id", "title"], kind="stable").reset_index(drop=True), groups)

    def assign(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for batch in batches:
            found = assign_categories(model, batch)
            yield batch.assign(category=pd.Series(found, index=batch.index, dtype=object))

    schema = StructType([*items.schema.fields, StructField("category", StringType())])
    return items.mapInPandas(assign, schema)
