"""Messages for people, where nobody watches the metrics: one when something is wrong, one when it is over.

Only observes; accepting and delivering don't know of it. `conditions` decides what is worth a message (pure),
`wording` what it says (pure), `channels` send it, and `notifier` looks every few seconds and has the clock.
"""

from relay.notify.channels import NotSentError, channels_of, send
from relay.notify.notifier import Notifier
from relay.notify.wording import trial

__all__ = ["NotSentError", "Notifier", "channels_of", "send", "trial"]
