"""Greedy, sampling and beam search against naive searches, on a model that is a hash function."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.decoding import beam_search, greedy, sample, word_log_probabilities
from core.models import CaptioningRNN
from core.recipes.no_repeat import NoRepeat

NULL, START, END, UNKNOWN = range(4)
SPECIAL = 4  # ordinary words come after
PENALTIES = [0, 0.5, 1, 2]


class Hashed:
    """A decoder whose log-probabilities are a hash of the image and of all words so far.

    Any slip of a row, of an order or of a word changes all that follows. A feature is an integer.

    - bias: word -> what is added to its score
    - levels: log-probabilities are -1/8, ..., -levels/8 (not normalised), so that sums are exact
      and ties are frequent; None: proper log-probabilities without ties
    """

    null, start, end, unknown = NULL, START, END, UNKNOWN

    def __init__(self, V=7, seed=0, bias=None, levels=None, max_length=None):
        self.V, self.levels, self.max_length = V, levels, max_length
        self.factors = np.random.default_rng(seed).integers(1, 2**63, V, dtype=np.uint64) | 1
        self.bias = np.zeros(V)
        for word, value in (bias or {}).items():
            self.bias[word] = value
        self.rows = []  # of each call of step

    def begin(self, features):
        images = np.asarray(features, dtype=np.uint64)
        return images, images * self.factors[0]

    def step(self, state, tokens):
        images, seen = state
        assert tokens.shape == images.shape
        _, sizes = np.unique(images, return_counts=True)
        assert np.all(np.diff(images.astype(int)) >= 0), "images out of order"
        assert len(set(sizes)) <= 1, "images with different numbers of rows"
        self.rows.append(len(tokens))
        seen = (seen ^ (tokens.astype(np.uint64) + np.uint64(1))) * np.uint64(0x9E3779B97F4A7C15)
        seen ^= seen >> np.uint64(29)
        uniform = ((seen[:, None] * self.factors) >> np.uint64(40)) / 2.0**24
        if self.levels:
            log_probs = self.bias - (1 + np.floor(self.levels * uniform)) / 8
            log_probs = np.minimum(log_probs, -1 / 8)
        else:
            log_probs = 4 * uniform + self.bias
            log_probs -= np.log(np.exp(log_probs).sum(axis=1, keepdims=True))
        log_probs.flags.writeable = False  # whoever writes into it raises
        return log_probs, (images, seen)

    def select(self, state, rows):
        return state[0][rows], state[1][rows]


def captioner(cell_type="lstm", V=7, seed=0):
    """An untrained model, with weights large enough for distributions that are far from flat."""
    words = ["<NULL>", "<START>", "<END>", "<UNK>", *(f"word{i}" for i in range(V - SPECIAL))]
    model = CaptioningRNN(
        {word: i for i, word in enumerate(words)},
        input_dim=5,
        wordvec_dim=3,
        hidden_dim=6,
        cell_type=cell_type,
        dtype=np.float64,
        rng=np.random.default_rng(seed),
    )
    model.params["W_embed"] *= 20
    model.params["W_vocab"] *= 3
    model.params["b_vocab"][END] = 1
    features = np.random.default_rng(seed + 1).standard_normal((4, 5))
    return model, features


def hashed_case(**options):
    return Hashed(**options), np.array([1, 5, 6, 9])


CASES = {
    "hashed": hashed_case,
    "rnn": lambda **options: captioner("rnn", **options),
    "lstm": lambda **options: captioner("lstm", **options),
}
every_model = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


# -- naive searches ----------------------------------------------------------------------------


def extensions(model, features, words, allow_unknown=False):
    """(log-probability, word) for every word that may follow ``words``; features hold one image.

    Reads the words anew, one by one.
    """
    state = model.begin(features)
    for word in (START, *words):
        log_probs, state = model.step(state, np.array([word]))
    banned = {NULL, START} | (set() if allow_unknown else {UNKNOWN})
    found = enumerate(log_probs[0].tolist())
    return [(p, word) for word, p in found if word not in banned and p > -math.inf]


def brute_force(model, features, T, length_penalty):
    """Every caption that ends within T words, with its score, best first."""
    finished, beginnings = [], [(0.0, ())]
    while beginnings:
        before, words = beginnings.pop()
        for log_p, word in extensions(model, features, words):
            log_p += before
            if word == END:
                score = log_p / (len(words) + 1) ** length_penalty
                finished.append((score, (*words, END)))
            elif len(words) + 1 < T:
                beginnings.append((log_p, (*words, word)))
    return sorted(finished, reverse=True)


def naive_beam(model, features, K, T, length_penalty, n_best):
    """Beam search in lists, which never stops for a bound."""
    finished, beams = [], [(0.0, ())]
    for t in range(1, T + 1):
        candidates = [
            (before + log_p, (*words, word))
            for before, words in beams
            for log_p, word in extensions(model, features, words)
        ]
        candidates.sort(key=lambda candidate: -candidate[0])  # stable: ties by beam, then by word
        finished += [(p / t**length_penalty, w) for p, w in candidates[:K] if w[-1] == END]
        beams = [(p, w) for p, w in candidates[:K] if w[-1] != END]
        if not beams:
            break
    if not finished:
        return [(beams[0][0] / T**length_penalty, beams[0][1])]
    return sorted(finished, key=lambda found: -found[0])[:n_best]


def as_lists(captions, scores):
    """The filled places of one image's n-best list as [(score, words)]; checks the others."""
    found = []
    for caption, score in zip(captions.tolist(), scores.tolist(), strict=True):
        if score == -math.inf:
            assert set(caption) == {NULL}
            continue
        length = caption.index(END) + 1 if END in caption else len(caption)
        assert set(caption[length:]) <= {NULL}
        found.append((score, tuple(caption[:length])))
    return found


