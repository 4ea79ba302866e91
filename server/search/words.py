"""Products by words: BM25 over the catalogue's texts, with tantivy as the engine.

    bm25(q, p) = Σ_w,f boost_f idf(w) tf (k1 + 1) / (tf + k1 (1 − b + b |p_f| / mean |f|)),  k1 1.2, b .75

over words w of the query and fields f of the product (Robertson and Zaragoza 2009). Words are reduced to their English
stems (`server.search.tokens`). An index is immutable; the index of a changed catalogue shares all but the changed
products with the one before. What was taken out of the catalogue is found no more, and its words are forgotten; tantivy
counts it in idf and in mean |f| until it merges the segment that it was in.
"""

import threading
import weakref
from collections import Counter

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import tantivy

from kg.snapshot import Snapshot
from kg.taking import taken
from server.search.lexicon import Lexicon
from server.search.tokens import AS_TYPED, STEMMED, normalised, stems, typed_words

MOST_WORDS = 32
"""Words of a query that are looked for; the rest is passed over."""

BOOSTS = {"title": 2.0, "brand": 1.0, "text": 1.0}
"""How much a word counts in a field; `text` has title, brand, category and description together."""

_WRITER_BYTES = 64 << 20
_TERMS_OF_A_SET = 4096
_TERMS_ONE_BY_ONE = 1000
_TYPED = "typed"
_COLUMNS = list(BOOSTS)

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


