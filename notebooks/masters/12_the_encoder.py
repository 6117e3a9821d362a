# %% [markdown]
# # 12 · The encoder
#
# **The question.** A decoder reads *features*: one vector, or a grid of vectors. A photo is a block of numbers from 0
# to 255. What turns the photo into features? And how can one wrong constant in this part make a good decoder useless?
#
# You build a convolution in NumPy, forward and backward. You compute which pixels a cell of the grid has seen. You ruin
# features in three ways that raise no error, and you train an encoder together with its decoder.
#
# *Before: [lesson 3](03_affine_embedding_softmax.ipynb) (affine layers) and
# [lesson 8](08_soft_attention.ipynb) (what reads the grid). About 50 minutes; all cells together run in a minute.
# Nothing is downloaded. [12b](12b_larger_encoders.ipynb) goes deeper: strides, pooling, VGG16, PCA, learning rates.*

# %% tags=["setup"]
import dataclasses
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Rectangle
from PIL import Image
from torch import nn
from torch.nn import functional

from core import lessons, scenes
from core.checkpoint import load_checkpoint
from core.coco_utils import build_vocabulary, decode_captions, encode_captions, image_path
from core.decoding import beam_search, greedy
from core.encoders import PREPROCESSING, Extractor, fixed_cnn, prepare_pictures
from core.encoders.pictures import PictureBatch
from core.encoders.tiny_cnn import TinyCNN
from core.encoders.weights import load_network
from core.gradient_check import eval_numerical_gradient_array, relative_error
from core.image_utils import load_image, normalise, resize_and_crop
from core.lessons import GREY, ORANGE, Sketch, compare, movable
from core.runs.data import check_same_data
from core.shapes import caption_is_true, load_scenes
from core.torch_models import TorchEngine, build_end_to_end

lessons.style()


# What answers the tasks.
def filtered_by_torch(x, w):
    x, w = torch.from_numpy(x)[None, None], torch.from_numpy(w)[None, None]
    return functional.conv2d(x, w)[0, 0].numpy()


def row_backward_measured(dy, w):
    x = np.zeros(len(dy) + len(w) - 1)
    return eval_numerical_gradient_array(lambda x: np.correlate(x, w), x, dy)


def field_by_walking(layers):
    """Walks down from cells 0 and 1 of the last layer to the pixels that they read."""
    starts, end = [0, 1], 0
    for k, stride in reversed(layers):
        starts, end = [stride * cell for cell in starts], stride * end + k - 1
    return end + 1, starts[1]


def normalised_by_core(pictures, mean, std):
    return normalise(pictures, mean, std).astype(float)


def but_not_unscaled(function):
    """Names the typical slip of the last task."""

    def normalised(pictures, mean, std):
        y = function(pictures, mean, std)
        far = isinstance(y, np.ndarray) and np.abs(y).max() > 50
        assert not far, (
            "the mean is of numbers from 0 to 1; scale the pictures to that first"
        )
        return y

    return normalised


SOME = np.random.default_rng(0)
A_PICTURE, A_FILTER = SOME.random((6, 5)), SOME.random((3, 3))
DY = SOME.standard_normal(5)
BYTES = SOME.integers(256, size=(2, 4, 3, 3)).astype(np.uint8)
MEAN, STD = (np.array(PREPROCESSING["vgg16"][key]) for key in ("mean", "std"))

# %% [markdown]
# ## By hand, on a 4 x 4 picture
#
# A **convolution** lays a small square of weights, the *filter* or *kernel*, over a picture. It multiplies each weight
# with the pixel under it and adds up the products: one number. Then the filter moves on by one pixel.
#
# The picture below is dark on the left (0) and bright on the right (2). The filter has $-1$ in its left column and $+1$
# in its right column. It answers where the picture gets brighter from left to right.
#
# **Predict.** The filter fits at four places. What does it answer at the lower left one (row 1 and column 0, counted from
# 0)? Compute it, then move the sliders.

# %% tags=["hide-input"]
picture = np.array([[0.0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 2, 2], [1, 1, 2, 2]])
kernel = np.array([[-1.0, 0, 1], [-1, 0, 1], [-1, 0, 1]])


def at_place(row, column):
    """The filter over one place of the picture, and its answer."""
    sketch = Sketch(7, 2.6)
    numbers = [f"{v:.0f}" for v in picture.ravel()]
    sketch.cells(1.3, 1.15, picture / 4, 0.5, np.reshape(numbers, (4, 4)))
    corner = 0.3 + 0.5 * column, 2.15 - 0.5 * row - 1.5
    sketch.axes.add_patch(
        Rectangle(corner, 1.5, 1.5, fill=False, edgecolor=ORANGE, linewidth=3, zorder=4)
    )
    numbers = [f"{v:+.0f}" if v else "0" for v in kernel.ravel()]
    sketch.cells(3.5, 1.15, np.zeros((3, 3)), 0.5, np.reshape(numbers, (3, 3)))
    left, *_, right = picture[row : row + 3, column : column + 3].sum(axis=0)
    sketch.text(5.75, 1.5, f"right column {right:.0f}")
    sketch.text(5.75, 1.15, f"left column {left:.0f}")
    sketch.text(5.75, 0.8, f"answer {right - left:.0f}", ORANGE, 14)
    for x, name in ((1.3, "picture"), (3.5, "filter"), (5.75, "at this place")):
        sketch.text(x, 2.4, name, GREY)


movable(at_place, start={"row": 0, "column": 0}, row=[0, 1], column=[0, 1])

