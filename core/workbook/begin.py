"""Of each function of the road, two hints for who has not begun: a way to go, and a line of NumPy.

The way is in words. The line uses what the docstring names and functions of the road, nothing of
ours that a learner's file does not have.
"""

from __future__ import annotations

_WEIGHTS = "The weights collect from every step: dW starts as zeros, and each step adds its part"
_CACHES = (
    "Keep the cache of each step in a list: the way back takes them from the last to the first"
)
_CONFIG = "make config a dict where it is None, then read each number by config.setdefault(...)"

# function -> (the way to go, a line to begin with)
BEGIN = {
    "affine_forward": (
        "give every sample a row of D numbers first, then one product and the bias",
        "rows = x.reshape(len(x), -1)",
    ),
    "affine_backward": (
        "of x, w and b ask which outputs read it, and sum over those; the shapes say the rest. "
        "dx gets the shape of x back",
        "dw = x.reshape(len(x), -1).T @ dout",
    ),
    "temporal_affine_forward": (
        "@ works on the last axis of x, so (N, T, D) @ (D, M) needs no loop",
        "out = x @ w + b",
    ),
    "temporal_affine_backward": (
        "there are N * T rows that share w: fold time into the batch, and take the way back of "
        "the affine layer",
        "dw = x.reshape(-1, x.shape[-1]).T @ dout.reshape(-1, dout.shape[-1])",
    ),
    "word_embedding_forward": (
        "NumPy takes an array of indices; keep the ids and the shape of W for the way back",
        "out = W[x]",
    ),
    "word_embedding_backward": (
        "each row of dW sums the gradients of all places of its word: dW[x] += dout adds only "
        "one of them",
        "np.add.at(dW, x, dout)",
    ),
    "temporal_softmax_loss": (
        "first put harmless numbers where the mask is False, then subtract the largest score of "
        "each place, then log softmax = s - log(sum(exp(s))): never the log of a softmax. The "
        "gradient of one place is softmax - target, times mask / N",
        "x, y = np.where(mask[..., None], x, 0), np.where(mask, y, 0)",
    ),
    "sgd": (_CONFIG, "config = {} if config is None else config"),
    "sgd_momentum": (
        f"{_CONFIG}; put the new velocity into config for the next step",
        'velocity = config["momentum"] * config.get("velocity", np.zeros_like(w)) + dw',
    ),
    "rmsprop": (
        "the new mean of squares first, then the step with it; epsilon is outside of the root",
        'config["cache"] = decay_rate * cache + (1 - decay_rate) * dw**2',
    ),
    "adam": (
        "in the order of the docstring: count the step, move both means, correct both, step. m "
        "and v go into config uncorrected",
        't = config.get("t", 0) + 1',
    ),
    "adamw": (
        "the decay is outside of Adam: shrink w, then let your Adam do the rest. Its defaults "
        "are filled in by you first, since both read learning_rate",
        "next_w, config = adam(w * (1 - learning_rate * weight_decay), dw, config)",
    ),
    "clip_gradient_norm": (
        "one norm of all arrays together, one factor for all of them; new arrays, not *=",
        "norm = np.sqrt(sum(np.sum(g**2) for g in grads.values()))",
    ),
    "rnn_step_forward": (
        "the equation as it is; tanh' can be had from tanh itself, so keep next_h",
        "next_h = np.tanh(x @ Wx + prev_h @ Wh + b)",
    ),
    "rnn_step_backward": (
        "first through the tanh to the sum a = x Wx + prev_h Wh + b, then to each part of the sum",
        "da = dnext_h * (1 - next_h**2)",
    ),
    "rnn_forward": (
        f"a loop over t, whose step reads the h that the step before returned. {_CACHES}",
        "h = np.empty((x.shape[0], x.shape[1], h0.shape[1]), dtype=x.dtype)",
    ),
    "rnn_backward": (
        "from the last step to the first. Each h has two readers, the layer above and the next "
        f"step: their gradients add. {_WEIGHTS}",
        "for t in reversed(range(dh.shape[1])):",
    ),
    "lstm_step_forward": (
        "one sum a (N, 4H), cut into four blocks, then the three lines of the docstring",
        "a_i, a_f, a_o, a_g = np.split(x @ Wx + prev_h @ Wh + b, 4, axis=1)",
    ),
    "lstm_step_backward": (
        "all that reaches next_c first, from its tanh and from the next step; then i, f, o, g; "
        "then their sums, side by side again as da (N, 4H); then the products, as in the RNN",
        "dc = dnext_c + dnext_h * o * (1 - tanh_c**2)",
    ),
    "lstm_forward": (
        f"as the RNN, with a second state that the steps hand on and nobody else sees. {_CACHES}",
        "next_h, next_c = h0, np.zeros_like(h0)",
    ),
    "lstm_backward": (
        "as the RNN, but two gradients flow back from step to step, those of h and of c. After "
        f"the last step both are 0. {_WEIGHTS}",
        "dprev_h, dprev_c = np.zeros_like(dh[:, 0]), np.zeros_like(dh[:, 0])",
    ),
    "attend_forward": (
        "the query gets an axis for the locations; the softmax is over these, so its axis is 1",
        "compared = np.tanh(keys + query[:, None])",
    ),
    "attend_backward": (
        "the context, the softmax, the scores, the tanh, from the last to the first. The "
        "weights have two readers: dweights and the context",
        'dw = dweights + np.einsum("nc,nlc->nl", dcontext, features)',
    ),
    "additive_attention_forward": (
        "two affine maps, then your attend_forward",
        "context, weights, cache = attend_forward(features, features @ Wf + b, h @ Wh, v)",
    ),
    "additive_attention_backward": (
        "your attend_backward first, then two affine ways back. The features have two readers, "
        "the context and the keys",
        "dfeatures, dkeys, dquery, dv = attend_backward(dcontext, dweights, attend_cache)",
    ),
    "context_gate_forward": (
        "the equation as it is; keep the gate for the way back",
        "gate = 1 / (1 + np.exp(-(h @ W + b)))",
    ),
    "context_gate_backward": (
        "the product first: each factor gets dout times the other. Then the sigmoid, then the "
        "affine map",
        "da = dout * context * gate * (1 - gate)",
    ),
    "attention_lstm_step_forward": (
        "four calls: the query, attend_forward, context_gate_forward, lstm_step_forward; the "
        "cache is theirs, and what the query was made of",
        "asked = np.concatenate([prev_h, word], axis=1)",
    ),
    "attention_lstm_step_backward": (
        "the four calls backward: the LSTM, the gate (dgated adds to what the LSTM sends), "
        "attend, the query. prev_h has three readers, word has two",
        "dread, dprev_h, dprev_c, dWx, dWh, db = lstm_step_backward(dnext_h, dnext_c, lstm_cache)",
    ),
    "attention_lstm_forward": (
        f"the keys once, before the loop; then your step for each word. {_CACHES}",
        "keys = features @ W_features + b_attend",
    ),
    "attention_lstm_backward": (
        "as in the LSTM. dkeys and dfeatures are sums over the steps, too; after the loop dkeys "
        "goes back through W_features once, and adds to dfeatures",
        "for t in reversed(range(dh.shape[1])):",
    ),
    "doubly_stochastic_loss": (
        "sum over time first, (N, L). Each weight is in one of these sums, with a minus sign",
        "missing = 1 - (mask[:, :, None] * weights).sum(axis=1)",
    ),
    "scaled_dot_product_attention_forward": (
        "mask the scores by -inf before the softmax. Where a row is all -inf, neither its "
        "largest nor its sum may be used: put 0 and 1 in their place",
        "scores = q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5",
    ),
    "scaled_dot_product_attention_backward": (
        "the mean of the values, the softmax, the scores. The mask needs no line: where a "
        "weight is 0, its gradient is",
        "dweights = dout @ v.swapaxes(-1, -2)",
    ),
    "multi_head_attention_forward": (
        "three affine maps, cut each into heads, attend, lay the heads side by side, one more "
        "affine map. To cut is a reshape to (N, T, h, d), then axes 1 and 2 swapped. A mask of "
        "three axes gets one for the heads: mask[:, None]",
        "q = (query @ Wq + bq).reshape(N, T, num_heads, -1).swapaxes(1, 2)",
    ),
    "multi_head_attention_backward": (
        "the last affine map, cut its gradient into heads, attention, lay dq, dk and dv side by "
        "side again, and three affine ways back. Swapping and reshaping go back by the opposite",
        "dheads = (dout @ Wo.T).reshape(N, T, num_heads, -1).swapaxes(1, 2)",
    ),
    "layer_norm_forward": (
        "mean and variance with keepdims=True, so that they broadcast; keep the normalised x",
        "centred = x - x.mean(axis=-1, keepdims=True)",
    ),
    "layer_norm_backward": (
        "gamma and beta collect over all axes but the last. What reaches the normalised x loses "
        "two things on its way to x: its mean, and its part along the normalised x",
        "g = dout * gamma",
    ),
    "feed_forward_forward": (
        "affine, f, affine; keep a = x W1 + b1 and f(a), and which f it was",
        "a = x @ W1 + b1",
    ),
    "feed_forward_backward": (
        "the second affine map, times f'(a), the first affine map. f' is 0 or 1 for the ReLU, "
        "and Phi(a) + a phi(a) for GELU, phi the density of the normal distribution",
        "da = (dout @ W2.T) * slope",
    ),
    "dropout_forward": (
        "make the mask with its 1 / (1 - p) in it: then out is one product, and so is the way "
        "back. Without dropout return x, and a cache that says so",
        "mask = (rng.random(x.shape, dtype=np.float32) >= p).astype(x.dtype) / x.dtype.type(1 - p)",
    ),
    "dropout_backward": (
        "the mask was drawn once and is a constant: the way back of a product",
        "dx = dout * mask",
    ),
    "positional_encoding": (
        "one column of positions times one row of frequencies; even columns get the sine, odd "
        "ones the cosine",
        "angles = np.arange(length)[:, None] / 10000.0 ** (np.arange(0, width, 2) / width)",
    ),
    "decoder_block_forward": (
        "write a sublayer by itself, as a function of your own: norm, f, dropout, sum, in the "
        "order that norm_first asks for; then call it three times. Pass rng on, so that the "
        "sublayers draw one after the other",
        'read, norm_cache = layer_norm_forward(x, params["norm1.gamma"], params["norm1.beta"])',
    ),
    "decoder_block_backward": (
        "the sublayers from the last to the first. In each the stream has two readers: dout "
        "goes on unchanged, and what comes back through the sublayer adds to it. Query, key and "
        "value of self-attention are one array; key and value of cross-attention are memory",
        "dread, *of_layer = feed_forward_backward(dropout_backward(dout, dropout_cache), cache)",
    ),
    "greedy": (
        "log-probabilities of words that may not be said become -inf, then argmax. Rows that "
        "have ended go on being stepped, but nothing is written any more; stop when all have "
        "ended",
        "captions = np.full((len(features), max_length), model.null)",
    ),
    "beam_search": (
        "one image at a time: log_p of each open beginning plus that of its next word makes a "
        "table (beginnings, V); its beam_size best entries are the new beginnings, and "
        "model.select moves the states with them. Put those that end aside with their score. An "
        "open beginning can at best keep its log-probability until the last length",
        'best = np.argsort(-total, axis=None, kind="stable")[:beam_size]',
    ),
}
