"""Which addresses are read, and that nothing secret in one is ever shown."""

from __future__ import annotations

import pytest

from ckptaudit.checkpoints.sources.urls import Url, is_url, parse_url
from ckptaudit.errors import CheckpointError


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("s3://bucket/a/b/", Url("s3", "bucket", "a/b")),
        ("gs://bucket", Url("gs", "bucket", "")),
        ("az://container/model", Url("az", "container", "model")),
        ("https://host:8443/a%20b/c", Url("https", "host:8443", "a b/c")),
        ("http://127.0.0.1:9/x", Url("http", "127.0.0.1:9", "x")),
        ("hf://org/model", Url("hf", "org/model", "")),
        ("hf://org/model@v1.0/sub/folder", Url("hf", "org/model", "sub/folder", "v1.0")),
    ],
)
def test_addresses_in_their_parts(text: str, url: Url) -> None:
    assert is_url(text)
    assert parse_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "file:///etc/passwd", "ftp://host/x", "gopher://host/x", "http://example.com/model", "s3:///key",
        "s3://bucket/a/../b", "https://host/%2e%2e/x", "https://host/a%0ab", "https://host:port/x", "hf://model",
        "hf://org/model@a b", "s3://bucket/" + "x" * 3000,
    ],
)  # fmt: skip
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(CheckpointError):
        parse_url(text)


@pytest.mark.parametrize(
    "text", ["https://me:pass-word@host/x", "https://host/x?sig=pass-word", "s3://pass-word@b/x#y"]
)
def test_credentials_in_an_address_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(CheckpointError, match="credentials") as caught:
        parse_url(text)
    assert "pass-word" not in str(caught.value)


def test_names_of_the_hub_and_paths_are_no_addresses() -> None:
    assert not any(map(is_url, ("org/model", "./s3:/x", "/a/b", "C:/x", "a+b")))