def assert_same(found, expected):
    """The same captions in the same order; scores up to the rounding of sums of 10 numbers."""
    assert [words for _, words in found] == [words for _, words in expected]
    for (score, _), (right, _) in zip(found, expected, strict=True):
        assert score == pytest.approx(right, rel=1e-12)


# -- beam search -------------------------------------------------------------------------------


@every_model
@pytest.mark.parametrize("length_penalty", [0, 0.3, 1, 5])
def test_beam_of_one_is_greedy(case, length_penalty):
    for seed in range(10):
        model, features = case(V=9, seed=seed)
        captions, scores = beam_search(model, features, 1, 8, length_penalty)
        assert captions.shape == (4, 1, 8)
        assert captions.dtype == np.int64
        assert scores.shape == (4, 1)
        np.testing.assert_array_equal(captions[:, 0], greedy(model, features, 8))


def test_beam_of_one_is_greedy_with_ties_of_sums():
    """Next to -1e9 the difference between two words is lost in float64; greedy still sees it."""

    class Improbable(Hashed):
        def step(self, state, tokens):
            log_probs, state = super().step(state, tokens)
            return (1e-9 * log_probs - 1e9 * (tokens == START)[:, None]), state

    model, features = Improbable(V=30, bias={END: -9}), np.arange(20)
    captions, _ = beam_search(model, features, 1, 6)
    np.testing.assert_array_equal(captions[:, 0], greedy(model, features, 6))


@every_model
@pytest.mark.parametrize("length_penalty", PENALTIES)
@pytest.mark.parametrize("n_best", [1, 4])
def test_beam_as_wide_as_the_tree_is_brute_force(case, length_penalty, n_best):
    T = 4
    for V, seed in [(6, 0), (7, 1)]:
        model, features = case(V=V, seed=seed)
        K = (V - SPECIAL + 1) ** T
        captions, scores = beam_search(model, features, K, T, length_penalty, n_best)
        for i in range(len(features)):
            expected = brute_force(model, features[i : i + 1], T, length_penalty)
            assert_same(as_lists(captions[i], scores[i]), expected[:n_best])


def test_whole_tree_as_n_best_list():
    model, features = hashed_case(V=6)
    captions, scores = beam_search(model, features, 81, 4, n_best=81)
    for i in range(len(features)):
        found = as_lists(captions[i], scores[i])
        assert len(found) == 1 + 2 + 4 + 8
        assert_same(found, brute_force(model, features[i : i + 1], 4, 1.0))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    V=st.integers(5, 12),
    K=st.integers(1, 8),
    T=st.integers(1, 6),
    length_penalty=st.sampled_from(PENALTIES),
    end=st.sampled_from([-2, 0, 1]),
    levels=st.sampled_from([None, 2, 16]),
    best_only=st.booleans(),
)
def test_equals_naive_beam_search(seed, V, K, T, length_penalty, end, levels, best_only):
    """Narrow beams too, where what is kept and when <END> counts matters; and with many ties."""
    n_best = 1 if best_only else K
    model = Hashed(V, seed, {END: end}, levels)
    features = np.array([2, 3, 7])
    captions, scores = beam_search(model, features, K, T, length_penalty, n_best)
    for i in range(len(features)):
        expected = naive_beam(model, features[i : i + 1], K, T, length_penalty, n_best)
        assert_same(as_lists(captions[i], scores[i]), expected)


