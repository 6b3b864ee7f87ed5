"""A server on loopback that speaks as S3 does, with one bucket, and the environment that leads there."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

BUCKET = "tinygptv"


@contextmanager
def serving_s3() -> Iterator[S3FileSystem]:
    """What is in it, as fsspec has it, while the environment names it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        settings = {"AWS_ACCESS_KEY_ID": "who", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
        for name, value in {**settings, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
            patch.setenv(name, value)
        patch.setenv("AWS_CONFIG_FILE", "/dev/null")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        S3FileSystem.clear_instance_cache()
        files = S3FileSystem(use_listings_cache=False)
        try:
            files.mkdir(BUCKET)
            yield files
        finally:
            S3FileSystem.clear_instance_cache()
            server.stop()
