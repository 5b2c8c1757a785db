"""The networks are the author's: every row of the tables, and every setting of the layers."""

import keras
import numpy as np
import post
import pytest

import data
import runs
import train
from models import MODELS, improved_deep_cnn

ROWS = [
    pytest.param(name, index, *row, id=f"{name}-{index + 1}-{row[0]}")
    for name, rows in post.SUMMARY.items()
    for index, row in enumerate(rows)
]


@pytest.fixture(scope="module")
def models():
    return {name: MODELS[name]() for name in post.SUMMARY}


@pytest.fixture(params=post.SUMMARY)
def model(request, models):
    return models[request.param]


def layers_of(model, kind):
    return [layer for layer in model.layers if type(layer) is kind]


@pytest.mark.parametrize(("name", "index", "kind", "shape", "parameters"), ROWS)
def test_row_of_the_summary(models, name, index, kind, shape, parameters):
    layer = models[name].layers[index]
    assert type(layer) is getattr(keras.layers, kind)
    assert layer.output.shape == (None, *shape)
    assert layer.count_params() == parameters


@pytest.mark.parametrize("name", post.SUMMARY)
def test_number_of_rows_and_totals(models, name):
    model = models[name]
    assert len(model.layers) == len(post.SUMMARY[name])
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert (model.count_params(), trainable, model.count_params() - trainable) == post.PARAMETERS[
        name
    ]


def test_names_are_the_posts_in_its_order():
    """Whatever else a reader has put into `MODELS`."""
    assert [name for name in MODELS if name in post.SUMMARY] == list(post.SUMMARY)
    assert list(post.TEST_ACCURACY.items()) == list(runs.AUTHORS_TEST_ACCURACY.items())
    assert train.POST_MODELS == ("deep_cnn_advanced", "deep_cnn_advanced_nin")
    assert [MODELS[name].__name__ for name in post.SUMMARY] == list(post.SUMMARY)


IMPROVEMENTS = {"deep_cnn_he": "he", "deep_cnn_bn": "batch_normalization"}
IMPROVEMENTS["deep_cnn_dropout"] = "dropout"


def layers_and_weights(build):
    """Return the configurations of the layers of a network, and its weights from a seed."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    model = build()
    return [layer.get_config() for layer in model.layers], model.get_weights()


@pytest.mark.parametrize(("improved", "name"), [(True, "deep_cnn_advanced"), (False, "deep_cnn")])
def test_all_improvements_make_the_posts_network_and_none_the_plain_one(improved, name):
    improvements = dict.fromkeys(IMPROVEMENTS.values(), improved)
    layers, weights = layers_and_weights(lambda: improved_deep_cnn(name, **improvements))
    expected, weights_expected = layers_and_weights(MODELS[name])
    assert layers == expected
    assert all(map(np.array_equal, weights, weights_expected))


def test_each_of_three_networks_has_one_improvement():
    assert tuple(IMPROVEMENTS) == train.IMPROVED_MODELS
    for name, improvement in IMPROVEMENTS.items():
        network = MODELS[name]()
        assert network.name == MODELS[name].__name__ == name
        named = layers_and_weights(lambda n=name, i=improvement: improved_deep_cnn(n, **{i: True}))
        assert layers_and_weights(MODELS[name])[0] == named[0]


def test_constants_of_the_run_are_the_posts():
    assert train.POST_EPOCHS == post.EPOCHS
    assert data.BATCH_SIZE == post.BATCH_SIZE
    assert data.VALIDATION_SPLIT == post.VALIDATION_SPLIT


def test_input_is_one_image_with_a_channel(model):
    assert model.input_shape == (None, 28, 28, 1)
    assert model.compute_dtype == model.variable_dtype == "float32"


def test_every_convolution_and_dense_layer_starts_as_the_authors(model):
    """He-normal, a truncated normal; in the plain network Keras's default, uniform by Glorot."""
    layers = layers_of(model, keras.layers.Conv2D) + layers_of(model, keras.layers.Dense)
    for layer in layers:
        kernel = layer.kernel.numpy()
        area, fan_in = np.prod(kernel.shape[:-2]), np.prod(kernel.shape[:-1])
        if model.name == "deep_cnn":
            expected_type = keras.initializers.GlorotUniform
            expected = np.sqrt(2 / (fan_in + area * kernel.shape[-1]))
        else:
            expected_type = keras.initializers.HeNormal
            expected = np.sqrt(2 / fan_in)
        assert type(layer.kernel_initializer) is expected_type
        assert type(layer.bias_initializer) is keras.initializers.Zeros
        # And the weights are so.
        assert kernel.std() == pytest.approx(expected, rel=5 / np.sqrt(2 * kernel.size))
        assert not layer.bias.numpy().any()


def test_convolutions(model):
    for layer in layers_of(model, keras.layers.Conv2D):
        found = layer.filters, layer.strides, layer.padding
        assert found == post.CONVOLUTIONS[layer.kernel_size]
        assert layer.activation is keras.activations.linear
        assert layer.use_bias and layer.dilation_rate == (1, 1) and layer.groups == 1


def test_batch_normalization_is_kerass_default(model):
    for layer in layers_of(model, keras.layers.BatchNormalization):
        assert (layer.axis, layer.momentum, layer.epsilon) == (-1, 0.99, 0.001)
        assert layer.center and layer.scale


def test_activations_and_dense_layers(model):
    for layer in layers_of(model, keras.layers.Activation):
        assert layer.activation is keras.activations.relu
    dense = layers_of(model, keras.layers.Dense)
    assert [(layer.units, layer.activation.__name__) for layer in dense] == post.DENSE


def test_pooling_and_dropout(model):
    for layer in layers_of(model, keras.layers.MaxPooling2D):
        assert (layer.pool_size, layer.strides) == (post.POOL_SIZE, post.POOL_SIZE)
        assert layer.padding == "valid"
    rates = [layer.rate for layer in layers_of(model, keras.layers.Dropout)]
    assert rates == ([] if model.name == "deep_cnn" else [post.DROPOUT_RATE])


def test_compile_settings(model):
    assert model.loss == "categorical_crossentropy"
    assert type(model.optimizer) is keras.optimizers.Adam
    config = model.optimizer.get_config()
    assert config["learning_rate"] == pytest.approx(post.LEARNING_RATE)
    assert (config["beta_1"], config["beta_2"], config["epsilon"]) == (0.9, 0.999, 1e-7)
    assert not config["amsgrad"] and config["weight_decay"] is None
    assert model.get_compile_config()["metrics"] == ["accuracy"]
