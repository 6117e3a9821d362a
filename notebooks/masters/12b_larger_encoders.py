# %% [markdown]
# # 12b · Larger encoders
#
# **The question.** [Lesson 12](12_the_encoder.ipynb) built a convolution with stride 1 and a small encoder. What do
# larger ones add, and what do they cost? How much may PCA throw away? Is the gradient right, all the way down to the
# first filter? And what can spoil an encoder that has learned?
#
# *This goes deeper than lesson 12; no lesson needs it. Read lesson 12 first. The eight parts do not depend on each other.
# About 60 minutes; all cells together run in a minute. The large networks are built without their weights, because
# shapes and counts do not depend on what they have learned.*

# %% tags=["setup"]
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from core import lessons, scenes
from core.coco_utils import build_vocabulary, encode_captions, image_path
from core.decoding import greedy
from core.encoders import PREPROCESSING, Extractor, pool_grid, prepare_pictures
from core.encoders.pca import fit_pca
from core.encoders.pictures import PictureBatch
from core.encoders.resnet import ResNet
from core.encoders.squeezenet import Fire, SqueezeNet
from core.encoders.vgg import VGG16
from core.encoders.weights import load_network
from core.gradient_check import eval_numerical_gradient_array, relative_error
from core.image_utils import load_image
from core.lessons import BLUE, GREY, ORANGE, Sketch, show_source
from core.shapes import load_scenes
from core.torch_models import EndToEndCaptioner, TorchEngine, build_end_to_end

lessons.style()

# %% [markdown]
# ## The backward with a stride
#
# With stride $s$ a window begins at every $s$-th pixel only. In one row: $y_i = \sum_u x_{si+u}\, w_u$. Who reads the
# pixel $x_a$? Those $y_i$ with $si + u = a$ for an offset $u$ inside the filter. So $i = (a - u) / s$ must be whole.
#
# There is a simple way to arrange that. Put $s - 1$ zeros between the entries of $dy$. Then the missing readers
# contribute 0, and the rest is as with stride 1: a frame of $k - 1$ zeros, and the filter turned by half a turn.

# %% tags=["hide-input"]
sketch = Sketch(7.4, 1.5)
spread = [0, 0, 1, 0, 1, 0, 1, 0, 0]
names = ["0", "0", "$dy_0$", "0", "$dy_1$", "0", "$dy_2$", "0", "0"]
sketch.cells(4.0, 0.6, [0.3 * v for v in spread], 0.6, names)
sketch.text(4.0, 1.2, "$dy$ for stride 2 and $k = 3$: zeros between, and $k - 1$ around")
sketch.show()


# %%
def windows_of(P, k, stride=1):
    """(N, C, rows, columns) -> (N, C, rows', columns', k, k): what is under the filter."""
    windows = np.lib.stride_tricks.sliding_window_view(P, (k, k), axis=(2, 3))
    return windows[:, :, ::stride, ::stride]


def conv2d_forward(x, w, b, stride=1, pad=0):
    """(N, C, rows, columns), (F, C, k, k), (F,) -> (N, F, rows', columns')."""
    P = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    y = np.einsum("ncijuv,fcuv->nfij", windows_of(P, w.shape[2], stride), w)
    return y + b[:, None, None], (P, w, stride, pad)


# %%
def conv2d_backward(dy, cache):
    """(N, F, rows', columns') -> dx, dw, db, for any stride."""
    P, w, stride, pad = cache
    (N, _, rows, columns), k = P.shape, w.shape[2]
    dw = np.einsum("nfij,ncijuv->fcuv", dy, windows_of(P, k, stride))
    framed = np.zeros((N, len(w), rows + k - 1, columns + k - 1))
    last = [k - 1 + stride * length for length in dy.shape[2:]]
    framed[:, :, k - 1 : last[0] : stride, k - 1 : last[1] : stride] = dy
    turned = w[:, :, ::-1, ::-1].swapaxes(0, 1)
    dP, _ = conv2d_forward(framed, turned, np.zeros(len(turned)))
    return dP[:, :, pad : rows - pad, pad : columns - pad], dw, dy.sum(axis=(0, 2, 3))


