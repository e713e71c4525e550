"""The hub and what can go wrong on the way to it, each failure as one sentence."""

import contextlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from lewm.errors import HubError, MissingExtraError

if TYPE_CHECKING:  # importing it takes time, and it may be missing
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

RepoType = Literal["model", "dataset"]


@dataclass(frozen=True, kw_only=True)
class HubAddress:
    """Which hub and as whom; what is left out comes from HF_ENDPOINT, HF_TOKEN or ``hf auth login``, and HF_HOME."""

    endpoint: str | None = None
    token: str | None = None
    cache: Path | None = None
    """Where downloads are kept."""

    def api(self) -> "HfApi":
        """The client; ``MissingExtraError`` without huggingface_hub."""
        if importlib.util.find_spec("huggingface_hub") is None:
            raise MissingExtraError("the hub needs 'huggingface-hub': pip install 'lewm[hub]'")
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.endpoint, token=self.token, library_name="lewm")

    def token_or_refusal(self) -> str:
        """The token to write with; ``HubError`` says how to get one."""
        from huggingface_hub import get_token

        token = self.token or get_token()
        if not token:
            raise HubError("no token for the hub: run `hf auth login`, or set HF_TOKEN to one that may write (huggingface.co/settings/tokens)")
        return token


@contextlib.contextmanager
def hub_errors(repo_id: str, revision: str | None) -> Iterator[None]:
    """Turn what the client raises into ``HubError``s that say what to do."""
    from huggingface_hub import errors

    # Of whatever HTTP client this version uses: no connection, no answer in time, ...
    client_error: type[BaseException] = cast(Any, errors.HfHubHTTPError.__bases__[0])
    try:
        yield
    except errors.HFValidationError as error:
        raise HubError(f"{repo_id!r} is no repository id: use NAMESPACE/NAME of letters, digits, '-', '_' and '.', such as me/two-room") from error
    except errors.RevisionNotFoundError as error:
        raise HubError(
            f"repository {repo_id!r} has no revision {revision!r}; name a branch, tag or commit that it has, or leave --revision out"
        ) from error
    except errors.RepositoryNotFoundError as error:  # also a private or gated one
        raise HubError(missing_repository(repo_id)) from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        raise HubError(
            f"{repo_id!r} is not whole in the cache and the hub was not asked (HF_HUB_OFFLINE); pull it once while online, or unset HF_HUB_OFFLINE"
        ) from error
    except errors.HfHubHTTPError as error:
        raise HubError(_refusal(repo_id, error)) from error
    except (client_error, ConnectionError, TimeoutError) as error:
        raise HubError(
            f"cannot reach the hub ({type(error).__name__}: {error}); check the network and HF_ENDPOINT. HF_HUB_OFFLINE=1 pulls from the cache"
        ) from error
    except (RuntimeError, ValueError) as error:  # an upload that broke, or an answer that makes no sense
        raise HubError(f"the hub did not take or give what it should for {repo_id!r}: {error.__cause__ or error}") from error


def missing_repository(repo_id: str) -> str:
    """The sentence for a repository that is not there, or not for this user."""
    return (
        f"there is no model or dataset {repo_id!r} on the hub that you may see: check the name; a private or gated one needs a token"
        " (`hf auth login` or HF_TOKEN)"
    )


def _refusal(repo_id: str, error: "HfHubHTTPError") -> str:
    """What an HTTP error status means for the user."""
    status, said = error.response.status_code, error.server_message or str(error).splitlines()[0]
    if status == 401:
        return f"the hub does not know this token ({said}): run `hf auth login` again, or set HF_TOKEN"
    if status == 403:
        return f"this token may not do that in {repo_id!r} ({said}): use one with write access to that namespace"
    return f"the hub answered {status} about {repo_id!r}: {said}; try again later, or check the name"