# %% [markdown]
# <details><summary>Answer</summary>
#
# 5. The right column of the window sums to 6, the left one to 1. At both upper places the answer is 6.
#
# </details>
#
# Four places, so the output is 2 x 2. The same nine weights serve every place. An affine layer from 4 x 4 to 2 x 2
# numbers would have 64 weights.
#
# **Task.** Write it: one filter over one picture.


# %% tags=["task"]
def filtered(x, w):
    """(rows, columns), (k, k) -> the sum of products at each place where the filter fits."""
    k = len(w)
    y = np.zeros((x.shape[0] - k + 1, x.shape[1] - k + 1))
    ### BEGIN SOLUTION
    for i, j in np.ndindex(y.shape):
        y[i, j] = (x[i : i + k, j : j + k] * w).sum()
    ### END SOLUTION
    return y


also = {"for a filter that half a turn changes": (A_PICTURE, A_FILTER)}
symmetric = A_FILTER + A_FILTER[::-1, ::-1]
compare(filtered, filtered_by_torch, A_PICTURE, symmetric, also=also)

# %% [markdown]
# (In mathematics a convolution first turns the filter by half a turn. Deep learning libraries do not. Remember the half
# turn: it comes back in the backward.) Here are the same filter and its transpose on a picture of this project's own
# data. In red places it gets darker:

# %% tags=["hide-input"]
data = lessons.embedded_data("attention")
pictures = [load_image(image_path(data, "val", i)) for i in range(100)]
scenes_of_pictures = load_scenes(data["source"]["folder"], "val")[:100]
grey = pictures[5].mean(axis=2) / 255


def answers(x, w):
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape)
    return np.einsum("ijuv,uv->ij", windows, w)


assert np.array_equal(answers(picture, kernel), [[6, 6], [5, 5]])
shown = [
    ("the picture, in grey", grey, "gray", (0, 1)),
    ("blue: brighter to the right", answers(grey, kernel), "RdBu", (-2, 2)),
    ("blue: brighter downwards", answers(grey, kernel.T), "RdBu", (-2, 2)),
]
figure, axes = plt.subplots(1, 3, figsize=(9, 2.9))
for ax, (title, values, colours, (low, high)) in zip(axes, shown, strict=True):
    ax.imshow(values, cmap=colours, vmin=low, vmax=high)
    ax.set_title(title, fontsize=12)
    ax.axis("off")
plt.show()

# %% [markdown]
# ## The forward
#
# A photo has three channels, and a layer has many filters. Each filter reads **all** channels of its window and makes
# **one** channel of the output:
#
# | | shape | |
# | --- | --- | --- |
# | $x$ | $(N, C, \text{rows}, \text{columns})$ | $N$ pictures with $C$ channels |
# | $w$ | $(F, C, k, k)$ | $F$ filters, each $k \times k$ over all channels |
# | $b$ | $(F,)$ | one bias per filter |
# | $y$ | $(N, F, \text{rows}', \text{columns}')$ | $F$ channels |
#
# Two more numbers say where the windows are. **Padding** puts a frame of zeros around the picture, so that the output
# need not shrink. The **stride** is the step from one window to the next. With the padded picture $P$ and stride $s$:
#
# $$ y_{nfij} = b_f + \sum_{c,u,v} P_{nc,\,si+u,\,sj+v}\; w_{fcuv} $$
#
# NumPy can show all windows of an array without copying it, as two more axes. `np.einsum` takes the letters of the
# equation: it multiplies, and sums over the letters that are missing after `->`.


# %%
def windows_of(P, k, stride=1):
    """(N, C, rows, columns) -> (N, C, rows', columns', k, k): what is under the filter."""
    windows = np.lib.stride_tricks.sliding_window_view(P, (k, k), axis=(2, 3))
    return windows[:, :, ::stride, ::stride]


def conv2d_forward(x, w, b, stride=1, pad=0):
    """(N, C, rows, columns), (F, C, k, k), (F,) -> (N, F, rows', columns')."""
    P = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    y = np.einsum("ncijuv,fcuv->nfij", windows_of(P, w.shape[2], stride), w)
    return y + b[:, None, None], (P, w, pad)


# %% [markdown]
# **Predict.** A picture has 7 rows and 6 columns. The filter is 3 x 3, the padding 1, the stride 2. How many rows and
# columns does the output have? Draw a row of squares and count the windows.

# %%
rng = np.random.default_rng(0)
# N, F, k, C, rows and columns all differ: a mixed-up axis does not fit.
x, w = rng.standard_normal((2, 5, 7, 6)), rng.standard_normal((4, 5, 3, 3))
b = rng.standard_normal(4)
y, _ = conv2d_forward(x, w, b, stride=2, pad=1)
print("x", x.shape, "w", w.shape, "-> y", y.shape)
of_torch = functional.conv2d(*map(torch.from_numpy, (x, w, b)), stride=2, padding=1)
assert relative_error(y, of_torch.numpy()) < 1e-12

moved, _ = conv2d_forward(np.roll(x, 1, axis=3), w, b)
still, _ = conv2d_forward(x, w, b)
assert np.allclose(moved[..., 1:], still[..., :-1])
print("equal to torch; when the picture moves by a pixel, the output moves by a pixel")

