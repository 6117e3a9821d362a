"""Of each function of the road: its place in the lessons, and a sentence worth knowing.

The sentence is shown once the function holds, so it may say what a learner has just found out.
"""

from __future__ import annotations

from core.workbook.road import chapter_of

# functions whose section is not in the lesson of their chapter, but in what goes deeper
DEEPER = {
    **dict.fromkeys(("adamw", "clip_gradient_norm"), "04b_clipping_decay_schedules.ipynb"),
    **dict.fromkeys(
        ("context_gate_forward", "context_gate_backward", "doubly_stochastic_loss"),
        "08b_more_about_looking.ipynb",
    ),
}


def notebook_of(function: str) -> str:
    """The file in ``notebooks/`` with the section of a function."""
    return DEEPER.get(function, chapter_of(function).lesson)


# function -> (heading in its notebook, sentence)
WORTH = {
    "affine_forward": (
        "Affine, forward",
        "Almost all of the arithmetic of a neural network is this one product; what comes after is "
        "cheap beside it.",
    ),
    "affine_backward": (
        "Affine, backward",
        "A backward of a product is two products, so training costs about three times what "
        "inference does.",
    ),
    "temporal_affine_forward": (
        "The same layer at every step",
        "Folding time into the batch gives one large product instead of T small ones: the same "
        "numbers, several times faster.",
    ),
    "temporal_affine_backward": (
        "The same layer at every step",
        "All steps share w, so its gradient is a sum over them: the rule that makes "
        "back-propagation through time.",
    ),
    "word_embedding_forward": (
        "A word becomes a vector",
        "A look-up equals a product with a one-hot vector; nobody computes that product, because "
        "all but one of its terms are 0.",
    ),
    "word_embedding_backward": (
        "What repeats must add up",
        "NumPy's dW[x] += dout keeps one use of each word only, without a warning; np.add.at adds "
        "them all.",
    ),
    "temporal_softmax_loss": (
        "Its gradient, line by line",
        "An untrained captioner's loss is close to log V per word: a first loss that is far from "
        "it shows a mistake before training begins.",
    ),
    "sgd": (
        "By hand: one weight",
        "Robbins and Monro published this rule in 1951; everything since is a better guess at the "
        "learning rate.",
    ),
    "sgd_momentum": (
        "Momentum: steps that add up",
        "With momentum 0.9, a gradient that stays the same ends up moving the weight ten times as "
        "far per step: 1 / (1 - 0.9).",
    ),
    "rmsprop": (
        "RMSProp: a rate for each weight",
        "RMSProp was never published in a paper: its source is a slide of a lecture of 2012.",
    ),
    "adam": (
        "Adam: both memories, and a better start",
        "Adam's first step is close to the learning rate for every weight, however large or small "
        "its gradient.",
    ),
    "adamw": (
        "AdamW: decay that is not a gradient",
        "Added to the gradient, weight decay would be divided by sqrt(v): weights with large "
        "gradients would hardly decay at all.",
    ),
    "clip_gradient_norm": (
        "Clipping: one bad gradient",
        "One factor for all gradients keeps the direction of the step; clipping each entry by "
        "itself would turn it.",
    ),
    "rnn_step_forward": (
        "One step forward",
        "tanh keeps every state between -1 and 1, so that a state cannot grow without bound, "
        "however long the caption.",
    ),
    "rnn_step_backward": (
        "One step backward",
        "The derivative of tanh is 1 - tanh^2, so the forward's output is enough: nothing else "
        "needs to be kept.",
    ),
    "rnn_forward": (
        "Through time",
        "The same three weight arrays serve every step: a caption of 20 words needs no more "
        "parameters than one of 2.",
    ),
    "rnn_backward": (
        "Through time",
        "The gradient meets Wh once per step: it vanishes or explodes like a power of a matrix, "
        "which is why the LSTM was invented.",
    ),
    "lstm_step_forward": (
        "One step forward",
        "The LSTM of 1997 had no forget gate; Gers, Schmidhuber and Cummins added it in 2000, and "
        "later studies found that it matters most.",
    ),
    "lstm_step_backward": (
        "One step backward",
        "From one cell state to the one before the gradient is multiplied by f alone, no matrix: "
        "with f near 1 it survives a long way.",
    ),
    "lstm_forward": (
        "Through time",
        "The cell state leaves the layer nowhere but through o * tanh(c): what the LSTM remembers "
        "and what it says are two things.",
    ),
    "lstm_backward": (
        "Through time",
        "Two gradients flow back through time here, of h and of c; if you drop the second, the "
        "network still learns, just nothing that is far away.",
    ),
    "attend_forward": (
        "The forward",
        "The weights of a word sum to 1, so they can be drawn over the picture: where did it look "
        "when it said 'circle'?",
    ),
    "attend_backward": (
        "The backward",
        "The gradients of softmax's inputs sum to 0: a location gains attention only if others "
        "lose it.",
    ),
    "additive_attention_forward": (
        "The forward",
        "This score is that of Bahdanau, Cho and Bengio, written for translation; Show, Attend and "
        "Tell let it look at pictures.",
    ),
    "additive_attention_backward": (
        "The backward",
        "The features have two readers, the keys and the context, so their gradient is a sum of "
        "two terms; one alone still trains, but worse.",
    ),
    "context_gate_forward": (
        "The gate on the context",
        "A word such as 'of' needs no picture: the gate lets the state turn it off.",
    ),
    "context_gate_backward": (
        "The gate on the context",
        "The derivative of a sigmoid is at most 1/4, so every closed or open gate slows down the "
        "gradient that goes through it.",
    ),
    "attention_lstm_step_forward": (
        "In front of an LSTM",
        "Reading the new word before looking makes the maps right: a query of the old state alone "
        "looks for the word before.",
    ),
    "attention_lstm_step_backward": (
        "In front of an LSTM",
        "The old state has three readers here, the query, the gate and the LSTM; a gradient check "
        "finds a forgotten one at once, a falling loss does not.",
    ),
    "attention_lstm_forward": (
        "In front of an LSTM",
        "The keys are the same for every word, so they are computed once for each picture: at 20 "
        "words that saves 19 of 20 such products.",
    ),
    "attention_lstm_backward": (
        "In front of an LSTM",
        "With this, every gradient of Show, Attend and Tell's decoder is your own work.",
    ),
    "doubly_stochastic_loss": (
        "The doubly stochastic penalty",
        "The weights of a step sum to 1 by construction; that those of a location do so over the "
        "steps can only be asked for.",
    ),
    "scaled_dot_product_attention_forward": (
        "Why divide by the root of the width",
        "A product of two vectors of d independent numbers of variance 1 has variance d; divided "
        "by sqrt(d) the softmax does not saturate.",
    ),
    "scaled_dot_product_attention_backward": (
        "The backward",
        "A masked key has a weight of 0, and the softmax's backward multiplies by it: the mask "
        "needs no line of its own.",
    ),
    "multi_head_attention_forward": (
        "Heads",
        "Heads cost nothing: eight heads of width 64 take as many parameters and products as one "
        "of width 512.",
    ),
    "multi_head_attention_backward": (
        "What can never learn",
        "dbk is 0, whatever the inputs: it adds the same number to all scores of a query, which a "
        "softmax does not see.",
    ),
    "layer_norm_forward": (
        "Layer norm: forward",
        "Unlike batch norm, layer norm does not look at other captions: training and inference "
        "compute the same.",
    ),
    "layer_norm_backward": (
        "Layer norm: backward",
        "dx has no part along the ones and almost none along the normalised x: the two directions "
        "that the norm has removed.",
    ),
    "feed_forward_forward": (
        "Feed-forward: each word by itself",
        "At the usual F = 4 E this layer holds about two thirds of the weights of a Transformer "
        "layer with one attention.",
    ),
    "feed_forward_backward": (
        "Feed-forward: each word by itself",
        "Where a ReLU is closed no gradient passes; a unit that is closed for every input never "
        "learns again.",
    ),
    "dropout_forward": (
        "Dropout: a layer that is random",
        "Scaling by 1 / (1 - p) in training leaves nothing to do at inference, which is why this "
        "kind is called inverted.",
    ),
    "dropout_backward": (
        "Dropout: a layer that is random",
        "The backward must see the very mask of the forward: a new draw would give a gradient of "
        "another network.",
    ),
    "positional_encoding": (
        "Positions",
        "Moving by k positions turns each pair of sine and cosine by a fixed angle, so distances "
        "are linear to read.",
    ),
    "decoder_block_forward": (
        "The decoder block, forward and backward",
        "With norms before the sublayers the stream x itself is never normalised: a straight way "
        "from the loss to the words.",
    ),
    "decoder_block_backward": (
        "The decoder block, forward and backward",
        "dout reaches dx through each residual unchanged, plus what the sublayers add: that is why "
        "deep stacks can be trained.",
    ),
    "greedy": (
        "Greedy, and the garden path",
        "The most probable word at each step need not lead to the most probable caption: greedy "
        "never comes back.",
    ),
    "beam_search": (
        "Beam search",
        "A beam of one is greedy, a beam as wide as the tree is exact; between them, wider is not "
        "always better.",
    ),
}