# %% tags=["hide-input"]
rng = np.random.default_rng(0)
x = rng.standard_normal((2, 3, 7, 6))
w, b = rng.standard_normal((4, 3, 3, 3)), rng.standard_normal(4)
for stride, pad in ((1, 0), (2, 1), (3, 2)):
    y, cache = conv2d_forward(x, w, b, stride, pad)
    dy = rng.standard_normal(y.shape)
    tensors = [torch.from_numpy(a).requires_grad_() for a in (x, w, b)]
    autograd = torch.autograd.grad(
        functional.conv2d(*tensors, stride=stride, padding=pad),
        tensors,
        torch.from_numpy(dy),
    )
    gradients = conv2d_backward(dy, cache)
    for value, gradient, theirs in zip((x, w, b), gradients, autograd, strict=True):
        numerical = eval_numerical_gradient_array(
            lambda _, s=stride, p=pad: conv2d_forward(x, w, b, s, p)[0], value, dy
        )
        assert relative_error(gradient, numerical) < 1e-8
        assert relative_error(gradient, theirs.numpy()) < 1e-12
    print(f"stride {stride}, padding {pad}: dx, dw and db hold")
print("against central differences to 1e-8, against torch to 1e-12")

# %% [markdown]
# ### The tempting wrong way: forget the half turn
#
# Without it the shapes fit all the same, and the slip can even pass a check.
#
# **Predict.** We test the unturned backward twice: with a blur (1 2 1 in each direction) and with random weights. Which
# test finds the slip?


# %%
def unturned_dx(dy, w):
    """dx for padding 1 and 3 x 3 filters, without the half turn."""
    framed = np.pad(dy, ((0, 0), (0, 0), (2, 2), (2, 2)))
    dP, _ = conv2d_forward(framed, w.swapaxes(0, 1), np.zeros(w.shape[1]))
    return dP[:, :, 1:-1, 1:-1]


blur = np.broadcast_to(np.outer([1.0, 2, 1], [1, 2, 1]) / 16, w.shape)
for name, weights in (("a blur", blur), ("random weights", w)):
    y, cache = conv2d_forward(x, weights, b, pad=1)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    error = relative_error(unturned_dx(dy, weights), conv2d_backward(dy, cache)[0])
    print(name, "-> relative error", "below 1e-12" if error < 1e-12 else f"{error:.2f}")
    assert (error < 1e-12) == (name == "a blur")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Only the random weights. A blur looks the same after half a turn, so the wrong gradient is exact. A test case must not
# be more symmetric than the thing it tests.
#
# </details>
#
# ## Pooling
#
# **Max pooling** keeps the largest number of each window and forgets where in the window it was. The map gets smaller,
# and a shape may move by a pixel without a change. It has no weights.
#
# Its backward is short. If the largest entry of a window grows, the answer grows by the same amount. If any other entry
# grows a little, nothing happens. So all of $dy$ goes to the winner. Windows may overlap: SqueezeNet's are 3 x 3 with
# stride 2. An entry that wins two windows collects twice.


# %%
def max_pool_forward(x, k, stride):
    """(N, C, rows, columns) -> (N, C, rows', columns'); the cache knows who won."""
    windows = windows_of(x, k, stride)
    flat = windows.reshape(*windows.shape[:4], k * k)
    return flat.max(axis=-1), (x.shape, k, stride, flat.argmax(axis=-1))