# %% [markdown]
# <details><summary>Answer</summary>
#
# 4 x 3. The padded picture has 9 rows and 8 columns. Windows begin at rows 0, 2, 4 and 6, and at columns 0, 2 and 4. A
# window at column 6 would not fit. Exercise 1 asks for the formula.
#
# </details>
#
# The last line printed is the reason for convolutions: what a filter learns about a shape at one place holds at all
# places.
#
# ## The backward: who reads this pixel?
#
# We are given $dy$ and want $db$, $dw$ and $dx$. For each of them ask: which outputs read it?
#
# Each **bias** is added to every number of its channel. So $db_f$ is the sum of $dy$ over that channel, in all pictures.
#
# Each **weight** is used at every place, multiplied with the pixel under it. So $dw_{fcuv}$ is the sum, over all places
# of all pictures, of $dy$ times that pixel:
#
# $$ dw_{fcuv} = \sum_{n,i,j} dy_{nfij}\; P_{nc,\,i+u,\,j+v} \qquad \text{(stride 1)} $$
#
# Each **pixel** is the interesting case. Look at one row of pixels and a filter of three weights:
# $y_i = w_0 x_i + w_1 x_{i+1} + w_2 x_{i+2}$. Which outputs read $x_2$?

# %% tags=["hide-input"]
sketch = Sketch(7.2, 2.6)
below = [sketch.box(0.9 + 1.35 * i, 0.4, f"$x_{i}$", "given") for i in range(5)]
above = [sketch.box(2.25 + 1.35 * i, 2.0, f"$y_{i}$") for i in range(3)]
for i in range(3):
    sketch.arrow(above[i], below[2], kind="gradient")
for x_, text in ((2.65, "$w_2$"), (3.9, "$w_1$"), (4.55, "$w_0$")):
    sketch.text(x_, 1.28, text, ORANGE, 14)
sketch.show()

# %% [markdown]
# $y_0$ reads it with the weight $w_2$, $y_1$ with $w_1$ and $y_2$ with $w_0$. So
#
# $$ dx_2 = w_2\, dy_0 + w_1\, dy_1 + w_0\, dy_2 $$
#
# This is again a filter that moves over a row. Now it moves over $dy$, and the weights are **in reverse order**. Pixels
# near the ends have fewer readers: put $k - 1$ zeros on both sides of $dy$.
#
# **Task.** Write $dx$ for one row.


# %% tags=["task"]
def row_backward(dy, w):
    """dy (n - k + 1,), w (k,) -> dx (n,), for y[i] = sum over u of x[i + u] * w[u]."""
    k = len(w)
    dx = np.zeros(len(dy) + k - 1)
    ### BEGIN SOLUTION
    framed = np.pad(dy, k - 1)
    for a in range(len(dx)):
        dx[a] = framed[a : a + k] @ w[::-1]
    ### END SOLUTION
    return dx


also = {"when the order of the weights matters": (DY, np.array([1.0, 2.0, 4.0]))}
compare(row_backward, row_backward_measured, DY, np.array([1.0, 2.0, 1.0]), also=also)

# %% [markdown]
# In two dimensions, reverse the rows and the columns of the filter: that is half a turn. All $F$ filters read a pixel, so
# $dx$ sums over $f$ where the forward summed over $c$: the two axes change places. The backward is two more convolutions.
# For $dw$, $dy$ moves over $P$. For $dx$, the turned filters move over $dy$ and its frame of zeros.


# %%
def conv2d_backward(dy, cache):
    """(N, F, rows', columns') -> dx, dw, db, for stride 1."""
    P, w, pad = cache
    k = w.shape[2]
    db = dy.sum(axis=(0, 2, 3))
    # y[n, f, i, j] = sum over c, u, v of windows[n, c, i, j, u, v] * w[f, c, u, v]
    dw = np.einsum("nfij,ncijuv->fcuv", dy, windows_of(P, k))
    framed = np.pad(dy, ((0, 0), (0, 0), (k - 1, k - 1), (k - 1, k - 1)))
    turned = w[:, :, ::-1, ::-1].swapaxes(0, 1)  # (C, F, k, k)
    dP, _ = conv2d_forward(framed, turned, np.zeros(len(turned)))
    # P = pad(x), so dx is dP without the frame
    return dP[:, :, pad : P.shape[2] - pad, pad : P.shape[3] - pad], dw, db


# %% tags=["hide-input"]
for pad in (0, 1):
    y, cache = conv2d_forward(x, w, b, pad=pad)
    dy = rng.standard_normal(y.shape)
    tensors = [torch.from_numpy(a).requires_grad_() for a in (x, w, b)]
    autograd = torch.autograd.grad(
        functional.conv2d(*tensors, padding=pad), tensors, torch.from_numpy(dy)
    )
    gradients = conv2d_backward(dy, cache)
    for value, gradient, theirs in zip((x, w, b), gradients, autograd, strict=True):
        numerical = eval_numerical_gradient_array(
            lambda _, p=pad: conv2d_forward(x, w, b, pad=p)[0], value, dy
        )
        assert relative_error(gradient, numerical) < 1e-8
        assert relative_error(gradient, theirs.numpy()) < 1e-12
print("dx, dw and db agree with central differences to 1e-8, with torch to 1e-12")

# %% [markdown]
# Test a backward with random weights. A blur (1 2 1 in each direction) looks the same after half a turn, so it cannot
# find a forgotten one: [12b](12b_larger_encoders.ipynb) tries it.
#
# ## Which pixels has a cell of the grid seen?
#
# Stack convolutions, and you have a *convolutional neural network*, a **CNN**. Each number of its last layer depends on a
# larger part of the photo, its **receptive field**. Attention chooses among the cells of the last layer. Does cell (3, 5)
# depend on the patch of the photo at that place, and on nothing else?

