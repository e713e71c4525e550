"""Runs, checkpoints and datasets on the Hugging Face hub: nothing leaves this machine without ``push``, nothing unchecked arrives with ``pull``."""

from lewm.hub.access import HubAddress
from lewm.hub.contents import Contents, contents_of
from lewm.hub.pulling import pull
from lewm.hub.pushing import Pushed, push

__all__ = ["Contents", "HubAddress", "Pushed", "contents_of", "pull", "push"]
