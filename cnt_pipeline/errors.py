"""The errors a user can fix. Each message is one clear sentence that says what is wrong and what to do."""


class CntError(Exception):
    """Base of every error that is shown without a traceback; `exit_code` is what `cnt` exits with."""

    exit_code = 2


class StudyError(CntError):
    """The study file is at fault: `file:key: reason`."""


class InputError(CntError):
    """A model, prompt or other file that the study names cannot be used."""


class MismatchError(InputError):
    """Target and donor cannot exchange neurons: the message holds a readable diff."""


class StoreError(CntError):
    """The artifact store cannot be read or written (missing rights, full disk, unreachable URL)."""


class BrokenArtifactError(StoreError):
    """A stored artifact no longer matches its manifest."""


class GateError(CntError):
    """The study is finished, but what was asked for needs quality gates that failed."""

    exit_code = 1


class InadmissibleError(CntError):
    """The study is well formed but its models cannot answer its question (a donor without the function, say)."""

    exit_code = 1
