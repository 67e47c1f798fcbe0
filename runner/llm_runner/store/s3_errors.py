"""Says in one place what an S3 failure means to a person.

MISSING      no such bucket or object
DENIED       no credentials, wrong ones, or not allowed
CHANGED      another object of that name has taken its place meanwhile
DAMAGED      what arrives is not what was once stored
UNREACHABLE  everything else: network, throttling, the server's own failures; may pass
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from boto3.exceptions import Boto3Error
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)

from llm_runner.errors import ConfigInvalid, OutputNotWritable, RunError, StorageFailed

S3Trouble = Literal["missing", "denied", "invalid", "changed", "damaged", "unreachable"]

MISSING_CODES = {"NoSuchBucket", "NoSuchKey", "NotFound", "404"}
DENIED_CODES = {
    "403", "401", "AccessDenied", "AllAccessDisabled", "AccountProblem", "ExpiredToken", "Forbidden",
    "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "UnauthorizedAccess",
}  # fmt: skip
CHANGED_CODES = {"PreconditionFailed", "412"}
INVALID_CODES = {"InvalidBucketName", "KeyTooLongError", "PermanentRedirect", "AuthorizationHeaderMalformed", "301"}
DENIED_ERRORS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, ProfileNotFound)


@contextmanager
def s3_reading(uri: str, *, missing: type[RunError], denied: type[RunError]) -> Iterator[None]:
    """Translates what goes wrong while ``uri`` is read; the caller says what absence and denial mean to the run."""
    try:
        yield
    except (BotoCoreError, ClientError, Boto3Error) as error:
        raise _translate(error, uri, missing, denied) from error


@contextmanager
def s3_writing(uri: str) -> Iterator[None]:
    """Translates what goes wrong while something is written to ``uri``."""
    with s3_reading(uri, missing=OutputNotWritable, denied=OutputNotWritable):
        yield


def classify(error: Exception) -> S3Trouble:
    """What kind of trouble a failure of boto3 is."""
    cause = error.__context__ if isinstance(error, Boto3Error) and error.__context__ is not None else error
    if isinstance(cause, DENIED_ERRORS):
        return "denied"
    if isinstance(cause, ParamValidationError | NoRegionError):
        return "invalid"
    if isinstance(cause, FlexibleChecksumError):
        return "damaged"
    if not isinstance(cause, ClientError):
        return "unreachable"
    code = str(cause.response.get("Error", {}).get("Code"))
    if code in MISSING_CODES:
        return "missing"
    if code in DENIED_CODES:
        return "denied"
    if code in CHANGED_CODES:
        return "changed"
    return "invalid" if code in INVALID_CODES else "unreachable"


def _translate(error: Exception, uri: str, missing: type[RunError], denied: type[RunError]) -> RunError:
    said = " ".join(str(error).split())
    match classify(error):
        case "missing":
            return missing(f"{uri} does not exist ({said}). Check the bucket and the path")
        case "denied":
            return denied(
                f"{uri}: access is denied ({said}). Give keys that may reach it: AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY in the environment, credentials.s3, or the pod's service account"
            )
        case "invalid":
            return ConfigInvalid(f"{uri} can't be used ({said}). Check the address, the endpoint and the region")
        case "changed":
            return StorageFailed(
                f"{uri} was replaced while it was read ({said}), so what was read of it is of no use. Trying again "
                "reads the new one; leave it as it is until then"
            )
        case "damaged":
            return StorageFailed(f"{uri} is damaged ({said}). Trying again may help; else store it anew")
        case "unreachable":
            return StorageFailed(f"{uri} could not be reached ({said}). Trying again may help")
