# %% [markdown]
# # 8 · Soft attention
#
# **The question.** The captioners of lessons 5 and 6 see the picture once, as one vector, and then speak from
# memory. How can a model look at the picture again before each word, at the place that this word is about, so
# that "where to look" is learned by gradients like everything else? And what may you conclude from a map of
# where it looked?
#
# You build additive attention, forward and backward, the gate on what it finds, the LSTM around both, and the
# penalty that spreads the look. You train it, see its maps on pictures that it has never seen, measure how often
# they point at the shape that is named, and then find out, by experiment, when such a map lies.
#
# *Before: [lesson 3](03_affine_embedding_softmax.ipynb) (softmax) and [lesson 6](06_the_lstm.ipynb) (the LSTM).
# About 60 minutes; all cells together run in under a minute.*

# %% tags=["setup"]
import re
import textwrap
import warnings
from unittest.mock import patch

import matplotlib.pyplot as plt
import numpy as np

from core import lessons
from core.attention_layers import (
    additive_attention_backward,
    additive_attention_forward,
    attend_backward,
    attend_forward,
    attention_lstm_backward,
    attention_lstm_forward,
    attention_lstm_step_backward,
    attention_lstm_step_forward,
    context_gate_backward,
    context_gate_forward,
    doubly_stochastic_loss,
)
from core.captioning_solver import CaptioningSolver
from core.coco_utils import decode_captions, image_path
from core.decoding import beam_search, word_log_probabilities
from core.gradient_check import check, eval_numerical_gradient_array, relative_error
from core.grounding import pointing
from core.image_utils import load_image
from core.layers import softmax, softmax_backward
from core.lessons import compare, confirm, draw_graph, show_source
from core.models import CaptioningAttention
from core.scenes import COLOURS, IMAGE_SIZE, KINDS
from core.shapes import caption_is_true, load_scenes
from core.show.plots import BLUE, ORANGE, upsample

lessons.style()

# %% [markdown]
# ## What one vector loses
#
# In [lesson 5](05_the_vanilla_rnn.ipynb) the whole picture became $h_0$, and $h_0$ is overwritten with every
# word. Each shape adds a kind, a colour, a size and a place that have to survive in the same 128 numbers until
# their word comes. So let us count: what share of the captions of three trained runs is true, for held-out
# pictures with one, two and three shapes? The runs came with the lessons; from the folder of the project
#
#     python training.py --model rnn --hidden_dim 128 --wordvec_dim 64 --out runs/rnn
#     python training.py --model lstm --hidden_dim 128 --wordvec_dim 64 --out runs/lstm
#     python training.py --model attention --hidden_dim 128 --wordvec_dim 64 \
#         --attention_dim 64 --out runs/attention
#
# make them (in 1, 1.5 and 6 minutes on one core). The third is what this lesson builds. (True means: everything
# that the caption says holds. What it leaves out does not count; of three shapes the runs name 2.6, 2.8 and 2.9.)


# %%
def captions_of(model, features):
    """What a model says of pictures, by beam search: word ids (N, T), without <START>."""
    return beam_search(model, features, max_length=20)[0][:, 0]


def are_true(texts, scenes):
    return np.array([caption_is_true(*each) for each in zip(texts, scenes, strict=True)])


data = lessons.embedded_data("attention")  # a grid of locations for each picture
pooled = lessons.embedded_data("lstm")  # one vector for each picture
words, word_id = data["idx_to_word"], data["word_to_idx"]
scenes = load_scenes(data["source"]["folder"], "val")  # what is in the held-out pictures
count = np.array([len(scene) for scene in scenes])

true, said = {}, {}
for name in ("rnn", "lstm", "attention"):
    model, _ = lessons.load_trained(name)
    source = data if model.grid else pooled
    said[name] = captions_of(model, source["val_features"])
    right = are_true(decode_captions(said[name], words), scenes)
    true[name] = [right[count == n].mean() for n in (1, 2, 3)]
    size = sum(value.size for value in model.params.values())
    shares = "  ".join(f"{n}: {x:4.0%}" for n, x in enumerate(true[name], start=1))
    print(f"{name:<10}{size:>8,} parameters, true by number of shapes  {shares}")

texts = [
    re.sub("( is)? (at|in|on) the .*", "", t) for t in decode_captions(said["lstm"], words)
]
no_place = are_true(texts, scenes)[count == 1].mean()
print(f"lstm, one shape, with the place struck out of its captions: {no_place:.0%}")

for i, (name, shares) in enumerate(true.items()):
    plt.bar(np.arange(3) + 0.25 * (i - 1), shares, width=0.23, label=name)
plt.gca().set(
    xticks=range(3), xticklabels=("one", "two", "three"), xlabel="shapes in the picture",
    ylabel="share of captions that are true", ylim=(0, 1.25), yticks=(0, 0.5, 1),
)  # fmt: skip
plt.legend(ncols=3, loc="upper center")
plt.show()
assert true["rnn"][2] < true["lstm"][2] < true["attention"][2]
assert true["rnn"][0] - true["rnn"][2] > 0.4  # one vector
assert true["attention"][0] - true["attention"][2] < 0.2
assert no_place > true["lstm"][0] + 0.05

# %% [markdown]
# With one shape the RNN is nearly always right, with three hardly ever. The LSTM remembers longer and still
# fails on half of the pictures with three shapes. (With one it is not perfect either: it likes to add a place,
# "at the top left", and gets that wrong. Without the place nearly all are true.) The third run has no more
# parameters than the LSTM and hardly minds. Be fair to the first two: the third also reads other features, a
# grid of $L = 64$ locations with $C = 40$ channels each instead of one vector of 512. But that is the point. A
# grid does not fit into $h_0$; it has to stay outside, where the model can look at it again.
#
# ## By hand, with three locations
#
# A picture of three cells and two channels, "how red" and "how blue": a red shape at the left, nothing in the
# middle, a blue shape at the right. The state $h$ of the decoder asks a question, each location answers it with
# a number, its **score**, and a softmax turns scores into **weights**. What is handed on is the mean of the
# locations under these weights, the **context**:
#
# $$ s_l = v \cdot \tanh(f_l W_f + h W_h + b), \qquad w = \mathrm{softmax}(s), \qquad \bar f = \sum_l w_l f_l $$
#
# $f_l W_f + b$ is the **key** of location $l$, $h W_h$ is the **query**. Here $W_f$ is the identity and $b$ is
# 0, so the keys are the features; the query of "I am after red" puts $-2$ on the other channel.

# %%
toy_f = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])  # (L=3, C=2)
toy_Wh = np.array([[0.0, -2.0], [-2.0, 0.0]])  # (H=2, K=2)
toy_v = np.array([3.0, 3.0])
questions = {"after red": np.array([1.0, 0.0]), "after blue": np.array([0.0, 1.0])}

for name, h in questions.items():
    u = np.tanh(toy_f + h @ toy_Wh)
    s = u @ toy_v
    w = np.exp(s) / np.exp(s).sum()
    print(f"{name}: query {h @ toy_Wh}")
    for i, place in enumerate(("left", "middle", "right")):
        print(
            f"   {place:<7}features {toy_f[i]}  key + query {toy_f[i] + h @ toy_Wh!s:<9}",
            end="",
        )
        print(
            f"  tanh [{u[i, 0]:6.3f} {u[i, 1]:6.3f}]  score {s[i]:6.3f}  weight {w[i]:.3f}"
        )
    mean = f"{w[0]:.3f} left + {w[1]:.3f} middle + {w[2]:.3f} right"
    print(f"   context = {mean} = {w @ toy_f}\n")

