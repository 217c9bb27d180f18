-- Inserts jobs of which some have a unique key; see the function. The queues of $17 are told of it at the commit.
WITH told AS MATERIALIZED (
    SELECT count(pg_notify({channel}, q.queue)) FROM unnest($17::text[]) AS q (queue)
)
SELECT e.made, e.job FROM told, {s}.enqueue($1::bigint, $2::uuid[], $3::text[], $4::text[], $5::integer[],
    $6::bigint[], $7::bigint[], $8::bigint[], $9::smallint[], $10::text[], $11::bigint[], $12::text[],
    $13::smallint[], $14::smallint[], $15::text[], $16::text[]) e
