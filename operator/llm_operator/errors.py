"""Everything that can go wrong between the operator and the cluster, as one small tree.

    OperatorError
      SettingsInvalid            the operator itself is configured wrongly; it doesn't start
      ClusterError               the Kubernetes API said no, or nothing
        Unavailable              no answer, a time-out, 429 or 5xx: may pass by itself and is tried again
        NotFound                 404: it isn't there (any more)
        Conflict                 409: somebody was faster; look again
          AlreadyExists          409 to a create: it is there already
        Forbidden                403 by RBAC: the operator lacks a right
        Refused                  403 by admission or quota, 400, 422: this object as it is won't be taken
          NamespaceTerminating   403: nothing can be made in a namespace that is going
          NameTaken              an object of that name is there and is somebody else's

``cluster`` raises those below ClusterError and is the only one to do so.
A user's mistake is none of these: it becomes a condition.
"""


class OperatorError(Exception):
    """``str(error)`` says what was found and what to do about it."""


class SettingsInvalid(OperatorError):
    pass


class ClusterError(OperatorError):
    pass


class Unavailable(ClusterError):
    pass


class NotFound(ClusterError):
    pass


class Conflict(ClusterError):
    pass


class AlreadyExists(Conflict):
    pass


class Forbidden(ClusterError):
    pass


class Refused(ClusterError):
    pass


class NamespaceTerminating(Refused):
    pass


class NameTaken(Refused):
    pass
