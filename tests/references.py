"""Slow float64 loops, written from the papers and not from cptk's code.

Masks are True at real tokens (pooling) and at known false negatives (losses).
"""

from __future__ import annotations

import math

import numpy as np


def eos_pooling(states, mask):
    """arXiv 2201.10005, section 2.1: the hidden state of the last real token."""
    batch, length, dim = states.shape
    pooled = np.zeros((batch, dim))
    for row in range(batch):
        for position in range(length):
            if mask[row, position]:
                pooled[row] = states[row, position]
    return pooled


def cls_pooling(states, mask):
    """arXiv 1810.04805, section 3: the hidden state of the first real token."""
    batch, length, dim = states.shape
    pooled = np.zeros((batch, dim))
    for row in range(batch):
        for position in reversed(range(length)):
            if mask[row, position]:
                pooled[row] = states[row, position]
    return pooled


def max_pooling(states, mask):
    """arXiv 1908.10084, section 3: each dimension's largest value over the real tokens."""
    batch, length, dim = states.shape
    pooled = np.zeros((batch, dim))
    for row in range(batch):
        real = [states[row, i] for i in range(length) if mask[row, i]]
        for k in range(dim if real else 0):
            pooled[row, k] = max(state[k] for state in real)
    return pooled


def mean_pooling(states, mask):
    """arXiv 1908.10084, section 3: the mean of the real tokens' states."""
    batch, length, dim = states.shape
    pooled = np.zeros((batch, dim))
    for row in range(batch):
        real = [states[row, i] for i in range(length) if mask[row, i]]
        for state in real:
            pooled[row] += state / len(real)
    return pooled


def weighted_mean_pooling(states, mask):
    """arXiv 2202.08904, section 3.1: weights i / sum_j j over the real tokens."""
    batch, length, dim = states.shape
    pooled = np.zeros((batch, dim))
    for row in range(batch):
        real = [states[row, i] for i in range(length) if mask[row, i]]
        total = sum(range(1, len(real) + 1))
        for rank, state in enumerate(real, start=1):
            pooled[row] += rank / total * state
    return pooled


def cosine(x, y):
    """x . y / (||x|| ||y||), and 0 where either is zero."""
    product = norm_x = norm_y = 0.0
    for a, b in zip(x, y, strict=True):
        product += a * b
        norm_x += a * a
        norm_y += b * b
    return product / math.sqrt(norm_x * norm_y) if norm_x and norm_y else 0.0


def head_logits(query, document, tau):
    """arXiv 2201.10005, section 2: sim(x_i, y_j) * exp(tau)."""
    logits = np.zeros((len(query), len(document)))
    for i in range(len(query)):
        for j in range(len(document)):
            logits[i, j] = cosine(query[i], document[j]) * math.exp(tau)
    return logits


def _cross_entropy(candidates, positive):
    """-log softmax of one entry, in shifted form so that float64 bears logits of 1e4."""
    top = max(candidates)
    total = sum(math.exp(candidate - top) for candidate in candidates)
    return top + math.log(total) - positive


def _row_loss(logits, i, mask):
    kept = [x for j, x in enumerate(logits[i]) if j == i or mask is None or not mask[i, j]]
    return _cross_entropy(kept, logits[i, i])


def _column_loss(logits, j, mask):
    column = [logits[i, j] for i in range(len(logits)) if i == j or mask is None or not mask[i, j]]
    return _cross_entropy(column, logits[j, j])


def info_nce(logits, mask=None, sample_weight=None):
    """arXiv 1807.03748, equation 4, per anchor."""
    weights = np.ones(len(logits)) if sample_weight is None else sample_weight
    return np.array([weights[i] * _row_loss(logits, i, mask) for i in range(len(logits))])


def symmetric_info_nce(logits, mask=None, sample_weight=None):
    """arXiv 2201.10005, section 2: half the row-wise and half the column-wise loss."""
    weights = np.ones(len(logits)) if sample_weight is None else sample_weight
    losses = np.zeros(len(logits))
    for i in range(len(logits)):
        losses[i] = weights[i] * (_row_loss(logits, i, mask) + _column_loss(logits, i, mask)) / 2
    return losses