@every_model
def test_n_best_is_sorted_and_scored_by_the_model(case):
    for length_penalty in PENALTIES:
        model, features = case(V=9)
        captions, scores = beam_search(model, features, 6, 8, length_penalty, n_best=6)
        assert np.isfinite(scores).sum() > 2 * len(features)
        for i in range(len(features)):
            found = as_lists(captions[i], scores[i])
            assert len({words for _, words in found}) == len(found)
            assert found == sorted(found, reverse=True)
            for score, words in found:
                log_p = 0
                for t, word in enumerate(words):
                    after = extensions(model, features[i : i + 1], words[:t])
                    log_p += next(p for p, w in after if w == word)
                assert score == pytest.approx(log_p / len(words) ** length_penalty, rel=1e-12)


@every_model
def test_alone_as_in_a_batch(case):
    model, features = case(V=9)
    captions, scores = beam_search(model, features, 3, 8, n_best=3)
    words = greedy(model, features, 8)
    for i in range(len(features)):
        alone, score = beam_search(model, features[i : i + 1], 3, 8, n_best=3)
        np.testing.assert_array_equal(alone[0], captions[i])
        # BLAS sums in another order for another number of rows.
        np.testing.assert_allclose(score[0], scores[i], rtol=1e-12)
        np.testing.assert_array_equal(greedy(model, features[i : i + 1], 8)[0], words[i])


def test_longer_captions_win_with_the_length_penalty():
    lengths = []
    model, features = Hashed(V=9), np.arange(30)
    for length_penalty in PENALTIES:
        captions, _ = beam_search(model, features, 5, 10, length_penalty)
        lengths.append((captions != NULL).sum())
    assert lengths == sorted(set(lengths))


class Constant(Hashed):
    """<END> has the same probability at every step; the rest belongs to the one other word."""

    end_probability = 0.9

    def step(self, state, tokens):
        log_probs, state = super().step(state, tokens)
        log_probs = np.full_like(log_probs, -np.inf)
        log_probs[:, [END, SPECIAL]] = np.log([self.end_probability, 1 - self.end_probability])
        return log_probs, state


@pytest.mark.parametrize(
    ("end_probability", "length_penalty", "beam_size", "n_best", "steps"),
    [
        (0.9, 0, 20, 1, 1),  # log 0.1 < log 0.9
        (0.5, 0, 20, 1, 1),  # an equal is not better
        # log 0.1 / 30 = -0.08 may still beat log 0.9 = -0.11; 2 log 0.1 / 30 not
        (0.9, 1, 20, 1, 2),
        (0.9, 1, 20, 2, 16),  # (log 0.1 + log 0.9) / 2 = -1.20, and 16 log 0.1 / 30 = -1.23
        (0.9, 2, 1, 1, 1),  # the bound would allow more, but the only beam has ended
    ],
)
def test_stops_as_soon_as_nothing_better_can_come(
    end_probability, length_penalty, beam_size, n_best, steps
):
    model = Constant(V=5)
    model.end_probability = end_probability
    beam_search(model, np.array([1, 2]), beam_size, 30, length_penalty, n_best)
    assert len(model.rows) == steps


class Certain(Hashed):
    """Sure of one caption of seven words; all other words are as improbable as each other."""

    def step(self, state, tokens):
        log_probs, state = super().step(state, tokens)
        log_probs = np.full_like(log_probs, -50)
        log_probs[tokens == self.sure[self.t], self.sure[self.t + 1]] = 0
        self.t += 1
        return log_probs, state


def test_poor_captions_that_end_early_do_not_stop_the_search():
    """At every step the second best words, <END> among them, are improbable alike."""
    model = Certain(V=9)
    model.t, model.sure = 0, [START, 4, 5, 6, 7, 8, 4, END]
    captions, scores = beam_search(model, np.array([1]), beam_size=5)
    assert captions[0, 0, :7].tolist() == model.sure[1:]
    assert scores[0, 0] == 0


def test_stopping_early_loses_nothing():
    T, early = 6, 0
    for seed in range(5):
        for length_penalty in PENALTIES:
            model, features = Hashed(V=6, seed=seed, bias={END: 3}), np.array([seed])
            captions, scores = beam_search(model, features, 3**T, T, length_penalty, n_best=2)
            early += len(model.rows) < T
            expected = brute_force(model, features, T, length_penalty)
            assert_same(as_lists(captions[0], scores[0]), expected[:2])
    assert early >= 10  # of 20