# %% [markdown]
# Asked for red, the layer reads 0.776 of the red cell; asked for blue, of the blue one. This is *soft*
# attention: it never picks one location, it takes a mean in which one may dominate, and a mean has a derivative.
# (Picking one, *hard* attention, has none, and is trained by sampling instead.)
#
# **Why the tanh?** Without it the layer would be deaf. The score would be
# $v \cdot (f_l W_f) + v \cdot (h W_h + b)$, and the second term is the same number for all locations. A softmax
# does not notice what is added to all its scores, $e^{s_l + a} / \sum_m e^{s_m + a} = e^{s_l} / \sum_m e^{s_m}$,
# so the question would drop out. The tanh mixes the two: the query of $-2$ pushes the unwanted channel to where
# the tanh is flatter: a blue cell gains 0.61 on a blank one there (-2.285 against -2.892), a red one 2.28.

# %%
for name, h in questions.items():
    print(f"{name}, without the tanh: weights {softmax((toy_f + h @ toy_Wh) @ toy_v)}")
with_red, with_blue = (softmax((toy_f + h @ toy_Wh) @ toy_v) for h in questions.values())
assert np.allclose(with_red, with_blue)  # the question makes no difference

# %% [markdown]
# The same remark says why there is no bias after $v$: it would be added to all scores, and change nothing.
#
# ## The forward
#
# For a batch of $N$ pictures, with the state of width $H$ and a comparison of width $K$:
#
# | | shape | |
# | --- | --- | --- |
# | features $f$ | $(N, L, C)$ | one vector for each location |
# | $h$ | $(N, H)$ | the state that asks |
# | $W_f$, $b$ | $(C, K)$, $(K,)$ | make the keys $f W_f + b$, $(N, L, K)$ |
# | $W_h$ | $(H, K)$ | makes the query $h W_h$, $(N, K)$ |
# | $a$ = keys + query | $(N, L, K)$ | the query is added at every location |
# | $u = \tanh(a)$ | $(N, L, K)$ | the comparison |
# | $v$ | $(K,)$ | scores $s = u\,v$, $(N, L)$ |
# | $w = \mathrm{softmax}(s)$ | $(N, L)$ | over the locations: each row sums to 1 |
# | context $\bar f$ | $(N, C)$ | $\bar f_{nc} = \sum_l w_{nl} f_{nlc}$ |
#
# In `core/attention_layers.py` it is two functions. A captioner asks one question a word about a picture that stays
# the same: so the keys are made once, and `attend_forward` does the rest for each word. (`temporal_affine_forward` is
# the affine layer of lesson 3, for one axis more. In the code $u$ is `activation`.)

# %%
show_source(softmax, attend_forward, additive_attention_forward)

# %%
rng = np.random.default_rng(0)
N, L, C, H, K = 3, 5, 4, 7, 8  # all different, so that a wrong axis cannot hide
features, h = rng.standard_normal((N, L, C)), rng.standard_normal((N, H))
Wf, Wh, b, v = (rng.standard_normal(shape) for shape in ((C, K), (H, K), (K,), (K,)))
context, weights, _ = additive_attention_forward(features, h, Wf, Wh, b, v)


def sums_by_hand(n):
    """The context and the weights of picture n, one number at a time."""
    scores = []
    for place in range(L):
        score = 0.0
        for k in range(K):
            key = sum(features[n, place, c] * Wf[c, k] for c in range(C)) + b[k]
            query = sum(h[n, j] * Wh[j, k] for j in range(H))
            score += v[k] * np.tanh(key + query)
        scores.append(np.exp(score))
    w = [score / sum(scores) for score in scores]
    return [sum(w[i] * features[n, i, c] for i in range(L)) for c in range(C)], w


for n in range(N):
    by_hand = sums_by_hand(n)
    assert relative_error(context[n], by_hand[0]) < 1e-12
    assert relative_error(weights[n], by_hand[1]) < 1e-12
print("weights", weights.shape, "with the sums", weights.sum(axis=1))
print("context", context.shape, "off the sums by hand by less than 1e-12")

# %% [markdown]
# ## The backward
#
# From above come two gradients: $d\bar f$, $(N, C)$, of the context (`dcontext` in the figure and in the code), and $dw$, $(N, L)$, of the weights, for
# someone else may read them as well (the penalty below does). We owe gradients to all six arguments.

# %%
draw_graph(
    {
        "f": (0, 2.4, "$f$"), "Wf": (0, 0.9, "$W_f$"), "h": (0, -0.3, "$h$"),
        "Wh": (0, -1.8, "$W_h$"), "m1": (1.7, 1.4, "@"), "m2": (1.7, -0.8, "@"),
        "b": (3, 1.7, "$b$"), "+": (3, 0.3, "+"), "tanh": (4.2, 0.3, "tanh"),
        "v": (5.3, -1, "$v$"), "dot": (5.3, 0.3, "@"), "soft": (6.6, 0.3, "softmax"),
        "mean": (6.6, 2.4, "@"), "out": (8, 2.4, "mean $\\bar{f}$"), "w": (8, 0.3, "$w$"),
    },
    [
        ("f", "mean", "as values", "$w\\,$dcontext"), ("f", "m1", "", "$da\\,W_f^T$"),
        ("Wf", "m1", "", "$f^T da$"), ("h", "m2", "", "$dh$"), ("Wh", "m2", "", "$dW_h$"),
        ("m1", "+", "$f W_f$", "$da$"), ("b", "+", "", "$\\Sigma_{nl}\\,da$"),
        ("m2", "+", "query", "$\\Sigma_l\\,da$"), ("+", "tanh", "$a$", "$da$"),
        ("tanh", "dot", "$u$", "$du$"), ("v", "dot", "", "$dv$"),
        ("dot", "soft", "$s$", "$ds$"), ("soft", "mean", "$w$", "dcontext $\\cdot f_l$"),
        ("mean", "out", "", "dcontext"), ("soft", "w", "", "$dw$"),
    ],
    "Additive attention: the features are read twice, and so may be the weights",
    unit=1.08,
)  # fmt: skip