# %% tags=["hide-input"]
sketch = Sketch(7.2, 2.6)
rows = []
for layer, (count, y_) in enumerate(((9, 0.4), (4, 1.3), (2, 2.2))):
    spacing = 0.6 * 2**layer
    left = 2.1 + (spacing - 0.6) / 2 + (0.6 if layer == 1 else 1.2 if layer == 2 else 0) / 2
    rows.append([(left + spacing * i, y_) for i in range(count)])
seen = [range(7), range(3), range(1)]
for layer, row in enumerate(rows):
    for i, (x_, y_) in enumerate(row):
        sketch.box(x_, y_, "", "gradient" if i in seen[layer] else "given", 0.42, 0.42)
for layer in (1, 2):
    for i in seen[layer]:
        for j in range(3):
            sketch.arrow(
                (rows[layer][i][0], rows[layer][i][1] - 0.21),
                (rows[layer - 1][2 * i + j][0], rows[layer - 1][2 * i + j][1] + 0.21),
                kind="gradient",
            )
for y_, text in ((0.4, "photo"), (1.3, "layer 1"), (2.2, "layer 2")):
    sketch.text(0.9, y_, text, GREY)
sketch.show()

# %% [markdown]
# Both layers have $k = 3$ and stride 2. The cell of layer 2 reads three cells of layer 1, and through them seven pixels.
# Neighbours in layer 1 are 2 pixels apart; neighbours in layer 2 are 4 pixels apart. Call this distance the *jump*.
#
# From one layer to the next, the field grows by $k - 1$ jumps of the layer **below**, and the jump grows by the factor
# stride. The photo itself has a field of 1 and a jump of 1.
#
# **Task.** Write the recursion.


# %% tags=["task"]
def receptive_field(layers):
    """[(k, stride), ...] from the photo up -> field and jump of the last layer, in pixels."""
    field, jump = 1, 1
    ### BEGIN SOLUTION
    for k, stride in layers:
        field, jump = field + (k - 1) * jump, stride * jump
    ### END SOLUTION
    return field, jump


also = {
    "when the last stride is 2": ([(5, 1), (3, 2)],),
    "for strides of 2": ([(3, 2)] * 3,),
}
compare(receptive_field, field_by_walking, [(3, 1), (3, 1)], also=also)

# %% [markdown]
# Now the tiny CNN that you train below, and two published networks, VGG16 and SqueezeNet. The field does not depend on
# the weights, so we use random ones. To verify the numbers, we send a gradient of 1 down from one cell and look which
# pixels it reaches:

# %% tags=["hide-input"]
pool = (2, 2)
LAYERS = {
    "tiny_cnn": [(5, 2), (3, 2), (3, 1), (3, 2), (3, 1)],
    "vgg16": [
        *[(3, 1)] * 2, pool, *[(3, 1)] * 2, pool, *[(3, 1)] * 3, pool, *[(3, 1)] * 3, pool,
        *[(3, 1)] * 3,
    ],
    "squeezenet1_1": [
        (3, 2), (3, 2), *[(3, 1)] * 2, (3, 2), *[(3, 1)] * 2, (3, 2), *[(3, 1)] * 4,
    ],
}  # fmt: skip
for name, layers in LAYERS.items():
    field, jump = field_by_walking(layers)
    size = PREPROCESSING[name]["size"]
    print(f"{name:<14} a cell sees {field} of {size} pixels; cells are {jump} pixels apart")
assert field_by_walking(LAYERS["tiny_cnn"]) == (41, 8)
assert field_by_walking(LAYERS["vgg16"]) == (196, 16)
assert field_by_walking(LAYERS["squeezenet1_1"]) == (207, 16)