def test_images_that_are_done_leave_the_batch():
    model, features = Hashed(V=9, bias={END: 2}), np.arange(40)
    beam_search(model, features, 3, 20)
    assert model.rows[:2] == [40, 3 * np.ceil(model.rows[1] / 3)]
    assert model.rows[1] <= 120
    assert model.rows[1:] == sorted(model.rows[1:], reverse=True)
    assert 0 < model.rows[-1] < 60
    model.rows.clear()
    greedy(model, features, 20)
    assert model.rows == sorted(model.rows, reverse=True)
    assert 0 < model.rows[-1] < 20


def test_nothing_is_possible_but_the_end():
    """With no ordinary word there is one caption, and places that stay empty."""
    captions, scores = beam_search(Hashed(V=4), np.array([1, 2]), 3, 5, n_best=3)
    assert captions[:, 0].tolist() == [[END, NULL, NULL, NULL, NULL]] * 2
    assert np.all(captions[:, 1:] == NULL)
    assert np.all(np.isfinite(scores[:, 0]))
    assert np.all(scores[:, 1:] == -np.inf)


# -- every decoder -----------------------------------------------------------------------------


def decode_beam(model, features, max_length=30, allow_unknown=False):
    captions, _ = beam_search(model, features, 3, max_length, allow_unknown=allow_unknown)
    return captions[:, 0]


def decode_sample(model, features, max_length=30, allow_unknown=False, **options):
    rng = np.random.default_rng(0)
    return sample(model, features, rng, max_length, allow_unknown=allow_unknown, **options)


DECODERS = {"greedy": greedy, "sample": decode_sample, "beam": decode_beam}
every_decoder = pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS)


@every_decoder
def test_a_model_that_never_ends(decode):
    model = Hashed(bias={END: -1e6})
    captions = decode(model, np.arange(5), 12)
    assert captions.shape == (5, 12)
    assert captions.dtype == np.int64
    assert captions.min() >= SPECIAL
    if decode is decode_beam:
        found, scores = beam_search(model, np.arange(5), 3, 12, n_best=3)
        np.testing.assert_array_equal(found[:, 0], captions)
        assert np.all(scores[:, 0] > -4)
        assert np.all(found[:, 1:] == NULL)
        assert np.all(scores[:, 1:] == -np.inf)


@every_decoder
@pytest.mark.parametrize("allow_unknown", [False, True])
def test_special_words_are_not_said(decode, allow_unknown):
    model = Hashed(bias={NULL: 90, START: 90, UNKNOWN: 40})
    captions = decode(model, np.arange(20), 6, allow_unknown=allow_unknown)
    assert START not in captions
    assert np.any(captions == UNKNOWN) == allow_unknown
    ended = np.cumsum(captions == END, axis=1) - (captions == END)
    np.testing.assert_array_equal(captions == NULL, ended > 0)
    assert ended.any() or allow_unknown


@every_decoder
def test_a_vocabulary_without_unknown(decode):
    model = Hashed()
    model.unknown = None
    assert UNKNOWN in decode(model, np.arange(30), 6)


@every_decoder
def test_no_more_steps_than_the_model_has_positions(decode):
    model = Hashed(bias={END: -30}, max_length=4)
    captions = decode(model, np.arange(5), 9)
    assert captions.shape == (5, 9)
    assert len(model.rows) == 4
    assert captions[:, :4].min() >= SPECIAL
    assert np.all(captions[:, 4:] == NULL)
    model.max_length = 20
    assert np.all(decode(model, np.arange(5), 9) != NULL)
    del model.max_length
    assert np.all(decode(model, np.arange(5), 9) != NULL)


def test_positions_are_what_the_bound_and_the_scores_count():
    for seed in range(10):
        limited, free = (Hashed(seed=seed, bias={END: 1}, max_length=m) for m in (5, None))
        for length_penalty in PENALTIES:
            captions, scores = beam_search(limited, [3], 40, 30, length_penalty, n_best=3)
            expected, right = beam_search(free, [3], 40, 5, length_penalty, n_best=3)
            np.testing.assert_array_equal(captions[:, :, :5], expected)
            np.testing.assert_array_equal(scores, right)
        assert limited.rows == free.rows


