# %% [markdown]
# # 8 · Soft attention
#
# **The question.** A person who describes a picture looks at it again before each word. How can a model do the
# same, and learn by itself where to look?
#
# You build *soft attention*, forward and backward, put it in front of the LSTM, and see where a trained captioner
# looks, word by word. You also measure what a picture of its looks proves, and what it does not.
#
# *Before: [lesson 3](03_affine_embedding_softmax.ipynb) (softmax) and [lesson 6](06_the_lstm.ipynb) (the LSTM).
# About 45 minutes; all cells together run in half a minute. [8b](08b_more_about_looking.ipynb) goes deeper.*

# %% tags=["setup"]
import re

import matplotlib.pyplot as plt
import numpy as np

from core import lessons
from core.attention_layers import (
    additive_attention_forward,
    attend_forward,
    attention_lstm_step_forward,
)
from core.coco_utils import decode_captions, image_path
from core.decoding import beam_search
from core.gradient_check import check, eval_numerical_gradient_array, relative_error
from core.grounding import pointing
from core.image_utils import load_image
from core.layers import softmax
from core.lessons import (
    BLUE,
    GREY,
    ORANGE,
    Sketch,
    compare,
    confirm,
    draw_graph,
    movable,
    show_source,
)
from core.scenes import COLOURS, IMAGE_SIZE, KINDS
from core.shapes import caption_is_true, load_scenes
from core.show.plots import upsample

lessons.style()

# %% [markdown]
# ## What one vector loses
#
# The captioners of lessons 5 and 6 see the picture once. It becomes the first state, $h_0$, and every word
# overwrites a part of it. Each shape brings a kind, a colour and a place, and all of them have to survive until
# their word comes.
#
# This lesson's model gets the picture in another form: a grid of $L = 64$ **places**, 8 by 8. Each place has a
# vector of $C = 40$ **features**, which tell what is there. The grid stays outside the state, so that the model
# can look at it again before each word.
#
# **Predict.** Three trained models describe pictures with one, two and three shapes: the RNN, the LSTM, and the
# model with attention. A caption is *true* if it is a whole sentence and all that it says holds; shapes that it
# leaves out do not count. What share of each model's captions is true when there are *three* shapes?


# %% tags=["hide-input"]
def captions_of(model, features):
    """What a model says of pictures, by beam search: word ids (N, T), without <START>."""
    return beam_search(model, features, max_length=20)[0][:, 0]


def are_true(ids, scenes, without=" never said"):
    texts = [re.sub(without, "", text) for text in decode_captions(ids, words)]
    return np.array([caption_is_true(*each) for each in zip(texts, scenes, strict=True)])


data = lessons.embedded_data("attention")  # a grid of places for each picture
pooled = lessons.embedded_data("lstm")  # one vector for each picture
words, features = data["idx_to_word"], data["val_features"]
scenes = load_scenes(data["source"]["folder"], "val")  # what is in the held-out pictures
count = np.array([len(scene) for scene in scenes])

true, size = {}, {}
for name in ("rnn", "lstm", "attention"):
    trained, _ = lessons.load_trained(name)
    ids = captions_of(trained, features if trained.grid else pooled["val_features"])
    right = are_true(ids, scenes)
    true[name] = [right[count == n].mean() for n in (1, 2, 3)]
    no_place = are_true(ids, scenes, without="( is)? (at|in|on) the .*")[count == 1].mean()
    size[name] = sum(value.size for value in trained.params.values())
    print(f"{name:<10}{size[name]:>8,} parameters")
    if name == "lstm":
        print(
            f"   true with one shape, 'at the top left' and such cut from the end: {no_place:.0%}"
        )
        assert no_place > true[name][0] + 0.1
# From here on, trained and ids are those of the last one, the model with attention.
assert features.shape[1:] == (64, 40)

for i, (name, colour) in enumerate(zip(true, (GREY, BLUE, ORANGE), strict=True)):
    shares, where = true[name], np.arange(3) + 0.25 * (i - 1)
    bars = plt.bar(where, shares, width=0.23, label=name, color=colour)
    plt.bar_label(bars, [f"{share:.0%}" for share in shares], fontsize=8)
plt.gca().set(
    xticks=range(3), xticklabels=("one", "two", "three"), xlabel="shapes in the picture",
    ylabel="share of captions\nthat are true", ylim=(0, 1.3), yticks=(0, 0.5, 1),
)  # fmt: skip
plt.legend(ncols=3, loc="upper center")
plt.show()
assert true["rnn"][0] > 0.9 and true["rnn"][2] < 0.2 and true["attention"][2] > 0.9
assert 0.45 < true["lstm"][2] < 0.55 and size["attention"] < size["lstm"]