# %% [markdown]
# Walk back through the forward, from its last line to its first.
#
# **The context.** $\bar f_{nc} = \sum_l w_{nl} f_{nlc}$. The weight $w_{nl}$ is read by all $C$ channels of its
# picture's context, the feature $f_{nlc}$ by one of them:
#
# $$ dw_{nl} \mathrel{+}= \sum_c d\bar f_{nc}\, f_{nlc} = d\bar f_n \cdot f_{nl} \quad (N, L), \qquad
#    df_{nlc} = w_{nl}\, d\bar f_{nc} \quad (N, L, C) $$
#
# The $+$ is the second reader of the weights. From here on $dw$ is this total.
#
# **The softmax.** For one row, $w_i = e^{s_i} / Z$ with $Z = \sum_m e^{s_m}$. The score $s_j$ stands in $Z$, so
# it moves *every* weight, and its own weight through the numerator as well. The quotient rule:
#
# $$ \frac{\partial w_i}{\partial s_j} = \frac{[i = j]\, e^{s_i}}{Z} - \frac{e^{s_i}\, e^{s_j}}{Z^2}
#    = [i = j]\, w_i - w_i w_j $$
#
# where $[i = j]$ is 1 if $i = j$ and 0 otherwise. The matrix of all these, the Jacobian, is
# $\mathrm{diag}(w) - w^T w$ (a row vector's $w^T w$ is $L \times L$). It is never built; we need only $dw$ times it, the **vector-Jacobian
# product** of [lesson 2](02_gradients_you_can_trust.ipynb). The score $s_j$ collects from all weights:
#
# $$ ds_j = \sum_i dw_i \frac{\partial w_i}{\partial s_j} = dw_j\, w_j - w_j \sum_i dw_i\, w_i
#    \quad\Rightarrow\quad ds = w \odot \Big(dw - \sum_i w_i\, dw_i\Big) \quad (N, L) $$
#
# Read it: what counts is how far a location's $dw$ lies from the average, and the average is taken under the
# weights. Where it lies below, more weight would lower the loss, $ds$ is negative, and descent raises the
# score. The entries of $ds$ sum to 0: $\sum_j w_j\, dw_j - \big(\sum_j w_j\big) \sum_i w_i\, dw_i = 0$, as
# $\sum_j w_j = 1$. It must be so, for adding a number to all scores changes nothing. If the context is all that
# reads the weights, put in $dw_l = d\bar f \cdot f_l$, and the average becomes $d\bar f \cdot \bar f$:
#
# $$ ds_l = w_l \;\, d\bar f \cdot (f_l - \bar f) $$
#
# A location that differs from the mean along $d\bar f$ has its score moved. One that has weight 0 does not:
# where the layer does not look at all, it learns nothing about looking there.
#
# **The scores.** $s_{nl} = \sum_k u_{nlk} v_k$. The number $u_{nlk}$ is read once; $v_k$ by every picture and
# every location:
#
# $$ du_{nlk} = ds_{nl}\, v_k \quad (N, L, K), \qquad dv_k = \sum_{n, l} ds_{nl}\, u_{nlk} \quad (K,) $$
#
# **The tanh.** As in [lesson 5](05_the_vanilla_rnn.ipynb), $da = du \odot (1 - u^2)$, $(N, L, K)$.
#
# **The broadcast sum.** $a_{nlk} = \mathrm{keys}_{nlk} + \mathrm{query}_{nk}$. The key is read once, and
# receives $da$ unchanged. The query is read by all $L$ locations, and collects from all of them. What was spread
# over an axis in the forward is summed over that axis in the backward:
#
# $$ d\,\mathrm{keys}_{nlk} = da_{nlk}, \qquad d\,\mathrm{query}_{nk} = \sum_l da_{nlk} \quad (N, K) $$
#
# **The products.** $\mathrm{query} = h W_h$ is an affine layer of [lesson 3](03_affine_embedding_softmax.ipynb),
# and $\mathrm{keys} = f W_f + b$ is one with $N \cdot L$ rows; every location shares its weights:
#
# $$ dh = d\,\mathrm{query}\; W_h^T \quad (N, H), \qquad dW_h = h^T d\,\mathrm{query} \quad (H, K) $$
#
# $$ dW_{f,ck} = \sum_{n, l} f_{nlc}\, d\,\mathrm{keys}_{nlk} \quad (C, K), \qquad
#    db_k = \sum_{n, l} d\,\mathrm{keys}_{nlk} \quad (K,), \qquad
#    df \mathrel{+}= d\,\mathrm{keys}\; W_f^T \quad (N, L, C) $$
#
# With the $N \cdot L$ rows below each other the first of these is $dW_f = f^T d\,\mathrm{keys}$, as in lesson 3.
# The last $+$ is the second reader of the features: they are compared, and they are handed on.
#
# Before the code, the two new lines on the example by hand: the loss would like the context to be redder,
# $d\bar f = (-1, 0)$ (more of channel 0 lowers the loss), and the question is "after red".

# %%
w = softmax(np.tanh(toy_f + questions["after red"] @ toy_Wh) @ toy_v)
dcontext = np.array([-1.0, 0.0])
dw = toy_f @ dcontext
average = w @ dw
ds = w * (dw - average)
print("weights w          ", w)
print("dw = dcontext . f_l", dw)
print(f"their average under the weights: {average:.4f}")
print("ds = w (dw - avg)  ", ds, " sum", f"{abs(ds.sum()):.1f}")
assert np.allclose(ds, w * ((toy_f - w @ toy_f) @ dcontext))  # the second form
assert ds[0] < 0 < ds[1] < ds[2]

# %% [markdown]
# Gradient descent goes against $ds$: the score of the red cell rises, the two others fall, though $dw$ itself is
# 0 there. Nobody told them to; they fall because they are worse than the average. The blue one falls more, as it
# has more weight to lose.
#
# Now the whole of it, line for line from the derivation, and its check:

# %%
show_source(softmax_backward, attend_backward, additive_attention_backward, docstring=False)

# %%
report = check("additive_attention_backward", additive_attention_backward)
assert report
report

# %% [markdown]
# ## How much of it to read: the gate
#
# A softmax cannot say "nowhere": its weights sum to 1 whatever the word. Before "and" or "of" the layer has to
# look somewhere all the same. So Xu et al. let the state turn the context down, by a gate between 0 and 1 (their
# $\beta$, one number for all channels; here one for each):
#
# $$ g = \sigma(h W_g + b_g), \qquad z = g \odot \bar f \qquad (N, C) $$
#
# Backward, from the last line to the first. A product's two factors each receive the gradient times the other
# one; $\sigma' = \sigma (1 - \sigma)$, entry by entry; then an affine layer:
#
# $$ d\bar f = dz \odot g, \qquad dg = dz \odot \bar f, \qquad d\alpha = dg \odot g \odot (1 - g), \qquad
#    dh = d\alpha\, W_g^T, \quad dW_g = h^T d\alpha, \quad db_g = \sum_n d\alpha_n $$
#
# with $\alpha = h W_g + b_g$.

# %%
show_source(context_gate_forward, context_gate_backward, docstring=False)

# %%
report = check("context_gate_backward", context_gate_backward)
assert report
report

# %% [markdown]
# ## Around an LSTM
#
# One word of the captioner: ask, look, gate what was found, and let the LSTM of [lesson 6](06_the_lstm.ipynb)
# read it beside the word. With $x$ the vector of the word before (width $W$) and $[\cdot, \cdot]$ for "side by
# side":
#
# $$ \bar f, w = \mathrm{attend}\big([h_{\text{prev}}, x]\, W_q\big), \qquad
#    z = \sigma(h_{\text{prev}} W_g + b_g) \odot \bar f, \qquad
#    h, c = \mathrm{lstm}\big([x, z],\, h_{\text{prev}},\, c_{\text{prev}}\big) $$
#
# The question is asked by the state *and* the word before, with $W_q$ of shape $(H + W, K)$. The paper asks with
# the state alone; what that means for its maps is measured below.
#
# | | read by | so its gradient is |
# | --- | --- | --- |
# | $h_{\text{prev}}$ | the question, the gate, the LSTM | a sum of three |
# | $x$ | the question, the LSTM | a sum of two |
# | $z$ | the LSTM, and the scores of the next word | a sum of two |
# | keys, features | every step | a sum over the steps |

# %%
draw_graph(
    {
        "h": (1.9, 0.2, "$h_{prev}$"), "x": (0, -1, "$x$"), "c": (3.2, -2.2, "$c_{prev}$"),
        "f": (2.2, 3, "$f$"), "look": (2.2, 1.8, "attend"), "gate": (3.8, 1.8, "gate"),
        "z": (5.2, 1.8, "$z$"), "lstm": (5.2, -0.6, "LSTM"), "up": (6.8, 1.8, "next word"),
        "h2": (6.8, -0.6, "$h$"), "c2": (6.8, -1.8, "$c$"),
    },
    [
        ("f", "look"), ("h", "look", "", "third"), ("x", "look", "", "second"),
        ("h", "gate", "", "second"), ("h", "lstm", "", "first"), ("x", "lstm", "", "first"),
        ("c", "lstm"), ("look", "gate", "context", "dcontext"), ("gate", "z", "", "$dz$"),
        ("z", "lstm", "", "first"), ("z", "up", "", "second"), ("lstm", "h2", "", "$dh$"),
        ("lstm", "c2", "", "$dc$"),
    ],
    "One word of the captioner; in orange the order in which gradients add up",
    unit=1.2,
)  # fmt: skip
show_source(attention_lstm_step_forward, attention_lstm_step_backward, docstring=False)