@every_decoder
def test_no_images(decode):
    assert decode(Hashed(), np.arange(0), 5).shape == (0, 5)
    model, features = captioner()
    assert decode(model, features[:0], 5).shape == (0, 5)


def test_of_equals_the_lower_id():
    model, features = Hashed(levels=1, bias={END: -1}), np.arange(3)  # every word alike
    assert np.all(greedy(model, features, 4) == SPECIAL)
    assert np.all(decode_sample(model, features, 4, top_k=1) == SPECIAL)
    drawn = decode_sample(model, np.arange(200), 4, top_k=2)
    assert set(drawn.ravel().tolist()) == {SPECIAL, SPECIAL + 1}
    model = Hashed(V=12, levels=1, bias={END: -60})
    drawn = decode_sample(model, np.arange(200), 4, top_p=0.3)  # of 8: 2 are too few, 3 enough
    assert set(drawn.ravel().tolist()) == {SPECIAL, SPECIAL + 1, SPECIAL + 2}
    captions, _ = beam_search(model, features, 3, 4)
    assert np.all(captions == SPECIAL)
    model = Hashed(V=200, levels=1, bias={END: -60})
    drawn = decode_sample(model, np.arange(500), 4, top_k=70)
    assert set(drawn.ravel().tolist()) == set(range(SPECIAL, SPECIAL + 70))


@every_decoder
@pytest.mark.parametrize("name", ["start", "end"])
def test_needs_start_and_end(decode, name):
    model = Hashed()
    setattr(model, name, None)
    with pytest.raises(ValueError, match="<START> and <END>"):
        decode(model, np.arange(2))


@every_decoder
def test_needs_a_length(decode):
    with pytest.raises(ValueError, match="max_length: found 0, expected at least 1"):
        decode(Hashed(), np.arange(2), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam_size: found 0, expected at least 1"),
        ({"length_penalty": -0.1}, "length_penalty: found -0.1, expected at least 0"),
        ({"length_penalty": math.nan}, "length_penalty: found nan, expected at least 0"),
        ({"n_best": 0}, "n_best: found 0, expected 1 to beam_size = 5"),
        ({"n_best": 6}, "n_best: found 6, expected 1 to beam_size = 5"),
        ({"temperature": 0}, "temperature: found 0, expected above 0"),
        ({"temperature": math.inf}, "temperature: found inf, expected above 0"),
        ({"top_k": 0}, "top_k: found 0, expected at least 1"),
        ({"top_p": 0.0}, "top_p: found 0.0, expected above 0"),
        ({"top_p": 1.1}, "top_p: found 1.1, expected above 0"),
    ],
)
def test_values_out_of_range(options, message):
    is_beam = options.keys() <= {"beam_size", "length_penalty", "n_best"}
    with pytest.raises(ValueError, match=message):
        (beam_search if is_beam else decode_sample)(Hashed(), np.arange(2), **options)


# -- sampling ----------------------------------------------------------------------------------


@every_model
@pytest.mark.parametrize("options", [{"top_k": 1}, {"temperature": 1e-9}, {"top_p": 1e-9}])
def test_sampling_narrowly_is_greedy(case, options):
    for seed in range(5):
        model, features = case(V=80, seed=seed)
        words = sample(model, features, np.random.default_rng(seed), 8, **options)
        np.testing.assert_array_equal(words, greedy(model, features, 8))


def head(weighted, temperature, top_k, top_p):
    """[(log-probability, word)] -> {word: probability}, by the definition."""
    ranked = sorted(weighted, key=lambda pair: -pair[0])[:top_k]
    weights = [math.exp(log_p / temperature) for log_p, _ in ranked]
    kept = 1
    while top_p is not None and sum(weights[:kept]) < top_p * sum(weights):
        kept += 1
    kept = kept if top_p is not None else len(ranked)
    return {ranked[i][1]: weights[i] / sum(weights[:kept]) for i in range(kept)}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 3.0},
        {"top_k": 3},
        {"top_k": 100},
        {"top_p": 0.7},
        {"top_p": 1.0},
        {"temperature": 2.0, "top_k": 4, "top_p": 0.6},
    ],
)
def test_frequencies(options):
    """How often each caption of at most two words is drawn, 20,000 times for the same image.

    A count is binomial. Five standard deviations, for some 20 captions, fail by chance once in
    80,000 seeds; one more for the few captions that are so rare that a normal law is not enough.
    """
    N, features = 20_000, np.array([3])
    model = Hashed(V=8, bias={NULL: 5, UNKNOWN: 2})
    settings = {"temperature": 1.0, "top_k": None, "top_p": None} | options
    expected = {}
    for first, p in head(extensions(model, features, ()), **settings).items():
        if first == END:
            expected[END, NULL] = p
            continue
        for second, q in head(extensions(model, features, (first,)), **settings).items():
            expected[first, second] = p * q
    assert sum(expected.values()) == pytest.approx(1)
    drawn = sample(model, np.full(N, 3), np.random.default_rng(1), 2, **options)
    found, counts = np.unique(drawn, axis=0, return_counts=True)
    counts = dict(zip(map(tuple, found.tolist()), counts.tolist(), strict=True))
    assert counts.keys() <= expected.keys()
    for caption, p in expected.items():
        assert abs(counts.get(caption, 0) - N * p) <= 5 * math.sqrt(N * p * (1 - p)) + 1, caption