# %% [markdown]
# <details><summary>Answer</summary>
#
# 16 %, 52 % and 94 %. With one shape the RNN is nearly always right; with three hardly ever. The
# LSTM keeps more. (With one shape it often adds where the shape is, "at the top left", and gets that wrong: with
# such words cut from the end, 99 % of its captions are true.) The model
# with attention stays above 90 %, with fewer parameters than the LSTM. To be fair: it also gets more to see, a grid
# instead of one vector. But a grid does not fit into $h_0$.
#
# </details>
#
# ## The idea
#
# Before each word the model asks a question, and every place gets a **score**: how well does it fit the
# question? A softmax turns the scores into **weights** $\alpha_l$, which are positive and sum to 1. The LSTM then
# reads the weighted mean of the features, the **context**. The weights in the drawing are a trained
# model's, when it says "circle" after "a red".

# %% tags=["hide-input"]
read = np.concatenate([np.full((len(ids), 1), trained.start), ids], axis=1)  # <START> first
maps = trained.attention_weights(features, read)[:, :, 0]  # (300, T, 64)
is_word = (ids != trained.null) & (ids != trained.end)


def picture_of(n):
    """A held-out picture, its background without the grain."""
    picture = load_image(image_path(data, "val", n))
    grey = np.median(picture, axis=(0, 1))
    background = np.abs(picture - grey).max(axis=2, keepdims=True) < 16
    return np.where(background, grey, picture).astype(np.uint8)


def lit(picture, light):
    """The picture, dark where light is 0 and as it is where light is 1; light: (64,)."""
    light = np.clip(upsample(light, IMAGE_SIZE) * light.max(), 0, 1)
    return (picture * (0.15 + 0.85 * light[:, :, None])).astype(np.uint8)


sketch = Sketch(9.4, 3.4)
sketch.axes.imshow(picture_of(42), extent=(0.2, 2.0, 0.9, 2.7), aspect="auto", zorder=1)
for line in np.linspace(0, 1.8, 9):
    sketch.axes.plot((0.2 + line, 0.2 + line), (0.9, 2.7), color="white", lw=0.6, zorder=2)
    sketch.axes.plot((0.2, 2.0), (0.9 + line, 0.9 + line), color="white", lw=0.6, zorder=2)
sketch.axes.set(xlim=(0, 9.4), ylim=(0, 3.4))
sketch.text(1.1, 0.68, "64 places")
score = sketch.box(3.1, 1.8, "score", "op")
question = sketch.box(3.1, 0.6, "question", width=1.05)
sketch.arrow((2.0, 1.8), score)
sketch.arrow(question, score)
circle = list(np.array(words)[ids[42]]).index("circle")
of_circle = maps[42, circle].reshape(8, 8)
grid = sketch.cells(5.2, 1.8, of_circle / of_circle.max(), size=0.2)
sketch.arrow(score, grid, "softmax")
sketch.text(5.2, 0.83, "weights, sum 1")
mean = sketch.box(6.8, 1.8, "mean", "op", width=0.75)
sketch.arrow(grid, mean)
sketch.axes.plot((1.1, 1.1, 6.8), (2.7, 3.0, 3.0), color=BLUE, lw=1.3)
sketch.arrow((6.8, 3.0), mean)
sketch.text(4.0, 3.18, "the features again", colour=BLUE)
context = sketch.box(8.0, 1.8, "context")
lstm = sketch.box(8.0, 0.6, "LSTM", "op")
sketch.arrow(mean, context)
sketch.arrow(context, lstm)
sketch.arrow(lstm, (9.1, 0.6))
sketch.text(8.85, 0.35, "word")
sketch.arrow(lstm, question, kind="grey")
sketch.text(5.2, 0.42, "state", colour=GREY)
sketch.show()

# %% [markdown]
# It is called *soft* because it never picks one place: it takes a mean, in which one place may count for nearly
# everything. A mean has a derivative, so where to look can be learned by gradients. (Picking one place, *hard*
# attention, has none; [8b](08b_more_about_looking.ipynb#Hard-attention) shows what one does then.)
#
# **Task 1.** Write this mean, $\sum_l \alpha_l \varphi_l$, where $\varphi_l$ are the $C$ features of place $l$. Do it for a
# whole batch: `features` is $(N, L, C)$, `weights` is $(N, L)$, and the context $(N, C)$.


# %% tags=["task"]
def mean_under(weights, features):
    ### BEGIN SOLUTION
    return (weights[:, :, None] * features).sum(axis=1)
    ### END SOLUTION


def your_mean(weights, features):
    found = mean_under(weights, features)
    assert not np.array_equal(found, features.mean(axis=1)), "a plain mean: use the weights"
    return found


draw = np.random.default_rng(0).standard_normal
given = softmax(draw((3, 5))), draw((3, 5, 4))
compare(your_mean, lambda a, f: np.stack([a[n] @ f[n] for n in range(3)]), *given)

