# %% [markdown]
# # 3b · Losses that lie
#
# **The question.** A loss that becomes NaN is easy to notice. What about a loss that looks healthy while the model
# learns nothing, or a fraction of what it could? When can you believe the number?
#
# You break the loss and the embedding of [lesson 3](03_affine_embedding_softmax.ipynb) in seven ways that people use in
# earnest, and measure what each of them costs. You also prove how low the loss of a bigram model can go.
#
# *Needs lesson 3. About 40 minutes; all cells together run in twenty seconds. No lesson needs it.*

# %% tags=["setup"]
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np

from core import lessons
from core.gradient_check import check, relative_error
from core.layers import (
    log_softmax,
    softmax,
    temporal_affine_backward,
    temporal_affine_forward,
    temporal_softmax_loss,
    word_embedding_backward,
    word_embedding_forward,
)
from core.lessons import BLUE, GREY, ORANGE

lessons.style()

# %% [markdown]
# ## Softmax and logarithm, one at a time
#
# A library of layers could have softmax as one layer and $-\log p_y$ as the next, each with its own backward. The chain
# rule joins them: first $-1 / p_y$, then the Jacobian. On paper $p_y$ cancels. In the computer it does not.
#
# A common patch is the loss $-\log(p_y + 10^{-8})$, which never divides by zero. Here are all three backwards, for one
# place:


# %%
def joined(s, y):
    return softmax(s) - np.eye(len(s), dtype=s.dtype)[y]


def one_at_a_time(s, y, patch=0.0):
    """Through -log(p_y + patch), then through softmax."""
    p = softmax(s)
    dp = np.zeros_like(p)
    dp[y] = -1 / (p[y] + np.float32(patch))
    return p * (dp - np.sum(dp * p))  # dp times the Jacobian


# %% [markdown]
# **Predict.** There are two words. The wrong word's score is ahead of the right one's by a **margin**. The push on the
# right word is minus its gradient, and it should be near 1 for every large margin. What do the three give at a margin
# of 20, 50 and 120, in float32?

# %%
print(
    f"{'margin':>6}{'joined':>10}{'one at a time':>16}{'patched':>10}{'patched loss':>15}"
)
for margin in (10, 20, 50, 88, 89, 120):
    s = np.array([margin, 0], np.float32)
    with np.errstate(all="ignore"):
        push = [-joined(s, 1)[1], -one_at_a_time(s, 1)[1], -one_at_a_time(s, 1, 1e-8)[1]]
    loss = -np.log(softmax(s)[1] + np.float32(1e-8))
    print(f"{margin:>6}{push[0]:>10.2g}{push[1]:>16.2g}{push[2] + 0:>10.2g}{loss:>15.2f}")

# %% tags=["hide-input"]
margins = np.arange(0, 131)
with np.errstate(all="ignore"):
    pairs = [np.array([margin, 0], np.float32) for margin in margins]
    right_push = np.array([-joined(s, 1)[1] for s in pairs])
    separate = np.array([-one_at_a_time(s, 1)[1] for s in pairs])
    patched = np.array([-one_at_a_time(s, 1, 1e-8)[1] for s in pairs])
plt.plot(margins, right_push, color=GREY, linewidth=5, alpha=0.5, label="joined")
plt.plot(
    margins, separate, color=ORANGE, linestyle="--", label="one at a time (NaN from 89)"
)
plt.plot(margins, patched, color=BLUE, label="patched with $10^{-8}$")
plt.gca().set(xlabel="margin of the wrong word", ylabel="push on the right word")
plt.legend(loc="center right", bbox_to_anchor=(1, 0.6))
plt.show()
p_y = softmax(pairs[89])[1]
assert np.isfinite(separate[:89]).all() and np.isnan(separate[89:]).all()
assert 1.5e-39 < p_y < 2.9e-39 and right_push[120] == 1
assert 0.15 < patched[20] < 0.18 and abs(patched[50]) < 1e-12
with np.errstate(all="ignore"):
    assert np.isinf(1 / p_y)
