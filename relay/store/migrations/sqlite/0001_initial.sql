-- Instants are UTC seconds since 1970. Each open state has an index of its own, so that no query that the
-- running relay makes looks at finished deliveries, and a delivery is in one of these indexes at a time.

CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, -- no id is ever given twice
    source TEXT NOT NULL,
    event_id TEXT NOT NULL,
    received_at REAL NOT NULL,
    content_type TEXT NOT NULL,
    event_type TEXT,
    transaction_status TEXT,
    trace_id TEXT NOT NULL,
    unrouted INTEGER NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (source, event_id)
) STRICT;

CREATE INDEX events_unrouted ON events (id) WHERE unrouted = 1;

CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    event INTEGER NOT NULL REFERENCES events (id) ON DELETE CASCADE,
    destination TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'in_flight', 'delivered', 'dead', 'discarded')),
    accepted_at REAL NOT NULL,
    due_at REAL NOT NULL, -- pending: not before; finished: since
    attempts INTEGER NOT NULL DEFAULT 0,
    token INTEGER, -- in_flight: of the claim
    lease_until REAL -- in_flight: afterwards anybody may claim it
) STRICT;

CREATE INDEX deliveries_event ON deliveries (event);
CREATE INDEX deliveries_pending ON deliveries (destination, due_at, id) WHERE state = 'pending';
CREATE INDEX deliveries_retrying ON deliveries (destination, accepted_at) WHERE state = 'pending' AND attempts > 0;
CREATE INDEX deliveries_in_flight ON deliveries (lease_until) WHERE state = 'in_flight';
CREATE INDEX deliveries_dead ON deliveries (destination, id) WHERE state = 'dead';

CREATE TABLE attempts (
    delivery INTEGER NOT NULL REFERENCES deliveries (id) ON DELETE CASCADE,
    number INTEGER NOT NULL, -- from 1
    started_at REAL NOT NULL,
    duration_seconds REAL NOT NULL,
    status INTEGER,
    error TEXT,
    next_state TEXT NOT NULL,
    PRIMARY KEY (delivery, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY,
    source TEXT NOT NULL,
    reason TEXT NOT NULL,
    digest TEXT NOT NULL, -- SHA-256 of the body, hex
    detail TEXT NOT NULL,
    content_type TEXT NOT NULL,
    received_at REAL NOT NULL,
    last_received_at REAL NOT NULL,
    times INTEGER NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (source, reason, digest)
) STRICT;

-- Rewritten by readiness checks; the filler makes one need as much room on the disk as a webhook does.
CREATE TABLE probe (id INTEGER PRIMARY KEY CHECK (id = 1), probed_at REAL NOT NULL, filler BLOB NOT NULL) STRICT;