# %% [markdown]
# ## By hand, with three places
#
# Take three places and two features (also called *channels*), "how red" and "how blue": a red shape on the left,
# nothing in the middle, a blue shape on the right. The score of place $l$ comes from a very small network:
#
# $$ s_l = v \cdot \tanh(\varphi_l W_f + h W_h + b), \qquad \alpha = \mathrm{softmax}(s), \qquad
#    \bar\varphi = \sum_l \alpha_l \varphi_l $$
#
# $W_f$, $W_h$, $b$ and $v$ are learned. $\varphi_l W_f + b$ is the **key** of a place: what can be found there.
# $h W_h$ is the **query**: what the state $h$ looks for. Both have $K$ numbers, here two. They are added, hence the name
# **additive score** (Bahdanau and others 2015).
#
# Here $W_f$ is the identity and $b$ is 0, so the keys are the features; $v = (3, 3)$. A state that wants red,
# $h = (1, 0)$, has the query $(0, -2)$: it pushes the blue channel of every place down. One that wants blue,
# $h = (0, 1)$, has $(-2, 0)$.

# %%
toy = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])  # (L=3, C=2): left, middle, right
toy_Wh = np.array([[0.0, -2.0], [-2.0, 0.0]])  # (H=2, K=2)
toy_v = np.array([3.0, 3.0])
wants_red, wants_blue = np.array([1.0, 0.0]), np.array([0.0, 1.0])

u = np.tanh(toy + wants_red @ toy_Wh)
s = u @ toy_v
alpha = np.exp(s) / np.exp(s).sum()
for i, place in enumerate(("left", "middle", "right")):
    print(f"{place:<7} tanh {u[i]}  score {s[i]:6.3f}  weight {alpha[i]:.3f}")
print("context", alpha @ toy)
assert np.allclose(alpha, [0.776, 0.079, 0.145], atol=1e-3)

# %% [markdown]
# The context is 0.776 of the red place and a little of the others. Check the first score on paper:
# $3 \tanh(1) + 3 \tanh(-2) = 2.285 - 2.892 = -0.607$.
#
# **Predict.** Now take the tanh away: $s_l = v \cdot (\varphi_l + h W_h)$. What are the three scores of the state
# that wants red, and of the one that wants blue? So what are the weights?

# %%
for name, h in (("wants red", wants_red), ("wants blue", wants_blue)):
    print(
        f"{name:<11} with tanh {softmax(np.tanh(toy + h @ toy_Wh) @ toy_v)}",
        f"  without {softmax((toy + h @ toy_Wh) @ toy_v)}",
    )

# %% tags=["hide-input"]
with_red, with_blue = (softmax((toy + h @ toy_Wh) @ toy_v) for h in (wants_red, wants_blue))
assert np.allclose(with_red, with_blue)  # the question makes no difference

# %% [markdown]
# <details><summary>Answer</summary>
#
# Without the tanh both states score $-3$, $-6$, $-3$, so the weights are the same. The score is then
# $v \cdot \varphi_l + v \cdot h W_h$, and the second part, $-6$, is the same for all places. A number that is added
# to all scores does not change a softmax. The tanh mixes the two parts: a query of $-2$ moves a channel to where the
# tanh is flat. For the state that wants red, blue raises a score by 0.61 only, and red by 2.28.
#
# </details>
#
# For the same reason there is no bias after $v$: it would be added to all scores.
#
# ## The forward
#
# | | shape | |
# | --- | --- | --- |
# | features $\varphi$ | $(N, L, C)$ | one vector for each place |
# | $h$ | $(N, H)$ | the state that asks |
# | keys $\varphi W_f + b$ | $(N, L, K)$ | $W_f$ is $(C, K)$ |
# | query $h W_h$ | $(N, K)$ | $W_h$ is $(H, K)$; added at every place |
# | $u = \tanh(a)$, $a$ = keys + query | $(N, L, K)$ | `activation` in the code |
# | scores $s = u\,v$ | $(N, L)$ | $v$ is $(K,)$ |
# | weights $\alpha$ | $(N, L)$ | each row sums to 1 |
# | context $\bar\varphi$ | $(N, C)$ | |
#
# The picture stays the same from word to word, so a captioner makes the keys once. The rest is done for each word. (The
# code says *location* for place.)

# %%
show_source(attend_forward)

# %% tags=["hide-input"]
rng = np.random.default_rng(0)
N, L, C, H, K = 3, 5, 4, 7, 8  # all different, so that a wrong axis cannot hide
places, h = rng.standard_normal((N, L, C)), rng.standard_normal((N, H))
Wf, Wh, b, v = (rng.standard_normal(shape) for shape in ((C, K), (H, K), (K,), (K,)))
context, weights, _ = additive_attention_forward(places, h, Wf, Wh, b, v)


def sums_by_hand(n):
    """The context and the weights of picture n, one number at a time."""
    scores = []
    for place in range(L):
        score = 0.0
        for k in range(K):
            key = sum(places[n, place, c] * Wf[c, k] for c in range(C)) + b[k]
            query = sum(h[n, j] * Wh[j, k] for j in range(H))
            score += v[k] * np.tanh(key + query)
        scores.append(np.exp(score))
    alpha = [score / sum(scores) for score in scores]
    return [sum(alpha[i] * places[n, i, c] for i in range(L)) for c in range(C)], alpha