def _softmax(candidates):
    """Exponentials of a dict {index: logit}, normalised."""
    top = max(candidates.values())
    exponentials = {k: math.exp(x - top) for k, x in candidates.items()}
    total = sum(exponentials.values())
    return {k: e / total for k, e in exponentials.items()}


def info_nce_gradient(logits, mask=None, sample_weight=None):
    """d sum_i w_i loss_i / d l_ij = w_i (softmax(l_i.)_j - [i = j])."""
    n, m = logits.shape
    gradient = np.zeros((n, m))
    for i in range(n):
        weight = 1.0 if sample_weight is None else sample_weight[i]
        kept = {j: logits[i, j] for j in range(m) if j == i or mask is None or not mask[i, j]}
        for j, probability in _softmax(kept).items():
            gradient[i, j] += weight * (probability - (i == j))
    return gradient


def symmetric_info_nce_gradient(logits, mask=None, sample_weight=None):
    """Half the row-wise gradient and half the same for the first n columns."""
    n = len(logits)
    gradient = info_nce_gradient(logits, mask, sample_weight) / 2
    square_mask = None if mask is None else mask[:, :n].T
    gradient[:, :n] += info_nce_gradient(logits[:, :n].T, square_mask, sample_weight).T / 2
    return gradient


def same_text_mask(queries, documents):
    """True where another pair holds the same query or the same document."""
    mask = np.zeros((len(queries), len(documents)), bool)
    for i in range(len(queries)):
        for j in range(len(documents)):
            same_document = np.array_equal(documents[i], documents[j])
            same_query = j < len(queries) and np.array_equal(queries[i], queries[j])
            mask[i, j] = i != j and (same_document or same_query)
    return mask


def in_batch_accuracy(logits, ids=None):
    """The chance that a positive wins its row when ties are broken by lot; equal ids are ties."""
    scores = []
    for i in range(len(logits)):
        row = list(logits[i])
        if ids is not None:
            row = [row[i] if ids[j] == ids[i] else logit for j, logit in enumerate(row)]
        best = max(row)
        winners = [j for j in range(len(row)) if row[j] == best]
        scores.append(1 / len(winners) if i in winners else 0.0)
    return scores


def retrieval(queries, documents, query_texts, document_texts, weights=None):
    """Mean reciprocal rank and recall of queries among all documents, by trec_eval's rules.

    Row i of both sides is a pair. Equal texts are one. By falling cosine in steps of 2**-24,
    equal ones by falling place of the document.
    """
    weights = np.ones(len(queries)) if weights is None else weights
    places = {text: i for i, text in reversed(list(enumerate(document_texts)))}
    values, of_query = {"mrr": [], "recall@1": [], "recall@10": []}, []
    for text in dict.fromkeys(query_texts):
        rows = [i for i, other in enumerate(query_texts) if other == text]
        right = {document_texts[i] for i in rows}
        scores = {
            other: round(2**24 * cosine(queries[rows[0]].astype(float), documents[i].astype(float)))
            for other, i in places.items()
        }
        ranked = sorted(scores, key=lambda other: (scores[other], places[other]))[::-1]
        ranks = [ranked.index(other) + 1 for other in right]
        values["mrr"].append(1 / min(ranks))
        for k in (1, 10):
            values[f"recall@{k}"].append(sum(rank <= k for rank in ranks) / len(ranks))
        of_query.append(np.mean([weights[i] for i in rows]))
    return {name: float(np.average(found, weights=of_query)) for name, found in values.items()}


def bm25(queries, documents, k1, b):
    """Robertson & Zaragoza 2009, section 3, with Lucene's idf: scores (n, m) of lists of words."""
    mean = sum(len(document) for document in documents) / len(documents)
    scores = np.zeros((len(queries), len(documents)))
    for i, query in enumerate(queries):
        for j, document in enumerate(documents):
            for word in query:
                count = document.count(word)
                having = sum(word in other for other in documents)
                idf = math.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
                damping = k1 * (1 - b + b * len(document) / mean)
                if count:
                    scores[i, j] += idf * count / (count + damping)
    return scores