print(f"at margin 89, p = {p_y:.0e} is not 0 yet; 1 / p is infinite in float32")

# %% [markdown]
# <details><summary>Answer</summary>
#
# One at a time, the push is right up to 88, and NaN from 89. There $p_y$ is 2e-39. That is not 0, but its inverse is
# larger than float32 can hold. The Jacobian then subtracts infinity from infinity.
#
# The patch is worse, because nothing warns you. At 20 a sixth of the push is left, and at 50 nothing. The loss stays at
# 18.4, which is $-\log 10^{-8}$. The model stops learning exactly where it is most wrong.
#
# </details>
#
# ## Zero times infinity
#
# The textbook writes the loss as a sum over all words, $-\sum_i \text{onehot}_i \log p_i$. Even for a model that is
# certain and *right*, that sum can fail:

# %%
s = np.array([120, 0], np.float32)
with np.errstate(all="ignore"):
    textbook = -np.sum(np.array([1, 0], np.float32) * np.log(softmax(s)))
print("textbook sum:", textbook, "  look-up in log_softmax:", abs(log_softmax(s)[0]))
assert np.isnan(textbook) and log_softmax(s)[0] == 0

# %% [markdown]
# The wrong word has probability 0 and logarithm $-\infty$, and $0 \cdot \infty$ is NaN. So `core` looks the right word
# up, and never multiplies by the zeros of a one-hot row.
#
# ## Two ways to write a mask, both wrong
#
# *Multiply at the end*: compute the loss of every place, then multiply by 0 where nothing counts. *Average each caption
# over its own words*, then average the captions. **Predict** which of them survives one NaN in the padding, and which
# survives a caption without any word.

# %%
N, T, V = 3, 4, 6
rng = np.random.default_rng(3)
scores, targets = rng.standard_normal((N, T, V)), rng.integers(0, V, (N, T))
mask = np.arange(T) < np.array([[3], [4], [0]])  # the last caption has no word
spoilt = np.where(mask[..., None], scores, np.nan)


def of_places(scores):
    return -np.take_along_axis(log_softmax(scores), targets[..., None], axis=2)[..., 0]


with np.errstate(all="ignore"):
    print("multiplied at the end:", (of_places(spoilt) * mask).sum() / N)
    own = (of_places(scores) * mask).sum(axis=1) / mask.sum(axis=1)
print("means over own words: ", own, "-> mean", own.mean())

# %% tags=["hide-input"]
loss, dscores = temporal_softmax_loss(spoilt, targets, mask)
print("core:", loss)
assert loss == temporal_softmax_loss(scores, targets, mask)[0]
assert check("temporal_softmax_loss", temporal_softmax_loss)
assert np.isnan((of_places(spoilt) * mask).sum()) and np.isnan(own.mean())
assert np.isfinite(loss) and np.all(dscores[~mask] == 0)

# %% [markdown]
# <details><summary>Answer</summary>
#
# The first fails at the padding: $0 \cdot \text{NaN}$ is NaN. The second fails at the empty caption: $0 / 0$. In both
# cases one bad row spoils the whole batch. `core` selects the places that count first, and computes nothing elsewhere.
#
# </details>
#
# ## Label smoothing
#
# The loss rewards more certainty without end: a score that is already ahead is pushed further ahead. **Label smoothing**
# (Szegedy and others 2016) takes a small share $\epsilon$ of the target away from the right word, and spreads it over all
# words:
#
# $$ \text{target}_v = (1 - \epsilon)\,\text{onehot}(y)_v + \frac{\epsilon}{V}, \qquad
#    \mathcal{L} = -\sum_v \text{target}_v \log p_v, \qquad ds = p - \text{target} $$
#
# Now the best probability of the right word is below 1. With $\epsilon = 0.1$ and four words it is
# $0.9 + 0.025 = 0.925$. A model that is more certain than that is pushed *back*:

# %%
once = np.ones((1, 1), bool), 0.1
for ahead in (0, 2, 3.6, 8):  # how far the right word is ahead of three others
    s = np.array([[[ahead, 0, 0, 0]]], float)
    loss, ds = temporal_softmax_loss(s, np.zeros((1, 1), int), once[0], smoothing=once[1])
    print(
        f"ahead by {ahead:<4} p {softmax(s)[0, 0, 0]:.3f}  loss {loss:.3f}  push {-ds[0, 0, 0]:6.3f}"
    )
assert ds[0, 0, 0] > 0 and np.isclose(ds.sum(), 0)

# %% [markdown]
# The price: smoothed losses cannot be compared with others. Their minimum is not 0 but the entropy of the target, which
# is 0.35 nats here. So compare the losses on held-out captions *without* smoothing.

# %% tags=["hide-input"]
target = np.array([0.925, 0.025, 0.025, 0.025])
least, _ = temporal_softmax_loss(
    np.log(target)[None, None], np.zeros((1, 1), int), np.ones((1, 1), bool), smoothing=0.1
)
assert np.isclose(least, -np.sum(target * np.log(target))) and abs(least - 0.35) < 0.005
print(f"the smallest smoothed loss: {least:.2f} nats")

# %% [markdown]
# ## A loss needs its unit
#
# The losses of the places must become one number. There is more than one way:
#
# | per | | who uses it |
# | --- | --- | --- |
# | caption | summed over time, averaged over the batch | this project, to minimise |
# | token | averaged over all words that count | this project, to print; perplexity |
# | place | averaged over all $N \cdot T$ places, with the padding | the mean of an array, without much thought |
#
# The folded cell below has the bigram captioner of lesson 3, and trains it with each of them. It steps with a learning
# rate of 0.3, and in the last run with 4.8.

# %% tags=["hide-input"]
data = lessons.embedded_data("rnn")
captions, idx_to_word = data["train_captions"], data["idx_to_word"]
null, start, end = (data["word_to_idx"][word] for word in ("<NULL>", "<START>", "<END>"))
V = len(idx_to_word)


def bigram_loss(params, captions, embedding_backward=word_embedding_backward):
    """Nats, summed over time and averaged over the batch; and the gradients."""
    words, targets = captions[:, :-1], captions[:, 1:]
    vectors, word_cache = word_embedding_forward(words, params["W_embed"])
    scores, score_cache = temporal_affine_forward(vectors, params["w"], params["b"])
    loss, dscores = temporal_softmax_loss(scores, targets, targets != null)
    dvectors, dw, db = temporal_affine_backward(dscores, score_cache)
    return loss, {"W_embed": embedding_backward(dvectors, word_cache), "w": dw, "b": db}


def new_params(width, scale=0.1):
    rng = np.random.default_rng(0)
    W_embed = scale * rng.standard_normal((V, width))
    return {
        "W_embed": W_embed,
        "w": scale * rng.standard_normal((width, V)),
        "b": np.zeros(V),
    }


def factor_of(unit, captions):
    """What a loss per caption is multiplied by to give one per 'caption', 'token', 'place'."""
    mask = captions[:, 1:] != null
    return {"caption": 1, "token": len(mask) / mask.sum(), "place": 1 / mask.shape[1]}[unit]


def train(width, steps, rate, unit="caption", batch_size=100, **options):
    """Gradient descent, at a tenth of the rate in the last third: params, nats per token."""
    params, rng, losses = new_params(width), np.random.default_rng(0), []
    for step in range(steps):
        batch = captions[rng.integers(len(captions), size=batch_size)]
        loss, grads = bigram_loss(params, batch, **options)
        now = (rate if step < 2 * steps / 3 else rate / 10) * factor_of(unit, batch)
        for name in params:
            params[name] -= now * grads[name]
        losses.append(loss * factor_of("token", batch))
    return params, np.array(losses)