# %%
report = check("attention_lstm_step_backward", attention_lstm_step_backward)
assert report
report

# %% [markdown]
# A caption is $T$ such steps. The keys are made once, before the loop; in the backward each step adds to `dkeys`
# and `dfeatures`, and what has gathered in `dkeys` goes back through $W_f$ once, at the end.

# %%
show_source(attention_lstm_forward, attention_lstm_backward, docstring=False)

# %%
report = check("attention_lstm_backward", attention_lstm_backward)
assert report
report

# %% [markdown]
# `CaptioningAttention` puts words before and scores after it. It begins with the mean of all locations, and it
# chooses the word from what was read, the state, and what was seen:
#
# $$ h_0 = \tanh\Big(\frac{1}{L}\sum_l f_l\, W_{h0} + b_{h0}\Big), \qquad
#    \text{scores} = \tanh\big([x, h, z]\, W_{\text{deep}} + b_{\text{deep}}\big)\,
#    W_{\text{vocab}} + b_{\text{vocab}} $$
#
# and $c_0$ like $h_0$, with weights of its own. Keep that mean in mind: a blurred view of the picture is in the
# state from the start.
#
# ## A penalty that spreads the look
#
# The weights of one word sum to 1 over the locations. Xu et al. also ask the opposite: that each location should
# get a sum of 1 over the words, so that nothing in the picture is passed over. For a caption with the mask
# $m_{nt}$ (1 for words, 0 for padding) and a strength $\lambda$:
#
# $$ r_{nl} = 1 - \sum_t m_{nt}\, w_{ntl}, \qquad P = \frac{\lambda}{N} \sum_{n, l} r_{nl}^2 $$
#
# The weight $w_{ntl}$ stands in one $r_{nl}$, with the factor $-m_{nt}$, and so
#
# $$ dw_{ntl} = \frac{2 \lambda}{N}\, r_{nl} \cdot (-m_{nt}) \qquad (N, T, L) $$
#
# the same for all words of a caption: more here, if the location has not been looked at enough. It enters the
# backward above as the second reader of the weights.

# %%
show_source(doubly_stochastic_loss, docstring=False)
report = check("doubly_stochastic_loss", doubly_stochastic_loss)
assert report
report

# %% [markdown]
# What does it want, when nothing else wants anything? Three words, three locations, scores drawn at random; walk
# down the penalty's gradient, through `softmax_backward`:

# %%
scores = 2 * np.random.default_rng(5).standard_normal((1, 3, 3))  # (N, T, L)
mask = np.ones((1, 3), dtype=bool)
for step in range(2001):
    weights = softmax(scores)
    penalty, dweights = doubly_stochastic_loss(weights, mask, 1.0)
    if step in (0, 2000):
        print(f"after {step} steps: penalty {penalty:.3f}")
        for t in range(3):
            print(f"   word {t + 1}: weights {weights[0, t]}")
        print(f"   over the words: {weights[0].sum(axis=0)}\n")
    scores = scores - 0.1 * softmax_backward(dweights, weights)
assert penalty < 1e-3

# %% [markdown]
# Rows and columns sum to 1 now, which is what *doubly stochastic* means. Words 2 and 3 kept their preference. Word 1 had wanted the same
# location as word 3 and moved to the one that nobody had looked at: the penalty spreads the looks over the caption and
# does not flatten each of them.
#
# With $T$ words and $L$ locations the sums over the words add up to $T$, so 1 everywhere can be had only if
# $T = L$. Otherwise the least penalty is at $T/L$ everywhere. Captions here have about nine words and the grid
# has 64 cells, most of them blank: the penalty would ask for $9/64 = 0.14$ on each, blank ones included. That is
# why it is off in the run that you loaded. Whether it helps depends on the pictures; it is a hyperparameter, not
# a law.

# %%
trained, history = lessons.load_trained("attention")
print("strength of the penalty in the trained run:", trained.double_stochastic)
for name, looks in (
    ("all words at one cell", np.eye(64)[[0] * 9]),
    ("nine words at nine cells", np.eye(64)[:9]),
    ("every word everywhere", np.full((9, 64), 1 / 64)),
):
    penalty, _ = doubly_stochastic_loss(looks[None], np.ones((1, 9), dtype=bool), 1.0)
    print(f"   {name:<26}penalty {penalty:6.1f}")

# %% [markdown]
# ## Forty captions, by heart
#
# A small captioner first, trained here from nothing. A model that cannot learn 40 captions has a bug.


# %%
def learn(model, data, epochs, batch_size, **options):
    solver = CaptioningSolver(
        model, data, update_rule="adam", num_epochs=epochs, batch_size=batch_size,
        verbose=False, **options,
    )  # fmt: skip
    solver.train()
    return solver


def small_model(kind=CaptioningAttention, hidden_dim=96, attention_dim=32):
    return kind(
        word_id, data["train_features"].shape[2], wordvec_dim=32, hidden_dim=hidden_dim,
        attention_dim=attention_dim, rng=np.random.default_rng(0),
    )  # fmt: skip


def forty_by_heart():
    """The losses, and how many captions are said back word for word."""
    model = small_model()
    rate = {"learning_rate": 5e-3}
    solver = learn(model, forty, epochs=50, batch_size=10, lr_decay=0.98, optim_config=rate)
    captions = forty["train_captions"]
    pictures = forty["train_features"][forty["train_image_idxs"]]
    ids = model.sample(pictures, max_length=captions.shape[1])
    pairs = zip(decode_captions(ids, words), decode_captions(captions, words), strict=True)
    return solver.loss_history, sum(ours == theirs for ours, theirs in pairs)


forty = lessons.embedded_data("attention", num_samples=40)
losses, right = forty_by_heart()
change = f"{losses[0]:.1f} -> {losses[-1]:.1f} nats per caption"
print(f"loss {change}, {right} of 40 said back word for word")
assert right >= 38

# %% [markdown]
# ## The trained run, on pictures that it has never seen
#
# Now the run that you loaded above: 40,000 captions, ten epochs. Where does it look? A map is the row of weights
# with which one word was chosen, and the model gives it by `attention_weights`: captions in, with `<START>` in
# front, $(N, T, 1, L)$ out (the 1 is for the one head; [lesson 9](09_multi_head_attention.ipynb) has more).

# %%
show_source(CaptioningAttention.attention_weights)

# %% tags=["picture"]
features = data["val_features"]
ids = said["attention"]
read = np.concatenate([np.full((len(ids), 1), trained.start), ids], axis=1)  # <START> first
maps = trained.attention_weights(features, read)[:, :, 0]  # (300, T, 64)
assert np.allclose(maps.sum(axis=2), 1, atol=1e-4)
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


