"""The post's two networks, and the one that they improve on, layer by layer.

Each line of a list is one `model.add` of the post, in the post's order, and one row of
`model.summary()`. The post repeats the arguments of its convolutions in every line; here they
stand once, in `conv_3x3` and `conv_1x1`. `python models.py` prints the summaries.
"""

import machine

if __name__ == "__main__":
    machine.start_tensorflow()  # as for a run, and without its log

from keras import Input, Sequential
from keras.initializers import HeNormal, VarianceScaling
from keras.layers import (
    Activation,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    MaxPooling2D,
)
from keras.losses import CategoricalFocalCrossentropy
from keras.optimizers import Adam


def deep_cnn_advanced():
    """Build the post's "Deep CNN - 2": He initialization, batch normalization, dropout.

    Returns:
        A compiled `keras.Sequential` of 137,510 parameters, 136,910 of them trainable.
        Input: images (n, 28, 28, 1), pixels 0 to 255. Output: float32 (n, 10), the
        probabilities of the digits.
    """
    layers = [
        Input(shape=(28, 28, 1)),
        conv_3x3(),
        BatchNormalization(),
        Activation("relu"),
        conv_3x3(),
        BatchNormalization(),
        Activation("relu"),
        MaxPooling2D(pool_size=(2, 2)),
        conv_3x3(),
        BatchNormalization(),
        Activation("relu"),
        conv_3x3(),
        BatchNormalization(),
        Activation("relu"),
        MaxPooling2D(pool_size=(2, 2)),
        conv_3x3(),
        BatchNormalization(),
        Activation("relu"),
        conv_3x3(),
        BatchNormalization(),
        Activation("relu"),
        MaxPooling2D(pool_size=(2, 2)),
        Flatten(),
        Dense(50, activation="relu", kernel_initializer="he_normal"),
        Dropout(0.5),
        Dense(10, activation="softmax", kernel_initializer="he_normal"),
    ]
    return compiled(Sequential(layers, name="deep_cnn_advanced"))


def deep_cnn_advanced_nin():
    """Build the post's "Deep CNN - 3": the same with 1x1 convolutions (network in network).

    Returns:
        A compiled `keras.Sequential` of 87,135 parameters, 86,785 of them trainable.
        Input and output as of `deep_cnn_advanced`.
    """
    layers = [
        Input(shape=(28, 28, 1)),
        conv_3x3(),
        BatchNormalization(),
        Activation("relu"),
        conv_3x3(),
        conv_1x1(),
        BatchNormalization(),
        Activation("relu"),
        MaxPooling2D(pool_size=(2, 2)),
        conv_3x3(),
        conv_1x1(),
        BatchNormalization(),
        Activation("relu"),
        conv_3x3(),
        conv_1x1(),
        BatchNormalization(),
        Activation("relu"),
        MaxPooling2D(pool_size=(2, 2)),
        conv_3x3(),
        conv_1x1(),
        BatchNormalization(),
        Activation("relu"),
        conv_3x3(),
        conv_1x1(),
        BatchNormalization(),
        Activation("relu"),
        MaxPooling2D(pool_size=(2, 2)),
        Flatten(),
        Dense(50, activation="relu", kernel_initializer="he_normal"),
        Dropout(0.5),
        Dense(10, activation="softmax", kernel_initializer="he_normal"),
    ]
    return compiled(Sequential(layers, name="deep_cnn_advanced_nin"))


def deep_cnn():
    """Build the plain "Deep CNN - 1" of the series' part (10), from the author's notebook.

    `deep_cnn_advanced` without BatchNormalization and Dropout, and with Keras's default
    initializer throughout.

    Returns:
        A compiled `keras.Sequential` of 136,310 parameters, all trainable. Input and output
        as of `deep_cnn_advanced`.
    """
    layers = [
        Input(shape=(28, 28, 1)),
        conv_3x3("glorot_uniform"),
        Activation("relu"),
        conv_3x3("glorot_uniform"),
        Activation("relu"),
        MaxPooling2D(pool_size=(2, 2)),
        conv_3x3("glorot_uniform"),
        Activation("relu"),
        conv_3x3("glorot_uniform"),
        Activation("relu"),
        MaxPooling2D(pool_size=(2, 2)),
        conv_3x3("glorot_uniform"),
        Activation("relu"),
        conv_3x3("glorot_uniform"),
        Activation("relu"),
        MaxPooling2D(pool_size=(2, 2)),
        Flatten(),
        Dense(50, activation="relu"),
        Dense(10, activation="softmax"),
    ]
    return compiled(Sequential(layers, name="deep_cnn"))


def conv_3x3(kernel_initializer="he_normal"):
    """Return the author's convolution: 50 filters of 3x3, size kept."""
    return Conv2D(
        filters=50,
        kernel_size=(3, 3),
        strides=(1, 1),
        padding="same",
        kernel_initializer=kernel_initializer,
    )


def conv_1x1():
    """Return the post's 1x1 convolution ("network in network"): 50 channels become 25."""
    return Conv2D(
        filters=25,
        kernel_size=(1, 1),
        strides=(1, 1),
        padding="valid",
        kernel_initializer="he_normal",
    )