for n in range(N):
    by_hand = sums_by_hand(n)
    assert relative_error(context[n], by_hand[0]) < 1e-12
    assert relative_error(weights[n], by_hand[1]) < 1e-12
print("weights", weights.shape, "and context", context.shape, "are equal to sums by hand")

# %% [markdown]
# ## The backward
#
# The LSTM hands back $d\bar\varphi$, the gradient of the context (`dcontext`). Three steps are new: back through the
# mean, through the softmax, and to the query. Try the first and the last before you read on.
#
# **Task 2.** The weight $\alpha_{nl}$ multiplies the $C$ features of its place, and nothing else. Which gradient
# does it get? Return $d\alpha$, $(N, L)$.


# %% tags=["task"]
def gradient_of_weights(dcontext, features):
    ### BEGIN SOLUTION
    return (dcontext[:, None] * features).sum(axis=2)
    ### END SOLUTION


def differences(dcontext, features):
    contexts = lambda weights: (weights[:, None] @ features)[:, 0]  # noqa: E731
    return eval_numerical_gradient_array(contexts, np.full((3, 5), 0.2), dcontext)


draw = np.random.default_rng(1)
given = draw.standard_normal((3, 4)), draw.standard_normal((3, 5, 4))
compare(gradient_of_weights, differences, *given)

# %% [markdown]
# **Task 3.** The query of a picture is *broadcast*: $a_{nlk} = \mathrm{keys}_{nlk} + \mathrm{query}_{nk}$ at every
# place $l$. Given $da$, $(N, L, K)$, return $d\,\mathrm{query}$.


# %% tags=["task"]
def gradient_of_query(da):
    ### BEGIN SOLUTION
    return da.sum(axis=1)
    ### END SOLUTION


def by_places(da):
    return np.stack([sum(of_picture) for of_picture in da])


compare(gradient_of_query, by_places, np.random.default_rng(2).standard_normal((3, 5, 8)))

# %% [markdown]
# **Between the two: the softmax.** A score moves all weights, so its gradient is a sum over all of them. That gives
#
# $$ ds = \alpha \odot \Big(d\alpha - \sum_i \alpha_i\, d\alpha_i\Big) $$
#
# <details><summary>How this follows from lesson 3</summary>
#
# [Lesson 3](03_affine_embedding_softmax.ipynb#The-softmax-Jacobian) derives
# $\partial \alpha_i / \partial s_j = \alpha_i(\delta_{ij} - \alpha_j)$, so
#
# $$ ds_j = \sum_i d\alpha_i\, \alpha_i(\delta_{ij} - \alpha_j)
#    = \alpha_j\, d\alpha_j - \alpha_j \sum_i \alpha_i\, d\alpha_i $$
#
# </details>
#
# In words: compare the $d\alpha$ of a place with the average of all $d\alpha$, taken under the weights. If it is
# below the average, more weight for this place lowers the loss. The entries of $ds$ sum to 0, as the weights sum to 1.
#
# **Predict.** In the example, with the state that wants red, let the loss want a redder context: $d\bar\varphi = (-1, 0)$, so
# $d\alpha = (-1, 0, 0)$. Descent goes against $ds$. Which scores rise, and which fall?

# %%
dalpha = toy @ np.array([-1.0, 0.0])
average = alpha @ dalpha
ds = alpha * (dalpha - average)
print("weights", alpha, "  average of dalpha", round(average, 3))
print("ds     ", ds, "  their sum", f"{abs(ds.sum()):.1f}")
assert ds[0] < 0 < ds[1] < ds[2] and abs(ds.sum()) < 1e-12

# %% [markdown]
# <details><summary>Answer</summary>
#
# The score of the red place rises, and the two others fall, though their own $d\alpha$ is 0: that is above the
# average, $-0.776$. The blue one falls more, as it has more weight to lose.
#
# </details>
#
# The rest is known: the scores $s = u\,v$ are a product, the tanh gives $da = du \odot (1 - u^2)$, keys and query
# are affine layers. The features are read twice, as keys and in the mean, so their two gradients add. Exercise 2 puts
# all of this together ([8b](08b_more_about_looking.ipynb#The-backward-in-code) shows the code).

