"""The end of a server: one time limit for all that it does, whatever it does."""
import signal
import threading
import time

import grpc
import httpx
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tests.serving.limited import until
from tests.serving.served import serving
from tfgpt.serving.drain import Drain

DRAIN_SECONDS = 4.0
LONG_SECONDS = 90.0


class Endless(tf.Module):
    """Looks at the clock for `LONG_SECONDS`; nothing can end a graph before."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def look(self, x):
        ends = tf.timestamp() + tf.constant(LONG_SECONDS, tf.float64)
        seen = tf.while_loop(lambda seen: tf.timestamp() < ends, lambda seen: [seen + 1], [tf.constant(0)])
        return {"y": x + tf.cast(seen[0], tf.float32)}


def test_the_time_is_one_for_all_and_begins_with_the_end():
    drain, told = Drain(0.2), []
    drain.on_begin(lambda: told.append(drain.left() > 0))
    time.sleep(0.01)
    assert not told

    first = drain.left()

    assert told == [True] and 0.1 < first <= 0.2
    until(lambda: drain.left() == 0)
    assert told == [True] and Drain.of(drain) is drain and Drain.of(3.0).seconds == 3.0


def ask(url, answers):
    answers.append(httpx.post(f"{url}/v1/models/m:predict", json={"inputs": [1.0]}, timeout=60))


def test_a_server_ends_in_time_though_requests_of_both_protocols_do_not(tmp_path):
    endless, answers = Endless(), []
    tf.saved_model.save(endless, str(tmp_path / "m" / "1"), {"serving_default": endless.look})
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "m"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0], tf.float32))

    with serving("--model", f"m={tmp_path / 'm'}", "--trust", "--drain-seconds", str(DRAIN_SECONDS)) as served, grpc.insecure_channel(served.grpc) as channel:
        asking = threading.Thread(target=ask, args=(served.rest, answers))
        asking.start()
        call = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict.future(request, timeout=60)
        page = f"{served.rest}/monitoring/prometheus/metrics"
        until(lambda: 'tfgpt_rows_running{model_name="m",version="1"} 2.0' in httpx.get(page, timeout=20).text)
        asked = time.monotonic()
        served.process.send_signal(signal.SIGTERM)

        code = served.process.wait(timeout=LONG_SECONDS)
        took = time.monotonic() - asked

    asking.join()
    assert code == 0
    assert DRAIN_SECONDS - 0.5 < took < 2 * DRAIN_SECONDS  # two stages one after the other would take that
    assert isinstance(call.exception(timeout=20), grpc.RpcError)
    answer, = answers
    assert answer.status_code == 503 and "the server ends" in answer.json()["error"]