def compiled(model):
    """Compile `model` as the post does, Adam at a learning rate of 0.001, and return it."""
    model.compile(
        loss="categorical_crossentropy",
        optimizer=Adam(learning_rate=0.001),
        metrics=["accuracy"],
    )
    return model


# The plain network with one of the three improvements


def deep_cnn_he():
    """Build `deep_cnn` with He initialization alone: 136,310 parameters."""
    return improved_deep_cnn("deep_cnn_he", he=True)


def deep_cnn_bn():
    """Build `deep_cnn` with batch normalization alone: 137,510 parameters."""
    return improved_deep_cnn("deep_cnn_bn", batch_normalization=True)


def deep_cnn_dropout():
    """Build `deep_cnn` with dropout alone: 136,310 parameters."""
    return improved_deep_cnn("deep_cnn_dropout", dropout=True)


def improved_deep_cnn(name, he=False, batch_normalization=False, dropout=False):
    """Build `deep_cnn` with some of what `deep_cnn_advanced` has more, each as it has it.

    Args:
        name: of the network, a string.
        he: whether all layers with weights begin He-normal, or as Keras has them begin.
        batch_normalization: whether it stands between each convolution and its ReLU.
        dropout: whether half of the 50 units before the last layer are dropped in training.

    Returns:
        A compiled `keras.Sequential`. Input and output as of `deep_cnn_advanced`.
    """
    initializer = "he_normal" if he else "glorot_uniform"
    layers = [Input(shape=(28, 28, 1))]
    for _ in range(3):
        for _ in range(2):
            layers.append(conv_3x3(initializer))
            if batch_normalization:
                layers.append(BatchNormalization())
            layers.append(Activation("relu"))
        layers.append(MaxPooling2D(pool_size=(2, 2)))
    layers += [Flatten(), Dense(50, activation="relu", kernel_initializer=initializer)]
    if dropout:
        layers.append(Dropout(0.5))
    layers.append(Dense(10, activation="softmax", kernel_initializer=initializer))
    return compiled(Sequential(layers, name=name))


# The rules of October 2017


def loss_of_2017():
    """Return the categorical crossentropy of Keras 2.0.8: of probabilities within 1e-7 of 0 and 1.

    An image whose digit has less than 1e-7 adds 16.12 to the loss, with a gradient of zero; with
    today's crossentropy, which goes back to the logits behind the softmax, it has one of -1. With
    a gamma of 0 and an alpha of 1 today's focal crossentropy clips, and is nothing else.
    """
    return CategoricalFocalCrossentropy(alpha=1.0, gamma=0.0)


def he_normal_of_2017():
    """Return the initializer of Keras 2.0.8: not corrected for its cut at two deviations.

    Its standard deviation is 0.88 of today's. An initializer of its own for each layer: one draws
    the same weights again.
    """
    return VarianceScaling(2 * 0.87962566**2, "fan_in", "truncated_normal")


# What is not today's, of what Keras 2.0.8 did otherwise in training.
RULES = {
    "today": (),
    "2017": ("loss", "epsilon", "he_normal"),
    "2017-loss": ("loss",),
    "2017-epsilon": ("epsilon",),
}


def under_rules(model, rules):
    """Return `model`, one of the author's as built above, to be trained by other rules.

    They change what they name and nothing else: the loss if it is the categorical crossentropy,
    the epsilon of an optimizer that has one, the weights where they are He-normal.

    Args:
        model: a compiled `keras.Model`.
        rules: a key of `RULES`.
    """
    then = RULES[rules]
    if not then:
        return model
    for layer in model.layers:
        if isinstance(getattr(layer, "kernel_initializer", None), HeNormal) and "he_normal" in then:
            layer.kernel_initializer = he_normal_of_2017()
            layer.kernel.assign(layer.kernel_initializer(layer.kernel.shape))
    optimizer, loss = model.optimizer.get_config(), model.loss
    del optimizer["name"]  # it gets its own, as in the published runs
    if "epsilon" in then and "epsilon" in optimizer:
        optimizer["epsilon"] = 1e-8
    if "loss" in then and loss == "categorical_crossentropy":
        loss = loss_of_2017()
    model.compile(
        loss=loss,
        optimizer=type(model.optimizer).from_config(optimizer),
        metrics=model.get_compile_config()["metrics"],
    )
    return model


MODELS = {
    "deep_cnn_advanced": deep_cnn_advanced,
    "deep_cnn_advanced_nin": deep_cnn_advanced_nin,
    "deep_cnn": deep_cnn,
    "deep_cnn_he": deep_cnn_he,
    "deep_cnn_bn": deep_cnn_bn,
    "deep_cnn_dropout": deep_cnn_dropout,
}


if __name__ == "__main__":
    for name, build in MODELS.items():
        model = build()
        if build in (deep_cnn_he, deep_cnn_bn, deep_cnn_dropout):
            print(f"{name}: deep_cnn and one improvement, {model.count_params():,} parameters")
        else:
            model.summary()
