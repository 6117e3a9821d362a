"""Slips in layer norm, the feed-forward layer and attention with heads."""

# ruff: noqa: E501 (a slip a line)

from __future__ import annotations

from core.gradient_check.slips.formulas import Formulas, slips_from

_NORM = {
    "mean": "x.mean(axis=-1, keepdims=True)",
    "centred": "x + -mean",
    "variance": "(centred**2).mean(axis=-1, keepdims=True)",
    "normal": "centred / np.sqrt(variance + 1e-5)",
    "out": "gamma * normal + beta",
}
_SDPA = {
    "dw": "dout @ swap(v)",
    "dscores": "weights * dw + -weights * (weights * dw).sum(axis=-1, keepdims=True)",
    "dproducts": "dscores * q.shape[-1]**-0.5",
    "dq": "dproducts @ k",
    "dk": "swap(dproducts) @ q",
    "dv": "swap(weights) @ dout",
}
_LOOK = {
    "scores": "q @ swap(k) * q.shape[-1]**-0.5",
    "seen": "scores if mask is None else np.where(mask, scores, -np.inf)",
    "weights": "softmax(seen)",
    "looked": "weights @ v",
}
_PROJECTED = {
    f"d{long}": f"merged(d{short}) @ W{short}.T"
    for short, long in (("q", "query"), ("k", "key"), ("v", "value"))
} | {
    key: line
    for short, long in (("q", "query"), ("k", "key"), ("v", "value"))
    for key, line in (
        (f"dW{short}", f"flat({long}).T @ flat(merged(d{short}))"),
        (f"db{short}", f"merged(d{short}).sum(axis=(0, 1))"),
    )
}
_CUT = {
    **{
        short: f"({long} @ W{short} + b{short}).reshape(len({long}), -1, num_heads, "
        f"len(b{short}) // num_heads).swapaxes(1, 2)"
        for short, long in (("q", "query"), ("k", "key"), ("v", "value"))
    },
}
_FEED = {
    "da": "dout @ W2.T * slope",
    "dx": "da @ W1.T",
    "dW1": "flat(x).T @ flat(da)",
    "db1": "da.sum(axis=(0, 1))",
    "dW2": "flat(inner).T @ flat(dout)",
    "db2": "dout.sum(axis=(0, 1))",
}
_FEED_FORWARD = {
    "pre": "x @ W1 + b1",
    "inner": "np.maximum(pre, 0) if activation == 'relu' else "
    "pre * (0.5 * (1 + erf(pre * 0.5**0.5)))",
    "out": "inner @ W2 + b2",
}
RIGHT = {
    "layer_norm_forward": Formulas("x, gamma, beta", "", _NORM, "out, None"),
    "layer_norm_backward": Formulas(
        "dout, cache", "normal, inverse_std, gamma",
        {
            "dnormal": "dout * gamma",
            "dgamma": "(dout * normal).sum(axis=(0, 1))",
            "dbeta": "dout.sum(axis=(0, 1))",
            "m1": "dnormal.mean(axis=-1, keepdims=True)",
            "m2": "(dnormal * normal).mean(axis=-1, keepdims=True)",
            "inside": "dnormal + -m1 + -normal * m2",
            "dx": "inside * inverse_std",
        },
        "dx, dgamma, dbeta",
    ),
    "feed_forward_forward": Formulas(
        "x, W1, b1, W2, b2, activation", "", _FEED_FORWARD, "out, None"
    ),
    "feed_forward_backward": Formulas(
        "dout, cache", "(x, W1), kept, (inner, W2), activation",
        {
            "pre": "kept if activation == 'relu' else kept[0]",
            "phi": "0.5 * (1 + erf(pre * 0.5**0.5))",
            "density": "np.exp(-0.5 * pre**2) / np.sqrt(2 * np.pi)",
            "slope": "(pre > 0) if activation == 'relu' else phi+pre*density",
            **_FEED,
        },
        "dx, dW1, db1, dW2, db2",
    ),
    "scaled_dot_product_attention_forward": Formulas(
        "q, k, v, mask", "", _LOOK, "looked, None"
    ),
    "scaled_dot_product_attention_backward": Formulas(
        "dout, cache", "q, k, v, weights", _SDPA, "dq, dk, dv"
    ),
    "multi_head_attention_forward": Formulas(
        "query, key, value, Wq, bq, Wk, bk, Wv, bv, Wo, bo, num_heads, mask", "",
        {**_CUT, **_LOOK, "joined": "merged(looked)", "out": "joined @ Wo + bo"}, "out, None",
    ),
    "multi_head_attention_backward": Formulas(
        "dupper, cache",
        "((query, Wq), (key, Wk), (value, Wv), (joined, Wo)), (q, k, v, weights)",
        {
            "djoined": "dupper @ Wo.T",
            "dWo": "flat(joined).T @ flat(dupper)",
            "dbo": "dupper.sum(axis=(0, 1))",
            "dout": "heads(djoined, q)",
            **_SDPA,
            **_PROJECTED,
        },
        "dquery, dkey, dvalue, dWq, dbq, dWk, dbk, dWv, dbv, dWo, dbo",
    ),
}  # fmt: skip

