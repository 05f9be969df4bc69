-- Finding events by the ids of their business, order, replays, pauses, and what was changed by hand.

ALTER TABLE events ADD COLUMN order_id TEXT;
ALTER TABLE events ADD COLUMN itscope_order_id TEXT;
ALTER TABLE events ADD COLUMN document_id TEXT;
ALTER TABLE events ADD COLUMN transaction_id TEXT;

UPDATE events SET
    order_id = substr(CASE WHEN json_type(CAST(body AS TEXT), '$.orderId') IN ('text', 'integer', 'real')
        THEN json_extract(CAST(body AS TEXT), '$.orderId') END, 1, 255),
    itscope_order_id = substr(CASE WHEN json_type(CAST(body AS TEXT), '$.itscopeOrderId') IN ('text', 'integer', 'real')
        THEN json_extract(CAST(body AS TEXT), '$.itscopeOrderId') END, 1, 255),
    document_id = substr(CASE WHEN json_type(CAST(body AS TEXT), '$.documentId') IN ('text', 'integer', 'real')
        THEN json_extract(CAST(body AS TEXT), '$.documentId') END, 1, 255),
    transaction_id = substr(CASE WHEN json_type(CAST(body AS TEXT), '$.transactionId') IN ('text', 'integer', 'real')
        THEN json_extract(CAST(body AS TEXT), '$.transactionId') END, 1, 255)
WHERE json_valid(CAST(body AS TEXT));

CREATE INDEX events_received ON events (received_at);
CREATE INDEX events_order_id ON events (order_id) WHERE order_id IS NOT NULL;
CREATE INDEX events_itscope_order_id ON events (itscope_order_id) WHERE itscope_order_id IS NOT NULL;
CREATE INDEX events_document_id ON events (document_id) WHERE document_id IS NOT NULL;
CREATE INDEX events_transaction_id ON events (transaction_id) WHERE transaction_id IS NOT NULL;

ALTER TABLE deliveries ADD COLUMN fresh INTEGER NOT NULL DEFAULT 1; -- never tried, and no replay
ALTER TABLE deliveries ADD COLUMN order_key TEXT; -- its place in an order; NULL: none, or none any more
ALTER TABLE deliveries ADD COLUMN blocked INTEGER NOT NULL DEFAULT 0; -- another of its key goes first
ALTER TABLE deliveries ADD COLUMN replay_of INTEGER; -- which retention may have deleted
ALTER TABLE deliveries ADD COLUMN reason TEXT; -- discarded: why

UPDATE deliveries SET fresh = 0 WHERE attempts > 0;

DROP INDEX deliveries_pending;
DROP INDEX deliveries_retrying;
CREATE INDEX deliveries_due ON deliveries (destination, fresh, due_at, id) WHERE state = 'pending' AND blocked = 0;
CREATE INDEX deliveries_again ON deliveries (destination, accepted_at) WHERE state = 'pending' AND fresh = 0;
CREATE INDEX deliveries_blocked ON deliveries (destination, accepted_at) WHERE blocked = 1;
-- Of each key at most one delivery isn't blocked: its head.
CREATE INDEX deliveries_ordered ON deliveries (destination, order_key, blocked, event, id) WHERE order_key IS NOT NULL;

ALTER TABLE attempts ADD COLUMN answer BLOB; -- its first bytes

CREATE TABLE pauses (destination TEXT PRIMARY KEY, paused_at REAL NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE changes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    who TEXT NOT NULL,
    action TEXT NOT NULL,
    detail TEXT NOT NULL, -- JSON
    number INTEGER NOT NULL -- of what was changed
) STRICT;

-- As before, but no id is ever given twice: an operator's page may be older than what it shows.
ALTER TABLE quarantine RENAME TO old_quarantine;
CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
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
INSERT INTO quarantine SELECT * FROM old_quarantine;
DROP TABLE old_quarantine;
