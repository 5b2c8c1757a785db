"""The post's two networks, layer by layer.

The post builds them with one `model.add` a layer; here each line of a list is one
step of the post, in the post's order.
"""

import os

# The networks are the same whatever a user's own settings say: Keras is shown no keras.json
# (another backend, channels_first, float16 or another epsilon would change them) and none of
# the KERAS_ variables (KERAS_MAX_EPOCHS would cut a run short).
for variable in [name for name in os.environ if name.startswith("KERAS_")]:
    del os.environ[variable]
os.environ["KERAS_HOME"] = os.devnull

from keras import Input, Sequential  # noqa: E402
from keras.layers import (  # noqa: E402
    Activation,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    MaxPooling2D,
)
from keras.optimizers import Adam  # noqa: E402

INPUT_SHAPE = (28, 28, 1)


def conv_3x3():
    """Return the post's convolution: 50 filters of 3x3, size kept, He-normal weights."""
    return Conv2D(
        filters=50,
        kernel_size=(3, 3),
        strides=(1, 1),
        padding="same",
        kernel_initializer="he_normal",
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


def bn_relu():
    """Return batch normalization and the ReLU that follows it."""
    return [BatchNormalization(), Activation("relu")]


def max_pooling():
    """Return the post's pooling: height and width are halved, rounded down."""
    return MaxPooling2D(pool_size=(2, 2))


def dense_layers():
    """Return the post's last layers: 50 neurons with dropout, then the 10 classes."""
    return [
        Flatten(),
        Dense(50, activation="relu", kernel_initializer="he_normal"),
        Dropout(0.5),
        Dense(10, activation="softmax", kernel_initializer="he_normal"),
    ]


def deep_cnn_advanced():
    """Build the post's "Deep CNN - 2": He initialization, batch normalization, dropout.

    Returns:
        A compiled `keras.Sequential` of 137,510 parameters, 136,910 of them trainable.
        Input: images (n, 28, 28, 1), pixels 0 to 255. Output: float32 (n, 10), the
        probabilities of the digits.
    """
    layers = [
        Input(shape=INPUT_SHAPE),
        *(conv_3x3(), *bn_relu()),
        *(conv_3x3(), *bn_relu()),
        max_pooling(),
        *(conv_3x3(), *bn_relu()),
        *(conv_3x3(), *bn_relu()),
        max_pooling(),
        *(conv_3x3(), *bn_relu()),
        *(conv_3x3(), *bn_relu()),
        max_pooling(),
        *dense_layers(),
    ]
    return compiled(Sequential(layers, name="deep_cnn_advanced"))


def deep_cnn_advanced_nin():
    """Build the post's "Deep CNN - 3": the same with 1x1 convolutions (network in network).

    Returns:
        A compiled `keras.Sequential` of 87,135 parameters, 86,785 of them trainable.
        Input and output as of `deep_cnn_advanced`.
    """
    layers = [
        Input(shape=INPUT_SHAPE),
        *(conv_3x3(), *bn_relu()),
        *(conv_3x3(), conv_1x1(), *bn_relu()),
        max_pooling(),
        *(conv_3x3(), conv_1x1(), *bn_relu()),
        *(conv_3x3(), conv_1x1(), *bn_relu()),
        max_pooling(),
        *(conv_3x3(), conv_1x1(), *bn_relu()),
        *(conv_3x3(), conv_1x1(), *bn_relu()),
        max_pooling(),
        *dense_layers(),
    ]
    return compiled(Sequential(layers, name="deep_cnn_advanced_nin"))


def compiled(model):
    """Compile `model` as the post does, Adam at a learning rate of 0.001, and return it."""
    model.compile(
        loss="categorical_crossentropy",
        optimizer=Adam(learning_rate=0.001),
        metrics=["accuracy"],
    )
    return model


MODELS = {
    "deep_cnn_advanced": deep_cnn_advanced,
    "deep_cnn_advanced_nin": deep_cnn_advanced_nin,
}