def show_maps(rows, labels, width=0.85):
    """A row of pictures for each of (picture, its maps, the words above, numbers below)."""
    columns = 1 + max(len(row[1]) for row in rows)
    size = width * columns, (width + 0.45) * len(rows)
    _, axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for line, label, row in zip(axes, labels, rows, strict=True):
        picture, lights, above, below = row
        pictures = [picture, *(lit(picture, light) for light in lights)]
        texts = zip(pictures, [label, *above], ["", *below], strict=True)
        for ax, (shown, word, number) in zip(line, texts, strict=False):
            ax.imshow(shown, interpolation="nearest")
            ax.set_title(word, fontsize=9, pad=3)
            ax.text(31.5, 66, number, fontsize=8, ha="center", va="top")
    plt.show()


rows = []
for n in (45, 55, 42):
    of_words = maps[n][is_word[n]]
    own_scale = of_words / of_words.max(axis=1, keepdims=True)
    largest = [f"{w.max():.2f}" for w in of_words]
    rows.append((picture_of(n), own_scale, [words[i] for i in ids[n][is_word[n]]], largest))
show_maps(rows, labels=["", "", ""])

# %% [markdown]
# Each picture is bright where the weight is large, each map on a scale of its own; the number below is its
# largest weight. The words for kinds and colours sit on their shapes. Look at the numbers before you look at the
# rest: an even map has $1/64 = 0.016$ everywhere, and a map whose largest weight is 0.04 is nearly even. Drawn
# on its own scale it still shows a pattern, and the eye reads a meaning into it.
#
# **Pointing.** Let us measure. For each word that names a shape of the picture, does its map peak on that shape
# (in the shape's box, or at most one cell beside it)? `core.grounding` asks this; what a random cell would reach
# stands beside it.

# %%
show_source(pointing)


# %%
def share_pointing(ids, maps, scenes):
    """The share of names whose map peaks on the shape, a random cell's, and the number."""
    found = []
    for row, of_words, scene in zip(ids, maps, scenes, strict=True):
        found += pointing([words[i] for i in row], of_words, scene)
    return *np.mean([(name.on_shape, name.chance) for name in found], axis=0), len(found)


share, chance, number = share_pointing(ids, maps, scenes)
print(f"{number} names: {share:.0%} of the maps peak on the shape; by chance {chance:.0%}")
assert share > 0.9 and chance < 0.3

# %% [markdown]
# And does the model *need* to look? Set $v = 0$: all scores are 0, all weights $1/64$, nothing else is touched.

# %%
v_attend = trained.params["v_attend"]
trained.params["v_attend"] = np.zeros_like(v_attend)
blind = are_true(decode_captions(captions_of(trained, features), words), scenes).mean()
trained.params["v_attend"] = v_attend
seeing = are_true(decode_captions(ids, words), scenes).mean()
print(f"captions that are true: {seeing:.0%}; with all weights equal {blind:.0%}")
assert seeing > 0.9 and blind < 0.3

# %% [markdown]
# What the number means: this model, as it was trained, depends on where it looks. What it does not mean: that no
# model could do without; one that was trained with equal weights might have found other ways.
#
# ## When a map lies
#
# 97 % is a fine figure for a talk. Before you believe a map, yours or another's, ask four questions.
#
# ### One: whose map is it?
#
# The map at step $t$ was made after reading word $t$, and chose word $t + 1$. Draw it over the word that was
# *read*, one place off (the third line below), and nothing looks broken: the maps are sharp, the figure is
# handsome.

# %%
for off, text in (
    (0, "the map that chose the word"),
    (1, "the map of the word before"),
    (-1, "the map of the word after"),
):
    moved = share_pointing(ids, np.roll(maps, off, axis=1), scenes)[0]
    print(f"{text:<30}points at the shape for {moved:4.0%} of the names")
    if off == -1:
        assert moved < chance + 0.15

# %% [markdown]
# The map before is often right, for the colour was read off the same shape. The map after is no better than a
# random cell. If your maps look shuffled, look for an index that is off by one before you doubt the model.
#
# ### Two: what had been read when the question was asked?
#
# In the paper the state alone asks. Think "a red circle and a blue square", and take the step that chooses
# "circle". The word before, "red", is read by the LSTM *in this step*, after the look. The state that asks has
# read "a", and nothing of "red". In a picture with a red circle and a blue square, it asks the same after "a
# red" as after "a blue". Let us see that, with no room for interpretation: train a captioner of each sort and
# show both the same picture, with two captions.
#
# The paper's query is ours with the word's rows of $W_q$ held at 0. So a class of a few lines will do: those
# rows start at 0, and their gradient is set to 0, so that Adam leaves them there.


# %%
class StateAsks(CaptioningAttention):
    """The paper's query: the word before takes no part in the question."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.params["W_query"][self.hidden :] = 0

    @property
    def hidden(self):
        return len(self.params["Wh"])

    def loss(self, *arguments, **options):
        loss, grads = super().loss(*arguments, **options)
        grads["W_query"][self.hidden :] = 0
        return loss, grads


shape = f"a ({'|'.join(COLOURS)}) ({'|'.join(KINDS)})"
lists = re.compile(f"{shape}|{shape} and {shape}|{shape} {shape} and {shape}")
subset = dict(data)
for split in ("train", "val"):  # captions that list the shapes by colour and kind alone
    captions = data[f"{split}_captions"]
    texts = decode_captions(captions, words)
    kept = np.array([bool(lists.fullmatch(text)) for text in texts])
    subset[f"{split}_captions"] = captions[kept]
    subset[f"{split}_image_idxs"] = data[f"{split}_image_idxs"][kept]
print(len(subset["train_captions"]), "training captions that list shapes, such as:")
for text in decode_captions(subset["train_captions"][:3], words):
    print("  ", text)

models = {}
for name, kind in (
    ("state and word ask", CaptioningAttention),
    ("the state asks", StateAsks),
):
    models[name] = small_model(kind, hidden_dim=64, attention_dim=16)
    solver = learn(
        models[name], subset, epochs=5, batch_size=24, lr_decay=0.75, clip_norm=5.0,
        optim_config={"learning_rate": 6e-3},
    )  # fmt: skip
    print(f"{name:<20}validation loss {solver.history[-1]['val_loss']:.2f} nats per token")
assert not models["the state asks"].params["W_query"][64:].any()

# %% [markdown]
# Now all held-out pictures with two shapes, each with two captions, one for either order. Both are true.

# %%
pairs = [n for n in range(len(scenes)) if len(scenes[n]) == 2]
orders = [(n, order) for n in pairs for order in (scenes[n], scenes[n][::-1])]
listed = [
    ["<START>", *" and ".join(f"a {s.colour} {s.kind}" for s in order).split(), "<END>"]
    for _, order in orders
]
print(" ".join(listed[0]), "|", " ".join(listed[1]))
listed = np.array([[word_id[word] for word in caption] for caption in listed])
two = features[[n for n, _ in orders]]
of_orders = [scenes[n] for n, _ in orders]
turned = np.arange(len(listed)) ^ 1  # the same picture, the other order

FIRST = 2  # the step that chooses the first kind: <START> a red CIRCLE and a blue square


def peaks_on(texts, looks):
    """(captions, 2): whether the two kinds' maps peak on the shapes that texts name."""
    texts = [[words[i] for i in text[1:]] for text in texts]
    found = zip(texts, looks, of_orders, strict=True)
    return np.array([[name.on_shape for name in pointing(*each)] for each in found])