def max_pool_backward(dy, cache):
    shape, k, stride, winner = cache
    dx = np.zeros(shape)
    n, c, i, j = np.indices(dy.shape)
    np.add.at(dx, (n, c, stride * i + winner // k, stride * j + winner % k), dy)
    return dx


# %%
for k, stride in ((2, 2), (3, 2)):
    y, cache = max_pool_forward(x, k, stride)
    dy = rng.standard_normal(y.shape)
    dx = max_pool_backward(dy, cache)
    numerical = eval_numerical_gradient_array(
        lambda _, k=k, s=stride: max_pool_forward(x, k, s)[0], x, dy
    )
    assert relative_error(dx, numerical) < 1e-8
    assert np.array_equal(y, functional.max_pool2d(torch.from_numpy(x), k, stride).numpy())
    print(
        f"{k} x {k}, stride {stride}: {np.count_nonzero(dx)} entries win {dy.size} windows"
    )

# %% [markdown]
# **Average pooling** is a convolution of each channel by itself, with equal weights. `core` uses it to make a grid
# coarser: `--grid 7` turns SqueezeNet's 13 x 13 cells into 7 x 7. Each new cell is the mean of the old cells that it
# touches. `--grid 1` gives one vector for the picture.

# %%
show_source(pool_grid, docstring=False)

# %% tags=["hide-input"]
grid = rng.standard_normal((2, 13 * 13, 5)).astype(np.float32)
as_maps = torch.from_numpy(grid).transpose(1, 2).reshape(2, 5, 13, 13)
expected = functional.adaptive_avg_pool2d(as_maps, 7).flatten(2).transpose(1, 2).numpy()
assert relative_error(pool_grid(grid, 7), expected) < 1e-5  # float32
assert np.allclose(pool_grid(grid, 1)[:, 0], grid.mean(axis=1), atol=1e-6)

# %% [markdown]
# ## Two published networks, taken apart
#
# **VGG16** has thirteen 3 x 3 convolutions, five poolings and three affine layers. Why 3 x 3? Two of them in a row see
# 5 x 5 pixels. With $C$ channels in and out that is $18\,C^2$ weights instead of $25\,C^2$, and one more nonlinearity.
#
# What does a layer cost? A convolution with $F$ filters on $C$ channels multiplies $C k^2$ times for each number of its
# answer:
#
# $$ \text{weights} = F\,(C k^2 + 1), \qquad \text{multiplications} = \text{rows}' \cdot \text{columns}' \cdot F\, C k^2 $$
#
# **Predict.** Where are most of VGG16's weights: in the first convolutions, in the last ones, or in the affine layers?
# And where is most of its work?

# %% tags=["hide-input"]


def anatomy(network, size):
    """(name, shape of the answer, parameters, multiplications) of each layer with weights."""
    rows = []

    def note(name):
        def hook(layer, inputs, out):
            parameters = sum(p.numel() for p in layer.parameters())
            each = layer.weight[0].numel()  # multiplications for one number of the answer
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


with torch.device("meta"):  # arrays with shapes and without numbers
    vgg, squeeze = VGG16(), SqueezeNet()
vgg_rows, vgg_outputs = anatomy(vgg, 224)
squeeze_rows, squeeze_outputs = anatomy(squeeze, 224)
print(f"{'vgg16':<16}{'answer':<16}{'parameters':>12}{'million multiplications':>25}")
for name, shape, parameters, products in vgg_rows:
    print(f"{name:<16}{shape!s:<16}{parameters:>12,}{products / 1e6:>25,.0f}")
print(f"{'all':<32}{count(vgg):>12,}{sum(r[3] for r in vgg_rows) / 1e6:>25,.0f}")
print("what a decoder may read:", vgg_outputs)
assert count(vgg) == 138_357_544
in_affine = sum(r[2] for r in vgg_rows if len(r[1]) == 1) / count(vgg)
work_in_affine = sum(r[3] for r in vgg_rows if len(r[1]) == 1) / sum(r[3] for r in vgg_rows)
below_grid = sum(r[2] for r in vgg_rows if len(r[1]) == 3)
assert 0.85 < in_affine < 0.95 and work_in_affine < 0.01 and 14e6 < below_grid < 15e6

# %% [markdown]
# <details><summary>Answer</summary>
#
# The weights are in the affine layers: 120 of 138 million, and 4 more in the layer of the 1,000 ImageNet classes, which
# nobody computes here. `classifier.0` alone has 103 million, because it reads all 512 x 7 x 7 numbers. Over 99 % of the work
# is in the convolutions. The grid that attention reads comes before the affine layers and needs 15 million weights.
#
# </details>
#
# **SqueezeNet** asks how few weights will do. A 3 x 3 convolution from $C$ to $2E$ channels has $18\,CE$ weights. Its
# **fire module** first *squeezes* the channels to a few, $S$, by a 1 x 1 convolution, which is an affine layer at every
# pixel. Then it *expands* them by a 1 x 1 and a 3 x 3 convolution side by side, and joins both answers.

# %% tags=["hide-input"]
sketch = Sketch(7.6, 2.2)
x_box = sketch.box(0.6, 1.1, "$C$", "given", 0.6)
squeezed = sketch.box(2.2, 1.1, "squeeze\n1 x 1", "op", 1.2, 0.7)
one = sketch.box(4.4, 1.7, "expand 1 x 1", "op", 1.5)
three = sketch.box(4.4, 0.5, "expand 3 x 3", "op", 1.5)
joined = sketch.box(6.7, 1.1, "$2E$", "value", 0.7)
sketch.arrow(x_box, squeezed)
sketch.arrow(squeezed, one, "$S$")
sketch.arrow(squeezed, three)
sketch.arrow(one, joined, "$E$")
sketch.arrow(three, joined)
sketch.text(5.85, 0.55, "$E$", BLUE, 11)
sketch.text(3.0, 0.6, "$S$", BLUE, 11)
sketch.show()

# %% [markdown]
# $$ \underbrace{C S}_{\text{squeeze}} + \underbrace{S E}_{1 \times 1} + \underbrace{9 S E}_{3 \times 3}
#    = S\,(C + 10 E) \qquad \text{instead of } 18\, C E $$

# %%
C, S, E = 128, 16, 64
print(f"fire module {S * (C + 10 * E):,} weights, plain convolution {18 * C * E:,}")
assert count(Fire(C, S, E)) == S * (C + 10 * E) + S + 2 * E  # and its biases
work = sum(r[3] for r in vgg_rows) / sum(r[3] for r in squeeze_rows)
print(f"VGG16 / SqueezeNet: parameters {count(vgg) / count(squeeze):.0f}, work {work:.0f}")
assert (
    count(squeeze) == 1_235_496 and round(sum(r[3] for r in squeeze_rows) / 1e9, 2) == 0.26
)

# %% tags=["hide-input"]
figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.2))
names = ["convolutions", "affine layers"]
for ax, column, scale, title in (
    (axes[0], 2, 1e6, "million parameters"),
    (axes[1], 3, 1e9, "billion multiplications"),
):
    for place, (label, rows, colour) in enumerate(
        (("VGG16", vgg_rows, BLUE), ("SqueezeNet 1.1", squeeze_rows, ORANGE))
    ):
        sums = [sum(r[column] for r in rows if len(r[1]) == k) / scale for k in (3, 1)]
        bars = ax.bar(np.arange(2) + 0.38 * place, sums, 0.36, color=colour, label=label)
        ax.bar_label(bars, fmt="%.3g")
    ax.set_xticks((0.19, 1.19), names)
    ax.set_title(title)
