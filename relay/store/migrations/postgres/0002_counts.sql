-- Ids are found by how they begin, so their indexes must be in the order of their bytes, as in the SQLite store and
-- whatever the database's locale is. The rows stay as they are; the indexes are built anew, while nobody may write.
ALTER TABLE events
    ALTER COLUMN event_id TYPE TEXT COLLATE "C",
    ALTER COLUMN order_id TYPE TEXT COLLATE "C",
    ALTER COLUMN itscope_order_id TYPE TEXT COLLATE "C",
    ALTER COLUMN document_id TYPE TEXT COLLATE "C",
    ALTER COLUMN transaction_id TYPE TEXT COLLATE "C";

-- How many events each route matched on each of the last days, by UTC, whichever relay accepted them.
CREATE TABLE route_matches (
    day TEXT COLLATE "C" NOT NULL, -- such as 2026-01-31
    route TEXT COLLATE "C" NOT NULL,
    number BIGINT NOT NULL,
    PRIMARY KEY (day, route)
);
