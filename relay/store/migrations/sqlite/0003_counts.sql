-- Counting by what things have in common, without a look at the rows of the large tables. Neither index is touched by
-- an event that is routed, nor by a delivery that isn't dead.
DROP INDEX events_unrouted;
CREATE INDEX events_unrouted ON events (id, event_type, transaction_status, received_at) WHERE unrouted = 1;
DROP INDEX deliveries_dead;
CREATE INDEX deliveries_dead ON deliveries (destination, id, attempts, due_at) WHERE state = 'dead';

-- How many events each route matched on each of the last days, by UTC.
CREATE TABLE route_matches (
    day TEXT NOT NULL, -- such as 2026-01-31
    route TEXT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (day, route)
) STRICT, WITHOUT ROWID;