axes[1].legend(loc="upper right")
plt.show()

# %% [markdown]
# (`classifier.6` is left out here: nobody computes it.) The smaller network fits in 5 MB. Both are a few dozen lines in
# `core`, with torchvision's names, so published ImageNet weights fit (`--weights download`, once, if you like).
#
# ## What PCA keeps, and what it throws away
#
# The fixed CNN gives one vector of 665 numbers per picture, VGG16 one of 4,096. **Principal component analysis** keeps
# fewer: the directions of largest variance ([1b](01b_pca_epochs_and_leakage.ipynb) derives it). They are the
# eigenvectors of the covariance with the largest eigenvalues, and the eigenvalue is the variance along its direction.

# %%
samples = rng.standard_normal((200, 6)) @ rng.standard_normal((6, 6))
values, vectors = np.linalg.eigh(np.cov(samples.T))  # from the smallest
pca = fit_pca(samples, 3)
kept = pca(samples)
best = (samples - samples.mean(axis=0)) @ vectors[:, :-4:-1]
for ours, expected in zip(kept.T, best.T, strict=True):  # the same but for sign and scale
    assert abs(np.corrcoef(ours, expected)[0, 1]) > 1 - 1e-6
print(f"3 of 6 components keep {pca.explained:.1%} of the variance")
assert abs(pca.explained - values[-3:].sum() / values.sum()) < 1e-6

