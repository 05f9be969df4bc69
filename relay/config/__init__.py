"""From YAML text to one frozen `Config`, or to every problem it has, each with its place.

`document` reads YAML strictly and remembers where each value stands; `schema` says what may be written and
holds every default (`notify` its section's), `values` and `store_url` what a single value may be; `load` puts
them together.
"""

from relay.config.load import load, read_file, refuse_invalid, suggestion
from relay.config.notify import Notify, NotifyEmail, NotifyWebhook, NotifyWhen, Silence
from relay.config.schema import (
    Account,
    Admin,
    AdminAccount,
    BasicCredentials,
    BearerCredentials,
    Config,
    Destination,
    HeaderCredentials,
    Role,
    Server,
    Source,
    StoreOptions,
    Tls,
    json_schema,
)
from relay.config.values import split_address

__all__ = [
    "Account",
    "Admin",
    "AdminAccount",
    "BasicCredentials",
    "BearerCredentials",
    "Config",
    "Destination",
    "HeaderCredentials",
    "Notify",
    "NotifyEmail",
    "NotifyWebhook",
    "NotifyWhen",
    "Role",
    "Server",
    "Silence",
    "Source",
    "StoreOptions",
    "Tls",
    "json_schema",
    "load",
    "read_file",
    "refuse_invalid",
    "split_address",
    "suggestion",
]
