"""Every mistake that a user can make, as an exception with one clear sentence: what was got, what is allowed, what to do."""


class LewmError(Exception):
    """A mistake that the user can mend. The command line prints its message without a traceback and exits 1."""


class ConfigError(LewmError):
    """A setting, name or combination of settings that is not allowed."""


class UnknownNameError(ConfigError):
    """A name that is in no table."""


class MissingExtraError(ConfigError):
    """A part of lewm whose optional dependency is not installed."""


class DeviceError(ConfigError):
    """A device that was asked for and is not there."""


class DataError(LewmError):
    """A dataset, episode or file that is missing, damaged or of the wrong kind."""


class CheckpointError(LewmError):
    """A checkpoint that is missing, damaged, incomplete or of another format."""


class EnvError(LewmError):
    """An action, state or option that an environment cannot take."""


class PlanningError(LewmError):
    """A planning problem that cannot be posed or has no usable candidate."""


class TrainingError(LewmError):
    """Training that had to stop: a loss that is not finite, or a collapse when the user asked to stop on it."""


class VerificationError(LewmError):
    """A result file whose content does not follow from its own episodes."""


class HubError(LewmError):
    """A repository on the hub that cannot be reached, is not what it should be, or may not be written."""
