# %% [markdown]
# # 12 · The encoder
#
# **The question.** Every decoder of this course reads *features*: a vector, or a grid of vectors. A photo is a
# block of numbers from 0 to 255. What turns the one into the other, how does a gradient find its way back
# through it, and why does a model whose decoder is flawless say the same caption of every photo when one
# constant in this part is wrong?
#
# You build a convolution and a pooling in NumPy, forward and backward; compute which pixels a cell of the grid
# has seen; take apart VGG16 and SqueezeNet; find out what PCA throws away; measure four ways to ruin features
# without an error message; and train an encoder together with its decoder.
#
# *Before: [lesson 3](03_affine_embedding_softmax.ipynb) (affine layers) and
# [lesson 8](08_soft_attention.ipynb) (what reads the grid). About 60 minutes; all cells together run in less
# than a minute. Nothing is downloaded: the large networks are built with random weights, since shapes, counts
# and pitfalls do not depend on what they have learned.*

# %% tags=["setup"]
import dataclasses
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from core import lessons, scenes
from core.checkpoint import load_checkpoint
from core.coco_utils import build_vocabulary, decode_captions, encode_captions, image_path
from core.decoding import beam_search, greedy
from core.encoders import PREPROCESSING, Extractor, fixed_cnn, pool_grid, prepare_pictures
from core.encoders.pca import PCA, fit_pca
from core.encoders.pictures import PictureBatch
from core.encoders.resnet import ResNet
from core.encoders.squeezenet import Fire, SqueezeNet
from core.encoders.tiny_cnn import TinyCNN
from core.encoders.vgg import VGG16
from core.encoders.weights import load_network, open_stages
from core.gradient_check import eval_numerical_gradient_array, relative_error
from core.image_utils import load_image, normalise, resize_and_crop
from core.lessons import compare, draw_graph, show_source
from core.runs.data import check_same_data
from core.shapes import caption_is_true, load_scenes
from core.torch_models import EndToEndCaptioner, TorchEngine, build_end_to_end

lessons.style()

# %% [markdown]
# ## By hand, on a 4 x 4 picture
#
# A **convolution** lays a small square of weights, the *filter* or *kernel*, over every place of a picture,
# multiplies what lies on top of each other, and adds up. The picture below is dark on the left (0), bright on
# the right (2), with a patch of 1 in a corner. The filter is $-1$ in its left column and $+1$ in its right one:
# it answers where the picture gets brighter from left to right.

# %%
picture = np.array(
    [[0.0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 2, 2], [1, 1, 2, 2]]
)  # fmt: skip
kernel = np.array([[-1.0, 0, 1], [-1, 0, 1], [-1, 0, 1]])

answer = np.zeros((2, 2))
for i in range(2):
    for j in range(2):
        window = picture[i : i + 3, j : j + 3]
        answer[i, j] = (window * kernel).sum()
        right, left = window[:, 2], window[:, 0]
        print(
            f"place ({i}, {j}): right column {right.sum():.0f}, "
            f"left column {left.sum():.0f}, answer {answer[i, j]:.0f}"
        )
print(answer)
assert np.array_equal(answer, [[6, 6], [5, 5]])

# %% [markdown]
# Four places fit, so the answer is 2 x 2. In the lower row the left column is a little brighter, the edge is
# fainter, and the answer is 5 instead of 6. The same nine weights serve every place: an affine layer from
# $4 \times 4$ to $2 \times 2$ numbers would have 64.
#
# (In mathematics a convolution turns the kernel by half a turn first; what all deep learning libraries compute,
# and we too, is called cross-correlation there. With learned weights nobody can tell, until the backward pass
# below, where the half turn comes back.)
#
# The same filter, and its transpose, on a picture of the embedded data, in grey:

# %%
data = lessons.embedded_data("attention")
pictures = [load_image(image_path(data, "val", i)) for i in range(100)]
scenes_of_pictures = load_scenes(data["source"]["folder"], "val")[:100]
grey = pictures[5].mean(axis=2) / 255


def filtered(x, kernel):
    """One picture, one filter: (h, w), (k, k) -> (h - k + 1, w - k + 1)."""
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape)
    return np.einsum("ijuv,uv->ij", windows, kernel)


assert np.array_equal(filtered(picture, kernel), answer)
shown = [
    ("the picture, in grey", grey, "gray", (0, 1)),
    ("brighter to the right: +, darker: -", filtered(grey, kernel), "RdBu", (-2, 2)),
    ("brighter downwards: +, darker: -", filtered(grey, kernel.T), "RdBu", (-2, 2)),
]
figure, axes = plt.subplots(1, 3, figsize=(9, 2.7))
for ax, (title, values, colours, (low, high)) in zip(axes, shown, strict=True):
    mappable = ax.imshow(values, cmap=colours, vmin=low, vmax=high)
    ax.set_title(title, fontsize=10)
    ax.grid(False)
    figure.colorbar(mappable, ax=ax, shrink=0.8)
axes[0].set(xlabel="pixels", ylabel="pixels")
plt.show()

# %% [markdown]
# ## The forward
#
# A picture has three channels, and a layer has many filters. Each filter reads **all** channels of its window
# and makes **one** channel of the output:
#
# | | shape | |
# | --- | --- | --- |
# | $x$ | $(N, C, h, w)$ | $N$ pictures with $C$ channels |
# | $K$ | $(F, C, k, k)$ | $F$ filters, each $k \times k$ over all channels |
# | $b$ | $(F,)$ | a bias a filter |
# | $y$ | $(N, F, h', w')$ | $F$ channels |
#
# Two numbers say where windows lie. **Padding** $p$ puts a frame of $p$ zeros around the picture; with
# $p = (k-1)/2$ and steps of one the output is as large as the input. **Stride** $s$ is the step from window to
# window. Call the padded picture $P$, so that $P_{nc,\,a+p,\,b+p} = x_{nc,ab}$. Then
#
# $$ y_{nfij} = b_f + \sum_{c} \sum_{u=0}^{k-1} \sum_{v=0}^{k-1} P_{nc,\,si+u,\,sj+v}\; K_{fcuv} $$
#
# The last window starts at $s(h'-1)$ and must end inside: $s(h'-1) + k \le h + 2p$, and so
#
# $$ h' = \left\lfloor \frac{h + 2p - k}{s} \right\rfloor + 1 $$
#
# NumPy can show all windows of an array without copying it, as two more axes; the triple sum is an `einsum`
# over them.


# %%
def windows_of(P, k, stride):
    """(N, C, h, w) -> (N, C, h', w', k, k): what lies under the filter at each place."""
    windows = np.lib.stride_tricks.sliding_window_view(P, (k, k), axis=(2, 3))
    return windows[:, :, ::stride, ::stride]


def conv2d_forward(x, K, b, stride=1, pad=0):
    """(N, C, h, w), (F, C, k, k), (F,) -> (N, F, h', w')."""
    P = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = windows_of(P, K.shape[2], stride)
    y = np.einsum("ncijuv,fcuv->nfij", windows, K) + b[:, None, None]
    return y, (P, K, stride, pad)


# %%
rng = np.random.default_rng(0)
N, C, h, w, filters, k = 2, 3, 7, 6, 4, 3  # h and w differ, so that no axis can hide
x = rng.standard_normal((N, C, h, w))
K, b = rng.standard_normal((filters, C, k, k)), rng.standard_normal(filters)

y, _ = conv2d_forward(x, K, b, stride=2, pad=1)
P = np.zeros((N, C, h + 2, w + 2))
P[:, :, 1:-1, 1:-1] = x
by_hand = np.empty_like(y)
for n, f, i, j in np.ndindex(y.shape):
    window = P[n, :, 2 * i : 2 * i + k, 2 * j : 2 * j + k]
    by_hand[n, f, i, j] = b[f] + (window * K[f]).sum()
of_torch = F.conv2d(*map(torch.from_numpy, (x, K, b)), stride=2, padding=1).numpy()
print(f"x {x.shape}, K {K.shape} -> y {y.shape}")
assert np.allclose(y, by_hand, rtol=0, atol=1e-12)
assert relative_error(y, of_torch) < 1e-12

moved, _ = conv2d_forward(np.roll(x, 1, axis=3), K, b)
still, _ = conv2d_forward(x, K, b)
assert np.allclose(moved[..., 1:], still[..., :-1])
print(
    "equal to sums by hand and to torch; a picture that moves by one pixel moves its answer"
)

