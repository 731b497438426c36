"""What is published: Gecko's rows on MTEB, the sets that they average, and which local folder is which set."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Final

from tokay.evaluate.sides import CATEGORIES, Category

SETS: Final[Mapping[Category, tuple[str, ...]]] = {
    "Classification": (
        "AmazonCounterfactualClassification",
        "AmazonPolarityClassification",
        "AmazonReviewsClassification",
        "Banking77Classification",
        "EmotionClassification",
        "ImdbClassification",
        "MTOPDomainClassification",
        "MTOPIntentClassification",
        "MassiveIntentClassification",
        "MassiveScenarioClassification",
        "ToxicConversationsClassification",
        "TweetSentimentExtractionClassification",
    ),
    "Clustering": (
        "ArxivClusteringP2P",
        "ArxivClusteringS2S",
        "BiorxivClusteringP2P",
        "BiorxivClusteringS2S",
        "MedrxivClusteringP2P",
        "MedrxivClusteringS2S",
        "RedditClustering",
        "RedditClusteringP2P",
        "StackExchangeClustering",
        "StackExchangeClusteringP2P",
        "TwentyNewsgroupsClustering",
    ),
    "PairClassification": (
        "SprintDuplicateQuestions",
        "TwitterSemEval2015",
        "TwitterURLCorpus",
    ),
    "Reranking": (
        "AskUbuntuDupQuestions",
        "MindSmallReranking",
        "SciDocsRR",
        "StackOverflowDupQuestions",
    ),
    "Retrieval": (
        "ArguAna",
        "CQADupstackRetrieval",
        "ClimateFEVER",
        "DBPedia",
        "FEVER",
        "FiQA2018",
        "HotpotQA",
        "MSMARCO",
        "NFCorpus",
        "NQ",
        "QuoraRetrieval",
        "SCIDOCS",
        "SciFact",
        "TRECCOVID",
        "Touche2020",
    ),
    "STS": (
        "BIOSSES",
        "SICK-R",
        "STS12",
        "STS13",
        "STS14",
        "STS15",
        "STS16",
        "STS17",
        "STS22",
        "STSBenchmark",
    ),
    "Summarization": ("SummEval",),
}
"""The 56 sets of the first English edition of MTEB, which Gecko's table 1 averages."""

GECKO: Final[Mapping[str, tuple[float, ...]]] = {
    "gecko-1b-256": (78.99, 45.07, 87.25, 57.78, 52.44, 84.93, 32.36, 64.37),
    "gecko-1b-768": (81.17, 47.48, 87.61, 58.91, 55.70, 85.06, 32.63, 66.31),
    "gecko-1b-768, FRet only": (70.26, 46.82, 86.27, 57.60, 53.16, 83.14, 32.16, 62.64),
}
"""Averages in points, by ``CATEGORIES``, and over all 56 sets (2403.20327, table 1)."""

SAMPLES: Final[Mapping[str, int]] = {
    "EmotionClassification": 16,
    "ToxicConversationsClassification": 16,
    "TweetSentimentExtractionClassification": 32,
    "AmazonCounterfactualClassification": 32,
}
"""Few-shot texts of a class, where MTEB takes other than 8."""

_FOLDERS: Final[Mapping[str, str]] = {
    "stsb": "STSBenchmark",
    "stsbenchmark": "STSBenchmark",
    "sick-r": "SICK-R",
    "biosses": "BIOSSES",
    "banking77": "Banking77Classification",
    "arguana": "ArguAna",
    "climate-fever": "ClimateFEVER",
    "dbpedia-entity": "DBPedia",
    "fever": "FEVER",
    "fiqa": "FiQA2018",
    "hotpotqa": "HotpotQA",
    "msmarco": "MSMARCO",
    "nfcorpus": "NFCorpus",
    "nq": "NQ",
    "quora": "QuoraRetrieval",
    "scidocs": "SCIDOCS",
    "scifact": "SciFact",
    "trec-covid": "TRECCOVID",
    "webis-touche2020": "Touche2020",
    "summeval": "SummEval",
}
"""What folders are usually called, BEIR's among them, and MTEB's names; MTEB's own names need no entry."""


def mteb_name(folder: str) -> str:
    """MTEB's name of a set by its folder's, else the folder's own."""
    return _FOLDERS.get(folder.casefold(), folder)


@dataclasses.dataclass(frozen=True)
class Average:
    """Mean of a category over the sets at hand, and Gecko's over all of MTEB's, in points.

    ``sets`` were measured; ``theirs`` of them are among the ``of`` that were averaged.
    """

    category: Category
    points: float
    sets: int
    theirs: int
    of: int
    gecko: tuple[float, ...]

    @property
    def comparable(self) -> bool:
        """Whether both are means over the same sets."""
        return self.sets == self.theirs == self.of


def averages(scores: Iterable[tuple[Category, str, float]]) -> list[Average]:
    """Means by category, in the order of Gecko's table, of (category, set, main score between 0 and 1)."""
    by: dict[Category, dict[str, float]] = {}
    for category, name, score in scores:
        by.setdefault(category, {})[name] = score
    return [
        Average(
            category,
            100 * sum(by[category].values()) / len(by[category]),
            len(by[category]),
            len(by[category].keys() & {*SETS[category]}),
            len(SETS[category]),
            tuple(row[at] for row in GECKO.values()),
        )
        for at, category in enumerate(CATEGORIES)
        if category in by
    ]