found = {}
for name, model in models.items():
    looks = found[name] = model.attention_weights(two, listed)[:, :, 0]
    change = np.abs(looks - looks[turned])[:, FIRST].max()
    named, other = peaks_on(listed, looks), peaks_on(listed[turned], looks)
    p = np.exp(word_log_probabilities(model, two, listed))[:, [FIRST, FIRST + 4]]
    change_text = "less than 1e-6" if change < 1e-6 else f"up to {change:.2f}"
    print(f"\n{name}: turned round, the first kind's map changes by {change_text}")
    print(f"{'':<12}map on the shape named   on the other   the right word's probability")
    for i, text in enumerate(("first kind", "second kind")):
        shares = f"{named[:, i].mean():>21.0%}{other[:, i].mean():>15.0%}"
        print(f"{text:<12}{shares}{p[:, i].mean():>31.2f}")
    found[name] = looks, named.mean(axis=0), change

ours, paper = found.values()
assert paper[2] < 1e-6 < 0.1 < ours[2]
assert abs(paper[1][0] - 0.5) < 0.1 and ours[1][0] > paper[1][0] + 0.15

# %% [markdown]
# Turn the order round, and the paper's map of the first kind does not move: the question is the same, so the
# answer is. It peaks on one of the two shapes, whichever is named, and so it is right for one caption of each
# two. No training can mend that. (52 % and not 50 %, as in a few pictures one cell is near both shapes.) At the
# second kind it does better, since the state has read the first name by then. Ours moves, and goes with the
# word.
#
# So the paper's maps run ahead, to a shape that *could* be said. What the word "red" then decides, the LSTM has
# to settle from memory, and at this small size the words pay for it too, as the last column shows. And what is
# drawn over "circle" in such a model answers the question "where did it look before it had read *red*?". Read as
# "this is why it said *circle*", it lies. One picture, to see it:

# %%
one = 2 * pairs.index(212)  # rows 2 i and 2 i + 1 are the two orders of one picture
rows = []
for looks, *_ in found.values():
    of_kind = looks[[one, one + 1], FIRST]
    texts = [" ".join(words[i] for i in listed[row, 2:4]) for row in (one, one + 1)]
    largest = [f"{w.max():.2f}" for w in of_kind]
    own_scale = of_kind / of_kind.max(axis=1, keepdims=True)
    rows.append((picture_of(212), own_scale, texts, largest))
show_maps(rows, labels=found, width=1.8)

# %% [markdown]
# Each is the map for the kind, after the colour has been said. Above, it goes with the word; below, it is the
# same map twice.
#
# ### Three: does anything come from there?
#
# The context is weights *times features*. A weight says nothing about what it fetched. Here most cells are
# blank, and a blank cell has the same features in every picture (not zeros: a cell's features also hold its
# position). What is read there cannot tell one picture from another, whatever its weight.
#
# Let us interfere with the run. A blank picture is easily had: each cell is blank in most pictures, so the
# median of a cell's features is that of a blank one. For each word that the model said, with all words before as
# they are:
#
# * *eyes shut*: how much log-probability does the word lose if in its own step, and only then, the model looks
#   at the blank picture? That is what this step's look was worth, map and features and all.
# * *hidden*: how much does it lose if a patch of 3 x 3 cells is blank from the first step on, $h_0$ included?
#   Taken for the patch where it hurts most, that is what the word owes to the picture, whenever it was read.
#   (This is *occlusion*; it is slower, so we take 60 pictures.)
# * does the map agree? The correlation, over the patches, of the weight on a patch and the loss from hiding it.

# %%
blank = np.median(data["train_features"][:400], axis=0)  # (64, 40)
is_blank = np.abs(features - blank).max(axis=2) < 0.1
print(f"{is_blank.mean():.0%} of the cells are blank")

group = dict.fromkeys(words, "function word")
for name, members in {
    "kind": KINDS, "colour": COLOURS, "size": ("small", "large"),
    "place or relation": "top bottom middle left right above over below under".split(),
}.items():  # fmt: skip
    group |= dict.fromkeys(members, name)
groups = np.array([[group[words[i]] for i in row] for row in ids])
each, (n_pictures, T) = np.arange(len(ids)), ids.shape
_, _, *blank_image = trained.begin(np.broadcast_to(blank, features.shape))

shut, gate, state = np.zeros(ids.shape), np.zeros(ids.shape), trained.begin(features)
Wg, bg = trained.params["W_gate"], trained.params["b_gate"]
for t in range(T):
    h, c, *_ = state
    gates, _ = context_gate_forward(np.ones((n_pictures, 40)), h, Wg, bg)
    gate[:, t] = gates.mean(axis=1)
    without, _ = trained.step((h, c, *blank_image), read[:, t])
    log_p, state = trained.step(state, read[:, t])
    shut[:, t] = (log_p - without)[each, ids[:, t]]

near = np.abs(np.arange(8)[:, None] - np.arange(8)) <= 1  # rows, or columns, side by side
patches = np.kron(near, near)  # (64, 64): is a cell in the patch around a centre?
inner = patches[patches.sum(axis=1) == 9]  # the 36 that do not stick out


def loss_by_hiding(n, patches):
    """(patches, T): nats that each word of caption n loses when a patch is always blank."""
    pictures = np.where(patches[:, :, None], blank, features[n])
    pictures = np.concatenate([pictures, features[n : n + 1]])
    same_words = np.repeat(read[n : n + 1], len(pictures), axis=0)
    log_p = word_log_probabilities(trained, pictures, same_words)
    return log_p[-1] - log_p[:-1]


worst, agreement = np.full(ids.shape, np.nan), np.full(ids.shape, np.nan)
for n in range(60):
    lost, weight = loss_by_hiding(n, inner), inner @ maps[n].T
    worst[n] = lost.max(axis=0)
    for t in np.flatnonzero(is_word[n]):
        agreement[n, t] = np.corrcoef(lost[:, t], weight[:, t])[0, 1]

print(f"{'':<19}words  largest  on blank  gate  eyes shut   hidden   agree-")
print(f"{'':<19}        weight     cells  open     (nats)   (nats)     ment")
table = {}
on_blank = (maps * is_blank[:, None]).sum(axis=2)
for name in ("kind", "colour", "size", "place or relation", "function word"):
    of = is_word & (groups == name)
    row = [x[of].mean() for x in (maps.max(axis=2), on_blank, gate, shut)]
    row += [np.nanmean(worst[of]), np.nanmedian(agreement[of])]
    table[name] = row = [round(x, 2) + 0.0 for x in row]  # + 0.0: no -0.0
    numbers = "{:9.2f}{:10.2f}{:6.2f}{:11.2f}{:9.2f}{:9.1f}".format(*row)
    print(f"{name:<19}{of.sum():>5}{numbers}")
_, _, _, eyes_shut, hidden, agrees = zip(*table.values(), strict=True)
assert eyes_shut[0] > 1 and abs(eyes_shut[3]) < 0.05 and abs(eyes_shut[4]) < 0.05
assert agrees[0] > 0.5 > 0.3 > agrees[3] and hidden[3] > 0.5

# %% [markdown]
# Read it line by line.
#
# * **Kinds.** The weights are sharp and lie on shapes; with eyes shut the word loses most; what hurts when
#   hidden is what had the weight. Here the map tells the truth.
# * **Colours and sizes.** Much the same, with less at stake in their own step: the model has $h_0$, the blurred
#   view, and what it saw before.
# * **Places and relations** ("top", "left", "above"). The map is nearly even and lies on blank cells, and with
#   eyes shut the word loses *nothing*. Yet hide a patch throughout, and it loses more than two nats: its
#   probability falls to less than a tenth. The word is about the picture, and this step's map has no part in it.
# * **Function words.** Here too the step's look is worth nothing: the softmax had to put its weights somewhere.
#   And here too the word may owe something to the picture: "and" needs a second shape, "at" or "on" a place.
# * **The gate** does not close for them, as the idea would have it. It stays near a half for all (for sizes a
#   third).
#
# When, then, was the place read? Shut the eyes in some steps, and keep the state that this leaves:


