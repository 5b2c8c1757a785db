"""What the author states of the networks: the one place of these facts in the tests.

Source: the summary tables, the code and the printed accuracies of the post; for `deep_cnn`,
those of the notebook of 10 October 2017 in the author's repository.
"""

# Layer kind, output shape without the batch, parameters: every row of the tables.
SUMMARY = {
    "deep_cnn_advanced": [
        ("Conv2D", (28, 28, 50), 500),
        ("BatchNormalization", (28, 28, 50), 200),
        ("Activation", (28, 28, 50), 0),
        ("Conv2D", (28, 28, 50), 22_550),
        ("BatchNormalization", (28, 28, 50), 200),
        ("Activation", (28, 28, 50), 0),
        ("MaxPooling2D", (14, 14, 50), 0),
        ("Conv2D", (14, 14, 50), 22_550),
        ("BatchNormalization", (14, 14, 50), 200),
        ("Activation", (14, 14, 50), 0),
        ("Conv2D", (14, 14, 50), 22_550),
        ("BatchNormalization", (14, 14, 50), 200),
        ("Activation", (14, 14, 50), 0),
        ("MaxPooling2D", (7, 7, 50), 0),
        ("Conv2D", (7, 7, 50), 22_550),
        ("BatchNormalization", (7, 7, 50), 200),
        ("Activation", (7, 7, 50), 0),
        ("Conv2D", (7, 7, 50), 22_550),
        ("BatchNormalization", (7, 7, 50), 200),
        ("Activation", (7, 7, 50), 0),
        ("MaxPooling2D", (3, 3, 50), 0),
        ("Flatten", (450,), 0),
        ("Dense", (50,), 22_550),
        ("Dropout", (50,), 0),
        ("Dense", (10,), 510),
    ],
    "deep_cnn_advanced_nin": [
        ("Conv2D", (28, 28, 50), 500),
        ("BatchNormalization", (28, 28, 50), 200),
        ("Activation", (28, 28, 50), 0),
        ("Conv2D", (28, 28, 50), 22_550),
        ("Conv2D", (28, 28, 25), 1_275),
        ("BatchNormalization", (28, 28, 25), 100),
        ("Activation", (28, 28, 25), 0),
        ("MaxPooling2D", (14, 14, 25), 0),
        ("Conv2D", (14, 14, 50), 11_300),
        ("Conv2D", (14, 14, 25), 1_275),
        ("BatchNormalization", (14, 14, 25), 100),
        ("Activation", (14, 14, 25), 0),
        ("Conv2D", (14, 14, 50), 11_300),
        ("Conv2D", (14, 14, 25), 1_275),
        ("BatchNormalization", (14, 14, 25), 100),
        ("Activation", (14, 14, 25), 0),
        ("MaxPooling2D", (7, 7, 25), 0),
        ("Conv2D", (7, 7, 50), 11_300),
        ("Conv2D", (7, 7, 25), 1_275),
        ("BatchNormalization", (7, 7, 25), 100),
        ("Activation", (7, 7, 25), 0),
        ("Conv2D", (7, 7, 50), 11_300),
        ("Conv2D", (7, 7, 25), 1_275),
        ("BatchNormalization", (7, 7, 25), 100),
        ("Activation", (7, 7, 25), 0),
        ("MaxPooling2D", (3, 3, 25), 0),
        ("Flatten", (225,), 0),
        ("Dense", (50,), 11_300),
        ("Dropout", (50,), 0),
        ("Dense", (10,), 510),
    ],
    "deep_cnn": [
        ("Conv2D", (28, 28, 50), 500),
        ("Activation", (28, 28, 50), 0),
        ("Conv2D", (28, 28, 50), 22_550),
        ("Activation", (28, 28, 50), 0),
        ("MaxPooling2D", (14, 14, 50), 0),
        ("Conv2D", (14, 14, 50), 22_550),
        ("Activation", (14, 14, 50), 0),
        ("Conv2D", (14, 14, 50), 22_550),
        ("Activation", (14, 14, 50), 0),
        ("MaxPooling2D", (7, 7, 50), 0),
        ("Conv2D", (7, 7, 50), 22_550),
        ("Activation", (7, 7, 50), 0),
        ("Conv2D", (7, 7, 50), 22_550),
        ("Activation", (7, 7, 50), 0),
        ("MaxPooling2D", (3, 3, 50), 0),
        ("Flatten", (450,), 0),
        ("Dense", (50,), 22_550),
        ("Dense", (10,), 510),
    ],
}

# Total, trainable, non-trainable.
PARAMETERS = {
    "deep_cnn_advanced": (137_510, 136_910, 600),
    "deep_cnn_advanced_nin": (87_135, 86_785, 350),
    "deep_cnn": (136_310, 136_310, 0),
}

TEST_ACCURACY = {
    "deep_cnn_advanced": 0.9942,
    "deep_cnn_advanced_nin": 0.9914,
    "deep_cnn": 0.9368,
}

# Of a convolution with this kernel: filters, strides, padding.
CONVOLUTIONS = {
    (3, 3): (50, (1, 1), "same"),
    (1, 1): (25, (1, 1), "valid"),
}
POOL_SIZE = (2, 2)
DROPOUT_RATE = 0.5
# Of the two Dense layers, in order.
DENSE = [(50, "relu"), (10, "softmax")]
LEARNING_RATE = 0.001

EPOCHS = 100
BATCH_SIZE = 50
VALIDATION_SPLIT = 0.2
SHAPES = [(60_000, 28, 28, 1), (10_000, 28, 28, 1), (60_000, 10), (10_000, 10)]