def reached_by(network, size, cell):
    """(size, size): by how much each pixel moves the sum of a cell's channels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, size, size, generator=generator, requires_grad=True)
    network(x)["grid"][0, :, cell[0], cell[1]].sum().backward()
    return x.grad[0].abs().sum(dim=0).numpy()


def width_of(reached):
    """How many columns and rows are reached at all."""
    return tuple(int(np.ptp(np.flatnonzero(reached.any(axis=axis)))) + 1 for axis in (0, 1))


bare = load_network("tiny_cnn", "random")
for stage in bare.stages:  # leave the convolutions alone
    stage[1] = nn.Identity()
maps = {
    "squeezenet1_1: 224 pixels": reached_by(
        load_network("squeezenet1_1", "random"), 224, (6, 6)
    ),
    "tiny_cnn: 64 pixels": reached_by(bare, 64, (4, 4)),
}
figure, axes = plt.subplots(1, 2, figsize=(7.5, 3.3))
for ax, (title, reached) in zip(axes, maps.items(), strict=True):
    influence = np.log10(np.maximum(reached / reached.max(), 1e-5))
    mappable = ax.imshow(influence, cmap="Blues", vmin=-5, vmax=0)
    ax.set_title(title, fontsize=12)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
bar = figure.colorbar(mappable, ax=axes, shrink=0.8, ticks=(-4, -2, 0))
bar.set_ticklabels(("1/10,000", "1/100", "most"))
bar.set_label("influence")
plt.show()

of_squeezenet, of_bare = maps.values()
assert width_of(of_squeezenet) == (207, 207) and width_of(of_bare) == (41, 41)
share = of_squeezenet.sum(axis=0).cumsum() / of_squeezenet.sum()
middle = np.searchsorted(share, 0.75) - np.searchsorted(share, 0.25)
print(f"squeezenet1_1: half of the influence comes from {middle} of the 207 columns")
assert 30 < middle < 55

# %% [markdown]
# The widths are those of the recursion, to the pixel. A cell of SqueezeNet has seen almost the whole photo. But half of
# the influence comes from a fifth of the width: many more paths lead to the pixels right under the cell than to the rim.
# So an attention map on a photo shows roughly where the model looked. It does not prove that other pixels had no part.
# (The tiny CNN is shown without its normalisation, which widens the field: [12b](12b_larger_encoders.ipynb).)
#
# ## A network that you can read
#
# The features of this project's own data come from a CNN that nobody trained: its filters are written by hand. The first
# layer asks of each pixel which of five colours it has, and halves the resolution. The second lays six 13 x 13 filters
# over the map of each colour: a circle, a square and a triangle, small and large. Their weights are positive inside the
# shape (red) and negative around it (blue). Last, each cell of an 8 x 8 grid keeps the strongest answer: **max pooling**.

# %% tags=["picture", "hide-input"]
picture_5 = np.stack([pictures[5]])
colours = fixed_cnn._pool(fixed_cnn._colour_layer(picture_5), 2, np.mean)  # (1, 32, 32, 5)
outlines = fixed_cnn._silhouette_filters().T.reshape(6, 1, 13, 13)
as_maps = colours.transpose(3, 0, 1, 2)  # each colour is a picture with one channel
responses, _ = conv2d_forward(as_maps, outlines, np.zeros(6), pad=6)
of_core = fixed_cnn._silhouette_layer(colours)[0].transpose(2, 3, 0, 1)  # (5, 6, 32, 32)
there = (as_maps**2).sum(axis=(1, 2, 3)) > 1  # core skips colours that are not there
assert relative_error(responses[there], of_core[there]) < 1e-5 and not of_core[~there].any()

grid = fixed_cnn.grid_features(picture_5)[0]
assert grid.shape == (64, 5 * 6 + 5 + 12)
assert np.allclose(grid[:, -12:], fixed_cnn.position_code().reshape(64, 12))
kinds = [f"{size} {kind}" for kind in scenes.KINDS for size in scenes.RADII]
colour = int(as_maps.sum(axis=(1, 2, 3)).argmax())  # the colour of which there is most
name = list(scenes.COLOURS)[colour]
strongest = int(grid[:, 6 * colour : 6 * colour + 6].max(axis=0).argmax())
panels = [
    ("the picture", pictures[5], None),
    (f"how {name}", as_maps[colour, 0], "Blues"),
    (f"filter: {kinds[strongest]}", outlines[strongest, 0], "RdBu_r"),
    ("its answers", np.maximum(responses[colour, strongest], 0), "Blues"),
    ("8 x 8 grid", grid[:, 6 * colour + strongest].reshape(8, 8), "Blues"),
]
figure, axes = plt.subplots(1, 5, figsize=(10, 2.4))
for ax, (title, values, colour_map) in zip(axes, panels, strict=True):
    ax.imshow(values, cmap=colour_map)
    ax.set_title(title, fontsize=12)
    ax.axis("off")
plt.show()
said = ", ".join(f"{s.size} {s.colour} {s.kind}" for s in scenes_of_pictures[5])
print(
    f"in the picture: {said}; the grid has {grid.shape[0]} cells of {grid.shape[1]} channels"
)

# %% [markdown]
# Of the 47 channels, 30 are the answers of six filters on five colours, after a competition between the six. Five are the
# share of each colour in the cell. Twelve say where the cell is, because a convolution gives the same answer wherever a
# shape is.
#
# ## Three ways to ruin features without an error message
#
# Bad captions need not be the decoder's fault. Each of these mistakes runs without a warning.
#
# ### 1 · Training mode
#
# Dropout sets entries to 0 by chance, in training only ([lesson 10](10_the_transformer_block.ipynb)). VGG16 has it in its
# affine layers, and a new PyTorch network is in training mode. If you forget `.eval()`, you extract features through
# dropout. We build such layers, look twice at each of 64 pictures, and print the mean *cosine* of two features: it is 1
# for the same direction and 0 for directions that have nothing in common.

# %% tags=["hide-input"]
grids = torch.from_numpy(fixed_cnn.grid_features(np.stack(pictures[:64])).reshape(64, -1))
torch.manual_seed(0)
head = nn.Sequential(
    nn.Linear(grids.shape[1], 683), nn.ReLU(), nn.Dropout(),
    nn.Linear(683, 683), nn.ReLU(), nn.Dropout(),
).requires_grad_(False)  # fmt: skip
for layer in head:
    if isinstance(layer, nn.Linear):
        nn.init.kaiming_normal_(layer.weight)  # keeps the size of what passes through ReLUs


def likeness(first, second):
    """Mean cosine of two looks at the same picture, and of looks at two pictures."""
    table = functional.cosine_similarity(first[:, None], second[None], dim=2)
    others = ~torch.eye(len(first), dtype=bool)
    return float(table.diagonal().mean()), float(table[others].mean())


# %%
like = {}
for mode in ("eval", "train"):
    head.train(mode == "train")
    like[mode] = likeness(head(grids), head(grids))
    print(
        f"{mode:<6} one picture twice {like[mode][0]:.2f}, two pictures {like[mode][1]:.2f}"
    )
assert like["eval"][0] > 0.999
assert like["train"][0] < like["eval"][1] - 0.3

# %% [markdown]
# With dropout on, two looks at *one* picture have less in common (0.31) than two *different* pictures have without it
# (0.79). In `core` every network comes from one function, `load_network`, and that calls `.eval()`.
#
# **Batch normalisation** is hurt by training mode, too. For each channel it subtracts a mean and divides by a standard
# deviation. In training these are of the *batch*, and running means of them are kept; in evaluation the kept ones are
# used. No gradient takes part in keeping them, so `requires_grad_(False)` does not freeze them. In training mode a
# "frozen" encoder becomes another one, batch by batch: [12b](12b_larger_encoders.ipynb) measures it.
#
# ### 2 · The wrong scale, the wrong order of colours
#
# Our encoder wants numbers from 0 to 255 in the order red, green, blue. Libraries disagree on both: some load 0 to 1,
# some $-1$ to 1, and OpenCV gives blue first. The trained attention model now captions 100 held-out pictures.
#
# **Predict.** Read as they should be, the pictures get 96 different captions. All are true, and a word has a probability of
# 0.77. How many different captions do you expect from numbers between 0 and 1, and how sure of its words is the model?
# How many captions are true with blue first?

# %% tags=["hide-input"]
model, _ = lessons.load_trained("attention")
checkpoint = load_checkpoint(lessons.TRAINED / "attention" / "best.npz")
extractor = Extractor.rebuild(checkpoint.extractor, checkpoint.extractor_arrays)


def report(name, arrays):
    """A row of the table; returns different captions, the share true, the first, how sure."""
    grid = extractor.finish(fixed_cnn.filter_outputs(np.stack(arrays)))
    ids, scores = beam_search(model, grid, max_length=20)
    captions = decode_captions(ids[:, 0], checkpoint.idx_to_word)
    sure = float(np.exp(scores[:, 0]).mean())
    pairs = zip(captions, scenes_of_pictures, strict=False)
    true = np.mean([caption_is_true(caption, scene) for caption, scene in pairs])
    print(f"{name:<32}{len(set(captions)):>12}{true:>8.0%}{sure:>24.2f}")
    return len(set(captions)), true, captions[0], sure


HEADER = f"{'':<32}{'different':>12}{'true':>8}{'probability of a word':>24}"

# %%
print(HEADER)
right = report("0 to 255, red first (right)", pictures)
scaled = report("0 to 1", [p / 255 for p in pictures])
signed = report("-1 to 1", [p / 127.5 - 1 for p in pictures])
swapped = report("0 to 255, blue first", [p[:, :, ::-1] for p in pictures])
print(f'of the first picture, read rightly: "{right[2]}"')
print(f'of every picture, with 0 to 1:      "{scaled[2]}"')

# %% tags=["hide-input"]
assert right[1] > 0.9 and right[0] > 80
assert scaled[0] == signed[0] == 1 and scaled[1] == 0
assert swapped[0] > 80 and swapped[1] < 0.5
black = fixed_cnn.grid_features(np.stack(pictures) / 255)
assert np.ptp(black, axis=0).max() < 1e-4
touched = [
    any(s.colour in ("red", "blue", "yellow") for s in c) for c in scenes_of_pictures
]
assert abs(1 - np.mean(touched) - swapped[1]) < 0.02
assert right[3] - 0.12 < scaled[3] < right[3] - 0.04 and abs(swapped[3] - right[3]) < 0.02

# %% [markdown]
# <details><summary>Answer</summary>
#
# **One** caption for all hundred pictures, a common complaint. To this encoder, numbers from 0 to 1 are almost black, so
# all grids are the same. The model is nearly as sure of its words as before: 0.69 instead of 0.77.
#
# With blue first, 30 % are true, and the model is as sure as ever. Red shapes are called blue, blue ones red, and yellow
# ones blue, too. Only captions of pictures without these three colours are true. A list of the captions looks fine: you
# see the mistake only with the pictures beside them.
#
# </details>
#
# ### 3 · Turn, crop, resize, normalise: in this order
#
# A phone stores a photo as its sensor saw it, with an **EXIF** entry that says how to turn it. An encoder wants a
# square. We make forty wide "photos" that are stored on their side, and read them in three ways:

# %% tags=["hide-input"]
exif = Image.Exif()
exif[0x0112] = 6  # orientation: turn right by a quarter to view
with tempfile.TemporaryDirectory() as folder_name:
    paths = []
    for i, p in enumerate(pictures[:40]):
        wide = np.pad(p, ((0, 0), (12, 12), (0, 0)), mode="edge")
        photo = Image.fromarray(wide).resize((88 * 4, 64 * 4), Image.Resampling.BICUBIC)
        paths.append(Path(folder_name) / f"{i}.jpg")
        photo.transpose(Image.Transpose.ROTATE_90).save(paths[-1], quality=95, exif=exif)
    upright = [load_image(path) for path in paths]
    lying = [np.asarray(Image.open(path)) for path in paths]
assert lying[0].shape == (352, 256, 3) and upright[0].shape == (256, 352, 3)


def stretched(p):
    return np.asarray(Image.fromarray(p).resize((64, 64), Image.Resampling.BILINEAR))


# %%
print(HEADER)
right = report(
    "turned, cropped, resized (right)", [resize_and_crop(p, 64) for p in upright]
)
turned = report("EXIF ignored", [resize_and_crop(p, 64) for p in lying])
squeezed = report("stretched to a square, no crop", [stretched(p) for p in upright])
assert right[1] > 0.9 and turned[1] < 0.7 and squeezed[1] < 0.6

# %% [markdown]
# With photos on their side 45 % of the captions are true, with squeezed ones 35 %. Normalising comes last, because
# picture libraries resize bytes. Its constants must be those with which the weights were trained. VGG16 and SqueezeNet were
# trained on *ImageNet*, a million photos: scale to 0 to 1, subtract ImageNet's mean, divide by its standard deviation,
# per channel.
#
# **Task.** Write that.


# %% tags=["task"]
def normalised(pictures, mean, std):
    """(N, rows, columns, 3) bytes, (3,), (3,) -> floats of the same shape."""
    ### BEGIN SOLUTION
    return (pictures / 255 - mean) / std
    ### END SOLUTION


compare(but_not_unscaled(normalised), normalised_by_core, BYTES, MEAN, STD, tolerance=1e-5)

# %% [markdown]
# ## What travels in the checkpoint
#
# `core` stores these constants beside the features, and copies them into every checkpoint (the file of a trained model).
# It refuses features that were made with other constants:

# %%
print(checkpoint.extractor)
other = {**checkpoint.extractor, "preprocessing": {"size": 64, "mean": [0.5] * 3}}
try:
    check_same_data(dataclasses.replace(checkpoint, extractor=other), data)
except ValueError as error:
    refused = str(error).partition(": ")[2]
print("with other constants:", refused)

# %% tags=["hide-input"]
assert "extractor" in refused
stored = np.asarray(data["val_features"][:100])
assert (
    relative_error(extractor(pictures), stored) < 1e-4
)  # rebuilt from the checkpoint alone

# %% [markdown]
# ## Training the encoder, too
#
# So far the encoder stayed as it was. But attention's backward ([lesson 8](08_soft_attention.ipynb)) gives the gradient
# for the features, and features are the output of convolutions, whose backward you know. So the gradient can reach the
# first filter:

# %% tags=["hide-input"]
sketch = Sketch(7.6, 2.3)
boxes = [
    sketch.box(0.8, 1.65, "pixels", "given", 1.0),
    sketch.box(2.6, 1.65, "CNN", "op", 1.0),
    sketch.box(4.4, 1.65, "grid", "value", 1.0),
    sketch.box(6.2, 1.65, "decoder", "op", 1.2),
    sketch.box(7.3, 0.5, r"$\mathcal{L}$", "value", 0.5),
]
for i in range(3):
    sketch.arrow(boxes[i], boxes[i + 1])
sketch.arrow((6.6, 1.44), (7.2, 0.72))
filters, theta = (
    sketch.box(2.6, 0.4, "filters", "given", 1.1),
    sketch.box(6.2, 0.4, "weights", "given", 1.1),
)
sketch.arrow((6.95, 0.72), (6.45, 1.42), kind="gradient")
sketch.arrow((5.58, 1.5), (4.92, 1.5), kind="gradient")
sketch.arrow((3.88, 1.5), (3.12, 1.5), kind="gradient")
sketch.arrow((2.6, 1.42), (2.6, 0.63), kind="gradient")
sketch.arrow((6.1, 1.42), (6.1, 0.63), kind="gradient")
sketch.show()

# %% [markdown]
# PyTorch computes the gradient here: this project's trainable CNNs are written in it. The **tiny CNN** has five *stages*
# (a convolution, a normalisation and a ReLU each), an 8 x 8 grid and the position channels; its filters start at random.
# It normalises each picture by itself and keeps no statistics. The task is small: pictures of one shape, captions of
# three words, "a red circle".

# %% tags=["hide-input"]
TRAINING, HELD_OUT = 720, 120


def one_shape(count, rng):
    """Pictures of one shape and their captions, as words."""
    found = []
    while len(found) < count:
        scene = scenes.draw_scene(rng)
        if len(scene) == 1:
            found.append((scenes.render(scene, rng), scene[0]))
    words = [["a", shape.colour, shape.kind] for _, shape in found]
    return [p for p, _ in found], words


drawn, words = one_shape(TRAINING + HELD_OUT, np.random.default_rng(0))
images = prepare_pictures(drawn, PREPROCESSING["tiny_cnn"])
vocabulary = build_vocabulary(words, 1)
captions = encode_captions(words, {word: i for i, word in enumerate(vocabulary)}, 5)
CONFIG = {
    "input_dim": 140, "wordvec_dim": 32, "hidden_dim": 64, "attention_dim": 32,
    "dropout": 0.0, "dtype": "float32",
}  # fmt: skip


def captioner(stages, seed=0):
    """A fresh decoder over a random tiny CNN whose last ``stages`` stages learn."""
    return build_end_to_end(
        "attention", CONFIG, vocabulary, rng=np.random.default_rng(seed),
        extractor=Extractor("tiny_cnn", "grid", "random"), stages=stages,
    )  # fmt: skip


def train(model, epochs, encoder_rate):
    """Trains in place; the decoder's learning rate is 2e-3. Returns the loss of each step."""

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
    """The loss in nats per word, and the shares of colours and kinds said rightly."""
    rows = np.arange(TRAINING, TRAINING + HELD_OUT)
    unseen = PictureBatch(images, rows)
    said = greedy(model, unseen, max_length=5)
    colour, kind = (said[:, 1:3] == captions[rows, 2:4]).mean(axis=0)  # after <START> a
    loss = model.evaluate(unseen, captions[rows]) / 4
    return {"loss": float(loss), "colour": float(colour), "kind": float(kind)}