# %% [markdown]
# Variance is what varies, not what matters. How many components do *captions* need? A **linear probe** asks without
# training a captioner: take the pictures with one shape. Predict its colour, size, kind and place from the first few
# components by least squares, and count on held-out pictures.
#
# **Predict.** 50 components keep 80 % of the variance. For how many pictures do they name the place rightly? All 512
# components name it for 78 %. Always to guess the commonest place is right for 24 %.

# %% tags=["hide-input"]
data = lessons.embedded_data("lstm")
folder = data["source"]["folder"]
train_x = np.asarray(data["train_features"])
held_x = np.concatenate([data["val_features"], data["test_features"]])
train_scenes = load_scenes(folder, "train")
held_scenes = load_scenes(folder, "val") + load_scenes(folder, "test")


def single(features, scenes_):
    """Pictures of one shape: a constant and their features, and the shape of each."""
    rows = [i for i, scene in enumerate(scenes_) if len(scene) == 1]
    ones = np.ones((len(rows), 1))
    return np.hstack([ones, features[rows]]), [scenes_[i][0] for i in rows]


train_one, train_shapes = single(train_x, train_scenes)
held_one, held_shapes = single(held_x, held_scenes)


def probe(what, components):
    """The share of held-out shapes whose colour, size, kind or place is named rightly."""
    classes = sorted({getattr(shape, what) for shape in train_shapes})
    of_train, of_held = (
        np.array([classes.index(getattr(shape, what)) for shape in shapes])
        for shapes in (train_shapes, held_shapes)
    )
    columns = slice(components + 1)
    targets = np.eye(len(classes))[of_train]
    weights = np.linalg.lstsq(train_one[:, columns], targets, rcond=None)[0]
    return float(((held_one[:, columns] @ weights).argmax(axis=1) == of_held).mean())


KEPT = (1, 2, 3, 5, 8, 12, 20, 35, 50, 100, 200, 512)
accuracy = {
    what: [probe(what, components) for components in KEPT]
    for what in ("colour", "size", "kind", "place")
}
variance = train_x.var(axis=0)
explained = variance.cumsum() / variance.sum()
figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.4), sharey=True)
axes[0].semilogx(np.arange(1, 513), explained)
axes[0].set(xlabel="components kept", title="share of the variance", ylim=(0, 1.05))
for (what, shares), marker in zip(accuracy.items(), "os^D", strict=True):
    axes[1].semilogx(KEPT, shares, marker=marker, markersize=4, label=what)
axes[1].set(xlabel="components kept", title="share named rightly")
figure.legend(loc="outside right center")
plt.show()
for components in (3, 12, 50, 512):
    named = ", ".join(f"{w} {a[KEPT.index(components)]:.0%}" for w, a in accuracy.items())
    print(
        f"{components:>3} components: {explained[components - 1]:.0%} of variance; {named}"
    )
at_50 = {what: shares[KEPT.index(50)] for what, shares in accuracy.items()}
assert 0.7 < explained[49] < 0.9 and at_50["colour"] > 0.95 and 0.3 < at_50["place"] < 0.6
assert accuracy["colour"][KEPT.index(3)] > 0.95 and accuracy["size"][KEPT.index(12)] > 0.95
assert accuracy["place"][-1] > at_50["place"] + 0.2 and accuracy["kind"][-1] > 0.95
places = [shape.place for shape in held_shapes]
assert round(max(places.count(p) for p in places) / len(places), 2) == 0.24
assert len(held_shapes) == 178 and np.sqrt(0.25 / len(held_shapes)) < 0.04