class WordIndex:
    """The words of a snapshot's catalogue. Reading is safe from any thread; see `build` and `following`.

    Args:
        index: tantivy's, which later catalogues are added to.
        writer: its only one.
        catalogue: the texts that are in it.
        taken_out: products whose texts are not, ascending.
        vocabulary: the words of those that are.
    """

    def __init__(
        self,
        index: tantivy.Index,
        writer: tantivy.IndexWriter,
        catalogue: pa.Table,
        taken_out: Int64s,
        vocabulary: Lexicon,
    ) -> None:
        self.vocabulary = vocabulary
        self._index = index
        self._writer = writer
        self._catalogue = catalogue
        self._taken_out = taken_out
        # Weakly: who holds on to an old index must not hold all that came after it.
        self._next: weakref.ref[WordIndex] | None = None
        self._going_on = threading.Lock()
        index.reload()
        self._searcher = index.searcher()

    def __len__(self) -> int:
        return len(self._catalogue)

    @classmethod
    def build(cls, snapshot: Snapshot) -> "WordIndex":
        """Index a catalogue; 100,000 products take some seconds."""
        index = tantivy.Index(_schema())
        index.register_tokenizer("words", STEMMED)
        index.register_tokenizer(_TYPED, AS_TYPED)
        # One thread, so that equal catalogues give equal segments.
        writer = index.writer(heap_size=_WRITER_BYTES, num_threads=1)
        catalogue, taken_out = snapshot.catalogue.select(_COLUMNS), snapshot.products.taken_out
        _add(writer, catalogue, np.setdiff1d(np.arange(len(catalogue)), taken_out))
        writer.commit()
        index.reload()
        vocabulary = Lexicon(dict(index.searcher().terms_with_prefix(_TYPED, "")))
        return cls(index, writer, catalogue, taken_out, vocabulary)

    def following(self, snapshot: Snapshot) -> "WordIndex":
        """Return the index of a later catalogue whose first products are this one's, changed or not; else a new one.

        An index is gone on with once: for the same catalogue again the answer is the same, for another one anew.
        """
        catalogue, taken_out = snapshot.catalogue.select(_COLUMNS), snapshot.products.taken_out
        with self._going_on:
            if self._is_of(catalogue, taken_out):
                return self
            if self._next is not None:
                following = self._next()
                if following is not None and following._is_of(catalogue, taken_out):
                    return following
                return WordIndex.build(snapshot)
            if len(catalogue) < len(self):
                return WordIndex.build(snapshot)
            following = self._extended(catalogue, taken_out)
            self._next = weakref.ref(following)
            return following

    def _is_of(self, catalogue: pa.Table, taken_out: Int64s) -> bool:
        return np.array_equal(taken_out, self._taken_out) and catalogue.equals(self._catalogue)

    def _extended(self, catalogue: pa.Table, taken_out: Int64s) -> "WordIndex":
        changed = np.union1d(_changed(self._catalogue, catalogue), np.setxor1d(taken_out, self._taken_out))
        gone = np.setdiff1d(changed[changed < len(self)], self._taken_out)
        come = np.setdiff1d(changed, taken_out)
        if len(gone):
            of_them = tantivy.Query.term_set_query(self._index.schema, "product", gone.tolist())
            self._writer.delete_documents_by_query(of_them)  # not by term: for a number that removes nothing
        _add(self._writer, catalogue, come)
        self._writer.commit()
        vocabulary = self.vocabulary.changed(_typed(self._catalogue, gone), _typed(catalogue, come))
        return WordIndex(self._index, self._writer, catalogue, taken_out, vocabulary)

    def find(self, query: str, k: int, allowed: Bools | None = None) -> tuple[Int64s, Float32s]:
        """Return the k products that fit a query's words best, and how well; fewer where fewer have one of them.

        Args:
            query: any text.
            k: how many.
            allowed: `[P]` which products may be found; None: all.

        Returns:
            Product indices and BM25 scores, best first.
        """
        found, bm25, _ = self.best(query, k, allowed)
        return found, bm25

    def best(
        self, query: str, k: int, allowed: Bools | None = None, least: int | None = None
    ) -> tuple[Int64s, Float32s, bool]:
        """Return what `find` does, and whether no others have a word of the query.

        Args:
            query: any text.
            k: how many.
            allowed: `[P]` which products may be found; None: all.
            least: so few will do where a filter lets few of the best through, and more would take long; None: k.
        """
        asked, k = self._query(query), min(k, len(self))
        if asked is None or k < 1:
            return np.empty(0, np.int64), np.empty(0, np.float32), True
        if allowed is None:
            found, score = self._search(asked, k)
            return found, score, len(found) < k or k == len(self)
        count = int(allowed.sum())
        if count > _TERMS_OF_A_SET:
            least = k if least is None else min(k, least)
            depth = min(len(self), max(k, 2 * least * len(self) // count))
            while True:
                found, score = self._search(asked, depth)
                passes, whole = allowed[found], len(found) < depth or depth == len(self)
                if whole or passes.sum() >= least:
                    return found[passes][:k], score[passes][:k], whole and int(passes.sum()) <= k
                if depth * least // max(int(passes.sum()), 1) > count:  # the best of the words are others'
                    break
                depth = min(len(self), 4 * depth)
        found, score = self._search(self._among(asked, np.flatnonzero(allowed)), k)
        return found, score, len(found) < k or k >= count

    def scores(self, query: str, product_index: Int64s) -> Float32s:
        """Return how well some products fit a query's words, 0 where one has none of them.

        Args:
            query: any text.
            product_index: `[K]`, ascending.
        """
        score, asked = np.zeros(len(product_index), np.float32), self._query(query)
        if asked is not None and len(product_index):
            found, of_found = self._search(self._among(asked, product_index), len(product_index))
            score[np.searchsorted(product_index, found)] = of_found
        return score

    def _among(self, asked: tantivy.Query, product_index: Int64s) -> tantivy.Query:
        """Return a query of some products only, which scores them as it did."""
        schema, products = self._index.schema, product_index.tolist()
        if len(products) <= _TERMS_ONE_BY_ONE:  # half the time of a set
            terms = [tantivy.Query.term_query(schema, "product", each) for each in products]
            among = tantivy.Query.boolean_query([(tantivy.Occur.Should, each) for each in terms])
        else:
            among = tantivy.Query.term_set_query(schema, "product", products)
        of_them = (tantivy.Occur.Must, tantivy.Query.const_score_query(among, 0.0))
        return tantivy.Query.boolean_query([(tantivy.Occur.Must, asked), of_them])

    def _query(self, text: str) -> tantivy.Query | None:
        words = list(dict.fromkeys(stems(text)))[:MOST_WORDS]
        if not words:
            return None
        term, schema = tantivy.Query.term_query, self._index.schema
        return tantivy.Query.boolean_query(
            [
                (tantivy.Occur.Should, tantivy.Query.boost_query(term(schema, field, word), boost))
                for word in words
                for field, boost in BOOSTS.items()
            ]
        )

    def _search(self, query: tantivy.Query, k: int) -> tuple[Int64s, Float32s]:
        hits = self._searcher.search(query, limit=k, count=False).hits
        found = self._searcher.fast_field_values("product", [place for _, place in hits])
        return np.array(found, np.int64), np.array([score for score, _ in hits], np.float32)


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder().add_unsigned_field("product", indexed=True, fast=True)
    for field in BOOSTS:
        builder = builder.add_text_field(field, tokenizer_name="words", index_option="freq")
    return builder.add_text_field(_TYPED, tokenizer_name=_TYPED, index_option="basic").build()


def _add(writer: tantivy.IndexWriter, catalogue: pa.Table, product_index: Int64s) -> None:
    rows = taken(catalogue, product_index) if len(product_index) < len(catalogue) else catalogue
    columns = [map(normalised, rows[name].to_pylist()) for name in BOOSTS]
    for index, *texts in zip(product_index.tolist(), *columns, strict=True):
        document = tantivy.Document()
        document.add_unsigned("product", index)
        for field, text in zip(BOOSTS, texts, strict=True):
            document.add_text(field, text)
        document.add_text(_TYPED, texts[-1])
        writer.add_document(document)


def _typed(catalogue: pa.Table, product_index: Int64s) -> Counter[str]:
    """Return how many of some products have each word."""
    texts = taken(catalogue.select(["text"]), product_index)["text"].to_pylist()
    return Counter(word for text in texts for word in set(typed_words(text)))


def _changed(before: pa.Table, after: pa.Table) -> Int64s:
    """Return the products of a catalogue that are new or read otherwise than before."""
    differs = np.zeros(len(after), np.bool_)
    differs[len(before) :] = True
    for name in BOOSTS:
        same = pc.equal(before[name], after[name].slice(0, len(before)))
        differs[: len(before)] |= ~same.to_numpy().astype(np.bool_)
    return np.flatnonzero(differs)