runs = {
    "per caption, rate 0.3": train(16, 150, 0.3),
    "per token, rate 0.3": train(16, 150, 0.3, "token"),
    "per place, rate 0.3": train(16, 150, 0.3, "place"),
    "per place, rate 4.8": train(16, 150, 4.8, "place"),
}
looks = ((BLUE, "-"), (GREY, "-"), (ORANGE, "-"), ("black", ":"))
for (name, (_, losses)), (colour, line) in zip(runs.items(), looks, strict=True):
    plt.plot(losses, line, color=colour, label=name, linewidth=3 if line == ":" else 1.5)
plt.gca().set(xlabel="step", ylabel="nats per token", ylim=(1, 4.6))
plt.title("Another unit is another learning rate")
plt.legend(ncols=2, loc="upper right")
plt.show()

batch = captions[:500]
loss, _ = bigram_loss(new_params(16), batch)
padded = np.pad(batch, ((0, 0), (0, 16)), constant_values=null)
for unit in ("caption", "token", "place"):
    print(f"before training, per {unit:<8} {loss * factor_of(unit, batch):6.2f} nats")
print(
    f"per place, with 16 more columns of padding: {loss * factor_of('place', padded):.2f}"
)
ends = {name: losses[-20:].mean() for name, (_, losses) in runs.items()}
print(
    "\n".join(f"{name}: ends at {loss:.2f} nats per token" for name, loss in ends.items())
)
assert ends["per place, rate 0.3"] > ends["per caption, rate 0.3"] + 0.5
assert np.allclose(runs["per caption, rate 0.3"][1], runs["per place, rate 4.8"][1])
assert factor_of("caption", batch) / factor_of("place", batch) == 16
assert factor_of("place", padded) == factor_of("place", batch) / 2

# %% [markdown]
# It is the same model and the same batch. But "per caption" and "per place" differ by 16, because these captions have 16
# places. "Per place" even halves when someone pads the captions to twice the length. **Compare losses only in the same
# unit, over the same targets.**
#
# The gradient has the same factor as the loss. So a learning rate belongs to a unit. The dotted curve covers the blue
# one: a 16 times smaller gradient with a 16 times larger rate is the same run. An optimizer that divides by the size of
# the gradient does not notice the unit ([lesson 4](04_update_rules.ipynb)); plain gradient descent does.
#
# ## The floor: how good can a bigram model become?
#
# Count how often word $v$ follows word $u$, and let $\hat p(v \mid u)$ be its share among all words that follow $u$. Our
# model gives $q(v \mid u)$ instead. Averaged over the places where $u$ is read, its loss is
#
# $$ \sum_v \hat p(v \mid u) \left(-\log q(v \mid u)\right)
#    = \underbrace{\sum_v \hat p \left(-\log \hat p\right)}_{\text{entropy after } u}
#    + \underbrace{\sum_v \hat p \log \frac{\hat p}{q}}_{\text{what the model loses}} $$
#
# The first part is the **entropy**. It depends on the data alone. The second part is the **Kullback-Leibler
# divergence**, and it is never negative. To see that, use $\log z \le z - 1$ with $z = q / \hat p$:
#
# $$ -\sum_v \hat p \log \frac{\hat p}{q} = \sum_v \hat p \log \frac{q}{\hat p}
#    \le \sum_v \hat p \left(\frac{q}{\hat p} - 1\right) = \sum_v q - \sum_v \hat p \le 0 $$
#
# (The sums run over all $v$ with $\hat p > 0$.) So **no model that sees the last word alone gets below the entropy**, no
# matter how wide it is and how long it trains. To lower the floor, it must see more words.
#
# **Predict.** With no word known the floor is 3.09 nats per token, with one word 1.27. Where is it with two and with
# three?


