import json

import pytest
from kubernetes.aio.client.exceptions import ApiException
from llm_operator.errors import (
    AlreadyExists,
    ClusterError,
    Conflict,
    Forbidden,
    NamespaceTerminating,
    NotFound,
    Refused,
    Unavailable,
)
from llm_operator.refusal import to_error


def answer(status: int, reason: str = "", message: str = "", *causes: str) -> ApiException:
    error = ApiException(status=status, reason="HTTP words")
    details = {"causes": [{"reason": cause} for cause in causes]}
    error.body = json.dumps({"kind": "Status", "reason": reason, "message": message, "details": details})
    return error


RBAC = (
    'jobs.batch "a" is forbidden: User "system:serviceaccount:s:o" cannot create resource "jobs" in API group "batch"'
)
QUOTA = 'jobs.batch "a" is forbidden: exceeded quota: tight, requested: count/jobs.batch=1'
SECURITY = 'pods "a" is forbidden: violates PodSecurity "restricted:latest": hostNetwork'
WEBHOOK = 'admission webhook "policy.example.com" denied the request: no latest tags'
GOING = 'jobs.batch "a" is forbidden: unable to create new content in namespace t because it is being terminated'


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (answer(404, "NotFound"), NotFound),
        (answer(410, "Gone"), NotFound),
        (answer(409, "AlreadyExists"), AlreadyExists),
        (answer(409, "Conflict"), Conflict),
        (answer(403, "Forbidden", RBAC), Forbidden),
        (answer(403, "Forbidden", QUOTA), Refused),
        (answer(403, "Forbidden", SECURITY), Refused),
        (answer(403, "Forbidden", WEBHOOK), Refused),
        (answer(403, "Forbidden", GOING, "NamespaceTerminating"), NamespaceTerminating),
        (answer(400, "BadRequest"), Refused),
        (answer(422, "Invalid"), Refused),
        (answer(413, "RequestEntityTooLarge"), Refused),
        (answer(401, "Unauthorized"), Unavailable),
        (answer(408), Unavailable),
        (answer(429, "TooManyRequests"), Unavailable),
        (answer(500, "InternalError", "failed calling webhook"), Unavailable),
        (answer(503), Unavailable),
        (ConnectionRefusedError("refused"), Unavailable),
        (TimeoutError(), Unavailable),
    ],
)
def test_every_error_has_its_class(error: Exception, expected: type[ClusterError]) -> None:
    assert type(to_error(error, "Job a")) is expected


def test_the_words_of_the_api_server_are_kept_with_what_they_are_about() -> None:
    assert str(to_error(answer(403, "Forbidden", QUOTA), "Job a")) == f"Job a: {QUOTA}"


@pytest.mark.parametrize("body", [None, "", "<html>bad gateway</html>", "[]", "null"])
def test_an_answer_that_is_not_the_api_servers_is_still_an_error_that_says_something(body: str | None) -> None:
    error = ApiException(status=502, reason="Bad Gateway")
    error.body = body
    assert str(to_error(error, "Job a")) == "Job a: Bad Gateway"