@pytest.mark.parametrize("options", [{}, {"top_k": 5}, {"top_p": 0.9}])
def test_same_seed_same_captions(options):
    model, features = captioner(V=20)
    first, again, other = (
        sample(model, features, np.random.default_rng(seed), 10, **options) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


# ---------------------------------------------------------------------------------------------
# The words of given captions
# ---------------------------------------------------------------------------------------------


def test_words_of_a_caption_sum_to_the_score_of_the_beam():
    model, features = captioner(V=9)
    captions, scores = beam_search(model, features, length_penalty=0)
    read = np.concatenate([np.full((len(features), 1), START), captions[:, 0]], axis=1)
    log_p = word_log_probabilities(model, features, read)
    assert log_p.shape == captions[:, 0].shape
    np.testing.assert_allclose(log_p.sum(axis=1), scores[:, 0], rtol=1e-12)


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ([[START]], r"\(1, 1\), expected \(1, at least 2\)"),
        ([START, END], r"\(2,\)"),
        ([[START, END]] * 2, r"\(2, 2\)"),
        ([[START, 9]], "9 is outside"),
        ([[START, -1]], "-1 is outside"),
        ([[-1, END]], "-1 is outside"),
    ],
)
def test_captions_that_cannot_be_read(captions, message):
    model, features = captioner(V=9)
    with pytest.raises(ValueError, match=message):
        word_log_probabilities(model, features[:1], captions)


# -- nothing twice -----------------------------------------------------------------------------


def repeats(words, length):
    """Whether a run of so many words comes twice."""
    runs = [tuple(words[t : t + length]) for t in range(len(words) - length + 1)]
    return len(set(runs)) < len(runs)


@every_model
@pytest.mark.parametrize("length", [1, 2, 3])
def test_no_repeat_is_every_caption_that_repeats_nothing(case, length):
    """Brute force over all captions of the model itself, less those with a run twice."""
    T = 2 * length + 1  # room for a run twice, and for <END>
    for seed in range(3):
        model, features = case(V=6, seed=seed)
        K = 3**T
        captions, scores = beam_search(NoRepeat(model, length), features, K, T, 0.5, n_best=K)
        for i in range(len(features)):
            every = brute_force(model, features[i : i + 1], T, 0.5)
            expected = [each for each in every if not repeats(each[1], length)]
            assert len(expected) < len(every)
            assert_same(as_lists(captions[i], scores[i]), expected)


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("K", [2, 5])
def test_no_repeat_knows_what_each_beam_has_said(length, K):
    """Narrow beams change places and leave; the naive search asks for every beginning anew."""
    for seed in range(20):
        model, features = Hashed(V=7, seed=seed, bias={END: -2}), np.array([2, 3, 7])
        model = NoRepeat(model, length)
        captions, scores = beam_search(model, features, K, 9, 0.5, n_best=K)
        for i in range(len(features)):
            expected = naive_beam(model, features[i : i + 1], K, 9, 0.5, K)
            assert_same(as_lists(captions[i], scores[i]), expected)


@pytest.mark.parametrize("decode", [greedy, decode_sample])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_no_repeat_word_by_word(decode, length):
    model, features = Hashed(V=7, bias={END: -2}), np.arange(30)

    def said(model):
        return [row[row != NULL].tolist() for row in decode(model, features, 12)]

    assert sum(repeats(words, length) for words in said(model)) > 5
    assert not any(repeats(words, length) for words in said(NoRepeat(model, length)))


def test_no_repeat_needs_a_length():
    with pytest.raises(ValueError, match="no_repeat: found 0, expected at least 1"):
        NoRepeat(Hashed(), 0)