# %%
def floor(captions, k):
    """Nats per token that are left when the last k words are known."""
    pairs, contexts = Counter(), Counter()
    for caption in captions.tolist():
        caption = [null] * (k - 1) + caption[: caption.index(end) + 1]
        for t in range(max(k, 1), len(caption)):
            context = tuple(caption[t - k : t])
            pairs[context, caption[t]] += 1
            contexts[context] += 1
    logs = [n * np.log(n / contexts[context]) for (context, _), n in pairs.items()]
    return -sum(logs) / sum(pairs.values())


# %%
floors = [floor(captions, k) for k in range(4)]
for k, value in enumerate(floors):
    print(f"{k} words known: {value:.3f} nats per token, perplexity {np.exp(value):.2f}")

# %% tags=["hide-input"]
assert np.allclose(floors, [3.09, 1.27, 1.19, 1.18], atol=0.006)
wide, losses = train(width=16, steps=500, rate=0.5, batch_size=150)
loss = bigram_loss(wide, captions)[0] * factor_of("token", captions)
print(f"a trained bigram model: {loss:.3f} on the same captions")
assert 0 < loss - floors[1] < 0.01

# %% [markdown]
# <details><summary>Answer</summary>
#
# 1.19 and 1.18: a second word helps a little, a third hardly. What is missing after that is not in the words. It is in
# the picture, which says *which* colour and *which* shape. The RNN of [lesson 5](05_the_vanilla_rnn.ipynb) sees it,
# and reaches 0.61 on held-out captions.
#
# </details>
#
# ## Easy answers make a good number
#
# After `<END>` comes `<NULL>`, and then always `<NULL>`. Nothing is easier to guess. **Predict**: if padding counts as a
# word, does the floor go up or down, and by how much?