_JACOBIAN = [
    ("misses the second term of the softmax's Jacobian: diag(w) - w w^T", {"dscores": "weights * dw"}),
    ("has the diagonal of the softmax's Jacobian alone: diag(w) - w w^T", {"dscores": "dw * weights * (1 - weights)"}),
    ("misses the Jacobian of the softmax: diag(w) - w w^T", {"dscores": "dw"}),
    ("does not multiply by the weights in the softmax's Jacobian: w (dw - sum(w dw))", {"dscores": "dw - (weights * dw).sum(axis=-1, keepdims=True)"}),
    ("has a sum without the weights in the softmax's Jacobian: w (dw - sum(w dw))", {"dscores": "weights * (dw - dw.sum(axis=-1, keepdims=True))"}),
    ("has a mean where the weighted sum belongs in the softmax's Jacobian: w (dw - sum(w dw))", {"dscores": "weights * (dw - dw.mean(axis=-1, keepdims=True))"}),
    ("sums over the queries, not over the keys, in the softmax's Jacobian", {"dscores": "weights * (dw - (weights * dw).sum(axis=-2, keepdims=True))"}),
    ("misses the scale of the scores: wrong by the factor sqrt(d)", {"dproducts": "dscores"}),
    ("has the scale of the scores upside down: wrong by the factor d, multiply by 1 / sqrt(d)", {"dproducts": "dscores * q.shape[-1]**0.5"}),
    ("is scaled by 1 / d, where 1 / sqrt(d) belongs: wrong by the factor sqrt(d)", {"dproducts": "dscores / q.shape[-1]"}),
    ("misses the scale of the scores: wrong by the factor sqrt(d)", {"dq": "dscores @ k"}),
    ("misses the scale of the scores: wrong by the factor sqrt(d)", {"dk": "swap(dscores) @ q"}),
    ("has the gradient of the scores where the weights belong: dv = weights^T dout", {"dv": "swap(dproducts) @ dout"}),
    ("is scaled by sqrt(d) too: only the scores are", {"dv": "swap(weights) @ dout * q.shape[-1]**-0.5"}),
]  # fmt: skip
_MASK = [
    ("misses the scale of the scores: divide by sqrt(d)", {"scores": "q @ swap(k)"}),
    ("is scaled by 1 / d: divide by sqrt(d)", {"scores": "q @ swap(k) / q.shape[-1]"}),
    ("multiplies by sqrt(d): divide by it", {"scores": "q @ swap(k) * q.shape[-1]**0.5"}),
    *((f"is scaled by {words}: divide by sqrt(d)", {"scores": f"q @ swap(k) / np.sqrt({size})"}) for words, size in (
        ("sqrt(T)", "q.shape[2]"), ("sqrt(S)", "k.shape[2]"), ("sqrt(h)", "q.shape[1]"), ("sqrt(N)", "len(q)"), ("sqrt(h d), the whole width", "q.shape[1] * q.shape[3]"),
    )),
    ("does not use the mask", {"seen": "scores"}),
    ("has the mask the wrong way round: True = may attend", {"seen": "np.where(mask, -np.inf, scores)"}),
    ("applies the mask after the softmax: the rest of the weights does not sum to 1", {"seen": "scores", "weights": "np.where(mask, softmax(scores), 0)"}),
    ("sets masked scores to 0: exp(0) is 1, -inf is what the softmax does not see", {"seen": "np.where(mask, scores, 0)"}),
    ("is not 0 for a query that may see nothing: it reads the mean of all values", {"seen": "np.where(mask, scores, -1e9)"}),
    ("has a mask without effect: it adds 0 or 1 to the scores", {"seen": "scores + mask"}),
    ("has its softmax over the queries, not over the keys", {"weights": "np.nan_to_num(swap(softmax(swap(seen))))"}),
    ("misses the softmax", {"weights": "np.where(mask, scores, 0)"}),
]  # fmt: skip
_RESHAPED = {
    short: f"({long} @ W{short} + b{short}).reshape(len({long}), num_heads, -1, len(b{short}) // num_heads)"
    for short, long in (("q", "query"), ("k", "key"), ("v", "value"))
}
_INTERLEAVED = {
    short: f"({long} @ W{short} + b{short}).reshape(len({long}), -1, len(b{short}) // num_heads, num_heads).transpose(0, 3, 1, 2)"
    for short, long in (("q", "query"), ("k", "key"), ("v", "value"))
}
_NAMED = {
    "layer_norm_forward": [
        ("adds eps outside of the root: sqrt(var + eps)", {"normal": "centred / (np.sqrt(variance) + 1e-5)"}),
        *((f"has another eps: {eps} where 1e-5 belongs", {"normal": f"centred / np.sqrt(variance + {eps})"}) for eps in ("1e-6", "1e-8", "1e-3", "1e-12", "1e-7", "1e-4")),
        ("misses eps: sqrt(var + eps)", {"normal": "centred / np.sqrt(variance)"}),
        ("divides by E - 1 in the variance: it is the mean of the squares", {"variance": "x.var(axis=-1, ddof=1, keepdims=True)"}),
        ("misses the root: divide by sqrt(var + eps)", {"normal": "centred / (variance + 1e-5)"}),
        ("is not centred: subtract the mean", {"normal": "x / np.sqrt(variance + 1e-5)"}),
        ("normalises over the batch, not over the last axis", {"mean": "x.mean(axis=0, keepdims=True)", "variance": "(centred**2).mean(axis=0, keepdims=True)"}),
        ("normalises over time, not over the last axis", {"mean": "x.mean(axis=1, keepdims=True)", "variance": "(centred**2).mean(axis=1, keepdims=True)"}),
        ("normalises over time and width together, not over the last axis", {"mean": "x.mean(axis=(1, 2), keepdims=True)", "variance": "(centred**2).mean(axis=(1, 2), keepdims=True)"}),
        ("normalises over batch and time, not over the last axis", {"mean": "x.mean(axis=(0, 1), keepdims=True)", "variance": "(centred**2).mean(axis=(0, 1), keepdims=True)"}),
        ("has the mean of x^2 where the variance belongs", {"variance": "(x**2).mean(axis=-1, keepdims=True)"}),
        ("has (1 + gamma) where gamma belongs", {"out": "(1 + gamma) * normal + beta"}),
        ("multiplies by gamma after beta was added", {"out": "gamma * (normal + beta)"}),
    ],
    "layer_norm_backward": [
        ("misses the terms of mean and variance: both depend on x", {"inside": "dnormal"}),
        ("misses the variance's term: the variance depends on x", {"inside": "dnormal - m1"}),
        ("misses the mean's term: the mean depends on x", {"inside": "dnormal - normal * m2"}),
        ("misses the factor gamma", {"dnormal": "dout"}),
        ("multiplies by gamma at the end: it belongs inside, before the means", {"dnormal": "dout", "dx": "inside * inverse_std * gamma"}),
        ("misses the factor 1 / sqrt(var + eps)", {"dx": "inside"}),
        ("has the factor sqrt(var + eps) upside down", {"dx": "inside / inverse_std"}),
        ("has sums where means belong in the terms of mean and variance", {"m1": "dnormal.sum(axis=-1, keepdims=True)", "m2": "(dnormal * normal).sum(axis=-1, keepdims=True)"}),
        ("has a sum where a mean belongs in the mean's term", {"m1": "dnormal.sum(axis=-1, keepdims=True)"}),
        ("has a sum where a mean belongs in the variance's term", {"m2": "(dnormal * normal).sum(axis=-1, keepdims=True)"}),
        ("has the wrong sign in the variance's term", {"inside": "dnormal - m1 + normal * m2"}),
        ("has the wrong sign in the mean's term", {"inside": "dnormal + m1 - normal * m2"}),
        ("has the variance's term by half: the square brings a factor 2", {"inside": "dnormal - m1 - 0.5 * normal * m2"}),
        ("has the variance's term doubled", {"inside": "dnormal - m1 - 2 * normal * m2"}),
        ("has x - mean where normal belongs, in the variance's term: 1 / var is missing", {"inside": "dnormal - m1 - normal * m2 / inverse_std**2"}),
        ("has x - mean where normal belongs, once, in the variance's term: 1 / std is missing", {"inside": "dnormal - m1 - normal * m2 / inverse_std"}),
        ("misses the factor normal in the variance's term", {"inside": "dnormal - m1 - m2"}),
        ("takes the means over the batch, not over the last axis", {"m1": "dnormal.mean(axis=0, keepdims=True)", "m2": "(dnormal * normal).mean(axis=0, keepdims=True)"}),
        ("misses the factor normal: dgamma = sum(dout normal)", {"dgamma": "dout.sum(axis=(0, 1))"}),
        ("is a mean over the rows where the sum belongs", {"dgamma": "(dout * normal).mean(axis=(0, 1))", "dbeta": "dout.mean(axis=(0, 1))"}),
        ("is a mean over the rows where the sum belongs", {"dgamma": "(dout * normal).mean(axis=(0, 1))"}),
        ("is a mean over the rows where the sum belongs", {"dbeta": "dout.mean(axis=(0, 1))"}),
        ("has gamma in it: dgamma = sum(dout normal)", {"dgamma": "(dnormal * normal).sum(axis=(0, 1))"}),
        ("has the factor normal in it: dbeta = sum(dout)", {"dbeta": "(dout * normal).sum(axis=(0, 1))"}),
        ("divides twice by the width: a mean is divided once", {"m2": "(dnormal * normal).mean(axis=-1, keepdims=True) / gamma.size"}),
        ("divides twice by the width: a mean is divided once", {"m1": "dnormal.mean(axis=-1, keepdims=True) / gamma.size"}),
        ("has gamma in it: dbeta = sum(dout)", {"dbeta": "dnormal.sum(axis=(0, 1))"}),
    ],
    "feed_forward_forward": [
        ("has GELU by tanh: here it is x Phi(x) with erf", {"inner": "0.5 * pre * (1 + np.tanh(np.sqrt(2 / np.pi) * (pre + 0.044715 * pre**3)))"}),
        ("has GELU by a sigmoid: here it is x Phi(x) with erf", {"inner": "pre * sigmoid(1.702 * pre)"}),
        ("misses the root of 2 in erf(x / sqrt(2))", {"inner": "pre * 0.5 * (1 + erf(pre))"}),
        ("misses the nonlinearity", {"inner": "pre"}),
        ("has a ReLU where GELU belongs", {"inner": "np.maximum(pre, 0)"}),
        ("has GELU where a ReLU belongs", {"inner": "pre * (0.5 * (1 + erf(pre * 0.5**0.5)))"}),
        ("is Phi(x) without the factor x", {"inner": "0.5 * (1 + erf(pre * 0.5**0.5))"}),
        ("has the absolute value where a ReLU belongs", {"inner": "np.abs(pre)"}),
        ("has a leaky ReLU: below 0 a ReLU is 0", {"inner": "np.where(pre > 0, pre, 0.01 * pre)"}),
        ("has a sigmoid where the nonlinearity belongs", {"inner": "sigmoid(pre)"}),
        ("has a tanh where the nonlinearity belongs", {"inner": "np.tanh(pre)"}),
        ("misses the bias b1", {"pre": "x @ W1"}),
        ("misses the bias b2", {"out": "inner @ W2"}),
        *(
            ("applies the nonlinearity to x, before W1", {"pre": "np.maximum(x, 0) @ W1 + b1", **inner})
            for inner in ({}, {"inner": "pre"})
        ),
        ("applies the nonlinearity to the output too", {"out": "np.maximum(inner @ W2 + b2, 0)"}),
    ],
    "feed_forward_backward": [
        ("misses the derivative of the nonlinearity", {"da": "dout @ W2.T"}),
        ("misses the second term of GELU's derivative: Phi(x) + x Phi'(x)", {"slope": "phi"}),
        ("misses the first term of GELU's derivative: Phi(x) + x Phi'(x)", {"slope": "pre*density"}),
        ("misses the factor x of GELU's derivative: Phi(x) + x Phi'(x)", {"slope": "phi+density"}),
        ("misses 1 / sqrt(2 pi) in GELU's derivative", {"slope": "phi+pre*np.exp(-0.5 * pre**2)"}),
        ("misses the 1/2 in the exponent of GELU's derivative", {"slope": "phi+pre*np.exp(-pre**2) / np.sqrt(2 * np.pi)"}),
        ("is the derivative of GELU by tanh: here it is x Phi(x) with erf", {
            "slope": "0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (pre + 0.044715 * pre**3)))+0.5 * pre * (1 - np.tanh(np.sqrt(2 / np.pi) * (pre + 0.044715 * pre**3))**2) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * pre**2)"
        }),
        ("has a ReLU's derivative where GELU's belongs", {"slope": "(pre > 0)"}),
        ("asks x > 0 with the wrong sign: ReLU passes where its input was above 0", {"slope": "(pre < 0)"}),
        ("has the nonlinearity where its derivative belongs", {"slope": "inner"}),
        ("cuts the gradient where it is below 0: ReLU passes where its input was above 0", {"da": "np.maximum(dout @ W2.T, 0)"}),
        ("cuts the gradient where it is below 0 too", {"da": "np.maximum(dout @ W2.T, 0) * slope"}),
        ("asks whether x W1 is above 0: the bias b1 belongs to it", {"da": "dout @ W2.T * (x @ W1 > 0)"}),
        ("is made of x W1, not of what comes out of the nonlinearity", {"dW2": "flat(x @ W1).T @ flat(dout)"}),
        ("has dout masked where the output is: the ReLU is inside", {"da": "(dout * (inner @ W2 > 0)) @ W2.T"}),
        ("is made of what goes into the nonlinearity, not of what comes out", {"dW2": "flat(pre).T @ flat(dout)"}),
        ("is made before the derivative of the nonlinearity", {"dW1": "flat(x).T @ flat(dout @ W2.T)"}),
        ("is made before the derivative of the nonlinearity", {"db1": "(dout @ W2.T).sum(axis=(0, 1))"}),
        ("is made before the derivative of the nonlinearity", {"dx": "dout @ W2.T @ W1.T"}),
        ("is a mean over the rows where the sum belongs", {"db1": "da.mean(axis=(0, 1))", "db2": "dout.mean(axis=(0, 1))"}),
    ],
    "scaled_dot_product_attention_forward": _MASK,
    "scaled_dot_product_attention_backward": _JACOBIAN,
    "multi_head_attention_forward": [
        ("has its heads reshaped instead of transposed: (N, T, h, d) first, then swap T and h", _RESHAPED),
        ("has its heads reshaped instead of transposed: (N, T, h, d) first, then swap T and h", {**_RESHAPED, "joined": "looked.reshape(query.shape)"}),
        ("merges its heads by a reshape alone: swap h and T first", {"joined": "looked.reshape(query.shape)"}),
        ("has the channels of its heads interleaved: head i holds the channels i d to (i + 1) d", _INTERLEAVED),
        ("has the channels of its heads interleaved: head i holds the channels i d to (i + 1) d", {**_INTERLEAVED, "joined": "looked.transpose(0, 2, 3, 1).reshape(query.shape)"}),
        ("is scaled by the whole width E, where that of a head belongs: sqrt(d), d = E / h", {"scores": "q @ swap(k) * len(bq)**-0.5"}),
        *_MASK,
        ("uses the mask in the first head alone", {"seen": "np.where(mask | (np.arange(num_heads) > 0)[:, None, None], scores, -np.inf)"}),
        ("misses the last projection Wo", {"out": "joined"}),
        ("misses the bias bo", {"out": "joined @ Wo"}),
        *(
            (f"makes {made} of {read}", {made: _CUT[made].replace(right, read)})
            for made, right in (("q", "query"), ("k", "key"), ("v", "value"))
            for read in ("key", "value") if read != right
        ),
        ("has key and value exchanged: k is made of key, v of value", {"k": _CUT["k"].replace("key", "value"), "v": _CUT["v"].replace("value", "key")}),
        *((f"misses the bias b{x}", {x: _CUT[x].replace(f" + b{x}", "")}) for x in "qv"),
        ("projects all three with Wq: each has its own", {x: _CUT[x].replace(f"W{x}", "Wq") for x in "kv"}),
        ("has one head alone", {x: _CUT[x].replace("num_heads", "1") for x in "qkv"}),
        ("multiplies by Wo transposed", {"out": "joined @ Wo.T + bo"}),
    ],
    "multi_head_attention_backward": [
        *_JACOBIAN,
        ("is scaled by the whole width E, where that of a head belongs: sqrt(d), d = E / h", {"dproducts": "dscores * joined.shape[-1]**-0.5"}),
        ("has its heads reshaped instead of transposed: (N, T, h, d) first, then swap T and h", {"dout": "djoined.reshape(q.shape)"}),
        ("is made of dout alone: Wo lies between", {"dout": "heads(dupper, q)"}),
        *(
            (f"comes from a transposed product: W{short} where W{short}.T belongs", {f"d{long}": f"merged(d{short}) @ W{short}"})
            for short, long in (("q", "query"), ("k", "key"), ("v", "value"))
        ),
        ("comes from a transposed product: Wo where Wo.T belongs", {"djoined": "dupper @ Wo"}),
        *((f"misses the product with W{short}.T: d{long}", {f"d{long}": f"merged(d{short})"}) for short, long in (("q", "query"), ("k", "key"), ("v", "value"))),
        ("misses the products with Wq.T, Wk.T and Wv.T", {f"d{long}": f"merged(d{short})" for short, long in (("q", "query"), ("k", "key"), ("v", "value"))}),
        ("is made of query: Wo reads the joined heads", {"dWo": "flat(query).T @ flat(dupper)"}),
        ("has dk and dv exchanged", {"dk": "swap(weights) @ dout", "dv": "swap(dproducts) @ q"}),
    ],
}  # fmt: skip


TABLE = {
    name: lambda name=name, right=right: slips_from(right, _NAMED.get(name, ()))
    for name, right in RIGHT.items()
}
