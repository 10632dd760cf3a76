#!/usr/bin/env python3
"""Models as tf2onnx writes them, with what TensorFlow computes, for `tests/interop.rs`.

    python from_tensorflow.py            (needs tensorflow and tf2onnx; writes tensorflow/ beside this file)

Keras layers become LSTM nodes or, where tf2onnx does not recognise them, loops; `tf.while_loop` becomes a loop without
a trip count, which carries its weights and counts its steps itself.
"""
import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import tf2onnx  # noqa: E402

I, H = 6, 8


def keras_layers():
    """An LSTM whose sequence a GRU sums up; batch first."""
    lstm = tf.keras.layers.LSTM(H, return_sequences=True)
    gru = tf.keras.layers.GRU(H)
    lstm.build((None, None, I))
    gru.build((None, None, H))

    def run(x):
        y = lstm(x)
        return y, gru(y)

    return run


def while_loop():
    """A leaky cell as a while loop over a TensorArray; time first."""
    w = tf.Variable(tf.random.normal([I, H], stddev=0.4))
    u = tf.Variable(tf.random.normal([H, H], stddev=0.4))

    def run(x):
        outputs = tf.TensorArray(tf.float32, size=tf.shape(x)[0], element_shape=[None, H])

        def step(t, h, outputs):
            h = 0.5 * h + tf.tanh(tf.matmul(x[t], w) + tf.matmul(h, u))
            return t + 1, h, outputs.write(t, h)

        start = (0, tf.zeros([tf.shape(x)[1], H]), outputs)
        _, h, outputs = tf.while_loop(lambda t, h, outputs: t < tf.shape(x)[0], step, start)
        return outputs.stack(), h

    return run


def main():
    out = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tensorflow")
    os.makedirs(out, exist_ok=True)
    tf.random.set_seed(16)
    signature = [tf.TensorSpec([None, None, I], tf.float32, name="x")]
    for name, make in [("keras", keras_layers), ("while", while_loop)]:
        run = make()
        path = os.path.join(out, f"{name}.onnx")
        tf2onnx.convert.from_function(tf.function(run), input_signature=signature, opset=17, output_path=path)
        x = np.random.default_rng(16).normal(size=(5, 3, I)).astype(np.float32)
        expected = {f"expected.{k}": v.numpy() for k, v in enumerate(run(tf.constant(x)))}
        np.savez_compressed(os.path.join(out, f"{name}.npz"), x=x, **expected)


if __name__ == "__main__":
    main()