# %%
def floor_with(counts):
    """The floor from a table of counts (V, V): rows are read, columns are said."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return -np.sum(counts[counts > 0] * np.log(share[counts > 0])) / counts.sum()


words, targets = captions[:, :-1], captions[:, 1:]
every, only_words = np.zeros((V, V)), np.zeros((V, V))
np.add.at(every, (words, targets), 1)
np.add.at(only_words, (words[targets != null], targets[targets != null]), 1)
print(f"words only: {floor_with(only_words):.2f}   with padding: {floor_with(every):.2f}")
assert (
    np.isclose(floor_with(only_words), floors[1]) and abs(floor_with(every) - 0.80) < 0.01
)

# %% [markdown]
# <details><summary>Answer</summary>
#
# It goes down, from 1.27 to 0.80. That looks like a better model. It is the same knowledge, with many easy answers
# mixed in. When someone reports a loss, ask what it was averaged over.
#
# </details>
#
# ## What the vectors learned
#
# With vectors of two numbers we can draw the table $W$. Each score is then a linear function of a point in the plane. So
# words that are followed by the same words should end at the same place.

# %% tags=["hide-input"]
flat, _ = train(width=2, steps=800, rate=0.5)
groups = {
    "colours": "red green blue yellow purple", "kinds": "circle square triangle",
    "sizes": "small large", "above, over, below, under,\nof, and, with": "above over below under of and with",
    "at, on, in, to": "at on in to", "left, right": "left right", "a": "a", "the": "the",
    "<START>": "<START>",
}  # fmt: skip
figure, axes = plt.subplots(figsize=(8.5, 4.5))
where = {}
for name, members in groups.items():
    rows = [data["word_to_idx"][word] for word in members.split()]
    where[name] = points = flat["W_embed"][rows]
    colour = ORANGE if name in ("colours", "kinds") else BLUE
    axes.scatter(*points.T, s=40, color=colour)
    rightmost = points[points[:, 0].argmax()]
    axes.annotate(name, rightmost, (7, 6), textcoords="offset points", fontsize=11)
axes.set(xlabel="first number of the vector", ylabel="second number")
axes.margins(0.28, 0.15)
plt.show()

spread = np.linalg.norm(where["colours"] - where["colours"].mean(axis=0), axis=1).max()
away = np.linalg.norm(where["colours"].mean(axis=0) - where["kinds"].mean(axis=0))
print(f"all colours are within {spread:.3f} of their centre; the kinds are {away:.1f} away")
share = only_words / np.maximum(only_words.sum(axis=1, keepdims=True), 1)
alike = share[[data["word_to_idx"][word] for word in groups["colours"].split()]]
loss_flat = bigram_loss(flat, captions)[0] * factor_of("token", captions)
print(f"two numbers per word: {loss_flat - floors[1]:.2f} nats above the floor")
assert spread < 0.01 < 1.5 < away and np.ptp(alike, axis=0).max() < 0.1
assert abs(loss_flat - floors[1] - 0.07) < 0.005

# %% [markdown]
# Five colours share one place. For this model they *are* the same word, because the same words follow them. The picture
# tells red from blue, and this model has never seen one. A word vector holds what helped to lower the loss, and nothing
# else.
#
# ## The wrong embedding, trained
#
# Lesson 3 had a backward that loses repeated words, `dW[x] += dout`. In a batch of 100 captions nearly every word is a
# repeat. **Predict**: what share of the gradient's length is left, and would you notice it in the curve?


# %%
def lossy_backward(dout, cache):
    x, W = cache
    dW = np.zeros_like(W)
    dW[x] += dout
    return dW


_, exact = bigram_loss(new_params(16), captions[:100])
_, lossy = bigram_loss(new_params(16), captions[:100], lossy_backward)
a, b = exact["W_embed"], lossy["W_embed"]
left = np.linalg.norm(b) / np.linalg.norm(a)
cosine = np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
print(f"left of the gradient's length: {100 * left:.0f} %; cosine {cosine:.2f}")
assert relative_error(b, a) > 0.9 and left < 0.06 and cosine < 0.5

# %% tags=["hide-input"]
both = {
    "sum over all places": train(16, 300, 0.3)[1],
    "dW[x] += dout": train(16, 300, 0.3, embedding_backward=lossy_backward)[1],
}
for (name, losses), colour in zip(both.items(), (BLUE, ORANGE), strict=True):
    plt.plot(np.convolve(losses, np.ones(10) / 10, mode="valid"), color=colour, label=name)
    print(f"{name:<20} ends at {losses[-50:].mean():.2f} nats per token")
plt.axhline(floors[1], color=GREY, linestyle="--", label="the floor")
plt.gca().set(
    xlabel="step", ylabel="nats per token", title="It learns, with 4 % of its gradient"
)
plt.legend()
plt.show()
assert abs(both["dW[x] += dout"][-50:].mean() - 1.48) < 0.02
assert abs(both["sum over all places"][-50:].mean() - 1.28) < 0.02

# %% [markdown]
# <details><summary>Answer</summary>
#
# 4 % is left, and what is left has a cosine of 0.38 with the true gradient. The curve still falls, and ends at a
# plausible 1.48 nats. Without the blue curve next to it, nobody would suspect anything.
#
# </details>
#
# A gradient check finds the slip at once, but only if a word occurs twice in its inputs. Ours repeats words on purpose:

# %%
report = check("word_embedding_backward", lossy_backward)
assert not report and check("word_embedding_backward", word_embedding_backward)
report

# %% [markdown]
# ## What you have now
#
# * The patch that avoids NaN can be worse than NaN: it hides where learning stops.
# * A loss has a unit and a floor. Ask for both before you compare.
# * A wrong gradient may train. Only a check tells.
#
# **Sources.** C. Szegedy and others, *Rethinking the Inception architecture for computer vision*, CVPR 2016, section 7.
# C. Bishop, *Pattern Recognition and Machine Learning*, Springer (2006), section 4.3.4. C. Shannon, *A mathematical
# theory of communication*, Bell System Technical Journal 27 (1948).