tiny = load_network("tiny_cnn", "random")
with torch.no_grad():  # it knows nothing of the other pictures of its batch
    pair = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(tiny(pair[:1])["grid"], tiny(pair)["grid"][:1], atol=1e-5)
assert np.allclose(tiny.places.permute(1, 2, 0).numpy(), fixed_cnn.position_code())
assert isinstance(tiny, TinyCNN)

# %% [markdown]
# Two runs of the same decoder, on 720 pictures, each seen four times. In one the random CNN stays **frozen**. In the
# other its last two stages are **open**: they learn. Then both caption 120 pictures that they have never seen.
#
# **Predict.** There are five colours and three kinds. Through *random* filters, what share of the colours does the
# decoder name rightly, and what share of the kinds?

# %%
runs, found = {}, {}
for name, stages in (("frozen", 0), ("two stages open", 2)):
    runs[name] = captioner(stages)
    losses = train(runs[name], 4, encoder_rate=1e-3)
    found[name] = held_out(runs[name])
    print(f"{name:<16}", "  ".join(f"{k} {v:.2f}" for k, v in found[name].items()))
assert found["two stages open"]["loss"] < 0.85 * found["frozen"]["loss"]
assert found["two stages open"]["colour"] > 0.95 and 0.7 < found["frozen"]["colour"] < 0.95
assert all(0.33 < f["kind"] < 0.7 for f in found.values())
# %% [markdown]
# <details><summary>Answer</summary>
#
# 87 % of the colours, though chance is a fifth. Random filters lose less than one might fear. The open encoder gives all
# colours. Kinds are harder: both name about half of them rightly, and chance is a third.
#
# </details>
#
# Often the encoder is *pretrained* and the decoder is new. A new decoder sends gradients that mean little. At a high
# learning rate the encoder follows them and forgets what it knew ([12b](12b_larger_encoders.ipynb) measures when).
#
# The usual order is to train the decoder alone first. Then one opens the last stages at a rate below the decoder's, chosen
# on held-out data. [docs/photos.md](../docs/photos.md) has the two commands for a ResNet-101 on real photos. From the
# pixels of the embedded data, with all five stages open, it is
#
#     python training.py --model attention --encoder tiny_cnn
#
# The [results on shapes](../docs/results-shapes.md) report 10 minutes and 97.3 % of captions true of held-out pictures;
# with the features that were written down by hand, 98.3 %.
#
# ## Exercises
#
# Write your answers in [the exercises](exercises/12_the_encoder.ipynb); the notebook tells you at once
# whether they hold.