# %% [markdown]
# The last line is the reason for convolutions: what is learned about a shape at one place holds at all places.
# It has a price, too. A convolution cannot say *where* a shape is except by where its answer stands, which will
# matter to an encoder whose captions speak of left and right.
#
# ## The backward is a convolution again
#
# We are given $dy$, of the shape of $y$, and owe $db$, $dK$ and $dx$. Start from the equation of $y_{nfij}$
# and ask, of each input, *who reads it*.
#
# **The bias** $b_f$ is added once to each of the $N h' w'$ numbers of its channel:
#
# $$ db_f = \sum_{n,i,j} dy_{nfij} $$
#
# **The kernel.** $K_{fcuv}$ is read at every place $(i, j)$ of every picture, each time multiplied with the
# pixel that lies under it, $P_{nc,\,si+u,\,sj+v}$:
#
# $$ dK_{fcuv} = \sum_{n,i,j} dy_{nfij}\; P_{nc,\,si+u,\,sj+v} $$
#
# Compare with the forward: $dy$ has taken the place of the kernel. With $s = 1$ this slides $dy$ over the
# picture: a convolution.
#
# **The picture.** Which outputs read the pixel $P_{ncab}$? Those with $si + u = a$ and $sj + v = b$, for some
# offset $(u, v)$ inside the kernel. Let $s = 1$; then $i = a - u$ and $j = b - v$, and
#
# $$ dP_{ncab} = \sum_f \sum_{u,v} dy_{nf,\,a-u,\,b-v}\; K_{fcuv} $$
#
# where $dy$ counts as zero outside its borders. The minus signs are all that keeps this from being a forward.
# Count the offsets from the other end, $u' = k-1-u$ and $v' = k-1-v$, and call $D$ the array $dy$ with a frame
# of $k-1$ zeros, so that $D_{nf,\,a+u'} = dy_{nf,\,a+u'-(k-1)} = dy_{nf,\,a-u}$ (the same for columns):
#
# $$ dP_{ncab} = \sum_f \sum_{u',v'} D_{nf,\,a+u',\,b+v'}\; \bar{K}_{cfu'v'},
#    \qquad \bar{K}_{cfu'v'} = K_{fc,\,k-1-u',\,k-1-v'} $$
#
# This is the forward once more, with stride 1: over $D$, by the kernels **turned by half a turn**, with the
# roles of $f$ and $c$ **swapped**, for now a filter is needed for each input channel. For a stride $s > 1$,
# only those $a$ count for which $(a-u)/s$ is whole: put $s-1$ zeros between the entries of $dy$, and the
# missing readers contribute nothing. At last $dx$ is $dP$ without its frame.

# %%
draw_graph(
    {
        "x": (0, 1, "$x$"), "pad": (1.5, 1, "pad"), "K": (1.5, -0.3, "$K$"),
        "conv": (3.2, 1, "slide, sum"),
        "b": (3.2, -0.3, "$b$"), "+": (5, 1, "+"), "y": (6.5, 1, "$y$"),
    },
    [
        ("x", "pad", "", "$dP$, cut"), ("pad", "conv", "$P$", "$D * \\bar{K}$"),
        ("K", "conv", "", "$dy * P$"), ("conv", "+", "", "$dy$"),
        ("b", "+", "", "$\\Sigma\\, dy$"), ("+", "y", "$y$", "$dy$"),
    ],
    "A convolution, and (orange) those of its backward; * slides one over the other",
    unit=1.25,
)  # fmt: skip


# %%
def conv2d_backward(dy, cache):
    """(N, F, h', w') -> dx (N, C, h, w), dK (F, C, k, k), db (F,)."""
    P, K, stride, pad = cache
    k = K.shape[2]
    # y = ... + b
    db = dy.sum(axis=(0, 2, 3))
    # y[n, f, i, j] = sum over c, u, v of windows[n, c, i, j, u, v] * K[f, c, u, v]
    dK = np.einsum("nfij,ncijuv->fcuv", dy, windows_of(P, k, stride))
    # the same line, for the windows: dy with zeros between and around, kernels turned
    (N, F_, rows, columns), (height, width) = dy.shape, P.shape[2:]
    D = np.zeros((N, F_, height + k - 1, width + k - 1))
    D[
        :, :,
        k - 1 : k - 1 + stride * rows : stride,
        k - 1 : k - 1 + stride * columns : stride,
    ] = dy  # fmt: skip
    turned = K[:, :, ::-1, ::-1].swapaxes(0, 1)  # (C, F, k, k)
    dP, _ = conv2d_forward(D, turned, np.zeros(len(turned)))
    # P = pad(x)
    return dP[:, :, pad : height - pad, pad : width - pad], dK, db


# %%
for stride, pad in ((1, 0), (2, 1), (3, 2)):
    y, cache = conv2d_forward(x, K, b, stride, pad)
    dy = rng.standard_normal(y.shape)
    gradients = conv2d_backward(dy, cache)
    tensors = [torch.from_numpy(a).requires_grad_() for a in (x, K, b)]
    autograd = torch.autograd.grad(
        F.conv2d(*tensors, stride=stride, padding=pad), tensors, torch.from_numpy(dy)
    )
    for value, gradient, theirs in zip((x, K, b), gradients, autograd, strict=True):
        numerical = eval_numerical_gradient_array(
            lambda _, s=stride, p=pad: conv2d_forward(x, K, b, s, p)[0], value, dy
        )
        assert relative_error(gradient, numerical) < 1e-8
        assert relative_error(gradient, theirs.numpy()) < 1e-12
    print(f"stride {stride}, padding {pad}: y {y.shape}, dx, dK, db hold")
print("against central differences to 1e-8, against torch to 1e-12")

# %% [markdown]
# ### The tempting wrong way: kernels as they are
#
# The half turn is easily forgotten, and shapes do not miss it. Worse, the slip can *pass* a check: who tests
# with a blur, whose kernel looks the same from both sides, sees perfect gradients.


# %%
def unturned_dx(dy, cache):
    """As above with stride 1, without the half turn."""
    P, K, _, pad = cache
    k = K.shape[2]
    D = np.pad(dy, ((0, 0), (0, 0), (k - 1, k - 1), (k - 1, k - 1)))
    dP, _ = conv2d_forward(D, K.swapaxes(0, 1), np.zeros(K.shape[1]))
    return dP[:, :, pad : P.shape[2] - pad, pad : P.shape[3] - pad]


blur = np.broadcast_to(np.outer([1.0, 2, 1], [1, 2, 1]) / 16, (filters, C, 3, 3))
for name, kernels in (("a blur", blur), ("random kernels", K)):
    y, cache = conv2d_forward(x, kernels, b, stride=1, pad=1)
    dy = rng.standard_normal(y.shape)
    right, wrong = conv2d_backward(dy, cache)[0], unturned_dx(dy, cache)
    error = relative_error(wrong, right)
    cosine = np.vdot(wrong, right) / np.linalg.norm(wrong) / np.linalg.norm(right)
    shown_error = "less than 1e-12" if error < 1e-12 else f"{error:.2f}"
    print(
        f"{name}: relative error {shown_error}, cosine with the true gradient {cosine:.2f}"
    )
    assert (error < 1e-12) == (name == "a blur")

# %% [markdown]
# With random kernels the unturned gradient points nowhere in particular. A test case must not be more
# symmetric than the thing it tests.
#
# ## Pooling
#
# **Max pooling** keeps the largest number of each window and forgets where in the window it stood: the map
# gets smaller, and a shape may move by a pixel without a change. It has no weights. With windows as above,
#
# $$ y_{ncij} = \max_{u,v} x_{nc,\,si+u,\,sj+v}, \qquad
#    dx_{ncab} = \sum_{(i,j):\; (a,b) \text{ is the largest of window } (i,j)} dy_{ncij} $$
#
# since moving any other entry of a window moves nothing. Windows may overlap (SqueezeNet's are 3 x 3 with
# stride 2): an entry that wins two windows is read twice and collects twice.


# %%
def max_pool_forward(x, k, stride):
    """(N, C, h, w) -> (N, C, h', w'); the cache knows who won each window."""
    windows = windows_of(x, k, stride)
    flat = windows.reshape(*windows.shape[:4], k * k)
    return flat.max(axis=-1), (x.shape, k, stride, flat.argmax(axis=-1))