# %% tags=["hide-input"]
draw_graph(
    {
        "f": (0, 2.4, "$\\varphi$"), "Wf": (0, 0.9, "$W_f$"), "h": (0, -0.3, "$h$"),
        "Wh": (0, -1.8, "$W_h$"), "m1": (1.7, 1.4, "@"), "m2": (1.7, -0.8, "@"),
        "b": (3, 1.7, "$b$"), "+": (3, 0.3, "+"), "tanh": (4.2, 0.3, "tanh"),
        "v": (5.3, -1, "$v$"), "dot": (5.3, 0.3, "@"), "soft": (6.6, 0.3, "softmax"),
        "mean": (6.6, 2.4, "@"), "out": (8, 2.4, "$\\bar{\\varphi}$"),
    },
    [
        ("f", "mean", "in the mean", "$\\alpha_l\\,d\\bar{\\varphi}$"),
        ("f", "m1", "", "$da\\,W_f^T$"),
        ("Wf", "m1", "", "$\\varphi^T da$"), ("h", "m2", "", "$dh$"), ("Wh", "m2", "", "$dW_h$"),
        ("m1", "+", "$\\varphi W_f$", "$da$"), ("b", "+", "", "$\\Sigma_{nl}\\,da$"),
        ("m2", "+", "query", "$\\Sigma_l\\,da$"), ("+", "tanh", "$a$", "$da$"),
        ("tanh", "dot", "$u$", "$du$"), ("v", "dot", "", "$dv$"),
        ("dot", "soft", "$s$", "$ds$"), ("soft", "mean", "$\\alpha$", "$d\\alpha$"),
        ("mean", "out", "", "$d\\bar{\\varphi}$"),
    ],
    "Additive attention: values in blue, gradients in orange",
    unit=1.08,
)  # fmt: skip

# %% [markdown]
# ## In front of an LSTM
#
# One step of the captioner. The question comes from the state *and* the word before: `asking` is
# $[h_{\text{prev}}, \text{word}]$, `W_query` does what $W_h$ did, and `v_attend` is $v$. A gate can turn each channel of
# the context down ([8b](08b_more_about_looking.ipynb#The-gate-on-the-context) says why). What it lets through is $z$,
# `gated` in the code:
#
# $$ z = \sigma(h_{\text{prev}} W_g + b_g) \odot \bar\varphi $$
#
# The LSTM of [lesson 6](06_the_lstm.ipynb), with its own `Wx`, `Wh` and `b`, reads the word and $z$.

# %%
show_source(attention_lstm_step_forward, docstring=False)

# %% [markdown]
# Its backward has nothing new: $h_{\text{prev}}$ is read three times, so three gradients add
# ([8b](08b_more_about_looking.ipynb#The-gate-on-the-context) draws and checks them).
#
# `CaptioningAttention` puts this LSTM between word vectors and the scores of the vocabulary. Its first state comes
# from the plain mean of all places, a blurred view of the picture. A **deep output** chooses the word: one more
# layer, which sees the word before, the new state $h$ and what was seen, $z$:
#
# $$ \text{word scores} = \tanh\big([\text{word}, h, z]\, W_{\text{deep}} + b_{\text{deep}}\big)\,
#    W_{\text{vocab}} + b_{\text{vocab}} $$
#
# ## Where it looks
#
# The trained model has read 40,000 captions, ten times each
# (`python training.py --model attention --hidden_dim 128 --wordvec_dim 64 --attention_dim 64`). Nobody told it
# where a shape is. A **map** is the row of weights $\alpha$ with which one word was chosen. Move along the caption,
# and compare steps 6 and 11: the same word, two circles.

# %% tags=["hide-input"]
caption = [words[i] for i in ids[42][is_word[42]]]
steps = [f"{t}: {word}" for t, word in enumerate(caption, 1)]


def draw_word(word):
    t = steps.index(word)
    _, (left, right) = plt.subplots(1, 2, figsize=(5.6, 2.9))
    left.imshow(picture_of(42))
    right.imshow(lit(picture_of(42), maps[42, t] / maps[42, t].max()))
    for ax in (left, right):
        ax.axis("off")
    left.set_title(" ".join(caption[max(0, t - 3) : t]) + " ...", fontsize=11, color=GREY)
    right.set_title(f"{caption[t]}   (largest weight {maps[42, t].max():.2f})", fontsize=11)


movable(draw_word, {"word": steps[5]}, word=steps)

# %% [markdown]
# Each map has a scale of its own. So look at the number as well: an even map has $1/64 = 0.016$ everywhere, and a
# map with a largest weight of 0.04 is nearly even.
#
# **Predict.** Two more pictures. The second has a red square on the left and a red circle in the middle, and the model
# says "the picture shows a red circle and a red square". Where will it look at the first "red", and where at "circle"?