# %% [markdown]
# <details><summary>Answer</summary>
#
# For 43 %. (With 178 pictures a share is uncertain by up to four points.) Four fifths of the variance looks safe in any
# report, and it loses nearly half of what could be said of the place.
#
# </details>
#
# Three components name the colour, twelve the size. A model that reads fifty will speak of colours and will often be
# wrong about "top left". Judge a projection by what is asked of it. (The data folder holds the first 512 of 665
# components; the shares of variance are of these.)
#
# ## Is the gradient right, all the way down?
#
# Autograd computes the gradient of a caption's loss by the weights of the **first** filters. Central differences on
# three of these weights, in float64, test it. The step $h$ is ours to choose.
#
# **Predict.** For a smooth loss, a tenth of the step leaves a hundredth of the error. We try $10^{-3}$, $10^{-4}$,
# $10^{-5}$ and $10^{-7}$. What will you see?

# %% tags=["hide-input"]
drawing = np.random.default_rng(0)
drawn = []
while len(drawn) < 2:
    scene = scenes.draw_scene(drawing)
    if len(scene) == 1:
        drawn.append((scenes.render(scene, drawing), ["a", scene[0].colour, scene[0].kind]))
images = prepare_pictures([picture for picture, _ in drawn], PREPROCESSING["tiny_cnn"])
words = [caption for _, caption in drawn]
vocabulary = build_vocabulary(words, 1)
captions = encode_captions(words, {word: i for i, word in enumerate(vocabulary)}, 5)
CONFIG = {
    "input_dim": 140, "wordvec_dim": 32, "hidden_dim": 64, "attention_dim": 32,
    "dropout": 0.0, "dtype": "float64",
}  # fmt: skip
model = build_end_to_end(
    "attention", CONFIG, vocabulary, rng=np.random.default_rng(0),
    extractor=Extractor("tiny_cnn", "grid", "random"), stages=5,
)  # fmt: skip
batch = PictureBatch(images, np.arange(2))
filters = model.encoder.conv1[0].weight
picked = [(0, 0, 0, 0), (17, 2, 4, 1), (31, 0, 3, 3)]


def central_differences(step):
    """Of the loss, by the picked weights."""
    found = []
    with torch.no_grad():
        for at in picked:
            value, losses = filters[at].item(), []
            for moved in (value + step, value - step):
                filters[at] = moved
                losses.append(model.loss(batch, captions).item())
            filters[at] = value
            found.append((losses[0] - losses[1]) / (2 * step))
    return np.array(found)


# %%
model.loss(batch, captions).backward()
analytic = np.array([filters.grad[at].item() for at in picked])
errors = {}
for step in (1e-3, 1e-4, 1e-5, 1e-7):
    error = errors[step] = relative_error(analytic, central_differences(step))
    print(f"step {step:.0e}: error", "below 1e-6" if error < 1e-6 else f"{error:.0e}")
assert error < 1e-6 and errors[1e-4] > errors[1e-3] / 10  # of a smooth loss: a hundredth

# %% [markdown]
# <details><summary>Answer</summary>
#
# The gradient is right: small steps agree with it. But from $10^{-3}$ to $10^{-4}$ the error does not fall to a
# hundredth. One weight of the first layer moves 1,024 numbers of each picture, and through them tens of thousands of
# ReLUs. Some are so near to their kink that the larger steps carry them across. Then the difference measures something
# that is no derivative. A smaller step crosses fewer kinks.
#
# </details>
#
# ## Normalisation sees the whole map
#
# Lesson 12 showed the receptive field of the tiny CNN without its normalisation. That looks at a group of whole channels
# of one picture, takes their mean and their standard deviation, and so brings a little of every pixel to every cell.
#
# **Predict.** The convolutions of the tiny CNN see 41 x 41 of 64 x 64 pixels. With normalisation, what share of a cell's
# influence comes from these 41 x 41?