def max_pool_backward(dy, cache):
    """dy goes to the winners."""
    shape, k, stride, winner = cache
    dx = np.zeros(shape)
    n, c, i, j = np.indices(dy.shape)
    np.add.at(dx, (n, c, stride * i + winner // k, stride * j + winner % k), dy)
    return dx


for k_pool, stride in ((2, 2), (3, 2)):
    y, cache = max_pool_forward(x, k_pool, stride)
    dy = rng.standard_normal(y.shape)
    dx = max_pool_backward(dy, cache)
    numerical = eval_numerical_gradient_array(
        lambda _, k=k_pool, s=stride: max_pool_forward(x, k, s)[0], x, dy
    )
    assert relative_error(dx, numerical) < 1e-8
    of_torch = F.max_pool2d(torch.from_numpy(x), k_pool, stride).numpy()
    assert np.array_equal(y, of_torch)
    winners = np.count_nonzero(dx)
    print(
        f"{k_pool} x {k_pool}, stride {stride}: {dy.size} windows, won by {winners} entries"
    )
    assert (winners == dy.size) == (k_pool == stride)

# %% [markdown]
# **Average pooling** is a convolution of each channel by itself, with equal weights. `core` uses it to make a grid
# coarser: `--grid 7` averages SqueezeNet's 13 x 13 cells to 7 x 7, each new cell the mean of the old ones that
# it touches.

# %%
show_source(pool_grid, docstring=False)
grid = rng.standard_normal((2, 13 * 13, 5)).astype(np.float32)
as_maps = torch.from_numpy(grid).transpose(1, 2).reshape(2, 5, 13, 13)
expected = F.adaptive_avg_pool2d(as_maps, 7).flatten(2).transpose(1, 2).numpy()
assert relative_error(pool_grid(grid, 7), expected) < 1e-5  # float32
assert np.allclose(pool_grid(grid, 1)[:, 0], grid.mean(axis=1), atol=1e-6)  # "pooled"

# %% [markdown]
# ## Which pixels has a cell of the grid seen?
#
# Attention chooses among cells, and the picture drawn under an attention map suggests that cell (3, 5) is the
# patch of the photo that lies there. Is it? Work upwards. Let $j_l$ be the **jump**, the distance in pixels
# between two neighbouring cells of layer $l$, and $r_l$ the **receptive field**, the width in pixels of all
# that a cell depends on. The photo itself has $j_0 = r_0 = 1$. A cell of layer $l$ reads $k_l$ neighbours of
# the layer below. The centres of the first and the last of these are $(k_l - 1)\,j_{l-1}$ pixels apart, and
# each sees $r_{l-1}$ pixels; the next cell reads $s_l$ cells further on. So
#
# $$ r_l = r_{l-1} + (k_l - 1)\, j_{l-1}, \qquad j_l = s_l\, j_{l-1} $$


# %%
def receptive_field(layers):
    """[(k, stride), ...] from the picture up -> (r, j) of the last layer, in pixels."""
    r, j = 1, 1
    for k, stride in layers:
        r, j = r + (k - 1) * j, stride * j
    return r, j


pool = (2, 2)
LAYERS = {
    "tiny_cnn": [(5, 2), (3, 2), (3, 1), (3, 2), (3, 1)],
    "vgg16, conv5_3": [
        *[(3, 1)] * 2, pool, *[(3, 1)] * 2, pool, *[(3, 1)] * 3, pool, *[(3, 1)] * 3, pool,
        *[(3, 1)] * 3,
    ],
    "squeezenet1_1": [
        (3, 2), (3, 2), *[(3, 1)] * 2, (3, 2), *[(3, 1)] * 2, (3, 2), *[(3, 1)] * 4,
    ],
}  # fmt: skip
for name, layers in LAYERS.items():
    r, j = receptive_field(layers)
    size = PREPROCESSING[name.split(",")[0]]["size"]
    print(
        f"{name:<16} a cell sees {r} x {r} of {size} x {size} pixels, cells are {j} apart"
    )
assert receptive_field(LAYERS["tiny_cnn"]) == (41, 8)
assert receptive_field(LAYERS["vgg16, conv5_3"]) == (196, 16)

# %% [markdown]
# A cell of VGG16's grid "is" a patch of 16 x 16 pixels only in so far as that is where it stands. It has seen
# almost the whole photo. Do not believe the recursion: send a gradient of 1 down from one cell and look which
# pixels it reaches.


# %%
def reached_by(network, size, cell, channels, seed=0):
    """(size, size): by how much each pixel moves the sum of a cell's channels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(1, 3, size, size, generator=generator, requires_grad=True)
    row, column = cell
    network(x)["grid"][0, :channels, row, column].sum().backward()
    return x.grad[0].abs().sum(dim=0).numpy()


def width_of(reached):
    """How many columns and rows are reached at all."""
    return tuple(int(np.ptp(np.flatnonzero(reached.any(axis=axis)))) + 1 for axis in (0, 1))


squeezenet = load_network("squeezenet1_1", "random")
tiny = load_network("tiny_cnn", "random")
bare = load_network("tiny_cnn", "random")  # to be left with its convolutions alone
for stage in bare.stages:
    stage[1] = nn.Identity()
maps = {
    "squeezenet1_1, cell (6, 6)": reached_by(squeezenet, 224, (6, 6), 512),
    "tiny_cnn, cell (4, 4),\nconvolutions alone": reached_by(bare, 64, (4, 4), 128),
    "tiny_cnn, cell (4, 4),\nwith group normalisation": reached_by(tiny, 64, (4, 4), 128),
}
figure, axes = plt.subplots(1, 3, figsize=(9, 3.1))
for ax, (title, reached) in zip(axes, maps.items(), strict=True):
    shown = np.log10(np.maximum(reached / reached.max(), 1e-5))
    mappable = ax.imshow(shown, cmap="viridis", vmin=-5, vmax=0)
    ax.set_title(title, fontsize=10)
    ax.set_xlabel("pixels")
    ax.grid(False)
axes[0].set_ylabel("pixels")
bar = figure.colorbar(mappable, ax=axes, shrink=0.8)
bar.set_label("influence, $\\log_{10}$ of the largest")
plt.show()

of_squeezenet, of_bare, of_tiny = maps.values()
assert width_of(of_squeezenet) == (207, 207) and width_of(of_bare) == (41, 41)
assert width_of(of_tiny) == (64, 64)
inside = of_tiny[of_bare > 0].sum() / of_tiny.sum()
share = of_squeezenet.sum(axis=0).cumsum() / of_squeezenet.sum()
middle = np.searchsorted(share, 0.75) - np.searchsorted(share, 0.25)
print("squeezenet1_1 reaches", width_of(of_squeezenet), "and tiny_cnn", width_of(of_bare))
print(f"half of squeezenet's influence comes from a band of {middle} columns out of 207")
print(
    f"with normalisation {inside:.0%} of tiny_cnn's influence is inside its 41 x 41 pixels"
)

# %% [markdown]
# The widths are those of the recursion, to the pixel. Two things it does not tell. Influence is not spread
# evenly over the field: there are many more paths from a cell to the pixels beneath it than to those at the
# rim, so the **effective** field is far smaller (Luo et al. 2016). And normalisation looks at whole maps: with
# it every pixel reaches every cell a little. The picture under an attention map is a fair sketch, and no proof.
#
# ## Two published networks, taken apart
#
# VGG16 (Simonyan and Zisserman 2015) is thirteen 3 x 3 convolutions, five poolings and three affine layers.
# Why 3 x 3? By the recursion two of them in a row see 5 x 5 pixels, for $18\,C^2$ weights instead of $25\,C^2$
# (with $C$ channels in and out) and with one more nonlinearity between. SqueezeNet 1.1 (Iandola et al. 2016)
# asks how few weights will do. We build both on torch's *meta* device, where arrays have shapes but no numbers,
# and write down what each layer costs. A convolution multiplies $C k^2$ times for each number of its output:
#
# $$ \text{weights} = F (C k^2 + 1), \qquad \text{multiplications} = h' w' F\, C k^2 $$


# %%
def anatomy(network, size):
    """(name, output shape, parameters, multiplications) of each layer with weights."""
    rows = []

    def note(name):
        def hook(layer, inputs, out):
            parameters = sum(p.numel() for p in layer.parameters())
            each = layer.weight[0].numel()  # multiplications for one number of the output
            rows.append((name, tuple(out.shape[1:]), parameters, out[0].numel() * each))

        return hook

    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(note(name))
    with torch.inference_mode():
        outputs = network(torch.empty(1, 3, size, size, device="meta"))
    return rows, {name: tuple(out.shape[1:]) for name, out in outputs.items()}


def count(network):
    return sum(p.numel() for p in network.parameters())


with torch.device("meta"):
    vgg, squeeze = VGG16(), SqueezeNet()
vgg_rows, vgg_outputs = anatomy(vgg, 224)
print(f"{'vgg16':<16}{'output':<16}{'parameters':>12}{'million multiplications':>25}")
for name, shape, parameters, products in vgg_rows:
    print(f"{name:<16}{shape!s:<16}{parameters:>12,}{products / 1e6:>25,.0f}")
print(f"{'all':<32}{count(vgg):>12,}{sum(r[3] for r in vgg_rows) / 1e6:>25,.0f}")
print("what a decoder may read:", vgg_outputs)
assert count(vgg) == 138_357_544

# %% [markdown]
# (The total counts `classifier.6`, the layer of the 1,000 ImageNet classes, as well: it is there so that
# published weights can be loaded, and never computed.) Two columns, two different networks: nine tenths of the
# weights sit in the affine layers, nearly all of the work is in the convolutions. `classifier.0` alone has 103
# million weights, since it reads all $512 \cdot 7 \cdot 7$ numbers; the grid that attention reads stands before
# it and needs 15 million.
#
# ### The fire module
#
# A 3 x 3 convolution from $C$ to $2E$ channels has $9 C \cdot 2E$ weights. SqueezeNet's **fire module** first
# *squeezes* the channels to a few, $S$, by a 1 x 1 convolution, which is an affine layer at every pixel; then it
# *expands* them by a 1 x 1 and a 3 x 3 convolution side by side and puts both answers behind each other:
#
# $$ \underbrace{C S}_{\text{squeeze}} + \underbrace{S E}_{1 \times 1} + \underbrace{9 S E}_{3 \times 3}
#    = S\,(C + 10 E) \qquad \text{instead of } 18\, C E $$

# %%
draw_graph(
    {
        "x": (0, 0.5, "$x$"), "s": (1.6, 0.5, "squeeze 1 x 1"), "q": (3.3, 0.5, "$q$"),
        "e1": (4.8, 1.3, "expand 1 x 1"), "e3": (4.8, -0.3, "expand 3 x 3"),
        "cat": (6.5, 0.5, "join"), "y": (7.8, 0.5, "$y$"),
    },
    [
        ("x", "s", "$C$"), ("s", "q", "$S$", "sum"), ("q", "e1"), ("q", "e3"),
        ("e1", "cat", "$E$"), ("e3", "cat", "$E$"), ("cat", "y", "$2E$", "cut in two"),
    ],
    "A fire module (blue: channels; orange: its backward; a ReLU after each convolution)",
    unit=1.15,
)  # fmt: skip
show_source(Fire)

# %%
squeeze_rows, squeeze_outputs = anatomy(squeeze, 224)
print(
    f"{'squeezenet1_1':<24}{'output':<16}{'parameters':>10}{'million multiplications':>25}"
)
for name, shape, parameters, products in squeeze_rows:
    if name.endswith("squeeze"):
        fire, total, work = name.removesuffix(".squeeze"), parameters, products
    elif "expand" in name:
        total, work = total + parameters, work + products
        if name.endswith("3x3"):
            both = (2 * shape[0], *shape[1:])
            print(f"{fire + ' (fire)':<24}{both!s:<16}{total:>10,}{work / 1e6:>25,.0f}")
    else:
        print(f"{name:<24}{shape!s:<16}{parameters:>10,}{products / 1e6:>25,.0f}")
print(f"{'classifier (unused)':<40}{count(squeeze.classifier):>10,}")
in_all = sum(r[3] for r in squeeze_rows)
print(f"{'all':<40}{count(squeeze):>10,}{in_all / 1e6:>25,.0f}")
print("what a decoder may read:", squeeze_outputs)
assert count(squeeze) == 1_235_496
assert round(in_all / 1e9, 2) == 0.26

S, E, C_in = 16, 64, 128
print(
    f"a fire module with C {C_in}, S {S}, E {E}: {S * (C_in + 10 * E):,} weights, "
    f"a plain 3 x 3 convolution {18 * C_in * E:,}"
)
assert count(Fire(C_in, S, E)) == S * (C_in + 10 * E) + S + 2 * E  # and its biases

# %%
figure, axes = plt.subplots(2, 2, figsize=(10, 5))
for row, (name, rows) in zip(
    axes, (("VGG16", vgg_rows), ("SqueezeNet 1.1", squeeze_rows)), strict=True
):
    places = np.arange(len(rows))
    row[0].bar(places, [r[2] / 1e6 for r in rows])
    row[1].bar(places, [r[3] / 1e9 for r in rows], color=lessons.ORANGE)
    row[0].set(ylabel="million parameters", title=name, xlabel="layer, from the picture up")
    row[1].set(
        ylabel="billion multiplications", title=name, xlabel="layer, from the picture up"
    )
    for ax in row:
        ax.set_xticks([])
plt.show()
ratio = sum(r[3] for r in vgg_rows) / in_all
print(f"to look at one photo VGG16 multiplies {ratio:.0f} times as often as SqueezeNet 1.1")

# %% [markdown]
# The axes differ by more than a hundred in the left column: the smaller network fits in 5 MB. In `core` both are
# a few dozen lines with torchvision's names, so that published ImageNet weights load into them
# (`--weights download`, once, if you like; nothing here needs them).
#
# ## The fixed CNN, written down by hand
#
# The features of the embedded data come from an encoder that nobody trained. It is worth a look, for here every
# filter has a meaning. Its first layer asks of each pixel $x$ which colour of a palette it has. The nearest of
# the colours $p_1, p_2, \dots$ is the one with the largest
#
# $$ -\lVert x - p \rVert^2 = 2\, p \cdot x - \lVert p \rVert^2 - \lVert x \rVert^2 $$
#
# and the last term is the same for every $p$: what is left is affine in $x$, a 1 x 1 convolution, and a softmax
# makes the choice soft. The second layer is a 13 x 13 convolution with the outlines of a circle, a square and a
# triangle, small and large. It is the convolution that you have just written. Then each cell of an 8 x 8 grid keeps
# the strongest answer of each filter. Several outlines fit a shape a little, so they **compete**: among the six
# outlines of one colour in one cell, a softmax gives the best about two thirds, and shares out the rest.

# %% tags=["picture"]
picture_5 = np.stack([pictures[5]])
colours = fixed_cnn._pool(fixed_cnn._colour_layer(picture_5), 2, np.mean)  # (1, 32, 32, 5)
outlines = fixed_cnn._silhouette_filters()  # (169, 6)
K_outlines = outlines.T.reshape(6, 1, 13, 13)
as_maps = colours.transpose(3, 0, 1, 2)  # each colour is a picture with one channel
responses, _ = conv2d_forward(as_maps, K_outlines, np.zeros(6), pad=6)
of_core = fixed_cnn._silhouette_layer(colours)[0].transpose(2, 3, 0, 1)  # (5, 6, 32, 32)
seen = (as_maps**2).sum(axis=(1, 2, 3)) > 1  # core skips colours that are not there
assert relative_error(responses[seen], of_core[seen]) < 1e-5 and not of_core[~seen].any()

grid = fixed_cnn.grid_features(picture_5)[0]
kinds = [f"{size} {kind}" for kind in scenes.KINDS for size in scenes.RADII]
colour = int(as_maps.sum(axis=(1, 2, 3)).argmax())  # the colour of which there is most
name = list(scenes.COLOURS)[colour]
strongest = int(grid[:, 6 * colour : 6 * colour + 6].max(axis=0).argmax())
panels = [
    ("the picture", pictures[5], None),
    (f'"{name}", half the size', as_maps[colour, 0], "viridis"),
    (f'filter "{kinds[strongest]}"', K_outlines[strongest, 0], "RdBu_r"),
    ("its answers", np.maximum(responses[colour, strongest], 0), "viridis"),
    (
        "8 x 8 grid, after competition",
        grid[:, 6 * colour + strongest].reshape(8, 8),
        "viridis",
    ),
]
figure, axes = plt.subplots(1, 5, figsize=(10, 2.4))
for ax, (title, values, colour_map) in zip(axes, panels, strict=True):
    ax.imshow(values, cmap=colour_map)
    ax.set_title(title, fontsize=8)
    ax.axis("off")
plt.show()
print(f"there: {', '.join(f'{s.size} {s.colour} {s.kind}' for s in scenes_of_pictures[5])}")
print(
    "the grid:",
    grid.shape,
    "cells and channels; the last 12 channels are the cell's position",
)
outlines_there = grid[:, : 6 * len(scenes.COLOURS)].reshape(64, -1, 6)  # of each colour
share_of_best = outlines_there.max(axis=2).sum() / outlines_there.sum()
print(f"after competition the best outline has {share_of_best:.0%} of what its colour gets")
assert 0.5 < share_of_best < 0.8

# %% [markdown]
# The last twelve channels are sines and cosines of the cell's row and column. They are needed for the reason
# found above: a convolution gives the same answer wherever a shape stands, and attention, a weighted mean, does
# not know from which cell a vector came.
#
# **The tiny CNN** (`--encoder tiny_cnn`) has the same 8 x 8 grid and position channels, but its five
# convolutions start at random and learn from captions alone. Between them stands group normalisation instead
# of the batch normalisation of larger networks; one of the pitfalls below says why.

# %%
show_source(TinyCNN.forward)
print(f"{count(TinyCNN()):,} parameters")
assert np.allclose(tiny.places.permute(1, 2, 0).numpy(), fixed_cnn.position_code())

# %% [markdown]
# ## What PCA keeps, and what it throws away
#
# The fixed CNN gives one vector of 665 numbers for `rnn` and `lstm` (19 for each of 35 channels,
# [lesson 1](01_the_task_and_the_data.ipynb) says which), VGG16 one of 4,096. **Principal component analysis** keeps
# fewer. Let $\Sigma$ be the covariance of the features over training pictures. Of all
# directions $v$ of length 1, which one carries most variance $v^T \Sigma v$? With a Lagrange multiplier
# $\lambda$ for the length, $\nabla (v^T \Sigma v - \lambda\, v^T v) = 2 \Sigma v - 2 \lambda v = 0$: an
# eigenvector, and its variance is $v^T \Sigma v = \lambda$. The next best direction, at right angles to the
# first, is the eigenvector of the next largest $\lambda$, and so on. What is kept of $x$ is
# $(x - \text{mean})\, V$, with the first few eigenvectors as columns of $V$.

# %%
samples = rng.standard_normal((200, 6)) @ rng.standard_normal((6, 6))
values, vectors = np.linalg.eigh(np.cov(samples.T))
pca = fit_pca(samples, 3)
ours = pca(samples)
best = (samples - samples.mean(axis=0)) @ vectors[:, ::-1][:, :3]
for column, expected in zip(ours.T, best.T, strict=True):
    assert (
        abs(np.corrcoef(column, expected)[0, 1]) > 1 - 1e-6
    )  # the same up to sign and scale
assert abs(pca.explained - values[::-1][:3].sum() / values.sum()) < 1e-6
assert abs((ours**2).mean() - 1) < 1e-4
show_source(PCA)

# %% [markdown]
# Variance is what varies, not what matters. How many components do *captions* need? A **linear probe** asks
# the question without training a captioner: on the pictures with a single shape, predict its colour, size,
# kind and place from the first few components by least squares (one-hot targets, the largest wins), and count
# on held-out pictures. (The data folder holds the first 512 of 665 components; "variance" below is theirs.)

# %%
vectors_data = lessons.embedded_data("lstm")
folder = vectors_data["source"]["folder"]
train_x = np.asarray(vectors_data["train_features"])
held_x = np.concatenate([vectors_data["val_features"], vectors_data["test_features"]])
train_scenes = load_scenes(folder, "train")
held_scenes = load_scenes(folder, "val") + load_scenes(folder, "test")


def single(features, scenes_):
    """Pictures of one shape: a constant and their features, and the shape of each."""
    rows = [i for i, scene in enumerate(scenes_) if len(scene) == 1]
    ones = np.ones((len(rows), 1))
    return np.hstack([ones, features[rows]]), [scenes_[i][0] for i in rows]


train_one, train_shapes = single(train_x, train_scenes)
held_one, held_shapes = single(held_x, held_scenes)
kept = (1, 2, 3, 5, 8, 12, 20, 35, 50, 100, 200, 512)
accuracy = {}
for what in ("colour", "size", "kind", "place"):
    classes = sorted({getattr(shape, what) for shape in train_shapes})
    of_train, of_held = (
        np.array([classes.index(getattr(shape, what)) for shape in shapes])
        for shapes in (train_shapes, held_shapes)
    )
    targets = np.eye(len(classes))[of_train]
    accuracy[what] = []
    for k_kept in kept:
        weights = np.linalg.lstsq(train_one[:, : k_kept + 1], targets, rcond=None)[0]
        guess = (held_one[:, : k_kept + 1] @ weights).argmax(axis=1)
        accuracy[what].append(float((guess == of_held).mean()))

variance = train_x.var(axis=0)
explained = variance.cumsum() / variance.sum()
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6))
axes[0].semilogx(np.arange(1, 513), explained)
axes[0].set(xlabel="components kept", ylabel="share of the variance", ylim=(0, 1.03))
for (what, shares), marker in zip(accuracy.items(), "os^D", strict=True):
    axes[1].semilogx(kept, shares, marker=marker, markersize=4, label=what)
axes[1].set(xlabel="components kept", ylabel="share named rightly", ylim=(0, 1.03))
axes[1].legend()
plt.show()

print(f"{len(train_shapes):,} training pictures of one shape, {len(held_shapes)} held out")
for k_kept in (3, 12, 50, 200, 512):
    named = ", ".join(
        f"{w} {a[kept.index(k_kept)]:.0%}" for w, a in accuracy.items() if k_kept in kept
    )
    print(f"{k_kept:>3} components: {explained[k_kept - 1]:.0%} of the variance; {named}")
at_50 = {what: shares[kept.index(50)] for what, shares in accuracy.items()}
assert explained[49] > 0.7 and at_50["colour"] > 0.95 and 0.3 < at_50["place"] < 0.6
assert accuracy["colour"][kept.index(3)] > 0.95 and accuracy["size"][kept.index(12)] > 0.95
assert np.sqrt(0.25 / len(held_shapes)) < 0.04
assert accuracy["place"][-1] > at_50["place"] + 0.2 and accuracy["kind"][-1] > 0.95

# %% [markdown]
# (Chance is 20 %, 50 %, 33 % and 11 %; with 178 pictures a share is uncertain by four points at most.) Three
# components name the colour, twelve the size. Fifty keep four fifths of the variance, a number that looks safe
# in any report, and name the place for 43 % of the pictures, where all components reach 78 %. Nearly half of what
# could be said of the place is lost: a model that reads them will speak of colours, and will often be wrong about
# "top left". Judge a projection by what is asked of it.
#
# ## Four ways to ruin features without an error message
#
# "The same caption for every photo" is a common complaint, and the decoder need not be at fault. Each of the
# following runs without a warning.
#
# ### 1 · Dropout left on
#
# VGG16's affine layers have dropout, which belongs to training. A network comes out of its constructor in
# training mode; whoever forgets `.eval()` extracts features through dropout. We build such a head, a sixth as wide,
# over the flattened grids of 64 pictures.

# %%
grids = torch.from_numpy(fixed_cnn.grid_features(np.stack(pictures[:64])).reshape(64, -1))
torch.manual_seed(0)
head = nn.Sequential(
    nn.Linear(grids.shape[1], 683), nn.ReLU(), nn.Dropout(),
    nn.Linear(683, 683), nn.ReLU(), nn.Dropout(),
).requires_grad_(False)  # fmt: skip
for layer in head:
    if isinstance(layer, nn.Linear):
        nn.init.kaiming_normal_(layer.weight)  # keeps the size of what passes through ReLUs


def cosines(a, b):
    """(n, D), (m, D) -> (n, m)."""
    return F.cosine_similarity(a[:, None], b[None], dim=2)


others, seen = ~torch.eye(64, dtype=bool), {}
for mode in ("eval", "train"):
    head.train(mode == "train")
    first, second = head(grids), head(grids)
    table = cosines(first, second)
    same, different = table.diagonal().mean(), table[others].mean()
    found = (table.argmax(dim=1) == torch.arange(64)).float().mean()
    seen[mode] = float(same), float(different)
    print(
        f"{mode:<6} the same picture twice: cosine {same:.2f}; "
        f"two different pictures: {different:.2f}; finds itself again: {found:.0%}"
    )
    assert (
        (same > 0.999 and found > 0.95) if mode == "eval" else (same < 0.5 and found < 0.3)
    )
assert seen["train"][0] < seen["eval"][1]  # one picture with dropout, two without

# %% [markdown]
# With dropout on, two looks at *one* picture have less in common than two *different* pictures have without
# it. Why it looks right: shapes fit, values look like features, the loss falls (a noisy feature still says
# something). `core` has one door through which networks come, and it closes behind them:

# %%
show_source(load_network, docstring=False)

# %% [markdown]
# ### 2 · Frozen weights, moving statistics
#
# Batch normalisation (Ioffe and Szegedy 2015) subtracts a mean and divides by a standard deviation, for each
# channel. In training mode these are of the batch, and a running mean of them is kept for later; in evaluation
# mode that running mean is used:
#
# $$ y = \gamma\, \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta, \qquad
#    \mu \leftarrow 0.9\, \mu + 0.1\, \mu_{\text{batch}} \quad \text{(in training mode, and so with } \sigma^2) $$
#
# No gradient takes part in the second equation. Setting `requires_grad_(False)` freezes $\gamma$, $\beta$ and all
# kernels, and leaves $\mu$ and $\sigma^2$ free: each `model.train()` before an epoch of the *decoder* sets them
# moving. We take a ResNet of `core` with one block in each stage, give it statistics from 48 pictures (as a
# published one has those of ImageNet), freeze it, and let it look at batches of 4 in training mode. Nothing is
# learned. We watch the features of six other pictures.

# %%
of_imagenet = {**PREPROCESSING["resnet50"], "size": 64}
looked_at = torch.from_numpy(prepare_pictures(pictures[:54], of_imagenet)).permute(
    0, 3, 1, 2
)
known, test = looked_at[:48], looked_at[48:]
torch.manual_seed(0)
resnet = ResNet((1, 1, 1, 1)).requires_grad_(False)
norms = [layer for layer in resnet.modules() if isinstance(layer, nn.BatchNorm2d)]
for layer in norms:
    layer.momentum = None  # a plain mean of all batches
resnet.train()
for batch in known.split(16):
    resnet(batch)
for layer in norms:
    layer.momentum = 0.1  # as published
came_with = {key: value.clone() for key, value in resnet.state_dict().items()}


def change(after, before):
    return float((after - before).norm() / before.norm())


before = resnet.eval()(test)["pooled"]
between = change(before.mean(dim=0), before)  # how much pictures differ at all
resnet.train()
companies = [torch.cat([test[:1], known[start : start + 3]]) for start in (0, 3)]
one, other = (resnet(company)["pooled"][0] for company in companies)
print(f"spread between different pictures: {between:.2f}")
print(f"one picture in training mode, in two batches: {change(one, other):.2f}")


def drift(photos, steps=8):
    """Change of the features of ``test``, in evaluation mode, after each batch."""
    resnet.load_state_dict(came_with)
    changes = [0.0]
    for step in range(steps):
        resnet.train()(photos[4 * step : 4 * step + 4])
        changes.append(change(resnet.eval()(test)["pooled"], before))
    return changes


alike, evening = drift(known), drift(known - 1)
weights_moved = any(
    not torch.equal(value, came_with[name]) for name, value in resnet.named_parameters()
)
plt.plot(alike, marker="o", markersize=4, label="after pictures like those it knows")
plt.plot(evening, marker="s", markersize=4, label="after darker pictures")
plt.axhline(
    between, color=lessons.GREY, linestyle="--", label="spread between different pictures"
)
plt.gca().set(
    xlabel="batches of 4 seen in training mode", ylabel="relative change of features",
    ylim=(0, None), title="A frozen network that drifts",
)  # fmt: skip
plt.legend()
plt.show()
print(f"a weight has moved: {weights_moved}")
print(
    f"after 8 batches: {alike[-1]:.2f} by such pictures, {evening[-1]:.2f} by darker ones"
)
assert not weights_moved and change(one, other) > 0.8 * between
assert alike[-1] > 0.03 and evening[-1] > between

# %% [markdown]
# Two things have gone wrong. *While* in training mode, the features of a picture depend on which others happen
# to be in its batch, as much as on the picture itself. *Afterwards*, although no parameter has changed by a
# bit, the network is another one: a little, after pictures like those it knows; with eight batches of darker
# ones by more than different pictures differ. The decoder has been trained on one encoder and is used with
# another. An end-to-end captioner of `core` therefore puts its encoder back into evaluation mode whenever
# anyone calls `train()`, also while the encoder's weights learn; and `tiny_cnn`, which has no published
# statistics to keep, normalises each picture by itself.

# %%
show_source(EndToEndCaptioner.train)
with torch.no_grad():
    pair = torch.rand(2, 3, 64, 64)
    alone = tiny(pair[:1])["grid"]
    in_company = tiny(pair)["grid"][:1]
assert torch.allclose(alone, in_company, atol=1e-5)  # of its neighbours it knows nothing

# %% [markdown]
# ### 3 · The wrong scale, the wrong order of colours
#
# The trained `attention` run (made in six minutes on one core by
# `python training.py --model attention --hidden_dim 128 --wordvec_dim 64 --attention_dim 64`) reads the fixed
# CNN's grid, and the fixed CNN wants numbers from 0 to 255 in the order red, green, blue. Libraries disagree
# on both: some load 0 to 1, some normalise to $-1 \dots 1$, OpenCV gives blue first. We feed 100 held-out
# pictures in each of these ways to the same encoder and the same model.

# %%
model, _ = lessons.load_trained("attention")
checkpoint = load_checkpoint(lessons.TRAINED / "attention" / "best.npz")
extractor = Extractor.rebuild(checkpoint.extractor, checkpoint.extractor_arrays)


def said_of(arrays):
    """(n, 64, 64, 3) as they are -> captions, and how probable a word is, on average."""
    grid = extractor.finish(fixed_cnn.filter_outputs(np.stack(arrays)))
    ids, scores = beam_search(model, grid, max_length=20)
    return decode_captions(ids[:, 0], checkpoint.idx_to_word), float(
        np.exp(scores[:, 0]).mean()
    )


def report(name, arrays, scenes_=scenes_of_pictures):
    """A row of the table; returns how many differ, the share true, the first, how sure."""
    captions, sure = said_of(arrays)
    pairs = zip(captions, scenes_, strict=False)
    different, true = len(set(captions)), np.mean([caption_is_true(c, s) for c, s in pairs])
    print(f"{name:<36}{different:>18}{true:>8.0%}{sure:>26.2f}")
    return different, true, captions[0], sure


HEADER = f"{'':<36}{'different captions':>18}{'true':>8}{'probability of a word':>26}"
print(HEADER)
right = report("0 to 255, red first (right)", pictures)
scaled = report("0 to 1", [p / 255 for p in pictures])
signed = report("-1 to 1", [p / 127.5 - 1 for p in pictures])
swapped = report("0 to 255, blue first", [p[:, :, ::-1] for p in pictures])
assert right[1] > 0.9 and right[0] > 80
assert scaled[0] == signed[0] == 1 and scaled[1] == 0
assert swapped[0] > 80 and swapped[1] < 0.5
assert right[3] - 0.12 < scaled[3] < right[3] - 0.04 and abs(swapped[3] - right[3]) < 0.02
print("said of the first picture, read rightly: ", right[2])
print("said of every picture with 0 to 1:       ", scaled[2])
print("said of the first picture, blue first:   ", swapped[2])

# %% [markdown]
# There it is: **one caption for all hundred pictures**, well formed. The model is a little less sure of its words,
# 0.69 instead of 0.77, which no reader of the caption sees. To the encoder, numbers from 0 to 1 are black, in every picture; each grid is the same empty one;
# the decoder says what it says of nothing. Swapped colours are worse in a way: captions differ from picture to
# picture, as they should, the model is as sure as ever, and seven in ten are false, since red and blue have
# changed places. A list of such captions looks fine. Only the pictures beside them tell.
#
# ### 4 · Turn, crop, resize, normalise: in this order
#
# A phone stores a photo as its sensor saw it, and an EXIF entry that says how to turn it. What an encoder
# wants is a square. We make forty "photos": wide, larger than the encoder's input, stored lying on their side
# with an EXIF entry, as JPEG, and read them in three ways.

# %%
exif = Image.Exif()
exif[0x0112] = 6  # orientation: turn right by a quarter to view
with tempfile.TemporaryDirectory() as folder_name:
    paths = []
    for i, p in enumerate(pictures[:40]):
        wide = np.pad(p, ((0, 0), (12, 12), (0, 0)), mode="edge")
        photo = Image.fromarray(wide).resize((88 * 4, 64 * 4), Image.Resampling.BICUBIC)
        paths.append(Path(folder_name) / f"{i}.jpg")
        lying = photo.transpose(Image.Transpose.ROTATE_90)
        lying.save(paths[-1], quality=95, exif=exif)
    upright = [load_image(path) for path in paths]
    lying = [np.asarray(Image.open(path)) for path in paths]
print(f"as stored {lying[0].shape}, as load_image reads it {upright[0].shape}")


def stretched(p):
    return np.asarray(Image.fromarray(p).resize((64, 64), Image.Resampling.BILINEAR))


print(HEADER)
right = report(
    "turned, cropped, resized (right)", [resize_and_crop(p, 64) for p in upright]
)
turned = report("EXIF ignored", [resize_and_crop(p, 64) for p in lying])
squeezed = report("stretched to a square, no crop", [stretched(p) for p in upright])
assert right[1] > 0.9 and turned[1] < 0.7 and squeezed[1] < 0.6

# Of a square cut from the middle, turning may come before or after.
first, second = resize_and_crop(upright[0], 64), resize_and_crop(lying[0], 64)
assert np.abs(first.astype(int) - np.rot90(second, -1)).max() <= 1

# %% [markdown]
# The last assert says that for a square from the middle it does not matter when the photo is turned, only
# whether. Cropping comes before resizing, else everything is squeezed; normalising comes last, since picture
# libraries resize bytes. And how the photos of the *weights* were treated decides, not taste: torchvision's VGG16
# and SqueezeNet were trained on squares of 224 pixels, 0 to 1, less the mean of ImageNet and over its standard
# deviation.
#
# ## What travels in the checkpoint
#
# All these constants are useless in a README. They are stored beside the features, and copied into every
# checkpoint that is trained on them:

# %%
print("the run's extractor:")
for key, value in checkpoint.extractor.items():
    print(f"    {key:<14} {value}")
print("its arrays:", {name: a.shape for name, a in checkpoint.extractor_arrays.items()})
print("\nof the networks for photos:", PREPROCESSING["squeezenet1_1"])
assert np.allclose(
    normalise(
        picture_5, **{k: v for k, v in PREPROCESSING["vgg16"].items() if k != "size"}
    ),
    (picture_5 / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
    atol=1e-5,
)
stored = np.asarray(data["val_features"][:100])
assert (
    relative_error(extractor(pictures), stored) < 1e-4
)  # rebuilt from the checkpoint alone

other = {
    **checkpoint.extractor,
    "preprocessing": {"size": 64, "mean": [0.5] * 3, "std": [0.25] * 3},
}
try:
    check_same_data(dataclasses.replace(checkpoint, extractor=other), data)
except ValueError as error:
    refused = str(error).partition(": ")[2]
    print("\nwith other constants:", refused)
assert "extractor" in refused

# %% [markdown]
# ## Training the encoder, too
#
# So far the encoder stood still. But attention's backward ([lesson 8](08_soft_attention.ipynb)) gives a
# gradient of the features as well, and features are the output of convolutions whose backward you have
# written. Nothing stops the gradient of the last word from reaching the first filter. Here PyTorch carries it:
# the CNN is the part of this project that is written in PyTorch.

# %%
draw_graph(
    {
        "pixels": (0, 0, "$x$"), "cnn": (1.3, 0, "CNN"), "grid": (2.6, 0, "$grid$"),
        "scale": (3.9, 0, "scale"), "f": (5.1, 0, "$features$"),
        "dec": (6.7, 0, "attention\nand LSTM"), "L": (8.1, 0, "$L$"),
        "wc": (1.3, -1.1, "$K_1 \\ldots K_5$"), "wd": (6.7, -1.1, "$\\theta$"),
    },
    [
        ("pixels", "cnn"), ("wc", "cnn", "", "$dK$"), ("cnn", "grid"),
        ("grid", "scale", "", "$dgrid$"), ("scale", "f"), ("f", "dec", "", "$dfeatures$"),
        ("wd", "dec", "", "$d\\theta$"), ("dec", "L"),
    ],
    "From the loss of a word to the first filter",
    unit=1.05,
)  # fmt: skip
show_source(EndToEndCaptioner.grid_of, open_stages)

# %% [markdown]
# (`scale_grid` divides each picture's grid by the root of its mean square: the raw numbers of a pretrained network
# are mostly zeros and some near 100, which would fill any tanh that reads them.)
#
# Is the gradient right, all the way down? Autograd computes it; central differences on a few weights of the
# **first** filter bank, in float64, confirm it. The task for this section is small enough to train in seconds:
# pictures of one shape, captions of three words, "a red circle".


# %%
def one_shape(count, rng):
    """Pictures of one shape and their captions, as words."""
    found = []
    while len(found) < count:
        scene = scenes.draw_scene(rng)
        if len(scene) == 1:
            found.append((scenes.render(scene, rng), scene[0]))
    words = [["a", shape.colour, shape.kind] for _, shape in found]
    return [p for p, _ in found], words


TRAINING, HELD_OUT = 720, 120
drawn, words = one_shape(TRAINING + HELD_OUT, np.random.default_rng(0))
images = prepare_pictures(drawn, PREPROCESSING["tiny_cnn"])
vocabulary = build_vocabulary(words, 1)
captions = encode_captions(words, {word: i for i, word in enumerate(vocabulary)}, 5)
CONFIG = {
    "input_dim": 140, "wordvec_dim": 32, "hidden_dim": 64, "attention_dim": 32,
    "dropout": 0.0, "dtype": "float32",
}  # fmt: skip


def captioner(stages, seed=0, **changes):
    """A fresh decoder over a random tiny CNN whose last ``stages`` stages learn."""
    return build_end_to_end(
        "attention", CONFIG | changes, vocabulary, rng=np.random.default_rng(seed),
        extractor=Extractor("tiny_cnn", "grid", "random"), stages=stages,
    )  # fmt: skip


whole = captioner(5, dtype="float64")
batch = PictureBatch(images, np.arange(2))
whole.loss(batch, captions[:2]).backward()
first_filters = whole.encoder.conv1[0].weight
picked = [(0, 0, 0, 0), (17, 2, 4, 1), (31, 0, 3, 3)]
analytic = np.array([first_filters.grad[at].item() for at in picked])


def central_differences(step):
    """Of the loss, with respect to the picked weights."""
    found = []
    with torch.no_grad():
        for at in picked:
            value, losses = first_filters[at].item(), []
            for moved in (value + step, value - step):
                first_filters[at] = moved
                losses.append(whole.loss(batch, captions[:2]).item())
            first_filters[at] = value
            found.append((losses[0] - losses[1]) / (2 * step))
    return np.array(found)


print("dL/dK of three weights of the first layer:", analytic)
errors = {}
for step in (1e-3, 1e-4, 1e-5, 1e-7):
    error = errors[step] = relative_error(analytic, central_differences(step))
    text = "less than 1e-6" if error < 1e-6 else f"{error:.0e}"
    print(f"central differences with a step of {step:.0e}: relative error {text}")
assert error < 1e-6 and errors[1e-4] > errors[1e-3] / 10  # of a smooth loss: a hundredth

# %% [markdown]
# It is right, and the two coarsest steps show a trap. Of a smooth loss, a tenth of the step leaves a hundredth of the
# error; here the error stays. One weight of the first layer moves 1,024 numbers of each
# picture, and through them tens of thousands of ReLUs further up. Some stand so near to their kink that a step
# of $10^{-3}$ or $10^{-4}$ carries them across it, and the difference then measures something that is no derivative. A
# smaller step crosses fewer kinks ([lesson 2](02_gradients_you_can_trust.ipynb) says what else sets its size).
#
# ### Frozen against open
#
# Two runs of the same decoder from the same random numbers, on 720 pictures. In one the (random) CNN stays as
# it is; in the other its last two stages learn. Both see each picture four times; then they caption 120
# pictures that they have never seen.


# %%
def train(model, epochs, encoder_rate):
    """Trains in place; returns the loss of each step, in nats per word (<END> is one)."""

    def read(rows):
        return PictureBatch(images, rows)

    learner = model
    if not model.learning:  # a frozen encoder looks once, and its grids are kept
        with torch.no_grad():
            kept = model.grid_of(read(np.arange(TRAINING))).numpy()
        learner, read, encoder_rate = model.decoder, kept.__getitem__, None
    engine = TorchEngine(
        learner, "adam", {"learning_rate": 2e-3}, 5.0, encoder_learning_rate=encoder_rate
    )
    rng, losses = np.random.default_rng(1), []
    for _ in range(epochs):
        for rows in rng.permutation(TRAINING).reshape(-1, 24):
            losses.append(engine.compute(read(rows), captions[rows]) / 4)
            engine.update()
    return losses


def held_out(model):
    """The loss of a word, in nats, and the shares of colours and kinds said rightly."""
    rows = np.arange(TRAINING, TRAINING + HELD_OUT)
    unseen = PictureBatch(images, rows)
    said = greedy(model, unseen, max_length=5)
    right = (said[:, 1:3] == captions[rows, 2:4]).mean(axis=0)  # behind <START> a
    return {
        "loss": model.evaluate(unseen, captions[rows]) / 4,
        "colour": right[0],
        "kind": right[1],
    }


def as_text(found):
    return (
        f"loss {found['loss']:.2f}, colour {found['colour']:.0%}, kind {found['kind']:.0%}"
    )


runs, found = {}, {}
for name, stages in (("frozen", 0), ("two stages open", 2)):
    runs[name] = captioner(stages)
    losses = train(runs[name], 4, encoder_rate=1e-3)
    plt.plot(np.convolve(losses, np.ones(8) / 8, "valid"), label=name)
    found[name] = held_out(runs[name])
    print(f"{name:<16} held out: {as_text(found[name])}")
plt.gca().set(
    xlabel="step", ylabel="training loss (nats per word)", ylim=(0, None),
    title="The same decoder over a frozen and an open encoder",
)  # fmt: skip
plt.legend()
plt.show()
assert found["two stages open"]["loss"] < 0.85 * found["frozen"]["loss"]
assert found["two stages open"]["colour"] > 0.95

# %% [markdown]
# A frozen *random* encoder is better than one might fear: random filters tell most colours apart, and the decoder
# makes do with them. The open one is ahead from the first epoch on and names every colour in the end. Kinds are
# harder: after so few steps both get only about every second one right (chance is a third; with 120 pictures a
# share is known to four or five points). The full run below takes fifty times as many steps.
#
# ### Two learning rates
#
# Now the situation of a *pretrained* encoder: it knows something, the decoder is new. We keep the encoder that has
# just learned, put a fresh decoder on it, open the two stages again, and train for two epochs with different
# learning rates for the encoder. The decoder's is $2 \cdot 10^{-3}$ throughout; with that rate for the encoder, too,
# we try two seeds.

# %%
grown = {
    name: value for name, value in runs["two stages open"].params.items()
    if name.startswith("encoder.")
}  # fmt: skip
after = {}
for rate, seed in ((0, 7), (1e-4, 7), (2e-3, 7), (2e-3, 8), (1e-2, 7)):
    fresh = captioner(2 if rate else 0, seed=seed)
    fresh.params = {**fresh.params, **grown}
    train(fresh, 2, encoder_rate=rate)
    now = after[rate] = held_out(fresh)
    moved = np.sqrt(
        sum(((fresh.params[n] - v) ** 2).sum() for n, v in grown.items())
        / sum((v**2).sum() for v in grown.values())
    )
    print(
        f"encoder's rate {rate or 'frozen':<7} seed {seed}: weights moved by {moved:>4.0%}; "
        f"{as_text(now)}"
    )
    assert rate != 2e-3 or now["loss"] > after[0]["loss"]
assert after[1e-2]["loss"] > 1.5 * max(after[0]["loss"], after[1e-4]["loss"])
assert after[1e-2]["colour"] < 0.6 and min(after[0]["colour"], after[1e-4]["colour"]) > 0.9
assert abs(after[0]["loss"] - after[1e-4]["loss"]) < 0.05  # so short a time brings no gain

# %% [markdown]
# In its first steps a fresh decoder sends gradients that mean nothing. At a high rate the encoder follows
# them, and what it knew is gone before the decoder can use it. At the decoder's own rate it is a matter of
# luck: one decoder finds its way, and with another seed the encoder is lost. Two epochs show this danger, and nothing
# else. They do not show which rate is best, and at the low rate the open encoder gains nothing over the frozen one in
# so short a time. What is usual: first a frozen encoder, whose features are computed once and
# kept; then open the last stages (the first ones, edges and colours, serve every task), with a rate well below the
# decoder's, to be chosen on held-out data. Two commands of [docs/photos.md](../docs/photos.md) do just this with a
# ResNet-101 on real photos: the first trains the decoder alone
# (`--encoder resnet101 --weights download --out runs/frozen`), the second starts from it
# (`--init runs/frozen`), opens two stages (`--finetune_encoder 2`) and gives them a rate of $10^{-5}$
# (`--encoder_learning_rate 1e-5`) beside $10^{-4}$ for the decoder. They need a download and, without a GPU,
# patience. What needs neither is the embedded data from pixels:
#
#     python training.py --model attention --encoder tiny_cnn
#
# opens all five stages from random weights. The [results on shapes](../docs/results-shapes.md) report 10 minutes and
# 97.3 % of captions true of held-out pictures; the features that were written down by hand reach 98.3 %, so the CNN
# has found out nearly all by itself.
#
# ## Exercises
#
# Write your answers in [the exercises](exercises/12_the_encoder.ipynb); the notebook tells you at once
# whether they hold.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 · How large is the answer? (one line)
#
# The side of the output of a convolution or pooling with kernel $k$, stride $s$ and padding $p$, for an input of
# side `size`.


# %% tags=["exercise"]
def size_after(size, k, stride, pad):
    ### BEGIN SOLUTION
    return (size + 2 * pad - k) // stride + 1
    ### END SOLUTION


def sizes_after(cases):
    return [size_after(*case) for case in cases]


def counted(cases):
    """The same by counting the places where a window fits."""
    return [len(range(0, size + 2 * p - k + 1, s)) for size, k, s, p in cases]


# VGG16's convolution and pooling, SqueezeNet's first, ResNet's first, a patch of a vision transformer
cases = [(224, 3, 1, 1), (224, 2, 2, 0), (224, 3, 2, 0), (224, 7, 2, 3), (224, 16, 16, 0)]
compare(
    sizes_after,
    counted,
    cases,
    also={
        "for a kernel as large as the input": ([(3, 3, 1, 0), (3, 3, 2, 0), (1, 1, 1, 0)],),
        "when the stride leaves places over": ([(10, 3, 4, 0), (11, 4, 5, 2)],),
    },
    exercise="12.1",
)

# %% [markdown] tags=["exercise"]
# ### Exercise 2 · Fold a frozen batch normalisation away
#
# With fixed statistics, batch normalisation is affine:
# $y = \gamma\,(z - \mu)/\sqrt{\sigma^2 + \epsilon} + \beta$ for each channel, where $z$ is the output of a
# convolution with kernel $K$ and bias $b$. A convolution followed by an affine map is a convolution. Return
# its kernel and bias. (This is how trained networks are made faster for use.) The oracle does not know the
# formula: it measures the answer by feeding single bright pixels.


# %% tags=["exercise"]
def fold(K, b, mu, var, gamma, beta, eps):
    """(F, C, k, k) and five vectors (F,) -> the kernel and the bias of one convolution."""
    ### BEGIN SOLUTION
    scale = gamma / np.sqrt(var + eps)
    return K * scale[:, None, None, None], (b - mu) * scale + beta
    ### END SOLUTION


def measured(K, b, mu, var, gamma, beta, eps):
    """Sends nothing, then one pixel after the other, through torch's two layers."""
    tensors = [torch.from_numpy(a) for a in (K, b, mu, var, gamma, beta)]

    def both(x):
        z = F.conv2d(torch.from_numpy(x), tensors[0], tensors[1])
        return F.batch_norm(z, *tensors[2:], eps=eps).numpy()[0, :, 0, 0]

    bias = both(np.zeros((1, *K.shape[1:])))
    kernel = np.empty_like(K)
    for place in np.ndindex(K.shape[1:]):
        x = np.zeros((1, *K.shape[1:]))
        x[(0, *place)] = 1
        kernel[(slice(None), *place)] = both(x) - bias
    return kernel, bias


rng = np.random.default_rng(5)
layer = (
    rng.standard_normal((4, 3, 2, 2)),
    *rng.standard_normal((2, 4)),
    rng.uniform(0.5, 2, 4),
)
layer += *rng.standard_normal((2, 4)), 1e-5
one_channel = *(array[:1] for array in layer[:-1]), 0.5


compare(
    fold,
    measured,
    *layer,
    also={"for one channel and eps = 0.5": one_channel},
    exercise="12.2",
)

# %% [markdown] tags=["exercise"]
# ### Exercise 3 · A project: the detective
#
# A colleague sends you features that she made with the fixed CNN, and her model says strange things. You have
# her pictures and the encoder. Write `which_habit`: try the usual suspects on the pictures, and return the
# name of the one whose features are hers: `"none"` (all is right), `"blue first"`, `"0 to 1"`, `"mirrored"`
# (left and right exchanged) or `"quarter turn"` (`np.rot90`). Her features are stored in float16, so they
# agree to three digits only, and she did not keep the pictures in the order that you have.
# `fixed_cnn.grid_features` makes `(N, 64, 47)` features of `(N, 64, 64, 3)` pictures.


# %% tags=["exercise"]
def which_habit(pictures, features):
    """(N, 64, 64, 3) uint8 pictures, (N, 64, 47) float16 features -> a name."""
    ### BEGIN SOLUTION
    habits = {
        "none": lambda p: p,
        "blue first": lambda p: p[..., ::-1],
        "0 to 1": lambda p: p / 255,
        "mirrored": lambda p: p[:, :, ::-1],
        "quarter turn": lambda p: np.rot90(p, axes=(1, 2)),
    }

    def distance(habit):
        ours = fixed_cnn.grid_features(np.ascontiguousarray(habit(pictures)))
        ours, hers = ours.reshape(len(ours), -1), features.reshape(len(ours), -1)
        gaps = np.abs(hers[:, None].astype(np.float32) - ours[None]).max(axis=2)
        return gaps.min(axis=1).max()  # each of hers must be one of ours

    return min(habits, key=lambda name: distance(habits[name]))
    ### END SOLUTION


def all_cases(cases):
    return [which_habit(pictures, features) for pictures, features in cases]


def sent(seed):
    """Pictures, the features of a colleague with a habit, and its name."""
    rng = np.random.default_rng(seed)
    pictures = np.stack([scenes.render(scenes.draw_scene(rng), rng) for _ in range(6)])
    spoiled = {
        "none": pictures,
        "blue first": pictures[..., [2, 1, 0]],
        "0 to 1": pictures / 255,
        "mirrored": np.flip(pictures, axis=2),
        "quarter turn": np.stack([np.rot90(p) for p in pictures]),
    }
    name = list(spoiled)[seed % 5]
    features = fixed_cnn.grid_features(np.ascontiguousarray(spoiled[name]))
    return pictures, rng.permutation(features).astype(np.float16), name


letters = [sent(seed) for seed in (13, 2, 30, 11, 14)]
compare(
    all_cases, lambda _: [name for *_, name in letters], [letter[:2] for letter in letters]
)

# %% [markdown]
# ## What to keep
#
# * A convolution is one small affine layer at every place. Its backward is two convolutions: of the input by
#   $dy$, and of $dy$ by the kernels turned half round.
# * A cell of the grid has seen far more than the patch under it, and most strongly what lies near its middle.
# * Weights and work are different things: VGG16's weights are in its affine layers, its work in its convolutions.
# * Variance kept is not meaning kept.
# * Evaluation mode, frozen statistics, scale, colour order, upright photos: none of them raises an error, each
#   ruins every caption. Keep the constants in the checkpoint.
# * First a new decoder over a frozen encoder, then both, the encoder at a much smaller rate.
#
# **Sources.** Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, *Gradient-based learning applied to document
# recognition*, Proceedings of the IEEE 86 (1998). K. Simonyan and A. Zisserman, *Very deep convolutional
# networks for large-scale image recognition*, ICLR 2015. F. Iandola et al., *SqueezeNet: AlexNet-level
# accuracy with 50x fewer parameters and <0.5MB model size*, arXiv:1602.07360, 2016. K. He, X. Zhang, S. Ren
# and J. Sun, *Deep residual learning for image recognition*, CVPR 2016. S. Ioffe and C. Szegedy, *Batch
# normalization*, ICML 2015. Y. Wu and K. He, *Group normalization*, ECCV 2018. W. Luo, Y. Li, R. Urtasun and
# R. Zemel, *Understanding the effective receptive field in deep convolutional neural networks*, NIPS 2016.
# K. Pearson, *On lines and planes of closest fit to systems of points in space*, Philosophical Magazine 2 (1901).
# K. Xu et al., *Show, attend and tell*, ICML 2015.
#
# **Next:** [lesson 13, is it any good?](13_is_it_any_good.ipynb): how captions are scored, and what a score
# does not say.