# %%
def log_p_with_eyes_shut(steps):
    """(N, T) log-probabilities; steps, (N, T), says where it sees the blank picture."""
    (h, c, *image), found = trained.begin(features), []
    for t in range(T):
        log_p, seen = trained.step((h, c, *image), read[:, t])
        blank_log_p, unseen = trained.step((h, c, *blank_image), read[:, t])
        closed = steps[:, t, None]
        found.append(np.where(closed, blank_log_p, log_p)[each, ids[:, t]])
        h, c = np.where(closed, unseen[:2], seen[:2])
    return np.stack(found, axis=1)


of_shape = np.isin(groups, ["kind", "colour", "size"])
of_the = ids == word_id["the"]
place = is_word & (groups == "place or relation")
open_log_p = log_p_with_eyes_shut(np.zeros(ids.shape, dtype=bool))
costs = []
print("eyes shut in the steps of ...                 nats that a place or relation loses")
for name, steps in {
    "places and relations": place,
    "the word 'the'": of_the,
    "sizes, colours and kinds": of_shape,
    "sizes, colours, kinds and the word 'the'": of_shape | of_the,
}.items():
    costs.append((open_log_p - log_p_with_eyes_shut(steps))[place].mean())
    print(f"   {name:<43}{round(costs[-1], 2) + 0.0:.2f}")
assert max(abs(costs[0]), abs(costs[1])) < 0.3 and 0.5 < costs[2] < costs[3] - 0.5

# %% [markdown]
# The place is read while the shape is named, and then stays in the state, as in [lesson 6](06_the_lstm.ipynb).
# And it is read once more, at the "the" of "at the top" (look at the first figure: this "the" looks at its
# shape, one word early). Without this second look next to nothing is lost (0.04 nats), as long as the first is there; without both,
# much more than without the first alone. So be as careful with an intervention as with a map: what costs nothing
# alone may have been used, with something else at hand to stand in.
#
# One caption in pictures: above the weights, each on its own scale, as such figures are drawn; below what each
# word loses when the 3 x 3 cells around a point are hidden, full brightness being 2 nats.

# %%
n = 248
of = is_word[n]
weights, lost = maps[n][of], loss_by_hiding(n, patches).T[of]
picture, texts = picture_of(n), [words[i] for i in ids[n][of]]
largest = [f"{x.max():.2f}" for x in weights]
nats = [f"{x.max():.1f} nats" for x in lost]
show_maps(
    [
        (picture, weights / weights.max(axis=1, keepdims=True), texts, largest),
        (picture, np.clip(lost / 2, 0.001, 1), texts, nats),
    ],
    labels=["weights", "hidden"], width=1.0,
)  # fmt: skip

# %% [markdown]
# The maps of "top" and "right" are even, yet hiding one patch costs
# these words 4.7 and 11.8 nats. The "the" before them looks at the triangle and loses nothing itself. This is the
# debate of "Attention is not Explanation" and "Attention is not not Explanation" on a picture of 64
# cells. A map is evidence of where a step looked. That it *mattered* is another claim, and takes an intervention
# to show.
#
# ### Four: is there anything to choose from?
#
# Give the layer a single location, one vector for the picture, say. The softmax of one score is $e^s / e^s = 1$.
# In the backward, $ds = 1 \cdot (dw - 1 \cdot dw) = 0$: no gradient passes, whatever the loss. All that makes
# scores, $W_f$, $W_q$, $b$ and $v$, stays as it was initialised, for ever. Nothing breaks, for the other
# parameters get their gradients as before. Measured:

# %%
model = CaptioningAttention(
    word_id, features.shape[2], wordvec_dim=32, hidden_dim=64, attention_dim=32,
    dtype=np.float64, rng=np.random.default_rng(0),
)  # fmt: skip
captions = data["val_captions"][:50]
pictures = features[data["val_image_idxs"][:50]].astype(np.float64)
_, with_grid = model.loss(pictures, captions)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    _, with_one = model.loss(pictures.mean(axis=1, keepdims=True), captions)
print("\n".join(textwrap.wrap(f"core warns: {caught[-1].message}", 92)), "\n")
print("length of the gradient    64 locations   one location")
for name in (*model.needs_a_grid(), "W_gate", "Wx"):
    lengths = [np.linalg.norm(grads[name]) for grads in (with_grid, with_one)]
    print(f"   {name:<20}{lengths[0]:15.4f}{lengths[1]:15.4f}")
    assert lengths[0] > 0 and (lengths[1] < 1e-12) == (name in model.needs_a_grid())

# %% [markdown]
# A captioner with "attention" over one vector has parameters that are dead weight, and a drawing of its map
# would be even. [Lesson 9](09_multi_head_attention.ipynb) meets the same in the Transformer, where more is at
# stake.
#
# ## The tempting wrong ways
#
# **The mask after the softmax.** In a batch, pictures may have different numbers of locations (regions that a
# detector found, say), and the missing ones are padding, which must get no weight. It is tempting to compute the
# weights and then set those of the padding to 0: no infinities, and the padding *does* get 0. Five locations, of
# which the second picture has three:

# %%
rng = np.random.default_rng(2)
scores, values = rng.standard_normal((2, 5)), rng.standard_normal((2, 5, 3))
real = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=bool)
dcontext = rng.standard_normal((2, 3))

for padding in (0.0, 3.0):  # what the padding scores: nobody should notice
    scores[1, 3:] = padding
    before = softmax(np.where(real, scores, -np.inf))
    after = softmax(scores) * real
    dw = (values @ dcontext[:, :, None])[:, :, 0]
    leak = softmax_backward(dw * real, softmax(scores))[1, 3:]
    print(f"padding scores {padding}: masked before {before[1]}, sum {before[1].sum():.2f}")
    print(f"{'':<20}masked after  {after[1]}, sum {after[1].sum():.2f}")
    print(f"{'':<20}gradient of the padding's scores: before "
          f"{softmax_backward(dw, before)[1, 3:]}, after {leak}")  # fmt: skip
assert np.allclose(before.sum(axis=1), 1) and after[1].sum() < 0.5
assert not softmax_backward(dw, before)[1, 3:].any() and np.abs(leak).max() > 0.01

# %% [markdown]
# Masked after, the weights of a picture no longer sum to 1; how much they fall short depends on what happens to
# stand in the padding; and the padding gets a gradient, so that keys of nothing are trained. A score of
# $-\infty$ *before* the softmax has none of this: $e^{-\infty} = 0$, and the sum is over real locations alone.
#
# **The wrong axis.** The scores are $(N, L)$, and `axis=0` is as easy to type as `axis=1`. Shapes fit. And a
# gradient check of your own passes, for it compares the backward with *your* forward:


# %%
def over_the_batch(scores):
    """A softmax, but over the pictures."""
    e = np.exp(scores - scores.max(axis=0))
    return e / e.sum(axis=0)


def over_the_batch_backward(dw, w):
    return w * (dw - (w * dw).sum(axis=0))


scores, dw = rng.standard_normal((4, 5)), rng.standard_normal((4, 5))
wrong = over_the_batch(scores)
numerical = eval_numerical_gradient_array(over_the_batch, scores, dw)
error = relative_error(over_the_batch_backward(dw, wrong), numerical)
print("backward against differences: off by", "less than 1e-8" if error < 1e-8 else error)
print("sums over the locations:", wrong.sum(axis=1))
print("the first picture in a batch of four:", wrong[0])
print("the first picture by itself:         ", over_the_batch(scores[:1])[0])
assert error < 1e-8 and np.abs(wrong.sum(axis=1) - 1).max() > 0.1
assert np.allclose(over_the_batch(scores[:1]), 1)