# %% [markdown] tags=["exercise"]
# ### Exercise 1 · How large is the output? (one line)
#
# How many places has a filter of side $k$ along an axis of `size` pixels, with this stride and this padding on both
# ends? The last window must end inside the padded picture.


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
# In evaluation mode the mean and the variance are constants, so batch normalisation is an affine map of each channel:
# $y = \gamma\,(z - \text{mean}) / \sqrt{\text{var} + \epsilon} + \beta$. Let $z$ come from a convolution with filters `K`
# and bias `b`. Both together are again one convolution. Return its filters and its bias. (Trained networks are made faster
# in this way.) What checks you does not know the formula: it feeds single bright pixels and measures.


# %% tags=["exercise"]
def fold(K, b, mu, var, gamma, beta, eps):
    """(F, C, k, k) and five vectors (F,) -> the filters and the bias of one convolution."""
    ### BEGIN SOLUTION
    scale = gamma / np.sqrt(var + eps)
    return K * scale[:, None, None, None], (b - mu) * scale + beta
    ### END SOLUTION


def measured(K, b, mu, var, gamma, beta, eps):
    """Sends nothing, then one pixel after the other, through torch's two layers."""
    tensors = [torch.from_numpy(a) for a in (K, b, mu, var, gamma, beta)]

    def both(x):
        z = functional.conv2d(torch.from_numpy(x), tensors[0], tensors[1])
        return functional.batch_norm(z, *tensors[2:], eps=eps).numpy()[0, :, 0, 0]

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
# A colleague sends you features that she made with the fixed CNN. Her model says strange things. You have her pictures
# and the encoder. Write `which_habit`: try the usual mistakes on the pictures, and return the name of the one whose
# features are hers. The names are `"none"` (all is right), `"blue first"`, `"0 to 1"`, `"mirrored"` (left and right
# exchanged) and `"quarter turn"` (`np.rot90`).
#
# Her features are stored in float16, so they agree to three digits only. She did not keep the order of the pictures.
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
# ## What you have now
#
# * A convolution: one small affine layer at every place. Its backward is two more convolutions, one of them with the
#   filters turned by half a turn.
# * Three mistakes that raise no error and ruin captions: training mode, wrong scale or colours, photos on their side.
#   Keep the constants in the checkpoint, and look at captions beside their pictures.
# * The usual way to train both parts: first a new decoder over a frozen encoder, then both, the encoder at a lower rate.
#
# **Sources.** Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, *Gradient-based learning applied to document
# recognition*, Proceedings of the IEEE 86 (1998). S. Ioffe and C. Szegedy, *Batch normalization*, ICML 2015. W. Luo,
# Y. Li, R. Urtasun and R. Zemel, *Understanding the effective receptive field in deep convolutional neural networks*,
# NIPS 2016. Y. Wu and K. He, *Group normalization*, ECCV 2018. K. Xu et al., *Show, attend and tell*, ICML 2015.
#
# **Next:** [lesson 13, is it any good?](13_is_it_any_good.ipynb): how captions are scored. To go deeper:
# [12b, larger encoders](12b_larger_encoders.ipynb).