# %% tags=["picture", "hide-input"]
def show_maps(numbers, width=0.95):
    """A row of pictures for each caption: the picture, then the map of each word."""
    columns = 1 + max(is_word[n].sum() for n in numbers)
    size = width * columns, (width + 0.45) * len(numbers)
    _, axes = plt.subplots(len(numbers), columns, figsize=size, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for line, n in zip(axes, numbers, strict=True):
        line[0].imshow(picture_of(n))
        for ax, word, weights in zip(line[1:], ids[n][is_word[n]], maps[n], strict=False):
            ax.imshow(lit(picture_of(n), weights / weights.max()), interpolation="nearest")
            ax.set_title(words[word], fontsize=10, pad=3)
            ax.text(31.5, 66, f"{weights.max():.2f}", fontsize=9, ha="center", va="top")
    plt.show()


show_maps((45, 55))
wrong, right = pointing([words[i] for i in ids[55]], maps[55], scenes[55])
assert not wrong.on_shape and right.on_shape and scenes[55][0].kind == "circle"
assert caption_is_true(decode_captions(ids[55:56], words)[0], scenes[55])
first_red, of_wrong = maps[55, 4].reshape(8, 8), maps[55, 5].reshape(8, 8)
assert words[ids[55, 4]] == "red" and first_red[3, 3] > 0.3 and first_red[2, 1] > 0.3
assert of_wrong[2, 1] > 0.5 and 0.2 < of_wrong[3, 3] < 0.3

# %% [markdown]
# <details><summary>Answer</summary>
#
# At "red" it looks at both red shapes, with about equal weights. At "circle" it should look at the circle, but the
# largest weight, 0.54, is on the *square*. The caption is true all the same.
#
# </details>
#
# How often does that happen? `core.grounding` calls it **pointing**: for each kind that is said with its colour ("red
# circle") and is in the picture, is the place with the largest weight on that shape, or at most one cell from it?
#
# **Task 4.** A map is 64 numbers, the grid row by row. Return `(row, column)` of its largest weight.


# %% tags=["task"]
def peak(weights):
    ### BEGIN SOLUTION
    row, column = divmod(int(weights.argmax()), 8)
    return row, column
    ### END SOLUTION


one, another = np.eye(64)[[19, 56]]  # largest at place 19, and at place 56
compare(peak, lambda w: (2, 3) if w[19] else (7, 0), one, also={"for place 56": (another,)})


# %%
def share_pointing(ids, maps, scenes):
    """The share of names whose map peaks on the shape, a random cell's, and the number."""
    found = []
    for row, of_words, scene in zip(ids, maps, scenes, strict=True):
        found += pointing([words[i] for i in row], of_words, scene)
    return *np.mean([(name.on_shape, name.chance) for name in found], axis=0), len(found)


share, chance, number = share_pointing(ids, maps, scenes)
print(f"{number} names: {share:.0%} peak on the shape; a random place {chance:.0%}")
assert 0.965 < share < 0.975 and chance < 0.3

# %% [markdown]
# ## What a map proves
#
# **Does the model need to look?** Set $v = 0$: all scores are 0, all weights $1/64$, and nothing else changes.
# **Predict** what share of its captions is still true (97 % are true now).

# %%
v_attend = trained.params["v_attend"]
trained.params["v_attend"] = np.zeros_like(v_attend)
equal = are_true(captions_of(trained, features), scenes).mean()
trained.params["v_attend"] = v_attend
print(f"true captions: {are_true(ids, scenes).mean():.0%}; with equal weights {equal:.0%}")
assert 0.965 < are_true(ids, scenes).mean() < 0.975 and 0.045 < equal < 0.055

# %% [markdown]
# <details><summary>Answer</summary>
#
# One in twenty, though it still sees the plain mean of the picture. This model depends on where it looks. Not every
# model has to: one that was trained with equal weights might find another way.
#
# </details>
#
# **Does each look matter?** Give the model the same words again, and show it a blank picture in one step only: its eyes
# are shut for one word. How much log-probability does this word lose? If it loses nothing, what the model saw in this
# step did not matter for the word, however good the map looks.
#
# **Predict.** Which words lose most, and which nothing: kinds ("circle"), colours, sizes, place words ("top", "left"),
# function words ("the", "and")?

# %% tags=["hide-input"]
blank = np.median(data["train_features"][:400], axis=0)  # most cells are blank: (64, 40)
_, _, *blank_image = trained.begin(np.broadcast_to(blank, features.shape))
groups = {
    "kind": KINDS, "colour": COLOURS, "size": ("small", "large"),
    "place": "top bottom middle left right above over below under".split(),
}  # fmt: skip
group_of = {word: name for name, members in groups.items() for word in members}
of_word = np.array([[group_of.get(words[i], "function word") for i in row] for row in ids])

lost, state = np.zeros(ids.shape), trained.begin(features)
for t in range(ids.shape[1]):
    h, c, *_ = state
    without, _ = trained.step((h, c, *blank_image), read[:, t])
    log_p, state = trained.step(state, read[:, t])
    lost[:, t] = (log_p - without)[np.arange(len(ids)), ids[:, t]]

nats = {}
print("                largest weight   nats lost with eyes shut")
for name in (*groups, "function word"):
    of = is_word & (of_word == name)
    nats[name] = round(lost[of].mean(), 2) + 0.0
    print(f"{name:<16}{maps.max(axis=2)[of].mean():14.2f}{nats[name]:27.2f}")
assert nats["kind"] > nats["colour"] > 0.3 and nats["kind"] > nats["size"] > 0.05
assert abs(nats["place"]) < 0.05 and abs(nats["function word"]) < 0.05
assert np.abs(lost[is_word & (of_word == "place")]).max() < 0.02  # not one loses anything

# %% [markdown]
# <details><summary>Answer</summary>
#
# Kinds lose most, colours and sizes less. Place words lose *nothing* in their own step, and function words nothing on
# average. Yet "top" must come from the picture: earlier steps read it, and the state remembers.
# [8b](08b_more_about_looking.ipynb#What-a-word-owes-to-the-picture) finds out which, and what the sharp map at "the"
# is for.
#
# </details>
#
# So keep two claims apart. "It looked there" is what a map shows. "It said the word *because of* what is there"
# needs an intervention. (Some mistakes make good maps, too: [8b](08b_more_about_looking.ipynb#Four-tempting-mistakes).)
#
# ## What you have now
#
# * Attention is a weighted mean whose weights come from a question and the places. All of it has a derivative, so
#   captions alone teach where to look.
# * Back through a softmax: $ds = \alpha \odot (d\alpha - \sum_i \alpha_i\, d\alpha_i)$. What is broadcast forward is
#   summed backward; what is read twice receives two gradients.
# * A map shows where one step looked. That the look mattered is another claim, and takes an experiment.
#
# ## Exercises
#
# Write your answers in [the exercises](exercises/08_soft_attention.ipynb); the notebook tells you at once
# whether they hold.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 · Back through a softmax (one line)
#
# Given $d\alpha$ and $\alpha = \mathrm{softmax}(s)$, both $(\dots, L)$, return $ds$. The sum is over the last axis,
# whatever comes before it.


# %% tags=["exercise"]
def scores_gradient(dweights, weights):
    ### BEGIN SOLUTION
    return weights * (dweights - (weights * dweights).sum(axis=-1, keepdims=True))
    ### END SOLUTION


def by_the_jacobian(dweights, weights):
    """The slow way: builds diag(w) - w^T w for each row."""
    rows = zip(dweights.reshape(-1, 5), weights.reshape(-1, 5), strict=True)
    ds = [dw @ (np.diag(w) - np.outer(w, w)) for dw, w in rows]
    return np.reshape(ds, weights.shape)


dw, s = np.random.default_rng(3).standard_normal((2, 4, 3, 5))
compare(
    scores_gradient,
    by_the_jacobian,
    dw,
    softmax(s),
    also={
        "for (N, L)": (dw[0], softmax(s[0])),
        "for a single row": (dw[0, 0], softmax(s[0, 0])),
    },
    exercise="08.1",
)

# %% [markdown] tags=["exercise"]
# ### Exercise 2 · Additive attention, backward
#
# The forward is given; its cache holds all you need. `dcontext` is $(N, C)$, `dweights` $(N, L)$. Return
# `dfeatures, dh, dWf, dWh, db, dv`. Two things are read twice: which? If all six are wrong, begin at the softmax.
# (`check(..., hint=2)` and `hint=3` say more.)


# %% tags=["exercise"]
def attention_forward(features, h, Wf, Wh, b, v):
    u = np.tanh((features @ Wf + b) + (h @ Wh)[:, None])  # (N, L, K)
    weights = softmax(u @ v)  # (N, L)
    context = (weights[:, :, None] * features).sum(axis=1)  # (N, C)
    return context, weights, (features, h, Wf, Wh, v, u, weights)


def attention_backward(dcontext, dweights, cache):
    features, h, Wf, Wh, v, u, weights = cache
    ### BEGIN SOLUTION
    # context = sum over l of weights_l features_l
    dw = dweights + np.einsum("nc,nlc->nl", dcontext, features)
    dfeatures = weights[:, :, None] * dcontext[:, None]
    # weights = softmax(scores)
    dscores = weights * (dw - (weights * dw).sum(axis=1, keepdims=True))
    # scores = u @ v
    dv = np.einsum("nl,nlk->k", dscores, u)
    du = dscores[:, :, None] * v
    # u = tanh(keys + query)
    dkeys = du * (1 - u**2)
    dquery = dkeys.sum(axis=1)
    # query = h @ Wh
    dh, dWh = dquery @ Wh.T, h.T @ dquery
    # keys = features @ Wf + b
    dfeatures = dfeatures + dkeys @ Wf.T
    dWf, db = np.einsum("nlc,nlk->ck", features, dkeys), dkeys.sum(axis=(0, 1))
    return dfeatures, dh, dWf, dWh, db, dv
    ### END SOLUTION


check("additive_attention_backward", attention_backward, forward=attention_forward)

# %% [markdown] tags=["exercise"]
# ### Exercise 3 · A project: the product instead of the tanh
#
# Luong, Pham and Manning (2015) score by a product, and so does the Transformer, which divides by a root:
#
# $$ s_{nl} = \frac{\text{query}_n \cdot \text{keys}_{nl}}{\sqrt{K}}, \qquad
#    \text{query} = h W_h, \quad \text{keys} = \varphi W_f $$
#
# The product mixes question and place without any tanh. Shapes and the rest are as in the lesson. Write forward and
# backward. Then find out what the $\sqrt K$ is for. Draw standard normal queries and keys with $K = 256$ and
# $L = 64$, and compare the mean *entropy* $-\sum_l \alpha_l \log \alpha_l$ of the weights with the division and
# without. If all weights are equal it is $\log 64 = 4.16$; if one place has all the weight it is 0.


# %% tags=["exercise"]
def product_forward(features, h, Wf, Wh):
    """Returns the context (N, C) and a cache of your own."""
    ### BEGIN SOLUTION
    keys, query = features @ Wf, h @ Wh
    weights = softmax(np.einsum("nk,nlk->nl", query, keys) / np.sqrt(Wf.shape[1]))
    context = np.einsum("nl,nlc->nc", weights, features)
    return context, (features, h, Wf, Wh, keys, query, weights)
    ### END SOLUTION


def product_backward(dcontext, cache):
    """Returns dfeatures, dh, dWf, dWh."""
    ### BEGIN SOLUTION
    features, h, Wf, Wh, keys, query, weights = cache
    dweights = np.einsum("nc,nlc->nl", dcontext, features)
    dscores = weights * (dweights - (weights * dweights).sum(axis=1, keepdims=True))
    dscores = dscores / np.sqrt(Wf.shape[1])
    dquery = np.einsum("nl,nlk->nk", dscores, keys)
    dkeys = dscores[:, :, None] * query[:, None]
    dfeatures = weights[:, :, None] * dcontext[:, None] + dkeys @ Wf.T
    return dfeatures, dquery @ Wh.T, np.einsum("nlc,nlk->ck", features, dkeys), h.T @ dquery
    ### END SOLUTION


def your_gradients(dcontext, *arguments):
    """What your pair gives: the context, and the four gradients."""
    context_and_cache = product_forward(*arguments)
    if context_and_cache is None:
        return None
    context, cache = context_and_cache
    gradients = product_backward(dcontext, cache)
    if gradients is None:
        return None
    names = "dfeatures", "dh", "dWf", "dWh"
    return {"context": context, **dict(zip(names, gradients, strict=True))}


def by_differences(dcontext, *arguments):
    """The same from the formula, with loops and central differences."""

    def contexts(features, h, Wf, Wh):
        out = []
        for f, state in zip(features, h, strict=True):
            scores = [sum((state @ Wh) * (place @ Wf)) / Wf.shape[1] ** 0.5 for place in f]
            w = np.exp(scores) / np.exp(scores).sum()
            out.append(sum(a * place for a, place in zip(w, f, strict=True)))
        return np.stack(out)

    def changed(_):  # the entry that moves is in arguments
        return contexts(*arguments)

    gradients = {
        name: eval_numerical_gradient_array(changed, x, dcontext)
        for name, x in zip(("dfeatures", "dh", "dWf", "dWh"), arguments, strict=True)
    }
    return {"context": contexts(*arguments), **gradients}


rng = np.random.default_rng(4)
arguments = [rng.standard_normal(s) for s in ((3, 5, 4), (3, 7), (4, 8), (7, 8))]
dcontext = rng.standard_normal((3, 4))
one_place = dcontext[:1], arguments[0][:1, :1], arguments[1][:1], *arguments[2:]
compare(
    your_gradients,
    by_differences,
    dcontext,
    *arguments,
    also={"for one image with one location": one_place},
)


# %% tags=["exercise"]
def mean_entropies(K=256, L=64, N=200, seed=0):
    """(with the division, without it)"""
    ### BEGIN SOLUTION
    rng = np.random.default_rng(seed)
    query, keys = rng.standard_normal((N, K)), rng.standard_normal((N, L, K))
    scores = np.einsum("nk,nlk->nl", query, keys)
    found = []
    for s in (scores / np.sqrt(K), scores):
        w = softmax(s)
        found.append(-(w * np.log(np.maximum(w, 1e-300))).sum(axis=1).mean())
    return tuple(found)
    ### END SOLUTION


confirm(
    mean_entropies,
    lambda found: 3.5 < found[0] < 3.9 and 0.1 < found[1] < 0.6,
    "about 3.7 with the division, all locations in play; below 0.6 without, one alone",
    exercise="08.3",
)

# %% [markdown]
# **Sources.** D. Bahdanau, K. Cho and Y. Bengio, *Neural machine translation by jointly learning to align and
# translate*, ICLR 2015 (the additive score). K. Xu and others, *Show, attend and tell: neural image caption
# generation with visual attention*, ICML 2015 (the captioner). M.-T. Luong, H. Pham and C. Manning, *Effective
# approaches to attention-based neural machine translation*, EMNLP 2015. A. Vaswani and others, *Attention is all
# you need*, NIPS 2017. J. Zhang and others, *Top-down neural attention by excitation backprop*, ECCV 2016 (pointing
# as a measure). S. Jain and B. Wallace, *Attention is not explanation*, NAACL 2019. S. Wiegreffe and Y. Pinter,
# *Attention is not not explanation*, EMNLP 2019.
#
# **Next:** [lesson 9, multi-head attention](09_multi_head_attention.ipynb): several looks at once, and words that
# look at words.
