"""Files by HTTP from a server of this machine: whole or not at all, and no secret of the address in an error."""

from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from llm_api.run import S3Settings
from llm_runner.errors import DataInvalid, ModelAccessDenied, StorageFailed
from llm_runner.store.fetch import fetch_file

S3 = S3Settings()
BODY = b"a,b\n1,2\n"


class _Handler(BaseHTTPRequestHandler):
    """Answers with the status that the path begins with; ``cut`` breaks the body off."""

    def do_GET(self) -> None:
        kind = self.path.split("/")[1]
        self.send_response(200 if kind == "cut" else int(kind))
        self.send_header("Content-Length", str(len(BODY) + (50 if kind == "cut" else 0)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = Thread(target=partial(server.serve_forever, 0.05))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_is_fetched_under_the_last_part_of_its_address(address: str, tmp_path: Path) -> None:
    path = fetch_file(f"{address}/200/my%20rows.csv?token=1", tmp_path, S3)
    assert (path.name, path.read_bytes()) == ("my rows.csv", BODY)


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("404/rows.csv", DataInvalid, r"rows\.csv does not exist \(404\)\. Check the address"),
        ("403/rows.csv", ModelAccessDenied, r"rows\.csv: access is denied \(403\)"),
        ("401/rows.csv", ModelAccessDenied, r"access is denied \(401\)"),
        ("429/rows.csv", StorageFailed, r"the server answered 429\. Trying again may help"),
        ("503/rows.csv", StorageFailed, r"the server answered 503"),
        ("cut/rows.csv", StorageFailed, r"could not be reached \(.*\)\. Trying again may help"),
    ],
)
def test_each_answer_means_what_it_means(
    path: str, error: type[Exception], message: str, address: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message) as caught:
        fetch_file(f"{address}/{path}?X-Amz-Signature=5ec2e7", tmp_path, S3)
    assert "5ec2e7" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_no_secret_of_an_address_that_can_not_be_reached_is_shown(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="could not be reached") as caught:
        fetch_file("http://me:pa55word@127.0.0.1:9/rows.csv?X-Amz-Signature=5ec2e7", tmp_path, S3)
    assert "5ec2e7" not in str(caught.value)
    assert "pa55word" not in str(caught.value)
