"""A store whose artifacts are in S3, as the package moto has it: another implementation of the protocol, in this process."""
import hashlib

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.store.made import make_run
from tfgpt.store.errors import DamagedError
from tfgpt.store.reference import Reference
from tfgpt.store.store import Store, StoreConfig


@pytest.fixture
def bucket(monkeypatch):
    """Return a client of a bucket named models."""
    for key, value in (("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x"), ("AWS_DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(key, value)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    client = boto3.client("s3")
    client.create_bucket(Bucket="models")
    yield client
    server.stop()


def test_a_model_is_published_to_s3_pulled_verified_and_collected(bucket, tmp_path):
    export = make_run(tmp_path / "run")
    store = Store.create(tmp_path / "store", StoreConfig(artifacts="s3://models/of us"))
    store.publish(tmp_path / "run", "tickets", "jane", export=export)
    stray = store.artifacts.store(b"of a publish that was killed")

    keys = [item["Key"] for item in bucket.list_objects_v2(Bucket="models")["Contents"]]
    assert len(keys) == 12 and f"of us/blobs/sha256/{stray[:2]}/{stray}" in keys
    assert all(hashlib.sha256(bucket.get_object(Bucket="models", Key=key)["Body"].read()).hexdigest() == key[-64:] for key in keys)
    assert store.collect(grace_hours=1).blobs == 0 and store.collect(grace_hours=0).blobs == 1

    store.pull(Reference("tickets"), tmp_path / "pulled")
    weights = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    assert (tmp_path / "pulled" / "model" / "model.safetensors").read_bytes() == weights

    sha256 = hashlib.sha256(weights).hexdigest()
    bucket.put_object(Bucket="models", Key=f"of us/blobs/sha256/{sha256[:2]}/{sha256}", Body=weights[:-1] + b"!")
    with pytest.raises(DamagedError, match=f"{sha256} is changed"):
        store.pull(Reference("tickets"), tmp_path / "again")
    assert not (tmp_path / "again").exists()