# %% tags=["hide-input"]


def reached_by(network, size, cell):
    """(size, size): by how much each pixel moves the sum of a cell's channels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, size, size, generator=generator, requires_grad=True)
    network(x)["grid"][0, :, cell[0], cell[1]].sum().backward()
    return x.grad[0].abs().sum(dim=0).numpy()


def width_of(reached):
    """How many columns and rows are reached at all."""
    return tuple(int(np.ptp(np.flatnonzero(reached.any(axis=axis)))) + 1 for axis in (0, 1))


tiny, bare = (load_network("tiny_cnn", "random") for _ in range(2))
for stage in bare.stages:  # leave the convolutions alone
    stage[1] = nn.Identity()
maps = {
    "convolutions only": reached_by(bare, 64, (4, 4)),
    "with normalisation": reached_by(tiny, 64, (4, 4)),
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

of_bare, of_tiny = maps.values()
assert width_of(of_bare) == (41, 41) and width_of(of_tiny) == (64, 64)
inside = of_tiny[of_bare > 0].sum() / of_tiny.sum()
print(f"{inside:.0%} of the influence is inside the 41 x 41 pixels")
assert 0.75 < inside < 0.95

# %% [markdown]
# <details><summary>Answer</summary>
#
# 84 %. Every pixel reaches the cell, but most of them only a little.
#
# </details>
#
# ## Frozen weights, moving statistics
#
# **Batch normalisation** subtracts a mean and divides by a standard deviation, for each channel:
#
# $$ y = \gamma\, \frac{x - \text{mean}}{\sqrt{\text{var} + \epsilon}} + \beta $$
#
# In training mode the mean and the variance are of the *batch*, and running means of them are kept. In evaluation mode
# the kept ones are used. No gradient takes part in keeping them. So `requires_grad_(False)` freezes $\gamma$, $\beta$
# and all filters, but not the kept mean and variance. Every `model.train()` before an epoch of the *decoder* sets them moving.
#
# We freeze a small ResNet that keeps the statistics of 48 pictures. It looks at batches of 4 in training mode; nothing is
# learned. After each batch we measure by how much its features of six other pictures have changed.

# %% tags=["hide-input"]
data = lessons.embedded_data("attention")
pictures = [load_image(image_path(data, "val", i)) for i in range(54)]
of_imagenet = {**PREPROCESSING["resnet50"], "size": 64}
looked_at = prepare_pictures(pictures, of_imagenet)
looked_at = torch.from_numpy(looked_at).permute(0, 3, 1, 2)
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
between = change(before.mean(dim=0), before)  # how far pictures are from their mean
resnet.train()
companies = [torch.cat([test[:1], known[start : start + 3]]) for start in (0, 3)]
one, other = (resnet(company)["pooled"][0] for company in companies)


def drift(photos, steps=8):
    """Change of the features of ``test``, in evaluation mode, after each batch."""
    resnet.load_state_dict(came_with)
    changes = [0.0]
    for step in range(steps):
        resnet.train()(photos[4 * step : 4 * step + 4])
        changes.append(change(resnet.eval()(test)["pooled"], before))
    return changes


alike, evening = drift(known), drift(known - 1)
plt.figure(figsize=(7, 3.2))
plt.plot(evening, marker="s", color=ORANGE)
plt.plot(alike, marker="o", color=BLUE)
plt.text(4.3, 0.36, "it has looked at darker pictures", color=ORANGE)
plt.text(4.3, 0.16, "at pictures that it knows", color=BLUE)
plt.axhline(between, color=GREY, linestyle="--")
plt.text(0, between + 0.02, "how much pictures differ from their mean", color=GREY)
plt.gca().set(
    xlabel="batches of 4 in training mode", ylabel="change of features", ylim=(0, 0.82)
)
plt.show()
print(
    f"one picture among other pictures: its features change by {change(one, other):.2f}; "
    f"pictures differ from their mean by {between:.2f}"
)
assert all(torch.equal(v, came_with[n]) for n, v in resnet.named_parameters())
assert change(one, other) > 0.8 * between
assert 0.03 < alike[-1] < 0.5 * between and evening[-1] > between

# %% [markdown]
# Two things go wrong. *While* the network is in training mode, the features of a picture depend on the other pictures of
# its batch: in other company they change by 0.60 of their length, and pictures differ from their mean by 0.57.
# *Afterwards* no parameter has moved, and still the network is another one. The decoder
# learned to read one encoder and is used with another. So an end-to-end captioner of `core` keeps its encoder in
# evaluation mode, always:

# %%
show_source(EndToEndCaptioner.train)

# %% [markdown]
# ## Two learning rates
#
# Often the encoder is *pretrained* and the decoder is new. To imitate this, we train as in lesson 12: a decoder and the
# last two stages of a tiny CNN learn to caption pictures of one shape. We keep that encoder and put a fresh decoder on it.
# The decoder's learning rate is $2 \cdot 10^{-3}$. Three seeds, two epochs.
#
# **Predict.** Order these rates of the encoder by the loss after two epochs: 0, $10^{-4}$, $2 \cdot 10^{-3}$, $10^{-2}$.

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


learned = captioner(2)
train(learned, 4, encoder_rate=1e-3)
assert held_out(learned)["colour"] > 0.95
grown = {
    name: value for name, value in learned.params.items() if name.startswith("encoder.")
}

# %%
after = {}
print("encoder's rate   loss for seeds 7, 8, 9    colours named rightly")
for rate in (0, 1e-4, 2e-3, 1e-2):
    after[rate] = []
    for seed in (7, 8, 9):
        fresh = captioner(2 if rate else 0, seed=seed)
        fresh.params = {**fresh.params, **grown}
        train(fresh, 2, encoder_rate=rate)
        after[rate].append(held_out(fresh))
    losses, named = ([r[key] for r in after[rate]] for key in ("loss", "colour"))
    print(
        f"{rate:<16}", *(f"{v:7.2f}" for v in losses), "  ", *(f"{v:7.0%}" for v in named)
    )

# %% tags=["hide-input"]
loss_at = {rate: np.array([r["loss"] for r in rows]) for rate, rows in after.items()}
colour_at = {rate: np.array([r["colour"] for r in rows]) for rate, rows in after.items()}
assert np.abs(loss_at[1e-4] - loss_at[0]).max() < 0.05  # so short a time brings no gain
assert min(colour_at[0].min(), colour_at[1e-4].min()) > 0.9
assert loss_at[1e-2].min() > 1.5 * loss_at[0].max() and colour_at[1e-2].max() < 0.6
assert loss_at[2e-3].max() > 1.5 * loss_at[0].max() and np.ptp(loss_at[2e-3]) > 0.2

# %% [markdown]
# <details><summary>Answer</summary>
#
# 0 and $10^{-4}$ are nearly equal here, with all colours right for each seed. $2 \cdot 10^{-3}$, the decoder's own rate,
# depends on luck: one of three encoders is lost. $10^{-2}$ loses all three.
#
# </details>
#
# A fresh decoder sends gradients that mean little. At a high rate the encoder follows them, and what it knew is gone.
# Two epochs show no more than that. They do not show which low rate is best, nor whether an open encoder is better than a
# frozen one.
#
# **Sources.** S. Ioffe and C. Szegedy, *Batch normalization*, ICML 2015. Y. Wu and K. He, *Group normalization*, ECCV
# 2018. K. Simonyan and A. Zisserman, *Very deep convolutional networks for large-scale image recognition*, ICLR
# 2015. F. Iandola et al., *SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size*,
# arXiv:1602.07360, 2016. K. Pearson, *On lines and planes of closest fit to systems of points in space*, Philosophical
# Magazine 2 (1901).