# %% [markdown]
# The gradient is right, of the wrong function. Two properties tell: the weights of a picture sum to 1, and a
# picture gets the same weights in any company. A captioner built on this learns from its neighbours in the
# batch, and says something else when it is shown one picture alone. Test such properties beside the gradient;
# `check` would find it as well, for it compares the forward with PyTorch's.
#
# **The forgotten sum.** $ds = w \odot dw$ looks complete: "through the exponential, times what comes from
# above". The term $-w \sum_i w_i\, dw_i$ is missing, by which one score's rise is the others' fall. Which check
# sees it? Here are four wrong backwards, with ones as the upstream gradient, and with a random one:

# %%
backwards = {
    "right": lambda dw, w: w * (dw - (w * dw).sum(-1, keepdims=True)),
    "the sum forgotten": lambda dw, w: w * dw,
    "all zeros": lambda dw, w: np.zeros_like(w),
    "a plain mean for the sum": lambda dw, w: w * (dw - dw.mean(-1, keepdims=True)),
    "the factor w forgotten": lambda dw, w: dw - (w * dw).sum(-1, keepdims=True),
}
upstreams = {"ones": np.ones((4, 5)), "random": dw}
print(f"largest difference from the truth {'ones':>9}{'random':>10}   sum of ds (random)")
seen = {}
for name, backward in backwards.items():
    errors = []
    for upstream in upstreams.values():
        numerical = eval_numerical_gradient_array(softmax, scores, upstream)
        errors.append(np.abs(backward(upstream, softmax(scores)) - numerical).max())
    seen[name] = [error > 1e-6 for error in errors]
    texts = [f"{error:.2f}" if error > 1e-6 else "0" for error in errors]
    total = np.abs(backward(dw, softmax(scores)).sum(axis=1)).max()
    print(f"   {name:<30}{texts[0]:>10}{texts[1]:>10}{total:21.2f}")
assert [ones for ones, _ in seen.values()] == [False, True, False, False, False]
assert [random for _, random in seen.values()] == [False, True, True, True, True]

# %% [markdown]
# Under ones the true gradient is 0, as the weights sum to 1 whatever the scores. So ones wave through whatever
# vanishes with constant upstream, a backward of zeros included. They do catch the forgotten sum; a random
# upstream catches all four. The last column is a check that costs nothing: the entries of $ds$ have to sum to 0.
# (It does not replace the other: zeros pass.)
#
# How much harm does the forgotten sum do? In the layer, and in the training from above:


# %%
def forgetful(dweights, weights):
    return weights * dweights


def forgetful_backward(*arguments):
    with patch("core.attention_layers.softmax_backward", forgetful):
        return additive_attention_backward(*arguments)


report = check("additive_attention_backward", forgetful_backward)
assert not report
report

# %%
with patch("core.attention_layers.softmax_backward", forgetful):
    wrong_losses, wrong_right = forty_by_heart()

plt.semilogy(losses, color=BLUE, label=f"right: {right} of 40 word for word")
plt.semilogy(wrong_losses, color=ORANGE, label=f"the sum forgotten: {wrong_right} of 40")
plt.gca().set(xlabel="step", ylabel="loss (nats per caption)", title="Forty captions")
plt.legend()
plt.show()
last, wrong_last = np.mean(losses[-20:]), np.mean(wrong_losses[-20:])
print(f"loss of the last 20 steps: right {last:.1f}, the sum forgotten {wrong_last:.1f}")
assert wrong_last < 0.5 * wrong_losses[0] and wrong_last > 1.5 * last

# %% [markdown]
# The loss falls from 39 to a few nats, and most captions are said back, with a gradient that is wrong in every
# attention parameter and in all that lies behind them. You would call it a poor learning rate, or a hard data
# set. Only the check knows.
#
# ## Exercises
#
# Write your answers in [the exercises](exercises/08_soft_attention.ipynb); the notebook tells you at once
# whether they hold.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 · Back through a softmax (one line)
#
# Given $dw$ and $w = \mathrm{softmax}(s)$, both $(\dots, L)$, return $ds$. The sum is over the last axis,
# whatever stands before it.


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
# `dfeatures, dh, dWf, dWh, db, dv`. Two things are read twice: which? (`check(..., hint=2)` and `hint=3` say
# more when it does not hold. There are no traps in the shapes: all widths differ.)
# The report lists the gradients in the order of the return. When all six are wrong, look at the softmax first: $dv$
# is the nearest to it.


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
# Luong, Pham and Manning (2015) score by a product, and so does the Transformer (Vaswani et al., 2017), which
# divides by a root:
#
# $$ s_{nl} = \frac{\text{query}_n \cdot \text{keys}_{nl}}{\sqrt{K}}, \qquad
#    \text{query} = h W_h, \quad \text{keys} = f W_f $$
#
# which mixes the question with the location without any tanh, and is one matrix product. The features $f$ are
# $(N, L, C)$, $h$ is $(N, H)$, $W_f$ $(C, K)$ and $W_h$ $(H, K)$; as before, the weights are a softmax of the scores
# over the locations, and the context $(N, C)$ is the sum of the features with these weights. Write forward and
# backward. Then find out what the $\sqrt K$ is for: draw standard normal queries and keys with $K = 256$ and
# $L = 64$, and compare the mean *entropy* $-\sum_l w_l \ln w_l$ of the weights with the division and without.
# The largest possible is $\ln 64 = 4.16$, all weights equal; 0 is all on one location.


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
# ## What to keep
#
# * Attention is a weighted mean whose weights are computed from a question and the locations. All of it has a
#   derivative, so where to look is learned from the captions alone; nobody marked a shape in a picture.
# * Back through a softmax: $ds = w \odot (dw - \sum_i w_i\, dw_i)$. What counts is how far a location's $dw$
#   lies from the weighted average; the entries sum to 0; with one location $ds$ is 0.
# * What is broadcast forward is summed backward; what is read twice receives two gradients.
# * A map shows where one step looked. Before you read more into it: check the index, ask what had been read when
#   the question was asked, and interfere, for a weight is not an effect.
# * Mask before the softmax. Check the properties of the weights beside the gradient.
#
# **Sources.** D. Bahdanau, K. Cho and Y. Bengio, *Neural machine translation by jointly learning to align and
# translate*, ICLR 2015 (the additive score). K. Xu, J. Ba, R. Kiros, K. Cho, A. Courville, R. Salakhutdinov, R.
# Zemel and Y. Bengio, *Show, attend and tell: neural image caption generation with visual attention*, ICML 2015
# (the captioner, the gate, the penalty). M.-T. Luong, H. Pham and C. Manning, *Effective approaches to
# attention-based neural machine translation*, EMNLP 2015. A. Vaswani et al., *Attention is all you need*, NIPS
# 2017. M. Zeiler and R. Fergus, *Visualizing and understanding convolutional networks*, ECCV 2014 (occlusion).
# J. Zhang, Z. Lin, J. Brandt, X. Shen and S. Sclaroff, *Top-down neural attention by excitation backprop*, ECCV
# 2016 (pointing as a measure). S. Jain and B. Wallace, *Attention is not explanation*, NAACL 2019. S. Wiegreffe
# and Y. Pinter, *Attention is not not explanation*, EMNLP 2019.
#
# **Next:** [lesson 9, multi-head attention](09_multi_head_attention.ipynb): several looks at once, by products
# instead of a tanh, and words that look at words.
